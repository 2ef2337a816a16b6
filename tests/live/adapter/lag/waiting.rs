//! How long after a request begins to wait the custom metrics API says so: a number that no window spreads.

use std::{
    io::Write as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use podmeter_tests::{random::Random, wait};
use serde_json::json;

use super::super::{
    lab::{Lab, quantity},
    requests::{CUSTOM, PEER},
};

/// The server waits for a body that never comes.
const REQUEST: &[u8] = b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n";

/// How many requests begin to wait, and cease.
const EVENTS: usize = 60;

#[test]
#[ignore = "by hand, `cargo xtask lag`: minutes"]
fn of_a_request_that_waits() {
    of("podmeter", &Lab::start(&[]));
    of("podmeter, by Prometheus, a scrape every second", &Lab::by_prometheus(&[]));
}

fn of(name: &str, lab: &Lab) {
    let pod = lab.container("web", &json!({"app": "web"}), &json!([]));
    let mut server = pod.cgroup.spawn(&[PEER, "serve", "127.0.0.1:0"]);
    let address = server.go().line();
    let path = format!("{CUSTOM}/pods/web/http_active_requests");
    let answers = lab.node.cluster.ask_again(&path, 20);
    let said = |after: Instant, wanted: f64| {
        wait::until("the API's word", || {
            let answers = answers.answers();
            let mut later = answers.iter().filter(|(at, _)| *at > after);
            let is_it = |value: &serde_json::Value| value.is_string() && quantity(value) == wanted;
            later.find(|(_, answer)| is_it(&answer["items"][0]["value"])).map(|(at, _)| *at)
        })
    };
    let mut random = Random::new(11);
    let mut pause = || {
        // The agent looks once a second; the event comes at any time between.
        let (begin, length) = (Instant::now(), Duration::from_millis(200 + random.below(1000) as u64));
        wait::until("time to pass", || (begin.elapsed() >= length).then_some(()));
    };
    let mut lags = Vec::new();
    // The first two are not counted: the pod is new, and the API has to hear of it before it has a metric.
    for _ in 0..=EVENTS / 2 {
        pause();
        let mut waiting = TcpStream::connect(&address).expect("the server listens");
        let begin = Instant::now();
        waiting.write_all(REQUEST).expect("the server listens");
        lags.push((said(begin, 1.0) - begin).as_secs_f64());
        pause();
        let end = Instant::now();
        drop(waiting);
        lags.push((said(end, 0.0) - end).as_secs_f64());
    }
    println!("{name}: a new pod's first request that waits after {:.1} s", lags[0]);
    lags.drain(..2);
    println!(
        "{name}: {EVENTS} requests began to wait or ceased; the API said so after {} s",
        super::step::cell(lags)
    );
}
