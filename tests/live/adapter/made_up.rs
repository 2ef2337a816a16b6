//! What simulated agents tell, and an adapter that anyone may ask.

use std::{process::Command, time::Instant};

use podmeter::stream::{
    frame::{Described, Frame},
    message::{Container, Pod, Usage},
};
use podmeter_tests::{adapter::Adapter, wait};
use serde_json::Value;

pub(super) const PODS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods";

/// A node that does the same all the time.
pub(super) struct Made {
    pub(super) node: String,
    /// The pods of its namespace `shop`, and how many thousandths of a core each uses.
    pub(super) pods: Vec<(String, u64)>,
    /// The agent's clock at the beginning, ns.
    pub(super) clock: u64,
    pub(super) begin: Instant,
}

impl Made {
    /// A node with one pod, from now on.
    pub(super) fn new(node: &str, pod: &str, millicores: u64) -> Self {
        let pods = vec![(pod.to_owned(), millicores)];
        Self { node: node.to_owned(), pods, clock: 1, begin: Instant::now() }
    }

    /// What its agent tells now.
    pub(super) fn frame(&self) -> Frame {
        let nanos = self.begin.elapsed().as_nanos() as u64;
        let usage = |millicores: u64| Usage {
            cpu: Some(nanos / 1000 * millicores),
            memory: Some(1 << 20),
            ..Usage::default()
        };
        let mut frame = Frame {
            instance: 7,
            nanos: self.clock + nanos,
            node: self.node.clone(),
            host: usage(1000),
            ..Frame::default()
        };
        for (name, millicores) in &self.pods {
            let id = format!("{}/{name}", self.node);
            let container = Container { name: "app".to_owned(), id: id.clone(), ..Container::default() };
            let pod = Pod {
                uid: id.clone(),
                namespace: "shop".to_owned(),
                name: name.clone(),
                containers: vec![container],
                ..Pod::default()
            };
            frame.pods.insert(id.clone(), Described(pod));
            frame.usages.insert(id, usage(*millicores));
        }
        frame
    }
}

/// An adapter of these agents.
pub(super) fn adapter(urls: &[String], flags: &[&str]) -> Adapter {
    let own = ["--auth", "none", "--window", "3", "--max-age", "3", "--interval", "200"];
    Adapter::start(&[&own[..], &["--agent", &urls.join(",")], flags].concat())
}

/// What an adapter says that anyone may ask: the status code, 0 if there was no answer; and the answer.
pub(super) fn get(adapter: &Adapter, path: &str) -> (u16, Value) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "20", "--noproxy", "*", "--write-out", "\n%{http_code}"]);
    let output = command.arg(format!("http://{}{path}", adapter.address)).output().expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').expect("a status code");
    (code.parse().expect("a number"), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// A pod of `shop`, if the adapter knows it: its thousandths of a core, and the whole.
pub(super) fn pod(adapter: &Adapter, name: &str) -> Option<(f64, Value)> {
    let (code, pod) = get(adapter, &format!("{PODS}/{name}"));
    let cores = (code == 200).then(|| super::lab::quantity(&pod["containers"][0]["usage"]["cpu"]))?;
    Some((cores * 1000.0, pod))
}

/// Waits for a pod.
pub(super) fn known(adapter: &Adapter, name: &str) -> (f64, Value) {
    wait::until(name, || pod(adapter, name))
}

/// Waits for a pod to be absent.
pub(super) fn absent(adapter: &Adapter, name: &str) {
    wait::until(&format!("no {name}"), || pod(adapter, name).is_none().then_some(()));
}

/// How many lines of the log have all these words.
pub(super) fn logged(adapter: &Adapter, words: &[&str]) -> usize {
    adapter.log().iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
}
