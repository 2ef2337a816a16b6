//! Who may read the metrics: TLS, tokens, and the cluster's own rules.

use std::process::Command;

use podmeter_tests::{agent::Agent, temp::TempDir};
use serde_json::json;

use super::node::Node;

/// GETs a path over TLS with a token: the status code and the body.
fn get(agent: &Agent, authority: &str, path: &str, token: Option<&str>) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--max-time",
        "20",
        "--noproxy",
        "*",
        "--cacert",
        authority,
        "--write-out",
        "\n%{http_code}",
    ]);
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    let output = command.arg(format!("https://{}{path}", agent.address)).output().expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').expect("a status code");
    (code.parse().expect("a number"), body.to_owned())
}

/// The fingerprint of the certificate that is served.
fn served(agent: &Agent) -> String {
    let script = "openssl s_client -connect \"$0\" </dev/null 2>/dev/null | openssl x509 -noout -fingerprint";
    let output =
        Command::new("/bin/sh").args(["-c", script, &agent.address.to_string()]).output().expect("a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_cluster_says_who_may_read_over_a_certificate_that_rotates() {
    let mut node = Node::start();
    node.grant();
    let authority = node.cluster.authority().display().to_string();
    let [certificate, key] = node.certificate().map(|path| path.display().to_string());
    let flags = ["--signals", "cpu", "--auth", "kubernetes", "--tls-cert", &certificate, "--tls-key", &key];
    let agent = node.agent(&flags);
    let ask = |path: &str, token: Option<&str>| get(&agent, &authority, path, token);
    assert_eq!(ask("/livez", None).0, 200, "a probe has no token");
    assert_eq!(ask("/metrics", None).0, 401);
    assert_eq!(ask("/", None).0, 401, "the status page neither");

    // The agent may not ask as yet: that is no refusal of the client.
    let reader = node.cluster.account("reader");
    let (code, body) = ask("/metrics", Some(&reader));
    assert_eq!(code, 503, "{body}");
    let told = |of: &str| {
        let wanted = [
            "resources: [tokenreviews], verbs: [create]",
            "resources: [subjectaccessreviews], verbs: [create]",
        ];
        let log = agent.log();
        let is_told = |line: &&String| line.contains(of) && wanted.iter().all(|rule| line.contains(rule));
        assert!(log.iter().any(|line| is_told(&line)), "{of}: {log:#?}");
    };
    told("tokenreviews.authentication.k8s.io is forbidden");
    // With the one and without the other it gets further, and not far enough.
    for (group, resource) in
        [("authentication.k8s.io", "tokenreviews"), ("authorization.k8s.io", "subjectaccessreviews")]
    {
        let rules = json!([{"apiGroups": [group], "resources": [resource], "verbs": ["create"]}]);
        node.cluster.grant(node.account(), &format!("podmeter-{resource}"), &rules);
        if resource == "tokenreviews" {
            podmeter_tests::wait::until("the other refusal", || {
                assert_eq!(ask("/metrics", Some(&reader)).0, 503);
                agent
                    .log()
                    .iter()
                    .any(|line| line.contains("subjectaccessreviews.authorization.k8s.io is forbidden"))
                    .then_some(())
            });
            told("subjectaccessreviews.authorization.k8s.io is forbidden");
        }
    }

    let settled = |token: &str, wanted: u16| {
        podmeter_tests::wait::until("a verdict", || (ask("/metrics", Some(token)).0 == wanted).then_some(()));
    };
    settled(&reader, 403);
    settled("made-up", 401);
    // A no is kept for ten seconds, and another's yes is another's.
    let other = node.cluster.account("other");
    let metrics = json!([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]);
    node.cluster.grant("other", "metrics-reader", &metrics);
    settled(&other, 200);
    assert_eq!(ask("/metrics", Some(&reader)).0, 403);
    let (_, body) = ask("/metrics", Some(&other));
    let refused = |code: &str| {
        let start = format!("podmeter_http_refused_total{{code=\"{code}\"}} ");
        body.lines().find_map(|line| line.strip_prefix(&start)?.parse::<f64>().ok()).expect("a count")
    };
    assert!(refused("401") >= 3.0 && refused("403") >= 2.0 && refused("503") >= 1.0, "{body}");
    assert!(body.contains("container_cpu_usage_seconds_total"));

    // A certificate that is replaced is served from the next connection on; one that is no good is not.
    let before = served(&agent);
    node.cluster.certificate("agent");
    let after = served(&agent);
    assert_ne!(before, after);
    assert_eq!(ask("/metrics", Some(&other)).0, 200);
    std::fs::write(&certificate, "no certificate").expect("our own file");
    assert_eq!(served(&agent), after);

    // Whom the API server let in stays in while it is gone; nobody else gets in.
    node.cluster.stop_server();
    assert_eq!(get(&agent, &authority, "/metrics", Some(&other)).0, 200);
    assert_eq!(get(&agent, &authority, "/metrics", Some("unheard-of")).0, 503);
    let plain = Command::new("curl")
        .args(["--silent", "--noproxy", "*", &format!("http://{}/metrics", agent.address)])
        .output();
    assert!(!plain.expect("curl").status.success(), "nothing without TLS");
}

#[test]
fn a_token_in_a_file_lets_in_and_a_mistake_stops_the_start() {
    let directory = TempDir::new("token");
    let file = directory.file("token", "open sesame\n");
    let agent = Agent::start(&["--signals", "cpu", "--auth", "token", "--auth-token-file", &file]);
    assert_eq!(agent.get("/metrics").0, 401);
    assert_eq!(agent.get("/readyz").0, 200);
    let output = Command::new("curl")
        .args(["--silent", "--noproxy", "*", "--header", "Authorization: Bearer open sesame"])
        .arg(format!("http://{}/metrics", agent.address))
        .output()
        .expect("curl");
    let body = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(body.contains("podmeter_http_refused_total{code=\"401\"} 1"), "{body}");
    let empty = directory.file("empty", "");
    for (flags, wanted) in [
        (vec!["--auth", "token"], "needs --auth-token-file"),
        (vec!["--auth", "kubernetes"], "give --api-server"),
        (vec!["--pod-labels", "a,b,c,d,e,f,g,h,i"], "8 are allowed"),
        (vec!["--auth", "token", "--auth-token-file", &*empty], "no token in"),
        (vec!["--tls-cert", &*file, "--tls-key", &*file], "no items found"),
    ] {
        let output = Command::new(podmeter_tests::agent::binary())
            .args(["agent", "--listen", "127.0.0.1:0"])
            .args(&flags)
            .output()
            .expect("the agent");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(wanted), "{flags:?}: {said}");
    }
}
