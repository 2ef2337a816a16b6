//! What an agent sends, from someone who is none: two updates of a stream.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use podmeter::{
    adapter::{metric, node::Node, total::Total, window::Span},
    stream::message::Update,
};
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let mut node = Node::new("node", Span::new(Duration::from_secs(15)));
    let mut rest = bytes;
    while let Ok(update) = Update::decode_length_delimited(&mut rest) {
        _ = node.apply(1, update);
        if rest.is_empty() {
            break;
        }
    }
    let mut total = Total::default();
    for pod in node.pods() {
        node.add(pod, &mut total, &|_| true);
        node.containers(pod);
    }
    node.host();
    for metric in &metric::ALL {
        if let Some(value) = (metric.value)(&total) {
            assert!(value.is_finite() && value >= 0.0, "{} is {value}", metric.name);
        }
    }
});
