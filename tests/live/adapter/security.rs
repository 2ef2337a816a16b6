//! Who may ask the adapter, and what it does with those who may not.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
};

use podmeter_tests::wait;
use serde_json::{Value, json};

use super::lab::Lab;

const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods";

/// What curl is told beside the path.
struct Client<'a> {
    lab: &'a Lab,
    flags: Vec<String>,
}

impl<'a> Client<'a> {
    fn new(lab: &'a Lab) -> Self {
        Self { lab, flags: Vec::new() }
    }

    fn certificate(mut self, [certificate, key]: &[PathBuf; 2]) -> Self {
        let text = |path: &PathBuf| path.display().to_string();
        self.flags.extend(["--cert".to_owned(), text(certificate), "--key".to_owned(), text(key)]);
        self
    }

    fn header(mut self, header: &str) -> Self {
        self.flags.extend(["--header".to_owned(), header.to_owned()]);
        self
    }

    fn method(mut self, method: &str) -> Self {
        self.flags.extend(["--request".to_owned(), method.to_owned()]);
        self
    }

    /// The status code, 0 if there was no answer; and the answer.
    fn get(&self, path: &str) -> (u16, Value) {
        let mut command = Command::new("curl");
        // Whom the certificate is from is not what is looked at here: the API server does.
        command.args(["--silent", "--insecure", "--max-time", "20", "--noproxy", "*", "--path-as-is"]);
        command.args(["--write-out", "\n%{http_code}"]).args(&self.flags);
        let output =
            command.arg(format!("https://{}{path}", self.lab.adapter.address)).output().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').expect("a status code");
        (code.parse().expect("a number"), serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn code(&self, path: &str) -> u16 {
        let (code, answer) = self.get(path);
        if code >= 400 {
            assert_eq!(
                (&answer["kind"], &answer["code"]),
                (&json!("Status"), &json!(code)),
                "{path}: {answer}"
            );
        }
        code
    }
}

#[test]
fn only_a_front_proxy_says_who_asks() {
    let lab = Lab::start(&["--window", "3"]);
    let web = lab.container("web", &json!({}), &json!([]));
    lab.answer(&format!("{PODS}/web"));
    let cluster = &lab.node.cluster;
    let front = cluster.client_certificate("front-ca", "front-1", "/CN=front-proxy-client");
    let misnamed = cluster.client_certificate("front-ca", "front-2", "/CN=other");
    let user = cluster.client_certificate("ca", "user", "/O=system:masters/CN=jane");
    let namesake = cluster.client_certificate("ca", "namesake", "/CN=front-proxy-client");
    let masters = |client: Client<'_>| {
        client.header("X-Remote-User: admin").header("X-Remote-Group: system:masters").code(PODS)
    };
    let client = || Client::new(&lab);
    assert_eq!(client().code(PODS), 403, "nobody");
    assert_eq!(masters(client()), 403, "headers without a certificate");
    assert_eq!(masters(client().certificate(&front)), 200);
    assert_eq!(masters(client().certificate(&misnamed)), 403, "not a name that is allowed");
    assert_eq!(masters(client().certificate(&namesake)), 403, "a user of a front proxy's name");
    assert_eq!(client().certificate(&user).code(PODS), 200, "a user by certificate");
    let jane = client().certificate(&front).header("X-Remote-User: jane");
    let (code, status) = jane.get(PODS);
    let wanted = "pods.metrics.k8s.io is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"metrics.k8s.io\" in the namespace \"shop\"";
    assert_eq!((code, &status["message"]), (403, &json!(wanted)));

    // By token, and by the cluster's rules.
    let reader = cluster.account("reader");
    let by_token = |token: &str| client().header(&format!("Authorization: Bearer {token}"));
    assert_eq!(by_token("made-up").code(PODS), 401);
    assert_eq!(by_token(&reader).code(PODS), 403);
    let rules = json!([{"apiGroups": ["metrics.k8s.io"], "resources": ["pods"], "verbs": ["get", "list"]}]);
    cluster.grant("reader", "metrics-reader", &rules);
    wait::until("a verdict that holds for ten seconds", || {
        (by_token(&reader).code(PODS) == 200).then_some(())
    });
    assert_eq!(by_token(&reader).code("/apis/metrics.k8s.io/v1beta1/nodes"), 403);
    assert_eq!(
        by_token(&reader).code("/apis/metrics.k8s.io/v1beta1"),
        200,
        "discovery is for all who are known"
    );
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(client().code(path), 200, "{path}: a probe has neither");
    }

    // What is no question.
    let admin = || client().certificate(&user);
    for (path, code) in [
        (format!("{PODS}?labelSelector=a%3D%2Fx"), 400),
        (format!("{PODS}?fieldSelector=spec.x%3Dy"), 400),
        (format!("{PODS}/%2e%2e"), 400),
        (format!("{PODS}/a%2Fb"), 400),
        (format!("{PODS}?watch=true"), 405),
        (format!("{PODS}?labelSelector={}", "a".repeat(20_000)), 414),
        ("/apis/metrics.k8s.io/v1".to_owned(), 404),
        ("/openapi/v2".to_owned(), 200),
        ("/openapi/v3".to_owned(), 404),
    ] {
        assert_eq!(admin().code(&path), code, "{path}");
    }
    assert_eq!(admin().method("DELETE").code(PODS), 405);
    assert_eq!(admin().header("Accept: application/vnd.kubernetes.protobuf").code(PODS), 406);
    assert_eq!(admin().header("Accept: application/vnd.kubernetes.protobuf, */*").code(PODS), 200);
    let (code, groups) = admin().get("/apis");
    assert_eq!((code, &groups["kind"]), (200, &json!("APIGroupList")));

    // One who does not speak TLS gets nothing, and disturbs nobody.
    let mut plain = TcpStream::connect(lab.adapter.address).expect("it listens");
    plain.write_all(b"GET /livez HTTP/1.0\r\n\r\n").expect("sent");
    let mut said = Vec::new();
    _ = plain.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&said));
    assert_eq!(client().code("/livez"), 200);
    drop(web);
}
