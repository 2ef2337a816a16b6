//! What agents send, from someone who is none: updates of the streams of two nodes, into what the adapter answers from.
#![no_main]

use std::{sync::LazyLock, time::Duration};

use libfuzzer_sys::fuzz_target;
use podmeter::{
    adapter::{
        metric::Metrics,
        node::Node,
        pod::Pod,
        store::Store,
        window::{Span, Spans},
    },
    stream::message::Update,
};
use prost::Message as _;

const USUAL: Duration = Duration::from_secs(15);

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new(USUAL).expect("they are metrics"));

fuzz_target!(|bytes: &[u8]| {
    let others = [60, 600].map(|seconds| Span::new(Duration::from_secs(seconds)));
    let store = Store::new(Spans::new(Span::new(USUAL), others.into_iter()), Duration::from_secs(60));
    let nodes = ["one", "other"].map(|name| store.node(name));
    let mut rest = bytes;
    while let Ok(update) = Update::decode_length_delimited(&mut rest) {
        let at = (update.instance % 2) as usize;
        _ = store.apply(&nodes[at], at as u64, update);
        if rest.is_empty() {
            break;
        }
    }
    let listed = |node: &Node, pod: &Pod| node.containers(pod).map(|_| (0, ()));
    let pods = store.pods(None, |_| true, listed);
    let names = || pods.iter().map(|pod| (&pod.about.namespace, &pod.about.name));
    assert!(names().is_sorted_by(|one, next| one < next), "a pod is listed once");
    assert!(names().all(|(namespace, name)| !namespace.is_empty() && !name.is_empty()));
    store.nodes(|_| true);
    for metric in METRICS.all() {
        let mut together = metric.query.nothing();
        let gathered = store.pods(
            None,
            |_| true,
            |node, pod| node.gather(pod, &metric.query, &|_| true).map(|gathered| (0, gathered)),
        );
        gathered.iter().for_each(|pod| together.merge(&pod.used));
        if let Some(value) = metric.query.value(&together) {
            assert!(value.is_finite() && value >= 0.0, "{} is {value}", metric.name);
        }
    }
    store.sweep();
});
