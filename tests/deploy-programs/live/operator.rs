//! What the Prometheus operator would make of the ServiceMonitor: a configuration with its rules of relabelling, beside a kubelet that
//! says the same of the same containers. Nothing may be counted twice, and kube-prometheus must find what it asks for.

use std::fs;

use podmeter_tests::{agent::Agent, process::Gated};
use serde_json::{Value, json};

use super::{
    containers::{Container, Load, Node},
    prometheus::Prometheus,
};
use crate::{objects::parse, path, program, succeeds};

/// What the operator puts on a target that it found through a Service, of the agent's own pod.
const TARGET: &str = "namespace: podmeter, pod: podmeter-x7k2p, container: podmeter, service: podmeter, endpoint: metrics, \
                      __meta_kubernetes_pod_node_name: node-1";

/// What kube-prometheus asks of a kubelet's containers, with the answer's labels: its recording rules for CPU and memory, the expression
/// of CPUThrottlingHigh, and the panels of its dashboards for what a pod uses and reads.
pub(super) const ASKED: [&str; 7] = [
    r#"sum by (cluster, namespace, pod, container) (rate(container_cpu_usage_seconds_total{job="kubelet", metrics_path="/metrics/cadvisor", image!=""}[10s])) * on (cluster, namespace, pod) group_left(node) topk by (cluster, namespace, pod) (1, max by (cluster, namespace, pod, node) (kube_pod_info{node!=""}))"#,
    r#"container_memory_working_set_bytes{job="kubelet", metrics_path="/metrics/cadvisor", image!=""} * on (cluster, namespace, pod) group_left(node) topk by (cluster, namespace, pod) (1, max by (cluster, namespace, pod, node) (kube_pod_info{node!=""}))"#,
    r#"container_memory_rss{job="kubelet", metrics_path="/metrics/cadvisor", image!=""} * on (cluster, namespace, pod) group_left(node) topk by (cluster, namespace, pod) (1, max by (cluster, namespace, pod, node) (kube_pod_info{node!=""}))"#,
    r#"container_memory_cache{job="kubelet", metrics_path="/metrics/cadvisor", image!=""} * on (cluster, namespace, pod) group_left(node) topk by (cluster, namespace, pod) (1, max by (cluster, namespace, pod, node) (kube_pod_info{node!=""}))"#,
    r#"sum by (cluster, container, pod, namespace, instance) (increase(container_cpu_cfs_throttled_periods_total{container!="", job="kubelet", metrics_path="/metrics/cadvisor"}[10s])) / sum by (cluster, container, pod, namespace, instance) (increase(container_cpu_cfs_periods_total{job="kubelet", metrics_path="/metrics/cadvisor"}[10s]))"#,
    r#"sum by (pod) (container_memory_working_set_bytes{job="kubelet", metrics_path="/metrics/cadvisor", namespace="shop", container!="", image!=""})"#,
    r#"ceil(sum by (pod) (rate(container_fs_reads_total{job="kubelet", metrics_path="/metrics/cadvisor", container!="", device=~"(/dev/)?(mmcblk.p.+|nvme.+|rbd.+|sd.+|vd.+|xvd.+|dm-.+|md.+|dasd.+)", namespace="shop"}[10s]) + rate(container_fs_writes_total{job="kubelet", metrics_path="/metrics/cadvisor", container!="", device=~"(/dev/)?(mmcblk.p.+|nvme.+|rbd.+|sd.+|vd.+|xvd.+|dm-.+|md.+|dasd.+)", namespace="shop"}[10s])))"#,
];

/// The endpoint of the ServiceMonitor that the chart makes.
fn endpoint(cadvisor: &str) -> Value {
    let mut command = program("PODMETER_HELM");
    command.args(["template", "podmeter", "deploy/helm/podmeter", "--set", "serviceMonitor.enabled=true"]);
    command.arg("--set").arg(format!("serviceMonitor.cadvisor={cadvisor}"));
    let objects = parse(&succeeds(&mut command));
    objects[&("ServiceMonitor".to_owned(), "podmeter".to_owned())]["spec"]["endpoints"][0].clone()
}

