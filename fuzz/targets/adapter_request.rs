//! What anyone may send to the adapter: a path with a query, of which selectors are a part.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use podmeter::adapter::{
    ask::Ask,
    labels::Labels,
    metric::slug,
    selector::{Fields, Selector},
};

fuzz_target!(|text: &str| {
    if let Ok(ask) = Ask::of(text) {
        ask.attributes();
        ask.labels.matches(&Labels::from(BTreeMap::from([("app".to_owned(), "web".to_owned())])));
        ask.fields.matches("shop", "web-1");
    }
    if let Ok(selector) = Selector::parse(text) {
        selector.matches(&Labels::default());
        selector.json();
    }
    _ = Fields::parse(text);
    let selected = Selector::parse(&format!("route={}", slug(text)));
    assert!(selected.is_ok(), "every route can be selected");
});
