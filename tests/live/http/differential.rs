//! Generated conversations, cut anywhere: what the agent counts at both ends is what an independent parser makes of the bytes.
//!
//! `PODMETER_SEED=N` plays others than those of every day, `PODMETER_CONNECTIONS=N` that many of them, `PODMETER_EXCHANGES=N`
//! the first N exchanges of each. A connection's seed is that of the run plus its number, so that it can be played alone.

mod message;
mod parser;
mod plan;
mod play;

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    time::{Duration, Instant},
};

use podmeter_tests::{loopback::in_order, scrape::Scrape, wait};

use self::{parser::Conversation, plan::Plan, play::Ends};
use super::lab::{CLIENT, Lab, PEER, SERVER, Talk};

/// How many connections are played; most have several exchanges.
const CONNECTIONS: u64 = 80;
/// How long counts may take when a connection has ended.
const PATIENCE: Duration = Duration::from_secs(3);
/// After how many connections that were counted wrongly a run ends: each takes its time.
const ENOUGH: usize = 6;

/// Numbers by what they count; none is 0.
type Counts = BTreeMap<String, i64>;

/// What should be counted.
struct Expected {
    counts: Counts,
    /// Requests that end amid something: each side counts such a one, with the status that came if one did, or tells of its
    /// loss.
    cut: Vec<(String, Option<u16>)>,
    /// A head that is not whole: nothing, or a loss.
    is_torn: bool,
}

impl Expected {
    fn of(said: &Conversation) -> Self {
        let mut this = Self { counts: Counts::new(), cut: Vec::new(), is_torn: said.is_torn };
        for exchange in &said.exchanges {
            let what = format!("{} {}", exchange.method, exchange.route);
            if !exchange.is_complete {
                this.cut.push((what, exchange.status));
                continue;
            }
            for side in [SERVER, CLIENT] {
                let key = key(side, &exchange.method, exchange.status, &exchange.route);
                *this.counts.entry(key).or_default() += 1;
                let side = side.trim_end_matches("_request_duration_seconds");
                for (which, bytes) in
                    [("request", exchange.request_body), ("response", exchange.response_body)]
                {
                    let name = format!("{side}_{which}_body_size_bytes");
                    *this.counts.entry(format!("{name}_count")).or_default() += 1;
                    *this.counts.entry(format!("{name}_sum")).or_default() += bytes.cast_signed();
                }
                *this.counts.entry(format!("{side}_time_to_first_byte_seconds_count")).or_default() += 1;
            }
        }
        if said.is_upgraded {
            this.counts.insert("lost connection_upgraded".to_owned(), 2);
        }
        this.counts.retain(|_, count| *count != 0);
        this
    }

    /// What is wrong with what was counted, of which the agent has these families.
    fn deviations(&self, counted: &Counts, has: &dyn Fn(&str) -> bool) -> Vec<String> {
        let mut left = counted.clone();
        for (key, count) in self.counts.iter().filter(|(key, _)| has(key)) {
            *left.entry(key.clone()).or_default() -= count;
        }
        // Bodies of requests that were cut may be counted or not, and are of any size.
        if !self.cut.is_empty() {
            left.retain(|key, _| !is_of_all(key));
        }
        let mut told = 0;
        for (what, status) in &self.cut {
            for side in [SERVER, CLIENT] {
                let (method, route) = what.split_once(' ').expect("both");
                let key = key(side, method, *status, route);
                if status.is_some() && left.get(&key).is_some_and(|left| *left > 0) {
                    *left.entry(key).or_default() -= 1;
                } else {
                    told += 1;
                }
            }
        }
        // Whatever the reasons, each loss is told of once.
        let losses: i64 = left.iter().filter(|(key, _)| key.starts_with("lost ")).map(|(_, lost)| lost).sum();
        if (told..=told + if self.is_torn { 2 } else { 0 }).contains(&losses) {
            left.retain(|key, _| !key.starts_with("lost "));
        }
        left.retain(|_, count| *count != 0);
        left.iter()
            .map(|(key, by)| {
                let wanted = self.counts.get(key).copied().unwrap_or(0);
                format!("{key}: {}, not {wanted}", wanted + by)
            })
            .collect()
    }
}

fn key(side: &str, method: &str, status: Option<u16>, route: &str) -> String {
    let status = status.map_or(String::new(), |status| status.to_string());
    format!("{side} {method} {status} {route}")
}

/// Whether a count is of all requests of a side.
fn is_of_all(key: &str) -> bool {
    key.contains("_body_size_bytes_") || key.contains("_time_to_first_byte_")
}

