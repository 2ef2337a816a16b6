//! Certificates and authorities that are replaced, or expire, while the adapter serves.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use podmeter_tests::{adapter::Adapter, temp::TempDir, wait};
use serde_json::{Value, json};

use super::{
    lab::Lab,
    made_up::{PODS, logged},
};

const SERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io";
const AUTHORITY: &str = "/api/v1/namespaces/shop/secrets/podmeter-adapter-authority";
const SETTINGS: &str = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";

/// What base64 says.
fn decoded(text: &Value) -> String {
    let mut command = Command::new("base64");
    let file = TempDir::new("base64");
    file.file("text", text.as_str().unwrap_or_default());
    let output = command.arg("--decode").arg(file.path().join("text")).output().expect("base64");
    String::from_utf8(output.stdout).expect("PEM")
}

/// What a client gets from an adapter, by the name of its Service, that trusts these authorities: the status code, 0 if there is no
/// TLS with it.
fn code(adapter: &Adapter, authorities: &Path, client: Option<&[PathBuf; 2]>) -> u16 {
    let (name, port) = ("podmeter-adapter.shop.svc", adapter.address.port());
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "10", "--noproxy", "*", "--output", "/dev/null"]);
    command.args([
        "--write-out",
        "%{http_code}",
        "--resolve",
        &format!("{name}:{port}:127.0.0.1"),
        "--cacert",
    ]);
    command.arg(authorities);
    if let Some([certificate, key]) = client {
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
        command.args(["--header", "X-Remote-User: admin", "--header", "X-Remote-Group: system:masters"]);
    }
    let output = command.arg(format!("https://{name}:{port}{PODS}")).output().expect("curl");
    String::from_utf8_lossy(&output.stdout).parse().expect("a number")
}

#[test]
fn another_authority_takes_over_and_nobody_is_refused() {
    let lab = Lab::start(&["--window", "3"]);
    let web = lab.container("web", &json!({}), &json!([]));
    lab.answer(&format!("{PODS}/web"));
    let replica = lab.replica(&["--window", "3"]);
    let files = TempDir::new("rotation");
    let trusted = || {
        let text = decoded(&lab.get(SERVICE).1["spec"]["caBundle"]);
        files.file("trusted", &text);
        text
    };
    let bundle = files.path().join("trusted");
    let before = trusted();
    assert_eq!(before.matches("BEGIN CERTIFICATE").count(), 1, "{before}");
    lab.node.cluster.delete(AUTHORITY);
    let begin = Instant::now();
    let has_signed = |adapter: &Adapter| logged(adapter, &["signed a new certificate"]) == 1;
    let mut asked = 0;
    while !(has_signed(&lab.adapter) && has_signed(&replica)) {
        assert!(begin.elapsed() < Duration::from_secs(30), "{:#?}", replica.log());
        trusted();
        for adapter in [&lab.adapter, &replica] {
            assert_eq!(code(adapter, &bundle, None), 403, "who is trusted must serve: {:#?}", adapter.log());
        }
        let (code, answer) = lab.get(&format!("{PODS}/web"));
        assert_eq!(code, 200, "{answer}");
        asked += 1;
    }
    println!("another authority after {:.1} s, {asked} times asked", begin.elapsed().as_secs_f64());
    let after = trusted();
    let new = decoded(&lab.get(AUTHORITY).1["data"]["tls.crt"]);
    assert!(after.contains(new.trim()) && after.contains(before.trim()), "{after}");
    files.file("new", &new);
    for adapter in [&lab.adapter, &replica] {
        assert_eq!(code(adapter, &files.path().join("new"), None), 403, "by the new one");
    }
    // What somebody writes over it is written anew.
    let nobody = json!({"spec": {"caBundle": Value::Null, "insecureSkipTLSVerify": true}});
    lab.node.cluster.patch(SERVICE, &nobody);
    wait::until("trust", || trusted().contains(new.trim()).then_some(()));
    assert_eq!(lab.get(SERVICE).1["spec"]["insecureSkipTLSVerify"], Value::Null);
    lab.answer(&format!("{PODS}/web"));
    drop(web);
}

#[test]
fn certificates_that_are_replaced_or_expire() {
    let lab = Lab::start(&["--window", "3"]);
    let web = lab.container("web", &json!({}), &json!([]));
    lab.answer(&format!("{PODS}/web"));
    let cluster = &lab.node.cluster;

    // The front proxy's authority gets another beside it.
    let files = TempDir::new("front");
    let anyone = files.path().join("trusted");
    files.file("trusted", decoded(&lab.get(SERVICE).1["spec"]["caBundle"]));
    let known = cluster.client_certificate("front-ca", "known", "/CN=front-proxy-client");
    let other = cluster.make_authority("front-ca-2");
    let unknown = cluster.client_certificate("front-ca-2", "unknown", "/CN=front-proxy-client");
    let ask = |client: &[PathBuf; 2]| code(&lab.adapter, &anyone, Some(client));
    assert_eq!((ask(&known), ask(&unknown)), (200, 0));
    let settings = lab.get(SETTINGS).1;
    let old = settings["data"]["requestheader-client-ca-file"].as_str().expect("a certificate");
    let new = fs::read_to_string(other).expect("made");
    let data = json!({"data": {"requestheader-client-ca-file": format!("{old}{new}")}});
    cluster.patch(SETTINGS, &data);
    wait::until("the new front proxy", || (ask(&unknown) == 200).then_some(()));
    assert_eq!(ask(&known), 200);
    lab.answer(&format!("{PODS}/web"));

    // One that expires in this second.
    let expired = cluster.expired_certificate("front-ca", "expired", "/CN=front-proxy-client");
    wait::until("its end", || (ask(&expired) == 0).then_some(()));

    // An adapter with files for a certificate.
    let [certificate, key] = cluster.certificate("mounted").map(|path| path.display().to_string());
    let mounted = lab.replica(&["--window", "3", "--tls-cert", &certificate, "--tls-key", &key]);
    wait::until("an answer", || (code(&mounted, &cluster.authority(), Some(&known)) == 200).then_some(()));
    let served = || {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "openssl s_client -connect \"$0\" </dev/null 2>/dev/null | openssl x509 -noout -serial",
        ]);
        let output = command.arg(mounted.address.to_string()).output().expect("a shell");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = served();
    // A key without its certificate, as between two writes: the one before goes on.
    let text = fs::read_to_string(&certificate).expect("made");
    fs::write(&certificate, "no certificate").expect("a file");
    assert_eq!(served(), first);
    assert_eq!(code(&mounted, &cluster.authority(), Some(&known)), 200);
    assert_eq!(logged(&mounted, &["going on with the certificate from before"]), 1, "{:#?}", mounted.log());
    fs::write(&certificate, text).expect("a file");
    cluster.certificate("mounted");
    wait::until("the new certificate", || (served() != first).then_some(()));
    assert_eq!(code(&mounted, &cluster.authority(), Some(&known)), 200);
    drop(web);
}
