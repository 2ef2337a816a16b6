//! KEDA's own client of external scalers, on real requests.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use podmeter_tests::{adapter::Adapter, cluster::program, machine::free_port, wait};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    lab::{Lab, quantity},
    requests::{Load, PEER},
};

const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop";

/// What KEDA takes from an answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    /// The targets, by the names that KEDA gives to metrics.
    metrics: BTreeMap<String, Value>,
    values: BTreeMap<String, Value>,
    active: bool,
    error: String,
}

/// A KEDA of which there is only that client.
struct Keda {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Keda {
    fn start() -> Self {
        let mut command = Command::new(program("PODMETER_KEDA_SCALER"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("KEDA's client");
        let questions = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, questions, answers }
    }

    fn tell(&mut self, trigger: &Value) {
        writeln!(self.questions, "{trigger}").expect("it reads");
    }

    fn answer(&mut self) -> Answer {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    fn ask(&mut self, trigger: &Value) -> Answer {
        self.tell(trigger);
        self.answer()
    }
}

impl Drop for Keda {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What a TriggerAuthentication has: whom to trust, and who KEDA is.
fn authentication(lab: &Lab, authority: &str) -> Value {
    let cluster = &lab.node.cluster;
    let text = |path| fs::read_to_string(path).expect("a file");
    let [certificate, key] = cluster.client_certificate(authority, &format!("keda-{authority}"), "/CN=keda");
    json!({"caCert": text(cluster.authority()), "tlsClientCert": text(certificate), "tlsClientKey": text(key)})
}

fn trigger(address: &str, auth: &Value, more: &Value) -> Value {
    let mut metadata = json!({
        "scalerAddress": address, "metric": "http_requests_per_second", "selector": "app=web", "target": "2.5"});
    metadata.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({"namespace": "shop", "metadata": metadata, "auth": auth})
}

#[test]
fn keda_scales_by_what_the_api_says() {
    let lab = Lab::start(&["--window", "5"]);
    let pod = lab.container("web-1", &json!({"app": "web"}), &json!([]));
    let mut server = pod.cgroup.spawn(&[PEER, "serve", "127.0.0.1:0"]);
    let address = server.go().line();
    let port = address.rsplit(':').next().expect("an address").to_owned();
    let load = Load::start(&port, &["/hello"], Duration::from_millis(10));

    // The API server would not trust this one's certificate, which is the test's: it is there for KEDA alone.
    let listen = format!("127.0.0.1:{}", free_port());
    let [certificate, key] = lab.node.certificate().map(|path| path.display().to_string());
    let authority = lab.node.cluster.authority().display().to_string();
    let agent = format!("--agent=http://{}", lab.agent.address);
    let flags = ["--auth", "none", "--window", "5", &agent, "--tls-cert", &certificate, "--tls-key", &key];
    let keda_flags = ["--keda-listen", &listen, "--keda-client-ca", &authority];
    let adapter = Adapter::start(&[&flags[..], &keda_flags].concat());

    let auth = authentication(&lab, "ca");
    let mut keda = Keda::start();
    let own = trigger(&listen, &auth, &json!({}));
    let requests = "s0-http_requests_per_second";
    let answer = wait::until("requests that KEDA is told of", || {
        Some(keda.ask(&own)).filter(|answer| answer.error.is_empty())
    });
    assert_eq!(quantity(&answer.metrics[requests]), 2.5, "{answer:?}");
    assert!(answer.active, "{answer:?}");
    // Both are asked for one after the other, of a load that is about the same, and over all of the window by now.
    let path = format!("{EXTERNAL}/http_requests_per_second?labelSelector=app%3Dweb");
    wait::until("what the API says", || {
        let told = keda.ask(&own);
        let said = quantity(&lab.answer(&path)["items"][0]["value"]);
        let told = quantity(told.values.get(requests)?);
        println!("requests per second: {told} to KEDA, {said} by the API");
        ((told / said - 1.0).abs() < 0.1 && told > 10.0).then_some(())
    });
    let latency = json!({"metric": "http_request_duration_p99_seconds", "target": "300m"});
    let answer = keda.ask(&trigger(&listen, &auth, &latency));
    let (name, value) = answer.values.first_key_value().expect("a value");
    assert_eq!((&**name, quantity(&answer.metrics[name])), ("s0-http_request_duration_p99_seconds", 0.3));
    let value = quantity(value);
    assert!((0.0..5.0).contains(&value), "{value}");
    let answer = keda.ask(&trigger(&listen, &auth, &json!({"activation": "1000"})));
    assert!(answer.error.is_empty() && !answer.active, "{answer:?}");

    // What nobody knows is an error.
    for (more, code) in [
        (json!({"selector": "app=other"}), "NotFound"),
        (json!({"metric": "made_up"}), "no metrics"),
        (json!({"target": "much"}), "no metrics"),
    ] {
        let answer = keda.ask(&trigger(&listen, &auth, &more));
        assert!(answer.error.contains(code) && answer.values.is_empty(), "{more}: {answer:?}");
    }
    let mut elsewhere = own.clone();
    elsewhere["namespace"] = json!("bank");
    assert!(keda.ask(&elsewhere).error.contains("NotFound"));

    // Nobody else is let in.
    let stranger = authentication(&lab, "front-ca");
    let nobody = json!({"caCert": auth["caCert"]});
    for auth in [&stranger, &nobody, &json!({})] {
        let answer = keda.ask(&trigger(&listen, auth, &json!({})));
        assert!(answer.values.is_empty() && !answer.error.is_empty(), "{answer:?}");
    }

    // It is told when the load ends, and that this is known.
    let mut pushed = Keda::start();
    let mut push = own.clone();
    push["push"] = json!(true);
    pushed.tell(&push);
    assert!(pushed.answer().active, "first how it is");
    drop(load);
    assert!(!pushed.answer().active, "then what it became");
    let answer = keda.ask(&own);
    assert_eq!((quantity(&answer.values[requests]), answer.active), (0.0, false), "{answer:?}");

    // A silent agent is no zero.
    podmeter_tests::process::signal(lab.agent.child.id(), "STOP");
    wait::until("nobody that knows", || {
        let answer = keda.ask(&own);
        (answer.error.contains("Unavailable") && answer.values.is_empty()).then_some(())
    });
    podmeter_tests::process::signal(lab.agent.child.id(), "CONT");
    drop(adapter);
}
