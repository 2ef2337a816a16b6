//! What the agent may do, and what becomes of its token.

use podmeter_tests::{agent::Agent, cluster::Cluster};
use serde_json::json;

use super::node::{Node, container_id, status};

const USAGE: &str = "container_cpu_usage_seconds_total";

fn failed(agent: &Agent, reason: &str) {
    agent.scrape_until(reason, |scrape| {
        scrape.value("podmeter_kube_failures_total", &[("reason", reason)]).is_some_and(|count| count > 0.0)
    });
}

#[test]
fn a_refusal_names_the_rule_and_an_expired_token_is_read_again() {
    let mut node = Node::start();
    let good = node.cluster.token(node.account());
    node.give_token("made-up");
    let agent = node.agent(&["--signals", "cpu"]);
    let pod = node.pod("web", &["app"]);
    let id = container_id();
    let cgroup = pod.cgroup.child(&id);
    node.tell(&pod, &json!({"containerStatuses": [status("app", &id, None)]}));
    failed(&agent, "unauthorized");
    assert_eq!(agent.get("/metrics").0, 200);
    node.give_token(&good);
    // It is known again, and may not.
    failed(&agent, "forbidden");
    let rule = r#"{apiGroups: [\"\"], resources: [pods], verbs: [list, watch]}"#;
    assert!(agent.log().iter().any(|line| line.contains(rule)), "{:#?}", agent.log());
    node.grant();
    let of = [("pod", "web"), ("container", "app"), ("id", cgroup.path())];
    agent.scrape_until("a name", |scrape| scrape.value(USAGE, &of).is_some());

    // An account that is made anew: its old tokens are no good, and no watch is closed for that; a restart closes it.
    let path = "/api/v1/namespaces/shop/serviceaccounts";
    node.cluster.delete(&format!("{path}/{}", node.account()));
    node.cluster.stop_server();
    node.cluster.start_server();
    let before = agent.scrape().value("podmeter_kube_failures_total", &[("reason", "unauthorized")]);
    agent.scrape_until("a token that has expired", |scrape| {
        scrape.value("podmeter_kube_failures_total", &[("reason", "unauthorized")]) > before
    });
    assert!(agent.scrape().value(USAGE, &of).is_some(), "the name stays");
    let fresh = node.cluster.account(node.account());
    node.give_token(&fresh);
    agent.scrape_until("an end of that", |scrape| {
        scrape.value("podmeter_kube_stale_seconds", &[]) == Some(0.0)
    });
    assert!(
        !agent.log().iter().any(|line| line.contains(&fresh) || line.contains(&good)),
        "no token in the log"
    );
}

/// The shipped rule has two verbs. A server that tells all pods in a watch, as they do from 1.34 on, is never asked for a list.
#[test]
fn each_verb_of_the_rule_is_needed() {
    let rule = r#"{apiGroups: [\"\"], resources: [pods], verbs: [list, watch]}"#;
    let named = |agent: &Agent| {
        agent.scrape_until("pods", |scrape| scrape.value("podmeter_kube_synced", &[]) == Some(1.0));
    };
    for (cluster, needed, other) in [
        (Cluster::start(), "watch", "list"),
        (Cluster::start_without("WatchList"), "list", "watch"),
        (Cluster::start_without("WatchList"), "watch", "list"),
    ] {
        let node = Node::of(cluster);
        let rules = |verbs: &[&str]| json!([{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]);
        node.cluster.grant(node.account(), "some", &rules(&[other]));
        let agent = node.agent(&["--signals", "cpu"]);
        failed(&agent, "forbidden");
        assert!(agent.log().iter().any(|line| line.contains(rule)), "{needed}: {:#?}", agent.log());
        node.cluster.grant(node.account(), "the-other", &rules(&[needed]));
        named(&agent);
    }
}
