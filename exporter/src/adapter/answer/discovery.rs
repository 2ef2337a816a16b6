//! What there is: `/apis` and below.

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use super::json as answer;
use crate::adapter::{
    ask::{CUSTOM, GROUPS, METRICS},
    metric,
};

/// The kinds of objects that metrics are listed for; others that have pods can be asked for too.
const LISTED: [&str; 2] = ["pods", "services"];

/// A resource: its name, whether it is in namespaces, its kind, and what can be done with it.
struct Resource {
    name: String,
    singular: &'static str,
    namespaced: bool,
    kind: &'static str,
    verbs: &'static [&'static str],
}

fn resources(group: &str) -> Vec<Resource> {
    let read: &[&str] = &["get", "list"];
    match group {
        METRICS => vec![
            Resource {
                name: "nodes".to_owned(),
                singular: "",
                namespaced: false,
                kind: "NodeMetrics",
                verbs: read,
            },
            Resource {
                name: "pods".to_owned(),
                singular: "",
                namespaced: true,
                kind: "PodMetrics",
                verbs: read,
            },
        ],
        CUSTOM => LISTED
            .iter()
            .flat_map(|of| metric::ALL.iter().map(move |metric| format!("{of}/{}", metric.name)))
            .map(|name| Resource {
                name,
                singular: "",
                namespaced: true,
                kind: "MetricValueList",
                verbs: &["get"],
            })
            .collect(),
        _ => {
            let of = |metric: &metric::Metric| Resource {
                name: metric.name.to_owned(),
                singular: "",
                namespaced: true,
                kind: "ExternalMetricValueList",
                verbs: &["get"],
            };
            metric::ALL.iter().map(of).collect()
        }
    }
}

fn group(name: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<_> = versions.iter().map(version).collect();
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "preferredVersion": versions[0], "versions": versions})
}

/// A description of nothing: without one, every API server complains of that in its log, again and again.
pub fn description() -> Response {
    let info = json!({"title": "podmeter", "version": env!("CARGO_PKG_VERSION")});
    answer(json!({"swagger": "2.0", "info": info, "paths": {}}).to_string())
}

/// One group.
pub fn of_group(name: &str) -> Response {
    let versions = GROUPS.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, versions)| versions);
    answer(group(name, versions).to_string())
}

/// The resources of a version of a group.
pub fn of_version(group: &str, version: &str) -> Response {
    let resources = resources(group).into_iter().map(|resource| {
        json!({
            "name": resource.name, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs,
        })
    });
    let body = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"),
        "resources": resources.collect::<Vec<_>>(),
    });
    answer(body.to_string())
}

/// All groups; for who prefers that, all of their resources with them, in one answer.
pub fn of_all(accept: &str) -> Response {
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let is_wanted = |part: &str| {
        let parameters: Vec<_> = part.split(';').map(str::trim).collect();
        ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"]
            .iter()
            .all(|own| parameters.contains(own))
    };
    if !accept.split(',').next().is_some_and(is_wanted) {
        let groups: Vec<_> = GROUPS.iter().map(|(name, versions)| group(name, versions)).collect();
        return answer(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}).to_string());
    }
    let items = GROUPS.iter().map(|(group, versions)| {
        let versions = versions.iter().map(|version| {
            json!({"version": version, "resources": discovered(group, version), "freshness": "Current"})
        });
        json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions.collect::<Vec<_>>()})
    });
    let body = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items.collect::<Vec<_>>(),
    });
    ([(CONTENT_TYPE, AGGREGATED)], body.to_string()).into_response()
}

/// The same resources as [`of_version`]; what has a slash in its name is a part of what is before it.
fn discovered(group: &str, version: &str) -> Vec<Value> {
    let kind = |resource: &Resource| json!({"group": group, "version": version, "kind": resource.kind});
    let scope = |resource: &Resource| if resource.namespaced { "Namespaced" } else { "Cluster" };
    let mut found: Vec<Value> = Vec::new();
    for resource in resources(group) {
        let Some((parent, part)) = resource.name.split_once('/') else {
            found.push(json!({
                "resource": resource.name, "responseKind": kind(&resource), "scope": scope(&resource),
                "singularResource": resource.singular, "verbs": resource.verbs,
            }));
            continue;
        };
        if found.last().is_none_or(|last| last["resource"] != parent) {
            found.push(json!({
                "resource": parent, "responseKind": {"group": "", "version": "", "kind": ""}, "scope": scope(&resource),
                "singularResource": "", "verbs": [], "subresources": [],
            }));
        }
        if let Some(parts) = found.last_mut().and_then(|last| last["subresources"].as_array_mut()) {
            parts
                .push(json!({"subresource": part, "responseKind": kind(&resource), "verbs": resource.verbs}));
        }
    }
    found
}
