//! Pods that the cluster wants, as its controllers make and unmake them.

use std::collections::{BTreeMap, BTreeSet};

use podmeter_tests::{cgroup::Cgroup, process::Gated};
use serde_json::{Value, json};

use super::lab::Lab;
use crate::kube::node::{NODE, Pod, container_id, status};

pub(super) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/shop/deployments";
pub(super) const SCALERS: &str = "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers";
pub(super) const PODS: &str = "/api/v1/namespaces/shop/pods";

/// Runs the pods that the cluster wants on the node, as its kubelet would: each is a cgroup with a process.
pub(super) struct Kubelet<'a> {
    program: &'a [&'a str],
    pub(super) pods: BTreeMap<String, (Gated, Cgroup, Pod)>,
}

impl<'a> Kubelet<'a> {
    /// Each pod will run this program.
    pub(super) fn new(program: &'a [&'a str]) -> Self {
        Self { program, pods: BTreeMap::new() }
    }

    /// Starts what is new, and ends what is to end. How many run.
    pub(super) fn tend(&mut self, lab: &Lab) -> usize {
        let list = lab.get(PODS).1;
        let mut wanted = BTreeSet::new();
        for pod in list["items"].as_array().into_iter().flatten() {
            let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.pods.remove(&name);
                lab.node.delete(&name);
                continue;
            }
            if !self.pods.contains_key(&name) {
                self.begin(lab, &name, pod);
            }
            wanted.insert(name);
        }
        self.pods.retain(|name, _| wanted.contains(name));
        self.pods.len()
    }

    fn begin(&mut self, lab: &Lab, name: &str, pod: &Value) {
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}});
        lab.node.cluster.create(&format!("{PODS}/{name}/binding"), &binding);
        let uid = pod["metadata"]["uid"].as_str().expect("a uid");
        let own = Pod { name: name.to_owned(), cgroup: Cgroup::new(&format!("kubepods/burstable/pod{uid}")) };
        let id = container_id();
        let cgroup = own.cgroup.child(&id);
        let mut process = cgroup.spawn(self.program);
        process.go();
        let text = podmeter::adapter::answer::date(std::time::SystemTime::now());
        let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": text}]);
        lab.node.tell(&own, &json!({
            "startTime": text, "conditions": ready, "podIP": "192.0.2.1", "containerStatuses": [status("app", &id, None)]}));
        self.pods.insert(name.to_owned(), (process, cgroup, own));
    }
}

/// A Deployment whose container asks for this much CPU.
pub(super) fn deployment(request: &str) -> Value {
    let container =
        json!({"name": "app", "image": "registry.test/app:1", "resources": {"requests": {"cpu": request}}});
    json!({
        "metadata": {"name": "burn"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "burn"}},
            "template": {"metadata": {"labels": {"app": "burn"}}, "spec": {"containers": [container]}}}})
}

/// An autoscaler of it, by one metric.
pub(super) fn scaler(metrics: &Value) -> Value {
    json!({
        "metadata": {"name": "burn"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "burn"},
            "minReplicas": 1, "maxReplicas": 5, "metrics": [metrics],
            // Down at once, and not after five minutes: the test has no load that comes back.
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}})
}

/// A condition of the autoscaler.
pub(super) fn condition(lab: &Lab, kind: &str) -> Option<String> {
    let scaler = lab.get(&format!("{SCALERS}/burn")).1;
    let conditions = scaler["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind);
    found.map(|condition| condition["status"].as_str().unwrap_or_default().to_owned())
}
