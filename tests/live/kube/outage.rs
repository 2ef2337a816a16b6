//! The API server goes away, and comes back.

use podmeter_tests::scrape::Scrape;
use serde_json::json;

use super::node::{Node, container_id, status};

const USAGE: &str = "container_cpu_usage_seconds_total";

fn value(scrape: &Scrape, name: &str) -> f64 {
    scrape.value(name, &[]).unwrap_or_else(|| panic!("{name}"))
}

#[test]
fn metrics_go_on_with_what_is_known_while_the_api_server_is_gone() {
    let mut node = Node::start();
    node.grant();
    let agent = node.agent(&["--signals", "cpu"]);
    let pod = node.pod("web", &["app"]);
    let id = container_id();
    let cgroup = pod.cgroup.child(&id);
    node.tell(&pod, &json!({"containerStatuses": [status("app", &id, None)]}));
    let of = [("pod", "web"), ("container", "app"), ("id", cgroup.path())];
    agent.scrape_until("a name", |scrape| scrape.value(USAGE, &of).is_some());

    node.cluster.stop_server();
    let lost = ("reason", "unreachable");
    let scrape = agent.scrape_until("a failure", |scrape| {
        scrape.value("podmeter_kube_failures_total", &[lost]).is_some_and(|count| count >= 2.0)
    });
    let stale = value(&scrape, "podmeter_kube_stale_seconds");
    assert!(stale > 0.0);
    let scrape =
        agent.scrape_until("more of it", |scrape| value(scrape, "podmeter_kube_stale_seconds") > stale);
    assert!(scrape.value(USAGE, &of).is_some(), "the name stays");
    assert_eq!((value(&scrape, "podmeter_kube_pods"), value(&scrape, "podmeter_kube_synced")), (1.0, 1.0));
    assert_eq!((agent.get("/livez").0, agent.get("/readyz").0), (200, 200));
    let said: Vec<_> =
        agent.log().into_iter().filter(|line| line.contains("no news of this node's pods")).collect();
    assert!(said.iter().any(|line| line.contains("cannot reach the API server")), "{said:#?}");

    // What is made meanwhile waits for its name, and gets it.
    let late = pod.cgroup.child(&container_id());
    assert_eq!(agent.scrape().sum(USAGE, &[("id", late.path())]), 0.0);
    node.cluster.start_server();
    let next = node.pod("next", &["app"]);
    let next_id = container_id();
    let next_cgroup = next.cgroup.child(&next_id);
    node.tell(&next, &json!({"containerStatuses": [status("app", &next_id, None)]}));
    let scrape = agent.scrape_until("the name of a new pod", |scrape| {
        scrape.value(USAGE, &[("pod", "next"), ("container", "app"), ("id", next_cgroup.path())]).is_some()
    });
    assert_eq!(value(&scrape, "podmeter_kube_stale_seconds"), 0.0);
    assert!(scrape.value(USAGE, &of).is_some(), "and the others still have theirs");
}
