//! The real HorizontalPodAutoscaler controller, on what the adapter says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use podmeter_tests::{cgroup::Cgroup, process::Gated, wait};
use serde_json::{Value, json};

use super::lab::{Lab, now};
use crate::kube::node::{NODE, Pod, container_id, status};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/shop/deployments";
const SCALERS: &str = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers";
const PODS: &str = "/api/v1/namespaces/shop/pods";

/// Runs the pods that the cluster wants on the node, as its kubelet would: each is a cgroup with a process.
struct Kubelet<'a> {
    lab: &'a Lab,
    program: &'a [&'a str],
    pods: BTreeMap<String, (Gated, Cgroup, Pod)>,
}

impl Kubelet<'_> {
    /// Starts what is new, and ends what is to end. How many run.
    fn tend(&mut self) -> usize {
        let list = self.lab.get(PODS).1;
        let mut wanted = BTreeSet::new();
        for pod in list["items"].as_array().into_iter().flatten() {
            let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.pods.remove(&name);
                self.lab.node.delete(&name);
                continue;
            }
            if !self.pods.contains_key(&name) {
                self.begin(&name, pod);
            }
            wanted.insert(name);
        }
        self.pods.retain(|name, _| wanted.contains(name));
        self.pods.len()
    }

    fn begin(&mut self, name: &str, pod: &Value) {
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}});
        self.lab.node.cluster.create(&format!("{PODS}/{name}/binding"), &binding);
        let uid = pod["metadata"]["uid"].as_str().expect("a uid");
        let own = Pod { name: name.to_owned(), cgroup: Cgroup::new(&format!("kubepods/burstable/pod{uid}")) };
        let id = container_id();
        let cgroup = own.cgroup.child(&id);
        let mut process = cgroup.spawn(self.program);
        process.go();
        let text = podmeter::adapter::answer::date(std::time::SystemTime::now());
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": text}]);
        self.lab.node.tell(&own, &json!({
            "startTime": text, "conditions": ready, "podIP": "192.0.2.1", "containerStatuses": [status("app", &id, None)]}));
        self.pods.insert(name.to_owned(), (process, cgroup, own));
    }
}

fn deployment(request: &str) -> Value {
    let container =
        json!({"name": "app", "image": "registry.test/app:1", "resources": {"requests": {"cpu": request}}});
    json!({
        "metadata": {"name": "burn"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "burn"}},
            "template": {"metadata": {"labels": {"app": "burn"}}, "spec": {"containers": [container]}}}})
}

fn scaler(metrics: &Value) -> Value {
    json!({
        "metadata": {"name": "burn"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "burn"},
            "minReplicas": 1, "maxReplicas": 5, "metrics": [metrics],
            // Down at once, and not after five minutes: the test has no load that comes back.
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}})
}

#[test]
fn cpu_scales_from_one_to_five_and_back() {
    let mut lab = Lab::start(&["--window", "5"]);
    lab.node.cluster.start_controllers();
    lab.node.cluster.create(DEPLOYMENTS, &deployment("100m"));
    // What `kubectl autoscale deployment burn --cpu-percent=50 --min=1 --max=5` makes.
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    lab.node.cluster.create(SCALERS, &scaler(&cpu));
    // A shell loop that works for part of the time: several of them must fit on the machine.
    let work = "while true; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.1; done";
    let mut kubelet = Kubelet { lab: &lab, program: &["/bin/sh", "-c", work], pods: BTreeMap::new() };
    let (begin, mut running) = (now(), 0);
    let deadline = Instant::now();
    while running < 5 {
        running = kubelet.tend();
        assert!(deadline.elapsed().as_secs() < 90, "{}", lab.get(&format!("{SCALERS}/burn")).1);
    }
    println!("from the first process to five pods: {:.1} s", now() - begin);
    let condition = |kind: &str| {
        let scaler = lab.get(&format!("{SCALERS}/burn")).1;
        let conditions = scaler["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind);
        found.map(|condition| condition["status"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(condition("ScalingActive").as_deref(), Some("True"));

    // An agent that is silent stops all scaling, and scales nothing to the minimum.
    for (process, ..) in kubelet.pods.values() {
        process.pause();
    }
    podmeter_tests::process::signal(lab.agent.child.id(), "STOP");
    wait::until("an autoscaler that knows nothing", || {
        (condition("ScalingActive").as_deref() == Some("False")).then_some(())
    });
    assert_eq!(lab.get(&format!("{DEPLOYMENTS}/burn")).1["spec"]["replicas"], 5);
    podmeter_tests::process::signal(lab.agent.child.id(), "CONT");

    // The load has ended.
    let (end, deadline) = (now(), Instant::now());
    while running > 1 {
        running = kubelet.tend();
        assert!(deadline.elapsed().as_secs() < 90, "{}", lab.get(&format!("{SCALERS}/burn")).1);
    }
    println!("from the end of the load to one pod: {:.1} s", now() - end);
}

#[test]
fn requests_per_second_hold_their_target() {
    use super::requests::{Load, PEER};
    let mut lab = Lab::start(&["--window", "5"]);
    lab.node.cluster.start_controllers();
    lab.node.cluster.create(DEPLOYMENTS, &deployment("100m"));
    let requests = json!({"type": "Pods", "pods": {
        "metric": {"name": "http_requests_per_second"}, "target": {"type": "AverageValue", "averageValue": "10"}}});
    lab.node.cluster.create(SCALERS, &scaler(&requests));
    let mut kubelet = Kubelet { lab: &lab, program: &[PEER, "serve", "127.0.0.1:0"], pods: BTreeMap::new() };
    wait::until("the first pod", || (kubelet.tend() == 1).then_some(()));
    let (process, ..) = kubelet.pods.values_mut().next().expect("one");
    let address = process.line();
    let port = address.rsplit(':').next().expect("an address").to_owned();
    // About 20 a second at the first pod, and none at the others, which count as none: two pods hold an average of ten.
    let load = Load::start(&port, &["/hello"], std::time::Duration::from_millis(50));
    let (begin, deadline) = (now(), Instant::now());
    let mut running = 1;
    while running < 2 {
        running = kubelet.tend();
        assert!(deadline.elapsed().as_secs() < 60, "{}", lab.get(&format!("{SCALERS}/burn")).1);
    }
    println!("from the first request to the second pod: {:.1} s", now() - begin);
    let settled = Instant::now();
    while settled.elapsed().as_secs() < 8 {
        running = kubelet.tend();
    }
    let scaler = lab.get(&format!("{SCALERS}/burn")).1;
    assert!((2..=3).contains(&running), "{running}: {scaler}");
    println!("the autoscaler's own words: {}", scaler["status"]["currentMetrics"]);
    drop(load);
}
