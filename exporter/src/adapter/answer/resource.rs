//! `metrics.k8s.io`: CPU and memory of pods and nodes.

use std::collections::BTreeMap;

use axum::response::Response;
use serde_json::{Value, json};

use super::{date, duration, json as answer, list, quantity, table};
use crate::adapter::{
    ask::{Ask, METRICS},
    labels::Labels,
    node::Moment,
    refusal::Refusal,
    store::Store,
    total::Total,
};

/// The labels of nodes, by name, as far as the cluster has told.
pub type NodeLabels = BTreeMap<String, Labels>;

/// CPU in nanocores and memory in kibibytes, as metrics-server has them; none unless both are known.
fn usage(total: &Total) -> Option<[String; 2]> {
    let (cpu, memory) = (total.cpu()?, total.memory()? as u64);
    let memory = if memory % 1024 == 0 { format!("{}Ki", memory / 1024) } else { memory.to_string() };
    Some([format!("{}n", (cpu * 1e9).round() as u64), memory])
}

fn json_of([cpu, memory]: &[String; 2]) -> Value {
    json!({"cpu": cpu, "memory": memory})
}

fn times(object: &mut Value, moment: &Moment) {
    object["metadata"]["creationTimestamp"] = date(moment.date).into();
    object["timestamp"] = date(moment.date).into();
    object["window"] = duration(moment.nanos).into();
}

/// An object, its sums for a table, and its window.
type Item = (Value, [String; 2], String);

/// Pods: of a namespace, or of all; with a name, just that.
///
/// # Errors
/// When there is none of that name.
pub fn pods(
    store: &Store,
    ask: &Ask,
    namespace: Option<&str>,
    name: Option<&str>,
    accept: &str,
) -> Result<Response, Refusal> {
    let readings = store.pods(
        namespace,
        |about| {
            name.is_none_or(|name| about.name == name)
                && ask.labels.matches(&about.labels)
                && ask.fields.matches(&about.namespace, &about.name)
        },
        |node, pod| {
            let containers = node.containers(pod)?;
            let nanos = containers.iter().map(|(_, total)| total.nanos).max()?;
            let usages = containers.iter().map(|(name, total)| Some((name.clone(), usage(total)?)));
            let usages = usages.collect::<Option<Vec<_>>>()?;
            let sum = |of: fn(&Total) -> Option<f64>| {
                containers.iter().filter_map(|(_, total)| of(total)).sum::<f64>()
            };
            let sums = [quantity(sum(Total::cpu))?, quantity(sum(Total::memory))?];
            Some((nanos, (usages, sums)))
        },
    );
    let items = readings.into_iter().map(|reading| {
        let (usages, sums) = reading.used;
        let about = &reading.about;
        let containers: Vec<_> =
            usages.iter().map(|(name, usage)| json!({"name": &**name, "usage": json_of(usage)})).collect();
        let mut pod = json!({
            "metadata": {"name": about.name, "namespace": about.namespace, "labels": about.labels},
            "containers": containers,
        });
        times(&mut pod, &reading.moment);
        (pod, sums, duration(reading.moment.nanos))
    });
    let full = || format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
    respond(items, "PodMetrics", name.map(|_| full()), "podmetrics", accept)
}

/// Nodes; with a name, just that.
///
/// # Errors
/// When there is none of that name.
pub fn nodes(
    store: &Store,
    labels: &NodeLabels,
    ask: &Ask,
    name: Option<&str>,
    accept: &str,
) -> Result<Response, Refusal> {
    let none = Labels::default();
    let of = |node: &str| labels.get(node).unwrap_or(&none);
    let found = store.nodes(|node| {
        name.is_none_or(|name| node == name) && ask.labels.matches(of(node)) && ask.fields.matches("", node)
    });
    let items = found.into_iter().filter_map(|(node, moment, total)| {
        let sums = [quantity(total.cpu()?)?, quantity(total.memory()?)?];
        let mut object =
            json!({"metadata": {"name": &*node, "labels": of(&node)}, "usage": json_of(&usage(&total)?)});
        times(&mut object, &moment);
        Some((object, sums, duration(moment.nanos)))
    });
    respond(items, "NodeMetrics", name.map(str::to_owned), "nodemetrics", accept)
}

fn respond(
    items: impl Iterator<Item = Item>,
    kind: &str,
    name: Option<String>,
    plural: &str,
    accept: &str,
) -> Result<Response, Refusal> {
    const VERSION: &str = "metrics.k8s.io/v1beta1";
    let mut items = items.peekable();
    if let Some(name) = &name
        && items.peek().is_none()
    {
        return Err(Refusal::no_object(METRICS, plural, name));
    }
    if table::is_wanted(accept) {
        return Ok(answer(table::of(&items.collect::<Vec<_>>()).to_string()));
    }
    let mut items = items.map(|(object, ..)| object);
    Ok(answer(match name {
        Some(_) => {
            let mut object = items.next().unwrap_or_default();
            (object["kind"], object["apiVersion"]) = (kind.into(), VERSION.into());
            object.to_string()
        }
        None => list(json!({"kind": format!("{kind}List"), "apiVersion": VERSION, "metadata": {}}), items),
    }))
}