/// Rules of the operator in the words of Prometheus.
fn rules(list: &Value) -> Vec<String> {
    let word = |key: &str| -> String {
        key.chars()
            .flat_map(|char| {
                if char.is_uppercase() { format!("_{}", char.to_lowercase()) } else { char.to_string() }
                    .chars()
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    let rule = |rule: &Value| {
        let map: serde_json::Map<_, _> =
            rule.as_object().expect("a rule").iter().map(|(key, value)| (word(key), value.clone())).collect();
        json!(map).to_string()
    };
    list.as_array().expect("rules").iter().map(rule).collect()
}

/// How Prometheus scrapes an agent as the ServiceMonitor says, and once more as if it were a kubelet, without what `drop` says.
pub(super) fn jobs(cadvisor: &str, address: &str, drop: Option<&Value>) -> [String; 2] {
    let endpoint = endpoint(cadvisor);
    assert_eq!(endpoint["honorLabels"], true);
    let list = |rules: Vec<String>| rules.iter().map(|rule| format!("      - {rule}\n")).collect::<String>();
    let (relabel, metric) =
        (list(rules(&endpoint["relabelings"])), list(rules(&endpoint["metricRelabelings"])));
    let dropped = drop.map(|rule| list(rules(&json!([rule])))).unwrap_or_default();
    // A kubelet has only what cAdvisor has.
    let only = "      - { source_labels: [__name__], regex: 'container_(cpu_run_queue|fs_io_latency|tcp_).*|container_.*_ratio|http_.*|podmeter_.*', action: drop }\n";
    let own = format!(
        "- job_name: podmeter\n  honor_labels: true\n  static_configs: [ {{ targets: ['{address}'], labels: {{ {TARGET} }} }} ]\n  \
         relabel_configs:\n{relabel}  metric_relabel_configs:\n{metric}"
    );
    let kubelet = format!(
        "- job_name: kubelet\n  honor_labels: true\n  static_configs: [ {{ targets: ['{address}'], labels: {{ metrics_path: /metrics/cadvisor, node: node-1, instance: 'node-1:10250' }} }} ]\n  \
         metric_relabel_configs:\n{only}{dropped}"
    );
    [own, kubelet]
}

/// Two containers at work, and a Prometheus that scrapes the agent as podmeter and once more as if it were a kubelet.
pub(super) struct Cluster {
    pub(super) prometheus: Prometheus,
    _work: (Vec<Gated>, Load),
    _agent: Agent,
    _containers: [Container; 2],
    _node: Node,
}

impl Cluster {
    /// With podmeter's series as the ServiceMonitor relabels them, and the kubelet's without what `drop` says.
    pub(super) fn new(cadvisor: &str, drop: Option<&Value>) -> Self {
        let node = Node::start();
        let containers = ["web", "checkout"].map(|name| node.container(name));
        let agent = node.agent();
        let [own, kubelet] = jobs(cadvisor, &agent.address.to_string(), drop);
        let config =
            format!("global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\nscrape_configs:\n{own}{kubelet}");
        // Of kube-state-metrics, which says on which node a pod is: constant, so that no program is needed to say it.
        let info = ["web", "checkout"].map(|pod| {
            format!("      - record: kube_pod_info\n        expr: vector(1)\n        labels: {{ namespace: shop, pod: {pod}-0, node: node-1 }}\n")
        });
        let facts =
            format!("groups:\n  - name: kube-state-metrics\n    interval: 1s\n    rules:\n{}", info.concat());
        let prometheus = Prometheus::start(&format!("rule_files: [rules.yaml]\n{config}"), &facts);
        let (server, address) = containers[0].serve();
        let busy = containers[0].run("while :; do :; done");
        let disk = containers[1].use_disk();
        let load = Load::start(&address, &["/", "/delay/20"]);
        Self {
            prometheus,
            _work: (vec![server, busy, disk], load),
            _agent: agent,
            _containers: containers,
            _node: node,
        }
    }

    /// No series of podmeter's has the name of the agent's pod, and each names its node.
    fn assert_labelled(&self) {
        self.prometheus.wait_for("podmeter_build_info{node=\"node-1\"}");
        for wrong in [
            "{pod=~\"podmeter.*\"}",
            "{container=\"podmeter\"}",
            "{namespace=\"podmeter\"}",
            "{__name__=~\".+\",node!=\"node-1\",instance=~\".+\"}",
        ] {
            assert_eq!(self.prometheus.query(&format!("count({wrong})")), vec![], "{wrong}");
        }
    }

    /// Each of these is there once: no two series differ only in who says it.
    fn assert_once(&self, names: &[&str], job: &str) {
        for name in names {
            let labels = "by (__name__, id, cpu, device, operation, failure_type, scope, http_request_method, http_response_status_code, http_route)";
            self.prometheus.wait_for(&format!("count({name}{{container!=\"\"}})"));
            let counts = self.prometheus.query(&format!("max(count {labels} ({name}))"));
            assert_eq!(counts[0].1, 1.0, "{name} is counted twice");
            let found = self.prometheus.query(&format!("count by (job) ({name}{{container!=\"\"}})"));
            assert_eq!((found.len(), &found[0].0["job"]), (1, &json!(job)), "{name}: {found:?}");
        }
    }
}

const SHARED: [&str; 4] = [
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
    "container_cpu_cfs_periods_total",
    "container_fs_writes_bytes_total",
];
const OWN: [&str; 3] = [
    "container_cpu_run_queue_latency_seconds_count",
    "http_server_request_duration_seconds_count",
    "container_tcp_sent_bytes_total",
];

#[test]
fn beside_cadvisor_podmeter_adds_only_what_that_lacks() {
    let cluster = Cluster::new("keep", None);
    cluster.assert_labelled();
    cluster.assert_once(&SHARED, "kubelet");
    cluster.assert_once(&OWN, "podmeter");
}

#[test]
fn in_cadvisors_place_podmeter_answers_what_kube_prometheus_asks() {
    let patch: Value = serde_json::from_str(
        &fs::read_to_string(path("deploy/kube-prometheus/kubelet.patch.json")).expect("ours"),
    )
    .expect("JSON");
    let cluster = Cluster::new("replace", Some(&patch[0]["value"]));
    cluster.assert_labelled();
    cluster.assert_once(&SHARED, "kubelet");
    cluster.assert_once(&OWN, "podmeter");
    // Although the job is called kubelet, it is podmeter that says it.
    let own = format!("count({}{{job=\"kubelet\",instance!=\"node-1:10250\"}})", SHARED[0]);
    assert!(cluster.prometheus.query(&own)[0].1 > 0.0);
    for asked in ASKED {
        let found = cluster.prometheus.wait_for(asked);
        assert!(
            found.iter().any(|(labels, _)| labels["pod"] == "web-0" || labels["pod"] == "checkout-0"),
            "{asked}: {found:?}"
        );
    }
}
