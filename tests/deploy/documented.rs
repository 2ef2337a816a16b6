//! The metrics that METRICS.md documents, which are those that the collectors declare.

use std::collections::BTreeMap;

use crate::read;

/// Each metric's type.
pub(crate) fn metrics() -> BTreeMap<String, String> {
    let text = read("METRICS.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let metrics: BTreeMap<_, _> = rows
        .map(|(name, rest)| (name.to_owned(), rest.split(' ').next().unwrap_or_default().to_owned()))
        .collect();
    assert!(metrics.len() > 50, "METRICS.md has tables: {metrics:?}");
    metrics
}

/// The metric that a series belongs to: a histogram has three kinds of them.
pub(crate) fn base<'a>(name: &'a str, metrics: &BTreeMap<String, String>) -> Option<&'a str> {
    if metrics.contains_key(name) {
        return Some(name);
    }
    let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix))?;
    (metrics.get(base)? == "histogram").then_some(base)
}

/// The words of an expression that look like one of our metrics.
pub(crate) fn mentioned(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && !"_:".contains(char));
    words.filter(|word| {
        let ours = ["container_", "http_server_", "http_client_", "podmeter_"];
        // A recording rule has a level in front; the metric in its middle has a word of its own in the rule's expression.
        ours.iter().any(|start| word.starts_with(start)) && !word.contains(':') && *word != "container_id"
    })
}
