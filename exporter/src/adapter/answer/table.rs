//! Lists as `kubectl get` asks for them.

use serde_json::{Value, json};

use super::{duration, quantity, resource::Item};

/// Whether a client prefers a table to the objects.
pub(super) fn is_wanted(accept: &str) -> bool {
    let first = accept.split(',').next().unwrap_or_default();
    let parameters: Vec<_> = first.split(';').map(str::trim).collect();
    parameters.contains(&"as=Table") && parameters.contains(&"g=meta.k8s.io") && parameters.contains(&"v=v1")
}

/// A table, without its rows.
pub(super) fn head() -> Value {
    let column = |name: &str, format: &str, description: &str| json!({"name": name, "type": "string", "format": format, "description": description, "priority": 0});
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": [
            column("Name", "name", "Name of the resource"),
            column("cpu", "quantity", ""),
            column("memory", "quantity", ""),
            column("Window", "duration", ""),
        ],
    })
}

/// The row of an object that has a `metadata`.
pub(super) fn row((item, usage, nanos): &Item) -> Value {
    let object = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]});
    let cells =
        json!([item["metadata"]["name"], quantity(usage.cpu), quantity(usage.memory), duration(*nanos)]);
    json!({"cells": cells, "object": object})
}
