//! `metrics.k8s.io`: CPU and memory of pods and nodes.

use std::collections::BTreeMap;

use axum::response::Response;
use serde_json::{Value, json};

use super::{date, duration, is_quantity, json as answer, list, table};
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

/// What containers use together, as far as Kubernetes can be told.
#[derive(Clone, Copy, Default)]
pub(super) struct Usage {
    /// Cores.
    pub(super) cpu: f64,
    /// The working set, bytes.
    pub(super) memory: f64,
}

impl Usage {
    /// None unless both are known.
    fn of(total: &Total) -> Option<Self> {
        let (cpu, memory) = (total.cpu()?, total.memory()?);
        (is_quantity(cpu) && is_quantity(memory)).then_some(Self { cpu, memory })
    }

    /// CPU in nanocores and memory in kibibytes, as metrics-server has them.
    fn json(self) -> Value {
        let memory = self.memory as u64;
        let memory =
            if memory.is_multiple_of(1024) { format!("{}Ki", memory / 1024) } else { memory.to_string() };
        json!({"cpu": format!("{}n", (self.cpu * 1e9).round() as u64), "memory": memory})
    }
}

fn times(object: &mut Value, moment: &Moment) {
    object["metadata"]["creationTimestamp"] = date(moment.date).into();
    object["timestamp"] = date(moment.date).into();
    object["window"] = duration(moment.nanos).into();
}

/// An object, and for a table its sum, and its window in nanoseconds.
pub(super) type Item = (Value, Usage, u64);

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
            let usages = containers.into_iter().map(|(name, total)| Some((name, Usage::of(&total)?)));
            Some((nanos, usages.collect::<Option<Box<[_]>>>()?))
        },
    );
    let items = readings.into_iter().map(|reading| {
        let (about, moment) = (&reading.about, &reading.moment);
        let containers =
            reading.used.iter().map(|(name, usage)| json!({"name": &**name, "usage": usage.json()}));
        let mut pod = json!({
            "metadata": {"name": about.name, "namespace": about.namespace, "labels": about.labels},
            "containers": containers.collect::<Vec<_>>(),
        });
        times(&mut pod, moment);
        let sum = reading.used.iter().fold(Usage::default(), |sum, (_, usage)| Usage {
            cpu: sum.cpu + usage.cpu,
            memory: sum.memory + usage.memory,
        });
        (pod, sum, moment.nanos)
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
    let known = found.into_iter().filter_map(|(node, moment, total)| {
        let usage = Usage::of(&total)?;
        let mut object = json!({"metadata": {"name": &*node, "labels": of(&node)}, "usage": usage.json()});
        times(&mut object, &moment);
        Some((object, usage, moment.nanos))
    });
    let items: Vec<_> = known.collect();
    respond(items.into_iter(), "NodeMetrics", name.map(str::to_owned), "nodemetrics", accept)
}

fn respond(
    items: impl Iterator<Item = Item> + Send + 'static,
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
        return Ok(list(&table::head(), "rows", items.map(|item| table::row(&item))));
    }
    let mut items = items.map(|(object, ..)| object);
    Ok(match name {
        Some(_) => {
            let mut object = items.next().unwrap_or_default();
            (object["kind"], object["apiVersion"]) = (kind.into(), VERSION.into());
            answer(object.to_string())
        }
        None => {
            let head = json!({"kind": format!("{kind}List"), "apiVersion": VERSION, "metadata": {}});
            list(&head, "items", items)
        }
    })
}
