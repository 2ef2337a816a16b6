//! Pods that a real kubelet runs, beside what its own cAdvisor says of them.

use std::collections::{BTreeMap, BTreeSet};

use podmeter_tests::{
    agent::Agent,
    cluster::kubelet::{IMAGE, Kubelet},
    wait,
};
use serde_json::{Value, json};

use super::node::{NODE, Node};

pub(super) const MIB: f64 = 1_048_576.0;

/// What both have, label by label.
const SHARED: [&str; 15] = [
    "container_cpu_usage_seconds_total",
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_spec_cpu_quota",
    "container_spec_cpu_shares",
    "container_spec_memory_reservation_limit_bytes",
    "container_spec_memory_swap_limit_bytes",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_memory_rss",
    "container_memory_cache",
    "container_memory_failures_total",
    "container_spec_memory_limit_bytes",
    "container_memory_mapped_file",
];

type Labels = BTreeMap<String, String>;

/// The series of a name, without labels that say nothing and those that only we have.
fn series(text: &str, name: &str) -> BTreeMap<Labels, f64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} "));
    let found = lines.map(|(labels, value)| {
        let pairs = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
        let labels = pairs.filter(|(name, value)| !value.is_empty() && name != "node").collect();
        // cAdvisor's samples have a time.
        let value = value.split(' ').next().expect("a value").parse().expect("a number");
        (labels, value)
    });
    found.collect()
}

/// Those of the namespace's pods and their containers. cAdvisor also has the pause containers, which have an id and no name.
fn of_pods(text: &str, name: &str, pod: &str) -> BTreeMap<Labels, f64> {
    let mut found = series(text, name);
    found.retain(|labels, _| {
        labels.get("pod").is_some_and(|own| own == pod)
            && (labels.contains_key("container") || !labels.contains_key("name"))
    });
    found
}

pub(crate) fn container(name: &str, script: &str) -> Value {
    json!({
        "name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", script],
        "resources": {
            "requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
    })
}

pub(crate) fn pod(containers: &Value, init: &Value) -> Value {
    json!({
        "nodeName": NODE, "hostNetwork": true, "automountServiceAccountToken": false, "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}],
        "initContainers": init, "containers": containers,
    })
}

const WORK: &str = "while :; do i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; /bin/busybox sleep 1; done";

#[test]
fn a_real_kubelets_pods_have_the_names_that_its_cadvisor_gives_them() {
    let node = Node::start();
    node.grant();
    let kubelet = Kubelet::start(&node.cluster, NODE);
    let path = "/api/v1/namespaces/shop/pods";
    let setup = json!([container("setup", "exit 0")]);
    let spec = pod(&json!([container("app", WORK), container("side", WORK)]), &setup);
    node.cluster.create(path, &json!({"metadata": {"name": "web"}, "spec": spec}));
    let spec = pod(&json!([container("app", "/bin/busybox sleep 3; exit 1")]), &json!([]));
    node.cluster.create(path, &json!({"metadata": {"name": "crash"}, "spec": spec}));
    let spec = pod(&json!([container("app", WORK)]), &json!([]));
    let file = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "file", "namespace": "shop"}, "spec": spec});
    kubelet.write_static("file", &file);

    let (authority, url) = (node.cluster.authority().display().to_string(), kubelet.url());
    let socket = kubelet.socket().display().to_string();
    let rules = json!([{"apiGroups": [""], "resources": ["nodes/pods"], "verbs": ["get"]}]);
    let base = ["--signals", "cpu,memory", "--pod-source"];
    let sources: [(&str, Vec<&str>); 3] = [
        ("api", vec!["api"]),
        ("kubelet", vec!["kubelet", "--kubelet-url", &url, "--kubelet-ca", &authority]),
        ("cri", vec!["cri", "--cri-socket", &socket]),
    ];
    let agents = sources.map(|(name, flags)| (name, node.agent(&[&base[..], &flags].concat())));
    // Without the rule the kubelet refuses, and we say which it is.
    agents[1].1.scrape_until("a refusal", |scrape| {
        scrape.value("podmeter_kube_failures_total", &[("reason", "forbidden")]) > Some(0.0)
    });
    assert!(agents[1].1.log().iter().any(|line| line.contains("resources: [nodes/pods], verbs: [get]")));
    node.cluster.grant(node.account(), "podmeter-kubelet", &rules);

    // It ends and begins all the time: never two at once, and only one name.
    let restarts = || {
        let status = node.cluster.get(&format!("{path}/crash")).1;
        status["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0)
    };
    let agent = &agents[0].1;
    let mut seen = BTreeSet::new();
    wait::until("restarts", || {
        for labels in of_pods(&agent.scrape().0, "container_memory_usage_bytes", "crash").keys() {
            if let Some(name) = labels.get("container") {
                seen.insert(name.clone());
            }
        }
        // Panics when there are two.
        agent.scrape().value("container_memory_usage_bytes", &[("pod", "crash"), ("container", "app")]);
        (restarts() >= 1 && !seen.is_empty()).then_some(())
    });
    assert_eq!(seen, BTreeSet::from(["app".to_owned()]));

    for (source, agent) in &agents {
        for (pod, names) in [("web", vec!["app", "side"]), (&format!("file-{NODE}"), vec!["app"])] {
            same(agent, &kubelet, &node, source, pod, &names);
        }
        let scrape = agent.scrape();
        let of = [("pod", "web"), ("container", "app")];
        let limit = scrape.value("container_spec_memory_limit_bytes", &of);
        assert_eq!(limit, Some(64.0 * MIB), "{source}");
        let used = scrape.value("container_memory_working_set_bytes", &of).expect("memory");
        let ratio = scrape.value("container_memory_limit_utilization_ratio", &of);
        // The runtime's lists have no limits.
        assert_eq!(ratio, (*source != "cri").then_some(used / (64.0 * MIB)), "{source}");
    }
}

