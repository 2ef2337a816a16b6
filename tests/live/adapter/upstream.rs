//! The real prometheus-adapter, with the rules that are shipped for it: beside podmeter's adapter, and behind it.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use podmeter_tests::{
    cluster::{Cluster, program},
    machine::free_port,
    temp::TempDir,
    wait,
};
use serde_json::{Value, json};

use super::{
    lab::{ACCOUNT, Lab, quantity},
    requests::{CUSTOM, Load, PEER},
};
use crate::prometheus::{Prometheus, current};

/// What only prometheus-adapter has.
const WAITING: &str = "http_requests_waiting";

/// The program; ended by SIGKILL when dropped.
struct PrometheusAdapter {
    url: String,
    child: Child,
    _files: TempDir,
}

impl PrometheusAdapter {
    fn start(cluster: &Cluster, prometheus: &Prometheus) -> Self {
        let values = format!("{}/../deploy/autoscaling/prometheus-adapter.yaml", env!("CARGO_MANIFEST_DIR"));
        let values = fs::read_to_string(values).expect("it is shipped");
        let rules = &serde_yaml_ng::from_str::<Value>(&values).expect("YAML")["rules"];
        // As the chart writes them.
        let config = json!({"rules": rules["custom"], "resourceRules": rules["resource"]});
        let files = TempDir::new("prometheus-adapter");
        let config = files.file("config.yaml", config.to_string());
        let [certificate, key] =
            cluster.certificate("prometheus-adapter").map(|path| path.display().to_string());
        let (port, kubeconfig) = (free_port(), cluster.kubeconfig());
        let mut command = Command::new(program("PODMETER_PROMETHEUS_ADAPTER"));
        for flag in ["lister-kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            command.arg(format!("--{flag}={kubeconfig}"));
        }
        for (flag, value) in [
            ("config", config),
            ("prometheus-url", format!("http://{}", prometheus.address)),
            ("metrics-relist-interval", "5s".to_owned()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", port.to_string()),
            ("tls-cert-file", certificate),
            ("tls-private-key-file", key),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        let log = fs::File::create(files.path().join("log")).expect("a log");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("prometheus-adapter");
        Self { url: format!("https://127.0.0.1:{port}"), child, _files: files }
    }
}

impl Drop for PrometheusAdapter {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The names of the resources of a group that begin so.
fn listed(lab: &Lab, group: &str, of: &str) -> Vec<String> {
    let list = lab.answer(&format!("/apis/{group}"));
    let names = list["resources"].as_array().expect("a list").iter();
    let names = names.map(|resource| resource["name"].as_str().expect("a name").to_owned());
    names.filter(|name| name.starts_with(of)).collect()
}

#[test]
fn what_is_not_ours_prometheus_adapter_answers() {
    let mut lab = Lab::start(&["--window", "5"]);
    let pod = lab.container("web-1", &json!({"app": "web"}), &json!([]));
    let mut server = pod.cgroup.spawn(&[PEER, "serve", "127.0.0.1:0"]);
    let address = server.go().line();
    let port = address.rsplit(':').next().expect("an address").to_owned();
    let _load = Load::start(&port, &["/hello"], Duration::from_millis(20));
    let prometheus = Prometheus::start(&current(), &lab.agent, "");
    let other = PrometheusAdapter::start(&lab.node.cluster, &prometheus);
    let (authority, token) = (lab.node.cluster.authority().display().to_string(), lab.token());
    lab.restart(&[
        "--window",
        "5",
        "--upstream",
        &other.url,
        "--upstream-ca",
        &authority,
        "--upstream-token-file",
        &token,
    ]);

    // It does not know us yet.
    let waiting = format!("{CUSTOM}/pods/*/{WAITING}");
    wait::until("a refusal of prometheus-adapter's", || (lab.get(&waiting).0 == 502).then_some(()));
    let (_, status) = lab.get(&waiting);
    assert!(
        status["message"].as_str().is_some_and(|text| text.contains("does not let podmeter's ask")),
        "{status}"
    );
    assert_eq!(status["kind"], "Status");
    let rules = json!([{"apiGroups": ["custom.metrics.k8s.io", "external.metrics.k8s.io"], "resources": ["*"], "verbs": ["get", "list"]}]);
    lab.node.cluster.grant(ACCOUNT, "podmeter-upstream", &rules);

    let answer = lab.answer(&waiting);
    let items = answer["items"].as_array().expect("a list");
    assert_eq!(items.len(), 1, "{answer}");
    assert_eq!(
        (&items[0]["describedObject"]["name"], &items[0]["metric"]["name"]),
        (&json!("web-1"), &json!(WAITING))
    );
    // The list has both, each once.
    let both = [format!("pods/{WAITING}"), "pods/http_requests_per_second".to_owned()];
    for version in ["v1beta1", "v1beta2"] {
        let group = format!("custom.metrics.k8s.io/{version}");
        wait::until("a list of both", || {
            let names = listed(&lab, &group, "pods/");
            both.iter().all(|own| names.iter().filter(|name| *name == own).count() == 1).then_some(())
        });
    }

    // What both have is ours, and prometheus-adapter says much the same, by its minute.
    let ours = |path: &str| quantity(&lab.answer(&format!("{CUSTOM}/{path}"))["items"][0]["value"]);
    let theirs = |path: &str| {
        let text = lab.node.cluster.fetch(&format!("{}{CUSTOM}/{path}", other.url), None);
        quantity(&serde_json::from_str::<Value>(&text).expect("JSON")["items"][0]["value"])
    };
    for metric in ["http_requests_per_second", "http_request_duration_p99_seconds"] {
        let path = format!("pods/web-1/{metric}");
        let (own, other) = (ours(&path), theirs(&path));
        println!("{metric}: {own} of podmeter's, {other} of prometheus-adapter's");
        assert!(own > 0.0 && other > 0.0, "{metric}: {own}, {other}");
    }
    // Its minute began before the load did.
    let rate = "pods/web-1/http_requests_per_second";
    assert!(theirs(rate) < ours(rate) * 1.2);
    let pods = format!("{}/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods", other.url);
    let pods: Value = serde_json::from_str(&lab.node.cluster.fetch(&pods, None)).expect("JSON");
    assert_eq!(pods["items"][0]["containers"][0]["name"], "app", "{pods}");

    let (code, status) = lab.get(&format!("{CUSTOM}/pods/web-1/made_up"));
    assert_eq!((code, &status["kind"]), (404, &json!("Status")), "{status}");

    // Whether it is there is nothing to what is ours.
    drop(other);
    let (code, status) = lab.get(&waiting);
    assert_eq!((code, &status["reason"]), (503, &json!("ServiceUnavailable")), "{status}");
    assert!(ours("pods/web-1/http_requests_per_second") > 0.0);
    assert!(listed(&lab, "custom.metrics.k8s.io/v1beta2", "pods/").contains(&both[0]));
}