/// Whether it is how long the bodies of requests were, all together.
fn is_request_size(key: &str) -> bool {
    key.ends_with("_request_body_size_bytes_sum")
}

/// What a scrape counts of the two ends, and of losses but those of cgroups, which may come from anywhere.
fn counts(scrape: &Scrape) -> Counts {
    let mut counts = Counts::new();
    for line in scrape.0.lines().filter(|line| line.starts_with("http_") || line.starts_with("podmeter_lost"))
    {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let label = |name: &str| {
            let mut labels =
                labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
            labels.find(|label| label.0 == name).map_or("", |label| label.1.trim_matches('"'))
        };
        let key = if name == "podmeter_lost_total" && !label("reason").starts_with("cgroup_") {
            format!("lost {}", label("reason"))
        } else if let Some(side) = name.strip_suffix("_count").filter(|side| [SERVER, CLIENT].contains(side))
        {
            let [method, status, route] =
                ["http_request_method", "http_response_status_code", "http_route"].map(label);
            key(side, method, status.parse().ok(), route)
        } else if is_of_all(name) && (name.ends_with("_count") || name.ends_with("_bytes_sum")) {
            name.to_owned()
        } else {
            continue;
        };
        *counts.entry(key).or_default() += value.parse::<f64>().expect("a number") as i64;
    }
    counts
}

/// What there is through a run.
struct Judge {
    lab: Lab,
    ends: Ends,
    before: Counts,
    exchanges: usize,
}

impl Judge {
    fn new() -> Self {
        // More than there can be.
        let lab = Lab::alone(&["--max-routes", "4000"]);
        let ends = Ends::new(lab.talk(), Talk::start(&lab.server, &[PEER, "talk"]));
        let before = counts(&lab.agent.scrape());
        Self { lab, ends, before, exchanges: 0 }
    }

    /// Plays a connection; what was counted wrongly, with all that explains it.
    fn play(&mut self, seed: u64, limit: usize) -> Option<String> {
        let plan = Plan::generate(seed, limit);
        let record = self.ends.play(&plan);
        let said = parser::parse(
            &plan.client.bytes[..record.client],
            &plan.server.bytes[..record.server],
            record.is_closed,
        );
        self.exchanges += said.exchanges.len();
        let expected = Expected::of(&said);
        let started = Instant::now();
        let (now, wrong) = wait::until("counts", || {
            let now = counts(&self.lab.agent.scrape());
            let mut since = now.clone();
            for (key, before) in &self.before {
                *since.entry(key.clone()).or_default() -= before;
            }
            since.retain(|_, count| *count != 0);
            // A family that this agent does not have is not compared.
            let has = |key: &str| {
                !is_of_all(key)
                    || now.keys().any(|own| own == key) && !(plan.has_early && is_request_size(key))
            };
            if plan.has_early {
                since.retain(|key, _| !is_request_size(key));
            }
            let wrong = expected.deviations(&since, &has);
            (wrong.is_empty() || started.elapsed() > PATIENCE).then_some((now, wrong))
        });
        self.before = now;
        if wrong.is_empty() {
            return None;
        }
        let mut text = format!("seed {seed}, {limit} exchanges at most, cut {:?}:\n", plan.cut);
        _ = writeln!(text, "{}\n{said}", record.tell(&plan));
        wrong.iter().for_each(|wrong| _ = writeln!(text, "  WRONG {wrong}"));
        Some(text)
    }
}

fn variable(name: &str, default: u64) -> u64 {
    env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

#[test]
fn generated_conversations_count_as_an_independent_parser_says() {
    in_order(|| {
        let seed = variable("PODMETER_SEED", 1);
        let connections = variable("PODMETER_CONNECTIONS", CONNECTIONS);
        let limit = variable("PODMETER_EXCHANGES", 100) as usize;
        println!("PODMETER_SEED={seed} PODMETER_CONNECTIONS={connections}");
        let mut judge = Judge::new();
        let mut failures = Vec::new();
        for seed in seed..seed + connections {
            let Some(mut failure) = judge.play(seed, limit) else { continue };
            // The fewest of its exchanges that show it.
            for fewer in 1..limit.min(16) {
                if let Some(smaller) = judge.play(seed, fewer) {
                    failure = smaller;
                    break;
                }
            }
            println!("{failure}");
            failures.push(failure);
            if failures.len() == ENOUGH {
                break;
            }
        }
        println!("{} exchanges on {connections} connections", judge.exchanges);
        assert!(failures.is_empty(), "{} connections were counted wrongly: see above", failures.len());
    });
}
