//! What a metric is, as a query: a small part of PromQL, over the series that agents stream.
//!
//! It is asked of a pod, or of many. What they did is added up first, part by part ([`part`]), and then calculated with: a ratio is
//! one of sums, and a quantile is one of all observations. `sum()` changes nothing, therefore.

mod matcher;
mod parse;
mod part;
pub mod series;
mod text;

use std::time::Duration;

use self::part::{Part, Sum};
pub use self::text::Fault;
use super::window::{Span, Window};

/// A query.
#[derive(Clone, Debug)]
pub struct Query {
    parts: Vec<Part>,
    expression: Expression,
}

/// What is calculated.
#[derive(Clone, Debug)]
enum Expression {
    Number(f64),
    /// A part, by its place.
    Part(usize),
    Operation(fn(f64, f64) -> f64, Box<[Self; 2]>),
}

/// What is known of a query's parts, of containers together.
#[derive(Clone, Debug)]
pub struct Gathered {
    /// The longest of the windows, ns.
    pub nanos: u64,
    sums: Box<[Sum]>,
}

impl Query {
    /// Reads a query, none of whose windows is shorter than that.
    ///
    /// # Errors
    /// When it is none that can be answered: where it is not.
    pub fn parse(text: &str, shortest: Duration) -> Result<Self, Fault> {
        parse::query(text, shortest)
    }

    /// The windows that it needs, besides the usual one.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        self.parts.iter().filter_map(|part| part.span)
    }

    /// Whether it can be asked by route.
    pub fn is_by_route(&self) -> bool {
        self.parts.iter().all(|part| part.series.has_routes())
    }

    /// Nothing is known yet.
    pub fn nothing(&self) -> Gathered {
        Gathered { nanos: 0, sums: self.parts.iter().map(|_| Sum::default()).collect() }
    }

    /// Adds a container; of its requests those on routes that `wants` says yes to. None if it is too young for a window.
    pub fn add<'a>(
        &self,
        container: &str,
        window: impl Fn(Option<Span>) -> Option<Window<'a>>,
        wants: &dyn Fn(&str) -> bool,
        into: &mut Gathered,
    ) -> Option<()> {
        for (part, sum) in self.parts.iter().zip(&mut into.sums) {
            if part.is_of(container) {
                let window = window(part.span)?;
                into.nanos = into.nanos.max(window.nanos);
                part.add(window, wants, sum);
            }
        }
        Some(())
    }

    /// What it is, of containers together; none where that cannot be known.
    pub fn value(&self, of: &Gathered) -> Option<f64> {
        self.calculate(&self.expression, of).filter(|value| value.is_finite())
    }

    fn calculate(&self, expression: &Expression, of: &Gathered) -> Option<f64> {
        match expression {
            Expression::Number(number) => Some(*number),
            Expression::Part(at) => self.parts.get(*at)?.value(of.sums.get(*at)?),
            Expression::Operation(apply, sides) => {
                let [left, right] = &**sides;
                // Nothing is the number that something divided by zero is.
                let value = apply(self.calculate(left, of)?, self.calculate(right, of)?);
                value.is_finite().then_some(value)
            }
        }
    }
}

impl Gathered {
    /// Adds what is known of others, by the same query.
    pub fn merge(&mut self, other: &Self) {
        self.nanos = self.nanos.max(other.nanos);
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| sum.merge(other));
    }
}

