//! Agents that serve over TLS, and whom they tell: whom the cluster lets `get` the path `/metrics`.

use podmeter_tests::wait;
use serde_json::json;

use super::lab::{ACCOUNT, Lab};

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

    // Who is not who it says it is, is told no token.
    let authority = lab.node.certificate()[0].display().to_string();
    lab.trust(&authority);
    lab.restart(&["--window", "3", "--max-age", "3"]);
    wait::until("a certificate of nobody's", || logged(&lab, "no news of an agent").then_some(()));
    assert!(!logged(&lab, "an agent tells of its node"), "{:#?}", lab.adapter.log());
}
