//! Every panel of every dashboard shows something of a node that is at work.

use std::{collections::BTreeMap, fs, time::SystemTime};

use podmeter_tests::{agent::Agent, wait};
use serde_json::Value;

use super::{
    containers::{Container, Load},
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
        let (selector, label) = inner.and_then(|inner| inner.rsplit_once(", ")).expect("a selector and a label");
        let selector = fill(selector, &known);
        let values = wait::until(&format!("values of {label} in {selector}"), || {
            Some(prometheus.label_values(&selector, label)).filter(|values| !values.is_empty())
        });
        // As Grafana joins what a person has marked; and what "All" is.
        assert_eq!(variable["allValue"], ".*");
        let name = variable["name"].as_str().expect("a name").to_owned();
        known.insert(name, format!("({})", values.join("|").replace('\\', "\\\\").replace(['{', '}', '$', '.'], ".")));
    }
    known
}

fn fill(text: &str, variables: &BTreeMap<String, String>) -> String {
    variables.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
}

#[test]
fn every_panel_has_data() {
    let _accounts = Accounts::on();
    let (web, shop) = (Container::new("web", 'a'), Container::new("checkout", 'b'));
    web.limit(30, 64);
    shop.limit(50, 256);
    let agent = Agent::start(&[]);
    let relabel = [web.labels(), shop.labels()].concat();
    let prometheus = Prometheus::shipped(&agent.address.to_string(), &free_address(), &relabel);
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
    for uid in ["podmeter-node", "podmeter-pod", "podmeter-requests", "podmeter-agent"] {
        let file = path(&format!("deploy/dashboards/{uid}.json"));
        let board: Value = serde_json::from_str(&fs::read_to_string(file).expect("ours")).expect("JSON");
        let variables = variables(&board, &prometheus);
        let mut drawing = Drawing::new(board["title"].as_str().expect("a title"));
        let panels = board["panels"].as_array().expect("panels");
        let queries = |panel: &Value| -> Vec<(String, String)> {
            let targets = panel["targets"].as_array().into_iter().flatten();
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            targets.map(|target| (text(&target["legendFormat"]), fill(&text(&target["expr"]), &variables))).collect()
        };
        // First that all have data, then the pictures: the last panel's first data is the others' more.
        for (_, expression) in panels.iter().flat_map(queries) {
            prometheus.wait_for(&expression);
        }
        for panel in panels {
            let mut drawn = Panel::new(panel);
            for (legend, expression) in queries(panel) {
                drawn.add(&legend, prometheus.range(&expression, start, now()), prometheus.query(&expression));
            }
            drawing.add(&drawn);
        }
        let folder = path("target/dashboards");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(format!("{uid}.svg")), drawing.finish()).expect("written");
    }
    assert_eq!(prometheus.complaints().iter().filter(|line| !line.contains("alertmanager")).count(), 0, "{:?}", prometheus.complaints());
}
