//! Agents that serve over TLS, and whom they tell: whom the cluster lets `get` the path `/metrics`.

use std::{fs, time::Instant};

use podmeter_tests::wait;
use serde_json::json;

use super::lab::{ACCOUNT, Lab, at_least};

const POD: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods/web";

#[test]
fn an_agent_tells_over_tls_whom_the_cluster_lets_and_nobody_else() {
    let mut lab = Lab::over_tls(&["--window", "3", "--max-age", "3"]);
    let web = lab.container("web", &json!({"app": "web"}), &json!([]));
    let mut process = web.cgroup.spawn(&["/bin/sh", "-c", "while :; do :; done"]);
    process.go();
    lab.answer(POD);
    let logged = |lab: &Lab, words: &str| lab.adapter.log().iter().any(|line| line.contains(words));
    assert!(!logged(&lab, "no news of an agent"), "{:#?}", lab.adapter.log());

    // Whom the cluster does not know.
    lab.give_token("open sesame");
    lab.restart(&["--window", "3", "--max-age", "3"]);
    wait::until("a refusal", || logged(&lab, "no news of an agent").then_some(()));
    assert!(!logged(&lab, "an agent tells of its node"), "{:#?}", lab.adapter.log());

    // A new token is read for the next stream.
    lab.give_token(&lab.node.cluster.token(ACCOUNT));
    wait::until("the agent", || logged(&lab, "an agent tells of its node").then_some(()));
    lab.answer(POD);

    // A certificate that has expired is none: it is looked at when a connection begins.
    let own = lab.node.certificate();
    let expired = lab.node.cluster.expired_certificate("ca", "expired", "/CN=agent");
    for (from, to) in expired.iter().zip(&own) {
        fs::copy(from, to).expect("files");
    }
    // It is good for the second that it was made in.
    at_least(Instant::now(), 2);
    lab.restart(&["--window", "3", "--max-age", "3"]);
    wait::until("its end", || logged(&lab, "expired").then_some(()));
    let (code, status) = lab.get(POD);
    assert_eq!((code, &status["kind"]), (503, &json!("Status")), "{status}");
    // Another is read when there is one.
    lab.node.certificate();
    lab.answer(POD);

    // Who is not who it says it is, is told no token.
    let authority = lab.node.certificate()[0].display().to_string();
    lab.trust(&authority);
    lab.restart(&["--window", "3", "--max-age", "3"]);
    wait::until("a certificate of nobody's", || logged(&lab, "no news of an agent").then_some(()));
    assert!(!logged(&lab, "an agent tells of its node"), "{:#?}", lab.adapter.log());
}
