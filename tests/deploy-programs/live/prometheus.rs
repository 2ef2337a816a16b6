//! A Prometheus with the configuration that is shipped, but for addresses and times.

use std::fs;

use podmeter_tests::{temp::TempDir, wait};
use serde_json::Value;

use super::server::{Server, escape};
use crate::{path, program};

/// A running Prometheus.
pub(crate) struct Prometheus(pub(crate) Server);

/// What a file of deploy/prometheus says, with each of these replaced; each must be there.
pub(crate) fn shipped(name: &str, replaced: &[(&str, &str)]) -> String {
    let text = fs::read_to_string(path("deploy/prometheus").join(name)).expect("ours");
    replaced.iter().fold(text, |text, (old, new)| {
        assert!(text.contains(old), "{name} has no {old:?}");
        text.replace(old, new)
    })
}

impl Prometheus {
    /// Starts it with the shipped configuration and rules: a second is its quarter of a minute.
    pub(crate) fn shipped(agent: &str, alertmanager: &str) -> Self {
        let addresses = [("15s", "1s"), ("127.0.0.1:9690", agent), ("127.0.0.1:9093", alertmanager)];
        // A minute that something must last is five seconds.
        let rules = shipped("rules.yaml", &[("for: 1m\n", "for: 5s\n")]);
        Self::start(&shipped("prometheus.yml", &addresses), &rules)
    }

    /// Starts it.
    pub(crate) fn start(config: &str, rules: &str) -> Self {
        let directory = TempDir::new("prometheus");
        directory.file("rules.yaml", rules);
        directory.file("prometheus.yml", config);
        Self(Server::start(directory, |address, directory| {
            let mut command = program("PODMETER_PROMETHEUS");
            command
                .arg(format!("--config.file={}", directory.path().join("prometheus.yml").display()))
                .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
                .arg(format!("--web.listen-address={address}"));
            command
        }))
    }

    /// What an expression is now: the series with their values.
    pub(crate) fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let answer = self.0.api(&format!("/api/v1/query?query={}", escape(expression)));
        let result =
            answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{expression}: {answer}")).clone();
        let value = |series: &Value| {
            series["value"][1].as_str().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
        };
        result.iter().map(|series| (series["metric"].clone(), value(series))).collect()
    }

    /// What an expression was in every second since: the series, each with its points.
    pub(crate) fn range(&self, expression: &str, from: f64, to: f64) -> Vec<(Value, Vec<(f64, f64)>)> {
        let path = format!("/api/v1/query_range?query={}&start={from}&end={to}&step=1", escape(expression));
        let answer = self.0.api(&path);
        let point = |point: &Value| Some((point[0].as_f64()?, point[1].as_str()?.parse().ok()?));
        let series = |series: &Value| {
            let points = series["values"].as_array().into_iter().flatten().filter_map(point);
            (series["metric"].clone(), points.collect())
        };
        answer["data"]["result"].as_array().expect("series").iter().map(series).collect()
    }

    /// The values of a label over the series that a selector matches.
    pub(crate) fn label_values(&self, selector: &str, label: &str) -> Vec<String> {
        let answer = self.0.api(&format!("/api/v1/label/{label}/values?match[]={}", escape(selector)));
        let values = answer["data"].as_array().expect("values").iter();
        values.map(|value| value.as_str().expect("text").to_owned()).collect()
    }

    /// Waits until an expression has a series with a finite value.
    pub(crate) fn wait_for(&self, expression: &str) -> Vec<(Value, f64)> {
        wait::until(expression, || {
            Some(self.query(expression)).filter(|series| series.iter().any(|(_, value)| value.is_finite()))
        })
    }

    /// Warnings and errors that it logged.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.0.log();
        log.lines()
            .filter(|line| line.contains("level=WARN") || line.contains("level=ERROR"))
            .map(str::to_owned)
            .collect()
    }
}
