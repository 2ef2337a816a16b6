//! Every panel of every dashboard shows something of a node that is at work.

use std::{collections::BTreeMap, fs, time::SystemTime};

use podmeter_tests::wait;
use serde_json::Value;

use super::{
    containers::{Load, Node},
    picture::{Drawing, Panel},
    prometheus::Prometheus,
    server::free_address,
};
use crate::path;

/// What a query of a panel has within, in the place of what Grafana computes from the picture's width.
const RATE_INTERVAL: &str = "10s";

/// Keeps the accounts of programs on, and leaves them as they were.
struct Accounts(String);

const ACCOUNTS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Accounts {
    fn on() -> Self {
        let old = fs::read_to_string(ACCOUNTS).expect("root reads it");
        fs::write(ACCOUNTS, "1").expect("root writes it");
        Self(old)
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        _ = fs::write(ACCOUNTS, &self.0);
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// The values of a dashboard's variables, each from Prometheus, with those before it filled in.
fn variables(board: &Value, prometheus: &Prometheus) -> BTreeMap<String, String> {
    let mut known = BTreeMap::from([("__rate_interval".to_owned(), RATE_INTERVAL.to_owned())]);
    for variable in board["templating"]["list"].as_array().expect("variables") {
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (selector, label) =
            inner.and_then(|inner| inner.rsplit_once(", ")).expect("a selector and a label");
        let selector = fill(selector, &known);
        let values = wait::until(&format!("values of {label} in {selector}"), || {
            Some(prometheus.label_values(&selector, label)).filter(|values| !values.is_empty())
        });
        // As Grafana joins what a person has marked; and what "All" is.
        assert_eq!(variable["allValue"], ".*");
        let name = variable["name"].as_str().expect("a name").to_owned();
        known.insert(
            name,
            format!("({})", values.join("|").replace('\\', "\\\\").replace(['{', '}', '$', '.'], ".")),
        );
    }
    known
}

fn fill(text: &str, variables: &BTreeMap<String, String>) -> String {
    variables.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
}

/// A dashboard, with its variables filled in.
struct Board {
    uid: &'static str,
    json: Value,
    variables: BTreeMap<String, String>,
}

impl Board {
    fn new(uid: &'static str, prometheus: &Prometheus) -> Self {
        let file = path(&format!("deploy/dashboards/{uid}.json"));
        let json: Value = serde_json::from_str(&fs::read_to_string(file).expect("ours")).expect("JSON");
        let variables = variables(&json, prometheus);
        Self { uid, json, variables }
    }

    fn panels(&self) -> &[Value] {
        self.json["panels"].as_array().expect("panels")
    }

    /// Legends and expressions of a panel.
    fn queries_of(&self, panel: &Value) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets
            .map(|target| (text(&target["legendFormat"]), fill(&text(&target["expr"]), &self.variables)))
            .collect()
    }

    fn queries(&self) -> Vec<(String, String)> {
        self.panels().iter().flat_map(|panel| self.queries_of(panel)).collect()
    }

    fn draw(&self, prometheus: &Prometheus, start: f64) -> String {
        let mut drawing = Drawing::new(self.json["title"].as_str().expect("a title"));
        for panel in self.panels() {
            let mut drawn = Panel::new(panel);
            for (legend, expression) in self.queries_of(panel) {
                drawn.add(
                    &legend,
                    prometheus.range(&expression, start, now()),
                    prometheus.query(&expression),
                );
            }
            drawing.add(&drawn);
        }
        drawing.finish()
    }
}

#[test]
fn every_panel_has_data() {
    let _accounts = Accounts::on();
    let node = Node::start();
    let (web, shop) = (node.container("web"), node.container("checkout"));
    let agent = node.agent();
    let prometheus = Prometheus::shipped(&agent.address.to_string(), &free_address());
    let start = now();
    let (_server, address) = web.serve();
    // More than it may have; and disks, and requests of its own, of which one is to a port where nobody is.
    let _busy = web.run("while :; do :; done");
    let _disk = shop.run(
        "f=/var/tmp/podmeter-test-panels.$$; trap 'rm -f $f; exit' TERM EXIT; \
         while :; do dd if=/dev/zero of=$f bs=64k count=8 oflag=direct 2>&-; dd if=$f of=/dev/null bs=64k iflag=direct 2>&-; done",
    );
    let _calls = shop.run(&format!(
        "while :; do curl -qs http://{address}/users/7 http://{address}/delay/30 http://127.0.0.1:1/; done >/dev/null"
    ));
    let _load = Load::start(&address, &["/", "/users/12", "/delay/25", "/status/503", "/delay/120"]);
    let boards: Vec<_> = ["podmeter-node", "podmeter-pod", "podmeter-requests", "podmeter-agent"]
        .map(|uid| Board::new(uid, &prometheus))
        .into();
    for (_, expression) in boards.iter().flat_map(Board::queries) {
        prometheus.wait_for(&expression);
    }
    // A line of two points is no picture.
    prometheus.wait_for("count_over_time(up{job=\"podmeter\"}[1m]) > 15");
    let folder = path("target/dashboards");
    fs::create_dir_all(&folder).expect("a folder");
    for board in boards {
        fs::write(folder.join(format!("{}.svg", board.uid)), board.draw(&prometheus, start))
            .expect("written");
    }
    let complaints: Vec<_> = prometheus.complaints();
    // There is no Alertmanager here.
    let complaints: Vec<_> = complaints.iter().filter(|line| !line.contains("alertmanager")).collect();
    assert_eq!(complaints, Vec::<&String>::new());
}
