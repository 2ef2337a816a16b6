//! What people type.

use podmeter_tests::wait;
use serde_json::json;

use super::lab::Lab;
use crate::kube::node::NODE;

#[test]
fn kubectl_top_shows_nodes_and_pods() {
    let lab = Lab::start(&["--window", "3"]);
    let kubectl = |line: &str| lab.node.cluster.kubectl(&line.split(' ').collect::<Vec<_>>());
    lab.node
        .cluster
        .create("/api/v1/nodes", &json!({"metadata": {"name": NODE, "labels": {"disk": "fast"}}}));
    let capacity = json!({"cpu": "2", "memory": "8Gi"});
    let status = json!({"status": {"capacity": capacity, "allocatable": capacity}});
    lab.node.cluster.patch(&format!("/api/v1/nodes/{NODE}/status"), &status);
    // Before there is any.
    assert!(kubectl("top pods").1.contains("No resources found"), "{}", kubectl("top pods").1);
    let web = lab.container("web", &json!({"app": "web"}), &json!([]));
    let idle = lab.container("idle", &json!({"app": "idle"}), &json!([]));
    let mut process = web.cgroup.spawn(&["/bin/sh", "-c", "while true; do :; done"]);
    process.go();
    let shown = |line: &str| wait::until(line, || Some(kubectl(line)).filter(|(is_well, _)| *is_well)).1;
    let words = |text: &str| {
        let lines = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        lines.collect::<Vec<_>>()
    };
    let busiest = wait::until("two pods", || {
        let lines = words(&shown("top pods --sort-by=cpu --containers"));
        let millis = |line: &Vec<String>| line.get(2)?.strip_suffix('m')?.parse::<u32>().ok();
        (lines.len() == 3 && lines.get(1).and_then(millis) > Some(200)).then_some(lines)
    });
    assert_eq!(busiest[0], ["POD", "NAME", "CPU(cores)", "MEMORY(bytes)"]);
    assert_eq!((&*busiest[1][0], &*busiest[1][1], &*busiest[2][0]), ("web", "app", "idle"));
    let selected = words(&shown("top pods -l app=idle"));
    assert_eq!((selected.len(), &*selected[1][0], &*selected[1][1]), (2, "idle", "0m"));
    let node = words(&shown("top nodes -l disk=fast"));
    assert_eq!((node.len(), &*node[1][0]), (2, NODE), "{node:?}");
    assert!(node[1][1].ends_with('m') && node[1][2].ends_with('%'), "{node:?}");
    let (_, none) = kubectl("top nodes -l disk=slow");
    assert!(none.contains("No resources found") || none.contains("not available"), "{none}");
    let table = words(&shown("get pods.metrics.k8s.io web"));
    assert_eq!((&*table[0].join(" "), &*table[1][0]), ("NAME CPU MEMORY WINDOW", "web"));
    let (_, missing) = kubectl("top pod gone");
    assert!(missing.contains("not found"), "{missing}");
    drop(idle);
}
