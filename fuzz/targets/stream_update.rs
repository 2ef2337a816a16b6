//! What an agent sends, from someone who is none: two updates of a stream.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use podmeter::{
    adapter::{
        metric::Metrics,
        node::Node,
        window::{Span, Spans},
    },
    stream::message::Update,
};
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let usual = Duration::from_secs(15);
    let others = [60, 600].map(|seconds| Span::new(Duration::from_secs(seconds)));
    let mut node = Node::new("node", Spans::new(Span::new(usual), others.into_iter()));
    let mut rest = bytes;
    while let Ok(update) = Update::decode_length_delimited(&mut rest) {
        _ = node.apply(1, update);
        if rest.is_empty() {
            break;
        }
    }
    for pod in node.pods() {
        node.containers(pod);
    }
    node.host();
    for metric in Metrics::new(usual).expect("they are metrics").all() {
        let mut together = metric.query.nothing();
        for pod in node.pods() {
            if let Some(gathered) = node.gather(pod, &metric.query, &|_| true) {
                together.merge(&gathered);
            }
        }
        if let Some(value) = metric.query.value(&together) {
            assert!(value.is_finite() && value >= 0.0, "{} is {value}", metric.name);
        }
    }
});
