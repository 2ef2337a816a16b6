//! What there is: `/apis` and below.

use std::collections::HashMap;

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::json as answer;
use crate::adapter::{
    ask::{CUSTOM, GROUPS, METRICS},
    metric::{Metric, Metrics},
};

/// The kinds of objects that metrics are listed for; others that have pods can be asked for too.
const LISTED: [&str; 2] = ["pods", "services"];

/// A resource, as the API lists it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// Its name; what has a slash is a part of what is before it.
    pub name: String,
    #[serde(default)]
    singular_name: String,
    namespaced: bool,
    kind: String,
    verbs: Vec<String>,
}

impl Resource {
    fn new(name: impl Into<String>, namespaced: bool, kind: &str, verbs: &[&str]) -> Self {
        let verbs = verbs.iter().map(|verb| (*verb).to_owned()).collect();
        Self { name: name.into(), singular_name: String::new(), namespaced, kind: kind.to_owned(), verbs }
    }

    /// The name of the metric, where it is one.
    pub fn metric(&self) -> &str {
        self.name.split_once('/').map_or(&self.name, |(_, metric)| metric)
    }
}

/// The resources of a group that are served here.
pub fn own(group: &str, metrics: &Metrics) -> Vec<Resource> {
    match group {
        METRICS => vec![
            Resource::new("nodes", false, "NodeMetrics", &["get", "list"]),
            Resource::new("pods", true, "PodMetrics", &["get", "list"]),
        ],
        CUSTOM => LISTED
            .iter()
            .flat_map(|of| metrics.all().iter().map(move |metric| format!("{of}/{}", metric.name)))
            .map(|name| Resource::new(name, true, "MetricValueList", &["get"]))
            .collect(),
        _ => {
            let of =
                |metric: &Metric| Resource::new(&*metric.name, true, "ExternalMetricValueList", &["get"]);
            metrics.all().iter().map(of).collect()
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
pub fn of_version(group: &str, version: &str, resources: &[Resource]) -> Response {
    let body = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"),
        "resources": resources,
    });
    answer(body.to_string())
}

/// All groups; for who prefers that, all of their resources with them, in one answer: those of a version of a group are asked for.
pub fn of_all(accept: &str, resources: &dyn Fn(&str, &str) -> Vec<Resource>) -> Response {
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
            let resources = discovered(group, version, &resources(group, version));
            json!({"version": version, "resources": resources, "freshness": "Current"})
        });
        json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions.collect::<Vec<_>>()})
    });
    let body = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items.collect::<Vec<_>>(),
    });
    ([(CONTENT_TYPE, AGGREGATED)], body.to_string()).into_response()
}

/// The same resources as [`of_version`] has.
fn discovered(group: &str, version: &str, resources: &[Resource]) -> Vec<Value> {
    let kind = |resource: &Resource| json!({"group": group, "version": version, "kind": resource.kind});
    let scope = |resource: &Resource| if resource.namespaced { "Namespaced" } else { "Cluster" };
    let (mut found, mut places) = (Vec::<Value>::new(), HashMap::new());
    for resource in resources {
        let Some((parent, part)) = resource.name.split_once('/') else {
            found.push(json!({
                "resource": resource.name, "responseKind": kind(resource), "scope": scope(resource),
                "singularResource": resource.singular_name, "verbs": resource.verbs,
            }));
            continue;
        };
        let place = *places.entry(parent).or_insert_with(|| {
            found.push(json!({
                "resource": parent, "responseKind": {"group": "", "version": "", "kind": ""}, "scope": scope(resource),
                "singularResource": "", "verbs": [], "subresources": [],
            }));
            found.len() - 1
        });
        if let Some(parts) = found[place]["subresources"].as_array_mut() {
            parts.push(json!({"subresource": part, "responseKind": kind(resource), "verbs": resource.verbs}));
        }
    }
    found
}
