//! What was counted between two scrapes, of everything, and what should have been.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use podmeter_tests::{scrape::Scrape, wait};

use super::super::lab::{CLIENT, Lab, SERVER};

/// After how long what is missing is taken for lost, and what is too much for true: idle connections count after two seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// After how long without a change nothing more is under way.
const STILL: Duration = Duration::from_millis(700);

/// After how many deviations a test ends early: each takes its time.
const ENOUGH: usize = 12;

/// How long a server waits before it answers `/slow`, at least, seconds.
const SLOW: f64 = 0.3;

/// Who takes part in an exchange, by the name of its cgroup, and in which of the two histograms it counts.
#[derive(Clone, Copy)]
pub(super) struct Side(pub(super) &'static str, pub(super) &'static str);

/// Requests of a method, answered by a status, for a route: so many.
pub(super) type Count = (&'static str, &'static str, &'static str, u64);

/// Numbers by what they count: requests by party, side, method, status and route; losses by reason. None is 0.
type Counts = BTreeMap<String, i64>;

/// The last scrape's counts, and what deviated so far.
pub(super) struct Ledger<'a> {
    lab: &'a Lab,
    sides: &'static [Side],
    before: Counts,
    deviations: Vec<String>,
    /// How long slow answers took their client, seconds.
    slow: f64,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(lab: &'a Lab, sides: &'static [Side]) -> Self {
        let before = counts(&lab.agent.scrape());
        Self { lab, sides, before, deviations: Vec::new(), slow: 0.0 }
    }

    /// A slow answer came, in so many seconds.
    pub(super) fn slow(&mut self, took: f64) {
        self.slow += took;
    }

    /// Every side should have counted this since the last check, and nothing else; nor was anything lost.
    ///
    /// # Panics
    /// When enough has deviated, with all that did.
    pub(super) fn check(&mut self, what: &str, expected: impl IntoIterator<Item = Count>) {
        let mut wanted = Counts::new();
        for (method, status, route, times) in expected {
            for Side(party, side) in self.sides {
                let key = format!("{party} {side} {method} {status} {route}");
                *wanted.entry(key).or_default() += times.cast_signed();
            }
        }
        let counted = self.settle(|counted| *counted == wanted);
        if counted == wanted {
            return;
        }
        let mut text = format!("{what}:");
        let keys: BTreeMap<_, ()> = wanted.keys().chain(counted.keys()).map(|key| (key, ())).collect();
        for key in keys.into_keys() {
            let [wanted, counted] = [&wanted, &counted].map(|counts| counts.get(key).copied().unwrap_or(0));
            if wanted != counted {
                _ = write!(text, "\n    {key}: {counted}, not {wanted}");
            }
        }
        self.deviate(text);
        if self.deviations.len() >= ENOUGH {
            self.tell();
        }
    }

    /// As [`Self::check`], for a load whose client gives up up to `open` requests when it ends. Each side has counted such a
    /// request or told of its loss.
    pub(super) fn check_load(
        &mut self,
        what: &str,
        (method, status, route): (&str, &str, &str),
        completed: u64,
        open: u64,
    ) {
        let keys =
            self.sides.iter().map(|Side(party, side)| format!("{party} {side} {method} {status} {route}"));
        let keys: Vec<_> = keys.chain(["lost request_unanswered".to_owned()]).collect();
        let (least, most) = (completed.cast_signed(), (completed + open).cast_signed());
        let is_right = |counted: &Counts| {
            let of = |key: &String| counted.get(key).copied().unwrap_or(0);
            let told: i64 = keys.iter().map(of).sum();
            let sides = self.sides.len() as i64;
            let is_whole = told % sides == 0 && (least..=most).contains(&(told / sides));
            is_whole
                && keys[..self.sides.len()].iter().all(|key| of(key) >= least)
                && counted.keys().all(|key| keys.contains(key))
        };
        // A server may answer what was given up when its client is long gone: right, and the same for a while.
        let still: RefCell<(Counts, Instant)> = RefCell::new((Counts::new(), Instant::now()));
        let counted = self.settle(|counted| {
            let mut still = still.borrow_mut();
            if still.0 != *counted {
                *still = (counted.clone(), Instant::now());
            }
            is_right(counted) && still.1.elapsed() > STILL
        });
        if !is_right(&counted) {
            self.deviate(format!("{what}, {completed} completed, {open} connections: {counted:?}"));
        }
    }

    /// What was counted since the last check, once it is as it should be, or its time is up.
    fn settle(&mut self, is_right: impl Fn(&Counts) -> bool) -> Counts {
        let started = Instant::now();
        let (now, since) = wait::until("counts", || {
            let now = counts(&self.lab.agent.scrape());
            let mut since = now.clone();
            for (key, before) in &self.before {
                *since.entry(key.clone()).or_default() -= before;
            }
            since.retain(|_, count| *count != 0);
            (is_right(&since) || started.elapsed() > PATIENCE).then_some((now, since))
        });
        self.before = now;
        since
    }

    /// Nothing may have deviated, nor come since; and slow answers took as long as their server waited, and no longer than
    /// their client did.
    ///
    /// # Panics
    /// When it did, with all that deviated.
    pub(super) fn end(mut self) {
        self.check("after the end", []);
        let scrape = self.lab.agent.scrape();
        let took = self.slow;
        for Side(party, side) in self.sides {
            let sum =
                scrape.sum(&format!("{side}_sum"), &[("id", &format!("/{party}")), ("http_route", "/slow")]);
            let count = scrape
                .sum(&format!("{side}_count"), &[("id", &format!("/{party}")), ("http_route", "/slow")]);
            if sum < SLOW * count || sum > took {
                self.deviate(format!(
                    "{party} {side} /slow: {sum} s for {count}, not {SLOW} s each to {took} s"
                ));
            }
        }
        self.tell();
    }

    /// At once, for whoever watches; and kept for the end.
    fn deviate(&mut self, text: String) {
        println!("{text}");
        self.deviations.push(text);
    }

    fn tell(&self) {
        let text = self.deviations.join("\n");
        assert!(text.is_empty(), "{} deviations:\n{text}", self.deviations.len());
    }
}

/// Everything that a scrape counts of requests, once each, and of losses; those of cgroups may come from anywhere, always.
fn counts(scrape: &Scrape) -> Counts {
    let mut counts = Counts::new();
    for line in scrape.0.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let label = |name: &str| {
            let mut labels =
                labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
            labels.find(|label| label.0 == name).map_or("", |label| label.1.trim_matches('"'))
        };
        let key = if name == "podmeter_lost_total" && !label("reason").starts_with("cgroup_") {
            format!("lost {}", label("reason"))
        } else if let Some(family) =
            name.strip_suffix("_count").filter(|family| [SERVER, CLIENT].contains(family))
        {
            let [method, status, route] =
                ["http_request_method", "http_response_status_code", "http_route"].map(label);
            format!("{} {family} {method} {status} {route}", label("id").trim_start_matches('/'))
        } else {
            continue;
        };
        *counts.entry(key).or_default() += value.parse::<f64>().expect("a number") as i64;
    }
    counts.retain(|_, count| *count != 0);
    counts
}
