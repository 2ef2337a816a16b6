//! A real Prometheus.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use podmeter_tests::{agent::Agent, temp::TempDir, wait};
use serde_json::Value;

use crate::http::lab::get;

/// The program of a current one: Debian's does not do it all.
///
/// # Panics
/// When it was not built.
pub(crate) fn current() -> String {
    std::env::var("PODMETER_PROMETHEUS").expect(
        "`cargo xtask test` builds a current Prometheus; or set PODMETER_PROMETHEUS to the path of one",
    )
}

/// What a current one is to do with histograms: take each twice.
pub(crate) const BOTH: &str = ", scrape_native_histograms: true, always_scrape_classic_histograms: true";

/// A Prometheus of the test's own.
pub(crate) struct Prometheus {
    pub(crate) address: String,
    child: Child,
    directory: TempDir,
}

impl Prometheus {
    /// Starts it; it scrapes the agent every second, and `wants` more of it.
    pub(crate) fn start(program: &str, agent: &Agent, wants: &str) -> Self {
        Self::start_every(1, program, agent, wants)
    }

    /// As [`Self::start`], with a scrape every so many seconds.
    pub(crate) fn start_every(seconds: u32, program: &str, agent: &Agent, wants: &str) -> Self {
        let directory = TempDir::new("prometheus");
        let config = directory.file(
            "prometheus.yml",
            format!(
                "global: {{ scrape_interval: {seconds}s, scrape_timeout: 1s{wants} }}\n\
                 scrape_configs:\n- job_name: podmeter\n  static_configs: [ {{ targets: [ '{}' ] }} ]\n",
                agent.address
            ),
        );
        let address =
            TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").to_string();
        let log = std::fs::File::create(directory.path().join("log")).expect("a log");
        let child = Command::new(program)
            .arg(format!("--config.file={config}"))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--enable-feature=exemplar-storage")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus");
        let this = Self { address, child, directory };
        wait::until("prometheus", || std::net::TcpStream::connect(&this.address).ok());
        wait::until("prometheus is ready", || {
            let answer =
                Command::new("curl").args(["-qsf", &format!("http://{}/-/ready", this.address)]).output();
            answer.expect("curl").status.success().then_some(())
        });
        this
    }

    pub(crate) fn api(&self, path: &str) -> Value {
        let answer: Value =
            serde_json::from_str(&get(&self.address, &format!("/api/v1/{path}"))).expect("JSON");
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"].clone()
    }

    /// The value of an expression that has one series, or none yet.
    pub(crate) fn query(&self, expression: &str) -> Option<f64> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = self.api(&format!("query?query={escaped}"));
        let result = answer["result"].as_array().expect("a vector");
        assert!(result.len() <= 1, "{expression}: {answer}");
        result.first()?["value"][1].as_str()?.parse().ok().filter(|value: &f64| value.is_finite())
    }

    /// The traces that it has for a series and a container.
    pub(crate) fn traces(&self, series: &str, id: &str) -> BTreeSet<String> {
        let answer = self.api(&format!("query_exemplars?query={series}&start=0&end=4102444800"));
        let of_series = answer.as_array().expect("series").iter().filter(|of| of["seriesLabels"]["id"] == id);
        let all = of_series.flat_map(|of| of["exemplars"].as_array().expect("exemplars"));
        all.map(|one| one["labels"]["trace_id"].as_str().expect("a trace").to_owned()).collect()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).expect("its log")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
