//! `--metrics FILE`: metrics of the user's own.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, anyhow, ensure};
use serde::Deserialize;

use super::{
    metric::{Metric, Metrics, is_name},
    query::Query,
};

/// No more are needed; every `kubectl` reads the list.
const MOST: usize = 100;
/// The shortest window: agents tell every second, and scrapes are further apart.
const SHORTEST: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    metrics: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    query: String,
}

/// Adds the metrics of a file.
///
/// # Errors
/// When it cannot be read, or one of them cannot be answered.
pub fn read(file: &Path, metrics: &mut Metrics) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    add(&text, metrics).with_context(|| format!("--metrics {}", file.display()))
}

/// Adds the metrics that a text has.
///
/// # Errors
/// As [`read`].
pub fn add(text: &str, metrics: &mut Metrics) -> anyhow::Result<()> {
    let file: File = serde_saphyr::from_str(text)?;
    ensure!(file.metrics.len() <= MOST, "there are more than {MOST} metrics");
    for Entry { name, query: text } in file.metrics {
        ensure!(
            is_name(&name),
            "{name:?} is no name of a metric: a small letter, and then small letters, digits and _, of 63 at most"
        );
        let query = Query::parse(&text, SHORTEST);
        let query = query.map_err(|fault| anyhow!("metric {name}: {}", fault.shown(&text)))?;
        metrics.add(Metric { name, query })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(text: &str) -> anyhow::Result<Vec<String>> {
        let mut metrics = Metrics::new(Duration::from_secs(15))?;
        let own = metrics.all().len();
        add(text, &mut metrics)?;
        Ok(metrics.all()[own..].iter().map(|metric| metric.name.clone()).collect())
    }

    #[test]
    fn a_file_has_metrics() {
        let text = "
metrics:
- name: checkout_p95_seconds
  query: histogram_quantile(0.95, rate(http_server_request_duration_seconds_bucket{http_route=\"/checkout/{id}\"}[60s]))
- name: checkout_error_ratio
  query: |
    rate(http_server_request_duration_seconds_count{http_response_status_code=~\"5..\"}[30s])
      / rate(http_server_request_duration_seconds_count[30s])
";
        assert_eq!(added(text).unwrap(), ["checkout_p95_seconds", "checkout_error_ratio"]);
        assert!(added("metrics: []").unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused_and_it_says_why() {
        let entry = |name: &str, query: &str| format!("metrics:\n- name: {name}\n  query: {query}\n");
        let gauge = "http_server_active_requests";
        for (text, why) in [
            ("metrics: 7".to_owned(), ""),
            ("metric: []".to_owned(), "metric"),
            (
                entry("http_requests_per_second", gauge),
                "there is a metric http_requests_per_second without this",
            ),
            (entry("Mine", gauge), "\"Mine\" is no name of a metric"),
            (format!("{}- name: a\n  query: {gauge}\n", entry("a", gauge)), "there are two metrics a"),
            (entry("a", "rate(made_up[60s])"), "metric a: agents stream no \"made_up\""),
            (entry("a", gauge) + "  window: 60s\n", "window"),
        ] {
            let error = format!("{:#}", added(&text).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        let error = added(&entry("a", "http_server_active_requests + up")).unwrap_err().to_string();
        assert!(
            error.ends_with("    http_server_active_requests + up\n                                  ^"),
            "{error}"
        );
    }
}