#[cfg(test)]
mod tests {
    use exporter_ebpf::histogram::{BUCKETS, index};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        adapter::{counts::Counts, metric::Metrics, sample::Sample},
        stream::message::{self, Usage},
    };

    const SECONDS: u64 = 1_000_000_000;

    fn query(text: &str) -> Query {
        Query::parse(text, Duration::from_secs(5)).unwrap_or_else(|fault| panic!("{}", fault.shown(text)))
    }

    fn of_window(nanos: u64) -> impl Fn(&Query, &[(&str, &Sample, &Sample)]) -> Gathered {
        move |query, containers| {
            let mut gathered = query.nothing();
            for &(name, from, to) in containers {
                let window = |_| Some(Window { from, to, nanos });
                query.add(name, window, &|_| true, &mut gathered).unwrap();
            }
            gathered
        }
    }

    fn value(text: &str, containers: &[(&str, &Sample, &Sample)]) -> Option<f64> {
        let query = query(text);
        query.value(&of_window(10 * SECONDS)(&query, containers))
    }

    fn sample(usage: Usage) -> Sample {
        Sample::new(0, usage, None).unwrap()
    }

    fn http(routes: Vec<message::Route>, unparsed: u64) -> Usage {
        Usage { http: Some(message::Http { routes, active: Some(0), unparsed }), ..Usage::default() }
    }

    fn route(route: &str, requests: u64, errors: u64, durations: &[u64]) -> message::Route {
        let mut counts = [0; BUCKETS];
        durations.iter().for_each(|nanos| counts[index(*nanos)] += 1);
        let duration = Some(message::Histogram::new(&counts));
        message::Route { route: route.to_owned(), requests, errors, duration }
    }

    /// A container: CPU time, and the requests of each route with how many of them fail and how long they take.
    type Did = (u64, Vec<(u64, u64, Vec<u64>)>);

    fn did() -> impl Strategy<Value = Did> {
        let durations = prop::collection::vec(4_000u64..10 * SECONDS, 0..20);
        let requests =
            (0u64..1000, 0u64..1000, durations).prop_map(|(good, bad, took)| (good + bad, bad, took));
        (0..10 * SECONDS, prop::collection::vec(requests, 2))
    }

    /// Before and after.
    fn samples((cpu, routes): &Did) -> [Sample; 2] {
        let of = |all: bool| {
            let routes = routes.iter().zip(["/a", "/b/{id}"]).map(|((requests, errors, took), name)| {
                let extra = if all { (*requests, *errors, &**took) } else { (0, 0, &[][..]) };
                route(name, 7 + extra.0, 3 + extra.1, extra.2)
            });
            let cpu = Some(5 * SECONDS + if all { *cpu } else { 0 });
            sample(Usage { cpu, ..http(routes.collect(), 0) })
        };
        [false, true].map(of)
    }

    const COUNT: &str = "http_server_request_duration_seconds_count";
    const BUCKET: &str = "http_server_request_duration_seconds_bucket";

    proptest! {
        #[test]
        fn it_is_what_all_containers_did_together(all in prop::collection::vec(did(), 1..5), seconds in 5u64..600) {
            let samples: Vec<_> = all.iter().map(samples).collect();
            let containers: Vec<_> = samples.iter().map(|[from, to]| ("app", from, to)).collect();
            let nanos = seconds * SECONDS;
            let value = |text: &str| {
                let query = query(text);
                let together = query.value(&of_window(nanos)(&query, &containers));
                // Each is a pod: what is known of pods makes the same.
                let mut merged = query.nothing();
                for container in &containers {
                    merged.merge(&of_window(nanos)(&query, &[*container]));
                }
                let merged = query.value(&merged);
                assert!(together.zip(merged).is_none_or(|(one, other)| (one - other).abs() <= one.abs() * 1e-9));
                assert_eq!(together.is_some(), merged.is_some());
                together
            };
            let close = |found: Option<f64>, wanted: f64| {
                found.is_some_and(|found| (found - wanted).abs() <= wanted.abs() * 1e-9)
            };
            let of = |pick: fn(&(u64, u64, Vec<u64>)) -> u64, routes: std::ops::Range<usize>| {
                all.iter().flat_map(|(_, own)| &own[routes.clone()]).map(pick).sum::<u64>() as f64
            };
            let (requests, errors) = (of(|own| own.0, 0..2), of(|own| own.1, 0..2));
            let cpu = all.iter().map(|own| own.0).sum::<u64>() as f64 / nanos as f64;
            let status = "http_response_status_code";
            let all_of_them = format!("rate({COUNT}[{seconds}s])");
            prop_assert!(close(value(&all_of_them), requests / seconds as f64));
            let of_route = format!("rate({COUNT}{{http_route='/a'}}[{seconds}s])");
            prop_assert!(close(value(&of_route), of(|own| own.0, 0..1) / seconds as f64));
            let good = format!("sum(rate({COUNT}{{{status}!~'5..', http_route!='/a'}}[{seconds}s]))");
            prop_assert!(close(value(&good), of(|own| own.0 - own.1, 1..2) / seconds as f64));
            let cores = format!("rate(container_cpu_usage_seconds_total[{seconds}s])");
            let (mean, calculated) = (format!("avg({cores})"), format!("2 * ({cores} + 1) - {cores} / 4"));
            prop_assert!(close(value(&cores), cpu));
            prop_assert!(close(value(&mean), cpu / all.len() as f64));
            prop_assert!(close(value(&calculated), 2.0 * (cpu + 1.0) - cpu / 4.0));
            let ratio = format!("rate({COUNT}{{{status}=~\"5..\"}}[{seconds}s]) / rate({COUNT}[{seconds}s])");
            match requests {
                0.0 => prop_assert_eq!(value(&ratio), None),
                _ => prop_assert!(close(value(&ratio), errors / requests)),
            }
            let mut counts = [0; BUCKETS];
            all.iter().flat_map(|own| &own.1).flat_map(|own| &own.2).for_each(|took| counts[index(*took)] += 1);
            let (mut merged, told) = (Counts::default(), message::Histogram::new(&counts));
            merged.add(None, &crate::adapter::sample::Histogram::new(told, None).unwrap());
            let quantile = value(&format!("histogram_quantile(0.9, sum by (le) (rate({BUCKET}[{seconds}s])))"));
            prop_assert_eq!(quantile, merged.quantile(0.9));

            // The metrics that there are anyway mean the same.
            let metrics = Metrics::new(Duration::from_secs(seconds)).unwrap();
            let own = |name: &str| {
                let query = &metrics.find(name).unwrap().query;
                query.value(&of_window(nanos)(query, &containers))
            };
            prop_assert!(close(own("http_requests_per_second"), requests / seconds as f64));
            prop_assert!(close(own("http_errors_per_second"), errors / seconds as f64));
            prop_assert_eq!(own("http_request_duration_p90_seconds"), quantile);
        }
    }

    #[test]
    fn an_idle_container_does_not_make_a_zero_of_what_cannot_be_read() {
        let (idle, unread) = (sample(http(vec![], 0)), sample(http(vec![], 900)));
        let (before, busy) =
            (sample(http(vec![route("/", 0, 0, &[])], 0)), sample(http(vec![route("/", 70, 0, &[])], 0)));
        let (idle, unread, busy) =
            (("idle", &idle, &idle), ("unread", &unread, &unread), ("busy", &before, &busy));
        let rate = |containers: &[_]| value(&format!("rate({COUNT}[10s])"), containers);
        assert_eq!(rate(&[idle, idle]), Some(0.0));
        assert_eq!(rate(&[unread, idle]), None, "nobody knows what it serves");
        assert_eq!(rate(&[idle, unread]), None);
        assert_eq!(rate(&[unread, busy, idle]), Some(7.0), "what is known is said");
        let only =
            |containers: &[_]| value(&format!("rate({COUNT}{{container!='unread'}}[10s])"), containers);
        assert_eq!(only(&[unread, idle]), Some(0.0), "of that container it is known");
        assert_eq!(only(&[unread]), None);
    }

    #[test]
    fn what_nobody_knows_is_no_number() {
        let known = sample(Usage {
            cpu: Some(SECONDS),
            periods: Some(10),
            throttled_periods: Some(1),
            ..Usage::default()
        });
        let later = sample(Usage {
            cpu: Some(6 * SECONDS),
            periods: Some(110),
            throttled_periods: Some(26),
            ..Usage::default()
        });
        let unknown = Sample::default();
        let (known, unknown) = (("app", &known, &later), ("app", &unknown, &unknown));
        let cores = "rate(container_cpu_usage_seconds_total[10s])";
        assert_eq!(value(cores, &[known]), Some(0.5));
        assert_eq!(value(cores, &[known, unknown]), None, "a part is unknown");
        assert_eq!(value(&format!("{cores} * 0"), &[unknown]), None);
        // A container without a quota has no periods, and that is known.
        let throttled = "rate(container_cpu_cfs_throttled_periods_total[10s]) / rate(container_cpu_cfs_periods_total[10s])";
        assert_eq!(value(throttled, &[known, unknown]), Some(0.25));
        assert_eq!(value(throttled, &[unknown]), None);
        assert_eq!(value("http_server_active_requests", &[known]), None, "nobody looked");
        assert_eq!(value(&format!("rate({COUNT}[10s])"), &[known]), None);
        assert_eq!(value(&format!("1 / ({cores} - {cores})"), &[known]), None);
        assert_eq!(
            value(&format!("1 / (1 / ({cores} - {cores}))"), &[known]),
            None,
            "nor what is made of it"
        );
        assert_eq!(value(cores, &[]), None);
    }

    #[test]
    fn windows_are_those_of_the_ranges() {
        let query =
            query(&format!("rate({COUNT}[1m30s]) / rate({COUNT}[30s]) + http_server_active_requests"));
        let seconds: Vec<_> = query.spans().map(|span| span.wanted / SECONDS).collect();
        assert_eq!(seconds, [90, 30]);
        assert!(!query.is_by_route());
        let (from, to) = (Sample::default(), Sample::default());
        let young = |span: Option<Span>| match span {
            Some(span) if span.wanted == 90 * SECONDS => None,
            _ => Some(Window { from: &from, to: &to, nanos: SECONDS }),
        };
        assert!(
            query.add("app", young, &|_| true, &mut query.nothing()).is_none(),
            "too young for one of them"
        );
    }
}
