//! A control plane whose autoscaler is told by one of those that are compared.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Instant, SystemTime},
};

use podmeter_tests::{
    adapter::Adapter,
    cluster::{NAMESPACE, following::Following, program},
    machine::free_port,
    temp::TempDir,
    wait,
};
use serde_json::{Value, json};

use super::super::{
    lab::{self, ACCOUNT, quantity},
    workload::{DEPLOYMENTS, SCALERS, deployment, scaler},
};
use crate::kube::node::{NODE, Node, Pod, specs, status};

/// The name of the pod, in each of the clusters.
pub(super) const POD: &str = "web";
const METRICS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods/web";

/// The pod's labels.
pub(super) fn labels() -> Value {
    json!({"app": "burn"})
}

/// Where podmeter's adapter has its numbers from.
pub(super) enum Source<'a> {
    Agent(SocketAddr),
    Prometheus(&'a str),
}

/// The control plane, and what is read of it all the time. Fields are dropped in this order.
pub(super) struct Plane {
    pub(super) name: &'static str,
    usage: Following,
    wanted: Following,
    _server: Server,
    _mirror: Option<Pod>,
    _files: TempDir,
    _node: Node,
}

/// Who serves the metrics API.
enum Server {
    Adapter { _process: Adapter },
    MetricsServer(Child),
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::MetricsServer(child) = self {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

impl Plane {
    /// With podmeter: a cluster of its own, which knows the pod by its name, and its container.
    pub(super) fn of_podmeter(source: &Source<'_>, container: &str) -> Self {
        let (name, flags) = match source {
            Source::Agent(address) => ("podmeter", format!("--agent=http://{address}")),
            Source::Prometheus(address) => {
                ("podmeter, by Prometheus", format!("--source=prometheus=http://{address}"))
            }
        };
        let node = Node::start();
        let files = TempDir::new("adapter");
        files.file("token", node.cluster.account(ACCOUNT));
        lab::grant(&node);
        if matches!(source, Source::Prometheus(_)) {
            lab::allow(&node.cluster, &lab::shipped("../components/adapter-prometheus/rbac.yaml"));
        }
        let port = free_port();
        lab::register(&node, port);
        let adapter = lab::adapter(&node, &files, port, &flags, &[]);
        let pod = node.pod_with(
            &json!({"name": POD, "labels": labels()}),
            &json!({"nodeName": NODE, "containers": specs(&["app"])}),
        );
        let now = podmeter::adapter::answer::date(SystemTime::now());
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": now}]);
        let statuses = [status("app", container, None)];
        node.tell(
            &pod,
            &json!({
            "startTime": now, "conditions": ready, "podIP": "192.0.2.1", "containerStatuses": statuses}),
        );
        Self::begin(name, node, Server::Adapter { _process: adapter }, Some(pod), files)
    }

    /// With metrics-server, in the cluster that has the kubelet.
    pub(super) fn of_metrics_server(node: Node) -> Self {
        let files = TempDir::new("metrics-server");
        let port = free_port();
        let kubeconfig = node.cluster.kubeconfig();
        let log = std::fs::File::create(files.path().join("log")).expect("a log");
        let child = Command::new(program("PODMETER_METRICS_SERVER"))
            .args(
                ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
                    .map(|flag| format!("--{flag}={kubeconfig}")),
            )
            .arg(format!("--secure-port={port}"))
            .arg(format!("--cert-dir={}", files.path().display()))
            .arg(format!("--kubelet-certificate-authority={}", node.cluster.authority().display()))
            // As its makers ship it.
            .args(["--kubelet-use-node-status-port", "--metric-resolution=15s"])
            .arg("--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("metrics-server");
        let service = json!({
            "metadata": {"name": "metrics-server"},
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}});
        node.cluster.create(&format!("/api/v1/namespaces/{NAMESPACE}/services"), &service);
        let registration = json!({
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
                "insecureSkipTLSVerify": true,
                "service": {"namespace": NAMESPACE, "name": "metrics-server", "port": port}}});
        node.cluster.create("/apis/apiregistration.k8s.io/v1/apiservices", &registration);
        Self::begin("metrics-server 0.9.0", node, Server::MetricsServer(child), None, files)
    }

    fn begin(
        name: &'static str,
        mut node: Node,
        server: Server,
        mirror: Option<Pod>,
        files: TempDir,
    ) -> Self {
        let begin = Instant::now();
        let found = (0..4).find_map(|_| wait::perhaps(|| (node.cluster.get(METRICS).0 == 200).then_some(())));
        let log = || std::fs::read_to_string(files.path().join("log")).unwrap_or_default();
        assert!(
            found.is_some(),
            "{name} knows nothing of the pod: {:?}\n{}",
            node.cluster.get(METRICS),
            log()
        );
        println!("{name}: its first word of the pod came after {:.1} s", begin.elapsed().as_secs_f64());
        node.cluster.create(DEPLOYMENTS, &deployment("100m"));
        let cpu = json!({"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "AverageValue", "averageValue": "75m"}}});
        node.cluster.create(SCALERS, &scaler(&cpu));
        node.cluster.start_autoscaler();
        let (usage, wanted) = (node.cluster.ask_again(METRICS, 5), node.cluster.watch(DEPLOYMENTS));
        Self { name, usage, wanted, _server: server, _mirror: mirror, _files: files, _node: node }
    }

    /// What the API said of the pod's CPU, in cores, and when: the last word before a moment, and all after it.
    pub(super) fn said(&self, moment: Instant) -> (Option<f64>, Vec<(Instant, f64)>) {
        let answers = self.usage.answers();
        let cores = answers.iter().filter_map(|(at, answer)| {
            let cpu = &answer["containers"][0]["usage"]["cpu"];
            cpu.is_string().then(|| (*at, quantity(cpu)))
        });
        let (before, after): (Vec<_>, Vec<_>) = cores.partition(|(at, _)| *at <= moment);
        (before.last().map(|(_, cores)| *cores), after)
    }

    /// How often, after a moment, the API had no number of the pod.
    pub(super) fn silences(&self, after: Instant) -> usize {
        let answers = self.usage.answers();
        let later = answers.iter().filter(|(at, _)| *at > after);
        later.filter(|(_, answer)| !answer["containers"][0]["usage"]["cpu"].is_string()).count()
    }

    /// What it said last.
    pub(super) fn says(&self) -> Value {
        self.usage.answers().last().map_or(Value::Null, |(_, answer)| answer.clone())
    }

    /// When first, after a moment, the autoscaler wanted so many replicas.
    pub(super) fn decided(&self, after: Instant, replicas: u64) -> Option<Instant> {
        let answers = self.wanted.answers();
        let mut later = answers.iter().filter(|(at, _)| *at > after);
        later.find(|(_, event)| event["object"]["spec"]["replicas"] == replicas).map(|(at, _)| *at)
    }
}
