//! `metrics.k8s.io`: the kernel's own account, through the API server.

use std::{collections::BTreeMap, time::Instant};

use serde_json::{Value, json};

use super::lab::{Lab, Recording, at_least, length, quantity, seconds};
use crate::kube::node::NODE;

const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods";

/// Works and rests in turns, so that windows differ.
const WORK: &str = "while true; do i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; sleep 0.2; done";

/// How far the API may be from the kernel's account of the same window: the seconds that its date leaves open are looked at all.
const BOUND: f64 = 0.02;

#[test]
fn the_api_says_of_a_pod_what_the_kernel_says() {
    is_the_kernels(&Lab::start(&["--window", "5"]));
}

#[test]
fn from_prometheus_it_says_the_same() {
    is_the_kernels(&Lab::by_prometheus(&["--window", "5"]));
}

fn is_the_kernels(lab: &Lab) {
    let web = lab.container("web", &json!({"app": "web"}), &json!([]));
    let other = lab.container("other", &json!({"app": "other"}), &json!([]));
    let mut process = web.cgroup.spawn(&["/bin/sh", "-c", WORK]);
    process.go();
    let recording = Recording::of_cpu(&web.cgroup);
    let begin = Instant::now();
    // The window's length before the first answer that counts, the age of what was told last (a scrape and a question, from Prometheus),
    // and the second that its date leaves open after the last.
    at_least(begin, 12);
    let mut answers = BTreeMap::new();
    while answers.len() < 5 {
        let pod = lab.answer(&format!("{PODS}/web"));
        answers.insert(seconds(&pod["timestamp"]) as u64, pod);
    }
    let end = Instant::now();
    at_least(end, 2);
    let growth = recording.stop();
    for (at, pod) in &answers {
        assert_eq!(pod["kind"], "PodMetrics");
        assert_eq!(pod["metadata"]["labels"], json!({"app": "web"}));
        let container = &pod["containers"][0];
        assert_eq!(
            (pod["containers"].as_array().map(Vec::len), &container["name"]),
            (Some(1), &json!("app"))
        );
        let window = length(&pod["window"]);
        assert!((5.0..=8.0).contains(&window), "a window of {window} s");
        let said = quantity(&container["usage"]["cpu"]);
        let (least, most) = growth.rates(*at as f64, window);
        println!("cpu: {said:.4} by the API, {least:.4} to {most:.4} by cpu.stat, over {window} s");
        assert!(
            said >= least * (1.0 - BOUND) && said <= most * (1.0 + BOUND),
            "{said} is not {least} to {most}"
        );
        let memory = quantity(&container["usage"]["memory"]);
        let charged = web.cgroup.memory_usage() as f64;
        assert!(memory > 0.0 && memory <= charged + 4e6, "{memory} of {charged}");
    }

    // Selected by labels and by names.
    let names = |query: &str| {
        let list = lab.answer(&format!("{PODS}?{query}"));
        let items = list["items"].as_array().expect("a list").iter();
        items.map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("labelSelector=app%3Dweb"), ["web"]);
    assert_eq!(names("labelSelector=app%20in%20(web,other)"), ["other", "web"]);
    assert_eq!(names("labelSelector=app!%3Dweb"), ["other"]);
    assert_eq!(names("fieldSelector=metadata.name%3Dother"), ["other"]);
    assert_eq!(names("labelSelector=gone"), [""; 0]);
    let idle = lab.answer(&format!("{PODS}/other"));
    assert_eq!(idle["containers"][0]["usage"]["cpu"], "0n", "no process, no time");

    // The node's.
    let node = lab.answer(&format!("/apis/metrics.k8s.io/v1beta1/nodes/{NODE}"));
    let (cores, used) = (
        std::thread::available_parallelism().expect("a number").get() as f64,
        quantity(&node["usage"]["cpu"]),
    );
    assert!(used > 0.0 && used <= cores * 1.05, "{used} of {cores} cores");

    // What is not there, and what is no question.
    let (code, status) = lab.get(&format!("{PODS}/gone"));
    assert_eq!((code, &status["reason"]), (404, &json!("NotFound")));
    assert_eq!(status["message"], "podmetrics.metrics.k8s.io \"shop/gone\" not found");
    let (code, status) = lab.get(&format!("{PODS}?labelSelector=a%3D%2Fx"));
    assert_eq!((code, &status["kind"], &status["reason"]), (400, &json!("Status"), &json!("BadRequest")));
    let table = lab
        .node
        .cluster
        .ask_for(&format!("{PODS}/web"), "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("web")), "{table}");

    // A pod that is gone from the cluster is gone from the API.
    lab.node.delete("other");
    podmeter_tests::wait::until("the end of a pod", || {
        (lab.get(&format!("{PODS}/other")).0 == 404).then_some(())
    });
    drop(other);
}

#[test]
fn an_agent_that_is_silent_makes_its_pods_absent() {
    let flags = ["--window", "3", "--max-age", "2"];
    let mut lab = Lab::start(&flags);
    let web = lab.container("web", &json!({}), &json!([]));
    lab.answer(&format!("{PODS}/web"));
    podmeter_tests::process::signal(lab.agent.child.id(), "STOP");
    let mut last = Value::Null;
    podmeter_tests::wait::until("absence", || {
        let (code, answer) = lab.get(&format!("{PODS}/web"));
        if code == 200 {
            last = answer;
            return None;
        }
        Some(())
    });
    let (code, status) = lab.get(PODS);
    assert_eq!((code, &status["reason"]), (503, &json!("ServiceUnavailable")), "{status}");
    podmeter_tests::process::signal(lab.agent.child.id(), "CONT");
    let again = lab.answer(&format!("{PODS}/web"));
    assert!(seconds(&again["timestamp"]) > seconds(&last["timestamp"]));

    // An adapter that was killed, and starts again: the API server trusts it as before, and the agent tells it everything.
    lab.restart(&flags);
    let after = lab.answer(&format!("{PODS}/web"));
    assert!(seconds(&after["timestamp"]) > seconds(&again["timestamp"]));
    drop(web);
}
