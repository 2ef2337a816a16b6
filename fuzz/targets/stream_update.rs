//! What agents send, from someone who is none: updates of the streams of two nodes, into what the adapter answers from.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use podmeter::{
    adapter::{metric, node::Node, pod::Pod, store::Store, total::Total},
    stream::message::Update,
};
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let store = Store::new(Duration::from_secs(15), Duration::from_secs(60));
    let nodes = ["one", "other"].map(|name| store.node(name));
    let mut rest = bytes;
    while let Ok(update) = Update::decode_length_delimited(&mut rest) {
        let at = (update.instance % 2) as usize;
        _ = store.apply(&nodes[at], at as u64, update);
        if rest.is_empty() {
            break;
        }
    }
    let read = |node: &Node, pod: &Pod| {
        node.containers(pod);
        let mut total = Total::default();
        node.add(pod, &mut total, &|_| true).then_some((total.nanos, total))
    };
    let pods = store.pods(None, |_| true, read);
    let names = || pods.iter().map(|pod| (&pod.about.namespace, &pod.about.name));
    assert!(names().is_sorted_by(|one, next| one < next), "a pod is listed once");
    let mut all = Total::default();
    for pod in &pods {
        assert!(!pod.about.name.is_empty() && !pod.about.namespace.is_empty());
        all.merge(&pod.used);
    }
    let nodes = store.nodes(|_| true);
    for total in pods.iter().map(|pod| &pod.used).chain(nodes.iter().map(|(.., total)| total)).chain([&all]) {
        for metric in &metric::ALL {
            if let Some(value) = (metric.value)(total) {
                assert!(value.is_finite() && value >= 0.0, "{} is {value}", metric.name);
            }
        }
    }
    store.sweep();
});
