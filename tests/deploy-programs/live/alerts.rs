//! An alert that fires because something is slow, and reaches whoever is to know.

use podmeter_tests::{agent::Agent, cgroup::Cgroup, temp::TempDir, wait};
use serde_json::{Value, json};

use super::{
    containers::Load,
    prometheus::{Prometheus, shipped},
    server::Server,
    webhook::Webhook,
};
use crate::program;

/// An Alertmanager with the example that is shipped, that waits for a second where it would for half a minute.
fn alertmanager(webhook: &Webhook) -> Server {
    let config = shipped(
        "alertmanager.yml",
        &[("group_wait: 30s", "group_wait: 1s"), ("127.0.0.1:9099", &webhook.address)],
    );
    let directory = TempDir::new("alertmanager");
    directory.file("alertmanager.yml", config);
    Server::start(directory, |address, directory| {
        let mut command = program("PODMETER_ALERTMANAGER");
        command
            .arg(format!("--config.file={}", directory.path().join("alertmanager.yml").display()))
            .arg(format!("--storage.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=");
        command
    })
}

/// The labels of the alerts of a message.
fn labels<'a>(message: &'a Value, label: &str) -> Vec<&'a str> {
    let alerts = message["alerts"].as_array().expect("alerts").iter();
    let mut labels: Vec<_> = alerts.filter_map(|alert| alert["labels"][label].as_str()).collect();
    labels.sort_unstable();
    labels
}

/// Two routes of a service are slow and one is not: one message, to those whom containers concern, with the two.
#[test]
fn a_slow_endpoint_reaches_the_webhook_in_one_message() {
    let name = format!("podmeter-slow-{}.service", std::process::id());
    let cgroup = Cgroup::at(&format!("/system.slice/{name}"));
    let mut server = cgroup.spawn(&[env!("CARGO_BIN_EXE_http-peer"), "serve", "127.0.0.1:0"]);
    let address = server.go().line();
    let agent = Agent::start(&[]);
    let webhook = Webhook::listen();
    let alertmanager = alertmanager(&webhook);
    let prometheus = Prometheus::shipped(&agent.address.to_string(), &alertmanager.address);
    let _load = Load::start(&address, &["/delay/a/700", "/delay/b/700", "/delay/c/1"]);
    let (path, message) = wait::until("a message with both routes", || {
        let of_ours = |message: &Value| {
            message["groupLabels"]["alertname"] == "PodmeterSlowEndpoint"
                && message["groupLabels"]["container"] == *name
        };
        webhook
            .messages()
            .into_iter()
            .find(|(_, message)| of_ours(message) && labels(message, "http_route").len() == 2)
    });
    assert_eq!((path.as_str(), &message["status"]), ("/team", &json!("firing")));
    assert_eq!(labels(&message, "http_route"), ["/delay/a/{id}", "/delay/b/{id}"]);
    assert_eq!(labels(&message, "severity"), ["warning", "warning"]);
    let description = message["alerts"][0]["annotations"]["description"].as_str().expect("a description");
    assert!(description.contains(&name) && description.contains("above 500 ms"), "{description}");
    // The median that it fired for is within the bucket of the delay, 500 to 750 ms.
    let medians = prometheus.query(&format!(
        "namespace_container_route:http_server_request_duration_seconds:p50_2m{{container=\"{name}\",http_route=~\"/delay/[ab].*\"}}"
    ));
    assert!(
        medians.len() == 2 && medians.iter().all(|(_, value)| (0.5..=0.75).contains(value)),
        "{medians:?}"
    );
    let fast = format!(
        "namespace_container_route:http_server_requests:rate2m{{container=\"{name}\",http_route=\"/delay/c/{{id}}\"}}"
    );
    assert!(prometheus.query(&fast)[0].1 > 0.0, "the third was measured as well");
    assert_eq!(prometheus.complaints(), Vec::<String>::new());
}

/// What follows from something else is held back, of the same container only.
#[test]
fn what_follows_from_something_else_is_held_back() {
    let webhook = Webhook::listen();
    let alertmanager = alertmanager(&webhook);
    let alert = |name: &str, container: &str| json!({ "labels": { "alertname": name, "namespace": "shop", "pod": "p", "container": container, "instance": "n1" } });
    alertmanager.post(
        "/api/v2/alerts",
        &json!([
            alert("PodmeterErrorRate", "api"),
            alert("PodmeterSlowEndpoint", "api"),
            alert("PodmeterSlowEndpoint", "web"),
            alert("PodmeterOomKilled", "web"),
            alert("PodmeterCrashLoop", "web"),
            alert("PodmeterDown", ""),
            alert("PodmeterLostData", ""),
        ]),
    );
    let of =
        |message: &Value| (labels(message, "alertname")[0].to_owned(), labels(message, "container").concat());
    let told = wait::until("four messages", || {
        let mut told: Vec<_> =
            webhook.messages().iter().map(|(path, message)| (path.clone(), of(message))).collect();
        told.sort();
        (told.len() == 4).then_some(told)
    });
    let expected = [
        ("/platform", "PodmeterDown", ""),
        ("/team", "PodmeterErrorRate", "api"),
        ("/team", "PodmeterOomKilled", "web"),
        ("/team", "PodmeterSlowEndpoint", "web"),
    ];
    let expected =
        expected.map(|(path, name, container)| (path.to_owned(), (name.to_owned(), container.to_owned())));
    assert_eq!(told, expected);
    let alerts = alertmanager.api("/api/v2/alerts?active=false&silenced=false&inhibited=true");
    let held: Vec<_> = alerts
        .as_array()
        .expect("alerts")
        .iter()
        .filter_map(|alert| alert["labels"]["alertname"].as_str())
        .collect();
    assert_eq!(held.len(), 3, "{held:?}");
}
