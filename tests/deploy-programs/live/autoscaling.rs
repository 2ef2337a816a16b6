//! The queries that prometheus-adapter and KEDA would make have an answer for a pod at work.

use std::fs;

use serde_json::Value;

use super::operator::Cluster;
use crate::path;

fn yaml(name: &str) -> Value {
    let text = fs::read_to_string(path("deploy/autoscaling").join(name)).expect("ours");
    serde_yaml_ng::from_str(&text).expect("YAML")
}

/// A query of the adapter's for these pods, as its templates say.
fn adapted(template: &Value, group: &str, matchers: &str) -> String {
    template.as_str().expect("a query").replace("<<.GroupBy>>", group).replace("<<.LabelMatchers>>", matchers)
}

#[test]
fn every_query_has_an_answer() {
    let cluster = Cluster::new("keep", None);
    let values = yaml("prometheus-adapter.yaml");
    let rules = &values["rules"];
    let (group, pods) = ("namespace,pod", "namespace=\"shop\",pod=~\"web-0|other\"");
    let mut queries = Vec::new();
    for rule in rules["custom"].as_array().expect("rules") {
        // How it finds that there is such a metric.
        queries.push(rule["seriesQuery"].as_str().expect("a query").to_owned());
        queries.push(adapted(&rule["metricsQuery"], group, pods));
    }
    for resource in ["cpu", "memory"] {
        queries.push(adapted(
            &rules["resource"][resource]["containerQuery"],
            "namespace,pod,container",
            pods,
        ));
        queries.push(adapted(&rules["resource"][resource]["nodeQuery"], "node", "node=\"node-1\""));
    }
    for trigger in yaml("keda-scaledobject.yaml")["spec"]["triggers"].as_array().expect("triggers") {
        let query = trigger["metadata"]["query"].as_str().expect("a query");
        // The example's service is another than the one that is at work here.
        queries.push(query.replace("container=\"checkout\"", "container=\"web\""));
    }
    assert!(queries.len() > 12, "{queries:?}");
    for query in queries {
        let found = cluster.prometheus.wait_for(&query);
        assert!(found.iter().all(|(_, value)| value.is_finite() && *value >= 0.0), "{query}: {found:?}");
    }
}
