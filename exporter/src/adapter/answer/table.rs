//! Lists as `kubectl get` asks for them.

use serde_json::{Value, json};

/// Whether a client prefers a table to the objects.
pub(super) fn is_wanted(accept: &str) -> bool {
    let first = accept.split(',').next().unwrap_or_default();
    let parameters: Vec<_> = first.split(';').map(str::trim).collect();
    parameters.contains(&"as=Table") && parameters.contains(&"g=meta.k8s.io") && parameters.contains(&"v=v1")
}

/// A table of objects that have a `metadata`, with what each uses.
pub(super) fn of(items: &[(Value, [String; 2], String)]) -> Value {
    let column = |name: &str, format: &str, description: &str| json!({"name": name, "type": "string", "format": format, "description": description, "priority": 0});
    let rows = items.iter().map(|(item, [cpu, memory], window)| {
        let object = json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]});
        json!({"cells": [item["metadata"]["name"], cpu, memory, window], "object": object})
    });
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": [
            column("Name", "name", "Name of the resource"),
            column("cpu", "quantity", ""),
            column("memory", "quantity", ""),
            column("Window", "duration", ""),
        ],
        "rows": rows.collect::<Vec<_>>(),
    })
}