/// Waits until an agent has the series that cAdvisor has of a pod; and compares what does not move.
fn same(agent: &Agent, kubelet: &Kubelet, node: &Node, source: &str, pod: &str, names: &[&str]) {
    let mut differences = Vec::new();
    let found = wait::perhaps(|| {
        differences.clear();
        let (before, own) = (kubelet.cadvisor(&node.cluster), agent.scrape().0);
        for name in SHARED {
            let (theirs, ours) = (of_pods(&before, name, pod), of_pods(&own, name, pod));
            if theirs.keys().ne(ours.keys()) {
                let only = |of: &BTreeMap<Labels, f64>, other: &BTreeMap<Labels, f64>| {
                    of.keys().filter(|labels| !other.contains_key(*labels)).cloned().collect::<Vec<_>>()
                };
                let both = (only(&theirs, &ours), only(&ours, &theirs));
                differences
                    .push(format!("{name}: only cAdvisor has {:?}, only we have {:?}", both.0, both.1));
            }
            let constant = name.starts_with("container_spec");
            differences.extend((constant && theirs != ours).then(|| format!("{name}: {theirs:?} {ours:?}")));
        }
        let seen: BTreeSet<_> = of_pods(&own, SHARED[0], pod)
            .keys()
            .filter_map(|labels| labels.get("container").cloned())
            .collect();
        let all = names.iter().all(|name| seen.contains(*name));
        (differences.is_empty() && all).then_some(own)
    });
    let own = found.unwrap_or_else(|| panic!("{source}, {pod}: {differences:#?}"));
    // cAdvisor looks every ten seconds or so: what we say now, it says before long.
    let ours = of_pods(&own, SHARED[0], pod);
    wait::until("cAdvisor's next look", || {
        let theirs = of_pods(&kubelet.cadvisor(&node.cluster), SHARED[0], pod);
        ours.iter()
            .all(|(labels, value)| theirs.get(labels).is_some_and(|later| later >= value))
            .then_some(())
    });
    let before = of_pods(&kubelet.cadvisor(&node.cluster), SHARED[0], pod);
    let ours = of_pods(&agent.scrape().0, SHARED[0], pod);
    for (labels, value) in before {
        assert!(
            ours.get(&labels).is_some_and(|own| *own >= value * 0.999 - 0.01),
            "{source}: {labels:?} {value} {ours:?}"
        );
    }
}
