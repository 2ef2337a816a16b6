//! kube-prometheus' questions, put to a real kubelet's cAdvisor and to podmeter in its place, in one Prometheus: the same answers.

use std::{collections::BTreeMap, time::Instant};

use podmeter_tests::{
    cluster::kubelet::{IMAGE, Kubelet},
    support::has_v2,
    wait,
};
use serde_json::{Value, json};

use super::{
    containers::{NODE, Node},
    operator::{ASKED, jobs},
    prometheus::Prometheus,
};

/// What older dashboards ask besides: of pods as a whole, of the node, and of what containers were given.
const OLDER: [&str; 7] = [
    r#"sum by (pod) (rate(container_cpu_usage_seconds_total{metrics_path="/metrics/cadvisor", pod!="", image=""}[1m]))"#,
    r#"sum by (pod) (container_memory_working_set_bytes{metrics_path="/metrics/cadvisor", pod!="", image=""})"#,
    r#"sum(container_memory_working_set_bytes{metrics_path="/metrics/cadvisor", id="/"})"#,
    r#"sum by (namespace) (container_memory_usage_bytes{metrics_path="/metrics/cadvisor", container!="", image!=""})"#,
    r#"sum by (pod, container) (container_memory_max_usage_bytes{metrics_path="/metrics/cadvisor", container!=""})"#,
    r#"sum by (pod, container) (container_spec_cpu_quota{metrics_path="/metrics/cadvisor", container!=""} / container_spec_cpu_period{metrics_path="/metrics/cadvisor", container!=""})"#,
    r#"sum by (pod, container) (container_memory_working_set_bytes{metrics_path="/metrics/cadvisor", container!=""}) / sum by (pod, container) (container_spec_memory_limit_bytes{metrics_path="/metrics/cadvisor", container!=""} > 0)"#,
];

fn pod(name: &str, script: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "nodeName": NODE, "hostNetwork": true, "automountServiceAccountToken": false, "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}],
        "containers": [{
            "name": "app", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", script],
            "resources": {
                "requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
        }],
    }})
}

/// The answer of one of both, without what says whose it is.
fn answer(prometheus: &Prometheus, question: &str, source: &str) -> BTreeMap<String, f64> {
    let path = r#"metrics_path="/metrics/cadvisor""#;
    let question = question.replace("[10s]", "[1m]").replace(path, &format!("{path}, source=\"{source}\""));
    let series = prometheus.query(&question).into_iter().map(|(mut labels, value)| {
        let map = labels.as_object_mut().expect("labels");
        map.retain(|name, _| !matches!(&**name, "source" | "instance" | "service" | "endpoint"));
        (labels.to_string(), value)
    });
    series.collect()
}

/// Of cAdvisor's answer that is by container, what is not about one: pause containers, which we charge to their pods (METRICS.md).
fn without_pauses(mut theirs: BTreeMap<String, f64>, ours: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let is_of_container = |labels: &String| labels.contains("\"container\"");
    if ours.keys().all(is_of_container) {
        theirs.retain(|labels, _| is_of_container(labels));
    }
    theirs
}

/// Whether both say the same: of a load that goes on, but not looked at in the same moment.
fn agree(one: &BTreeMap<String, f64>, other: &BTreeMap<String, f64>) -> bool {
    // Of what never ran nothing was throttled, of nothing: no number, to both.
    let is_near =
        |(a, b): (&f64, &f64)| a.is_nan() && b.is_nan() || (a - b).abs() <= 0.1 * a.abs().max(b.abs()) + 1e-3;
    !one.is_empty() && one.keys().eq(other.keys()) && one.values().zip(other.values()).all(is_near)
}

#[test]
fn the_kubelets_cadvisor_and_podmeter_give_the_same_answers() {
    let node = Node::start();
    let kubelet = Kubelet::start(&node.cluster, NODE);
    let pods = [pod("busy", "while :; do :; done"), pod("idle", "exec /bin/busybox sleep 100000")];
    pods.iter().for_each(|pod| _ = node.cluster.create("/api/v1/namespaces/shop/pods", pod));
    let agent = node.agent();
    let [podmeter, _] = jobs("replace", &agent.address.to_string(), None);
    let podmeter = podmeter.replace("labels: {", "labels: { source: podmeter,");
    let (authority, token) = (node.cluster.authority(), node.cluster.administrator());
    let cadvisor = format!(
        "- job_name: kubelet\n  honor_labels: true\n  scheme: https\n  metrics_path: /metrics/cadvisor\n  \
         authorization: {{ credentials: '{token}' }}\n  tls_config: {{ ca_file: '{}' }}\n  \
         static_configs: [ {{ targets: ['{}'], labels: {{ source: cadvisor, metrics_path: /metrics/cadvisor, node: {NODE} }} }} ]\n",
        authority.display(),
        kubelet.url().trim_start_matches("https://"),
    );
    let config = format!(
        "rule_files: [rules.yaml]\nglobal: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs:\n{podmeter}{cadvisor}"
    );
    let info = ["busy", "idle"].map(|pod| {
        format!("      - record: kube_pod_info\n        expr: vector(1)\n        labels: {{ namespace: shop, pod: {pod}, node: {NODE} }}\n")
    });
    let facts =
        format!("groups:\n  - name: kube-state-metrics\n    interval: 1s\n    rules:\n{}", info.concat());
    let prometheus = Prometheus::start(&config, &facts);
    // cAdvisor looks every ten seconds or so, and a rate is over a minute.
    let started = Instant::now();
    let long = r#"min(count_over_time(container_cpu_usage_seconds_total{source="cadvisor", pod=~"busy|idle", container="app"}[5m])) > 5"#;
    while prometheus.query(long).is_empty() {
        assert!(started.elapsed().as_secs() < 300, "cAdvisor has not looked six times");
        wait::perhaps(|| (!prometheus.query(long).is_empty()).then_some(()));
    }
    for question in ASKED.iter().chain(&OLDER) {
        let answers = || {
            let [theirs, ours] = ["cadvisor", "podmeter"].map(|source| answer(&prometheus, question, source));
            [without_pauses(theirs, &ours), ours]
        };
        // On version 1 the I/O controller does not count: METRICS.md says so.
        if question.contains("container_fs_") && !has_v2("io") {
            assert!(answers()[0].is_empty(), "{question}");
            continue;
        }
        let mut last = answers();
        let same = wait::perhaps(|| {
            last = answers();
            agree(&last[0], &last[1]).then_some(())
        });
        assert!(same.is_some(), "{question}: {last:#?}");
        println!("{question}: {last:?}");
    }
}
