//! Containers of every kind that a real kubelet runs, from their birth until after their death.

use podmeter_tests::{
    agent::Agent,
    cluster::kubelet::{IMAGE, Kubelet},
    wait,
};
use serde_json::{Value, json};

use super::{
    kubelet::{container, pod},
    node::{NODE, Node},
};

const PODS: &str = "/api/v1/namespaces/shop/pods";
const OOM_KILLS: &str = "container_oom_events_total";
const STAYS: &str = "exec /bin/busybox sleep 100000";
/// Takes more memory than a container may, as its first process: the whole container dies.
const HOG: &str = "/bin/busybox sleep 1; exec /bin/busybox dd if=/dev/zero of=/dev/null bs=200M count=1";

/// Waits until exactly these containers of a pod have series.
fn has(agent: &Agent, pod: &str, wanted: &[&str]) {
    agent.scrape_until(&format!("{pod}: {wanted:?}"), |scrape| {
        let mut names =
            scrape.label_values("container_memory_working_set_bytes", "container", &[("pod", pod)]);
        // The pod's own series has no container.
        names.retain(|name| !name.is_empty());
        names.sort_unstable();
        names == wanted
    });
}

fn create(node: &Node, name: &str, spec: &Value) {
    node.cluster.create(PODS, &json!({"metadata": {"name": name}, "spec": spec}));
}

/// What the kubelet tells the API of a pod's only container.
fn told(node: &Node, pod: &str) -> Value {
    node.cluster.get(&format!("{PODS}/{pod}")).1["status"]["containerStatuses"][0].clone()
}

#[test]
fn sidecars_and_containers_that_are_added_have_their_names_until_the_pod_is_deleted() {
    let node = Node::start();
    node.grant();
    let _kubelet = Kubelet::start(&node.cluster, NODE);
    let agent = node.agent(&["--signals", "cpu,memory", "--pod-source", "api"]);
    let mut proxy = container("proxy", STAYS);
    proxy["restartPolicy"] = json!("Always");
    let spec = pod(&json!([container("app", STAYS)]), &json!([container("setup", "exit 0"), proxy]));
    create(&node, "web", &spec);
    has(&agent, "web", &["app", "proxy"]);

    let debug = json!({"name": "debug", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", STAYS]});
    let added = json!({"spec": {"ephemeralContainers": [debug]}});
    let path = format!("{PODS}/web/ephemeralcontainers");
    let (code, answer) =
        node.cluster.ask("PATCH", &path, "application/strategic-merge-patch+json", Some(&added));
    assert_eq!(code, 200, "{answer}");
    has(&agent, "web", &["app", "debug", "proxy"]);

    node.delete("web");
    has(&agent, "web", &[]);
}

#[test]
fn an_oom_kill_outlives_the_container_and_its_pod() {
    let node = Node::start();
    node.grant();
    let _kubelet = Kubelet::start(&node.cluster, NODE);
    let agent = node.agent(&["--signals", "cpu,memory", "--pod-source", "api"]);
    let mut once = pod(&json!([container("app", HOG)]), &json!([]));
    once["restartPolicy"] = json!("Never");
    create(&node, "once", &once);
    create(&node, "again", &pod(&json!([container("app", HOG)]), &json!([])));

    let state = wait::until("the end of the container", || {
        let state = told(&node, "once")["state"]["terminated"].clone();
        state.is_object().then_some(state)
    });
    assert_eq!(state["reason"], "OOMKilled", "{state}");
    let kills = |pod: &str| agent.scrape().value(OOM_KILLS, &[("pod", pod), ("container", "app")]);
    wait::until("its kill", || (kills("once") == Some(1.0)).then_some(()));
    // Each run of the other has a cgroup of its own, and one series counts them all: as many as the kubelet tells of.
    let deaths = || {
        let status = told(&node, "again");
        let restarts = status["restartCount"].as_u64().filter(|restarts| *restarts >= 1)?;
        Some(restarts + u64::from(status["state"]["running"].is_null()))
    };
    wait::until("as many kills as deaths", || {
        let (before, kills, after) = (deaths()?, kills("again")?, deaths()?);
        (before == after && kills == before as f64).then_some(())
    });

    node.delete("once");
    has(&agent, "once", &[]);
    assert_eq!(kills("once"), Some(1.0), "it stays, for who looks after the pod is gone");
}
