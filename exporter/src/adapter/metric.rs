//! The metrics that are served beside CPU and memory: their names, and what each is of what containers used.

use std::hash::Hasher as _;

use rustc_hash::FxHasher;

use super::{selector::Selector, total::Total};

/// A metric.
pub struct Metric {
    /// As in an HPA.
    pub name: &'static str,
    /// What it is, of containers that did what they did together; none where it cannot be known.
    pub value: fn(&Total) -> Option<f64>,
    /// Whether it can be had by route.
    pub by_route: bool,
}

const fn whole(name: &'static str, value: fn(&Total) -> Option<f64>) -> Metric {
    Metric { name, value, by_route: false }
}

const fn by_route(name: &'static str, value: fn(&Total) -> Option<f64>) -> Metric {
    Metric { name, value, by_route: true }
}

/// Every metric, in the order of discovery. Short on purpose: every `kubectl` reads that list.
pub static ALL: [Metric; 14] = [
    by_route("http_requests_per_second", |total| Some(total.http()?.rate)),
    by_route("http_errors_per_second", |total| Some(total.http()?.errors)),
    by_route("http_request_duration_p50_seconds", |total| total.http()?.durations.quantile(0.5)),
    by_route("http_request_duration_p90_seconds", |total| total.http()?.durations.quantile(0.9)),
    by_route("http_request_duration_p99_seconds", |total| total.http()?.durations.quantile(0.99)),
    whole("http_active_requests", |total| total.http()?.active()),
    whole("cpu_run_queue_wait_ratio", Total::queued),
    whole("cpu_pressure_ratio", |total| total.pressure(0)),
    whole("memory_pressure_ratio", |total| total.pressure(1)),
    whole("io_pressure_ratio", |total| total.pressure(2)),
    whole("cpu_throttled_periods_ratio", Total::throttled),
    whole("block_io_latency_p50_seconds", |total| total.block_io.as_ref()?.quantile(0.5)),
    whole("block_io_latency_p90_seconds", |total| total.block_io.as_ref()?.quantile(0.9)),
    whole("block_io_latency_p99_seconds", |total| total.block_io.as_ref()?.quantile(0.99)),
];

/// The metric of this name.
pub fn find(name: &str) -> Option<&'static Metric> {
    ALL.iter().find(|metric| metric.name == name)
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

/// A label's value is no longer.
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
    fn names_are_names_of_metrics_and_each_its_own() {
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        assert!(names.iter().all(|name| {
            name.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_')
        }));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    proptest! {
        #[test]
        fn every_slug_can_be_selected(route in "\\PC{0,120}") {
            let selector = Selector::parse(&format!("route={}", slug(&route)));
            prop_assert!(selector.is_ok_and(|selector| wants(&selector, &route)));
        }
    }
}
