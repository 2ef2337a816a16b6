//! Kubernetes' objects out of what helm and kustomize print.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use serde_json::Value;

/// Objects by kind and name.
pub(crate) type Objects = BTreeMap<(String, String), Value>;

/// Reads a stream of documents.
pub(crate) fn parse(text: &str) -> Objects {
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    let documents = documents.map(|document| document.expect("YAML")).filter(|document| !document.is_null());
    let named = |object: Value| {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        ((text(&object["kind"]), text(&object["metadata"]["name"])), object)
    };
    documents.map(named).collect()
}

/// Takes these keys away, wherever they are.
pub(crate) fn without(value: &mut Value, keys: &[&str]) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !keys.contains(&key.as_str()));
            map.values_mut().for_each(|value| without(value, keys));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| without(value, keys)),
        _ => {}
    }
}

/// Where two values differ, as paths with both.
pub(crate) fn differences(left: &Value, right: &Value, at: &str, out: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<_> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                differences(&left[key], &right[key], &format!("{at}.{key}"), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, &format!("{at}[{index}]"), out);
            }
        }
        _ if left != right => out.push(format!("{at}: {left} and {right}")),
        _ => {}
    }
}
