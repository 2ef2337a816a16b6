//! The metrics that are served beside CPU and memory: their names, and what each is of what containers did.

use std::{hash::Hasher as _, time::Duration};

use anyhow::{anyhow, ensure};
use rustc_hash::FxHasher;

use super::{query::Query, selector::Selector, window::Span};

/// A metric.
#[derive(Clone, Debug)]
pub struct Metric {
    /// As in an HPA.
    pub name: String,
    /// What it is, of containers that did what they did together.
    pub query: Query,
}

/// Those that there are anyway, in the order of discovery, over the usual window. Short on purpose: every `kubectl` reads that list.
const OWN: [(&str, &str); 14] = [
    ("http_requests_per_second", "rate(http_server_request_duration_seconds_count[W])"),
    (
        "http_errors_per_second",
        "rate(http_server_request_duration_seconds_count{http_response_status_code=~\"5..\"}[W])",
    ),
    (
        "http_request_duration_p50_seconds",
        "histogram_quantile(0.5, rate(http_server_request_duration_seconds_bucket[W]))",
    ),
    (
        "http_request_duration_p90_seconds",
        "histogram_quantile(0.9, rate(http_server_request_duration_seconds_bucket[W]))",
    ),
    (
        "http_request_duration_p99_seconds",
        "histogram_quantile(0.99, rate(http_server_request_duration_seconds_bucket[W]))",
    ),
    ("http_active_requests", "http_server_active_requests"),
    ("cpu_run_queue_wait_ratio", "rate(container_cpu_run_queue_latency_seconds_sum[W])"),
    ("cpu_pressure_ratio", "avg(rate(container_pressure_cpu_waiting_seconds_total[W]))"),
    ("memory_pressure_ratio", "avg(rate(container_pressure_memory_waiting_seconds_total[W]))"),
    ("io_pressure_ratio", "avg(rate(container_pressure_io_waiting_seconds_total[W]))"),
    (
        "cpu_throttled_periods_ratio",
        "rate(container_cpu_cfs_throttled_periods_total[W]) / rate(container_cpu_cfs_periods_total[W])",
    ),
    (
        "block_io_latency_p50_seconds",
        "histogram_quantile(0.5, rate(container_fs_io_latency_seconds_bucket[W]))",
    ),
    (
        "block_io_latency_p90_seconds",
        "histogram_quantile(0.9, rate(container_fs_io_latency_seconds_bucket[W]))",
    ),
    (
        "block_io_latency_p99_seconds",
        "histogram_quantile(0.99, rate(container_fs_io_latency_seconds_bucket[W]))",
    ),
];

/// Every metric that is served.
#[derive(Clone, Debug)]
pub struct Metrics(Vec<Metric>);

impl Metrics {
    /// Those that there are anyway.
    ///
    /// # Errors
    /// When one of them is none, which a test excludes.
    pub fn new(window: Duration) -> anyhow::Result<Self> {
        let window_text = format!("[{}s]", window.as_secs());
        let own = OWN.iter().map(|(name, query)| {
            let query = Query::parse(&query.replace("[W]", &window_text), window)
                .map_err(|fault| anyhow!("{name}: {fault}"))?;
            Ok(Metric { name: (*name).to_owned(), query })
        });
        Ok(Self(own.collect::<anyhow::Result<_>>()?))
    }

    /// Adds one.
    ///
    /// # Errors
    /// When there is one of its name.
    pub fn add(&mut self, metric: Metric) -> anyhow::Result<()> {
        let is_own = OWN.iter().any(|(name, _)| *name == metric.name);
        ensure!(!is_own, "there is a metric {} without this", metric.name);
        ensure!(self.find(&metric.name).is_none(), "there are two metrics {}", metric.name);
        self.0.push(metric);
        Ok(())
    }

    /// The metric of this name.
    pub fn find(&self, name: &str) -> Option<&Metric> {
        self.0.iter().find(|metric| metric.name == name)
    }

    /// All of them, in the order of discovery.
    pub fn all(&self) -> &[Metric] {
        &self.0
    }

    /// The windows that they need, beside the usual one.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        self.0.iter().flat_map(|metric| metric.query.spans())
    }
}

/// Whether a metric may be called so.
pub fn is_name(name: &str) -> bool {
    (1..=MOST).contains(&name.len())
        && name.starts_with(|char: char| char.is_ascii_lowercase())
        && name.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_')
}

/// The label by which series of a metric can be selected.
pub const ROUTE: &str = "route";

/// Whether a route is wanted.
pub fn wants(series: &Selector, route: &str) -> bool {
    if series.is_empty() {
        return true;
    }
    let slug = slug(route);
    series.matches_by(&|label| (label == ROUTE).then_some(&*slug))
}

/// A label's value is no longer, and no name of a metric.
const MOST: usize = 63;

/// A route as a label's value, which has no slashes and no braces: `/users/{id}/links` is `users-id-links`, `/` is `root`. A long
/// one is cut, and ends with a number that tells it from others.
pub fn slug(route: &str) -> String {
    let mut slug = String::with_capacity(route.len());
    for char in route.chars() {
        if char.is_ascii_alphanumeric() || matches!(char, '_' | '.') {
            slug.push(char);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let is_letter = |char: char| char.is_ascii_alphanumeric();
    let slug = slug.trim_matches(|char| !is_letter(char));
    if slug.is_empty() {
        return "root".to_owned();
    }
    if slug.len() <= MOST {
        return slug.to_owned();
    }
    let mut hasher = FxHasher::default();
    hasher.write(route.as_bytes());
    let number = format!("-{:08x}", hasher.finish() as u32);
    let cut = slug[..MOST - number.len()].trim_end_matches(|char| !is_letter(char));
    format!("{cut}{number}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn routes_become_values() {
        for (route, wanted) in [
            ("/users/{id}/links", "users-id-links"),
            ("/", "root"),
            ("/v1.2/a_b", "v1.2-a_b"),
            ("other", "other"),
            ("/files/{path...}", "files-path"),
        ] {
            assert_eq!(slug(route), wanted);
        }
        let long = |last: char| format!("/{}{last}", "a/".repeat(60));
        assert_ne!(slug(&long('x')), slug(&long('y')));
    }

    #[test]
    fn there_are_some_for_every_window() {
        for seconds in [1, 15, 600] {
            let metrics = Metrics::new(Duration::from_secs(seconds)).unwrap();
            assert_eq!(metrics.all().len(), OWN.len());
            let window = Span::new(Duration::from_secs(seconds));
            assert!(metrics.spans().all(|span| span == window), "no other window is needed");
        }
    }

    #[test]
    fn names_are_names_of_metrics_and_each_its_own() {
        let mut metrics = Metrics::new(Duration::from_secs(15)).unwrap();
        assert!(metrics.all().iter().all(|metric| is_name(&metric.name)));
        let query = metrics.all()[0].query.clone();
        for metric in metrics.clone().all() {
            assert!(metrics.add(metric.clone()).is_err(), "{}", metric.name);
        }
        let mine = Metric { name: "mine".to_owned(), query };
        metrics.add(mine.clone()).unwrap();
        assert!(metrics.add(mine).is_err());
        assert!(metrics.find("mine").is_some() && metrics.find("yours").is_none());
    }

    proptest! {
        #[test]
        fn every_slug_can_be_selected(route in "\\PC{0,120}") {
            let selector = Selector::parse(&format!("route={}", slug(&route)));
            prop_assert!(selector.is_ok_and(|selector| wants(&selector, &route)));
        }
    }
}
