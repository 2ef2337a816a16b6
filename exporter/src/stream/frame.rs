//! Everything that an adapter may be told, at one moment.

use std::{collections::BTreeMap, time::Instant};

use rustc_hash::FxHashMap;

use super::message::{Container, Histogram, Http, Pod, Route, Usage};
use crate::{
    backoff::random,
    cgroup::tree::Tree,
    collector::{agent::SUCCESS, block_io, cpu, http, memory, pressure},
    kube::{self, pod::ContainerKind, pods::Pods},
    snapshot::{self, Family, Metric, Snapshot, Value, pairs},
};

/// A pod as it is told, but for the numbers, which are each receiver's own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Described(pub Pod);

/// Which node this is, and which run of the agent.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node's name.
    pub node: String,
    instance: u64,
    started: Instant,
}

impl Identity {
    /// Of a run that begins now.
    pub fn new(node: String) -> Self {
        Self { node, instance: random(), started: Instant::now() }
    }
}

/// The counters of a node, read at the same moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    /// The run of the agent.
    pub instance: u64,
    /// When, since the agent's start.
    pub nanos: u64,
    /// The node's name.
    pub node: String,
    /// The whole node's.
    pub host: Usage,
    /// By uid.
    pub pods: BTreeMap<String, Described>,
    /// By the runtime's id.
    pub usages: BTreeMap<String, Usage>,
}

impl Frame {
    /// Takes from a scrape, read at `at`, what the pods of this node have used; `pods` is none outside of a cluster.
    pub fn new(
        identity: &Identity,
        at: Instant,
        snapshot: &Snapshot,
        tree: &Tree,
        pods: Option<&Pods>,
    ) -> Self {
        let this = Self {
            instance: identity.instance,
            nanos: at.duration_since(identity.started).as_nanos() as u64,
            node: identity.node.clone(),
            ..Self::default()
        };
        // Whose the samples are: they share the labels of their container.
        let mut owners = FxHashMap::default();
        let mut ids = FxHashMap::default();
        let mut usages: Vec<Usage> = vec![Usage::default()];
        for (_, workload) in tree.all().filter(|(_, workload)| !workload.is_dead()) {
            let id = workload.container_id.as_ref().filter(|_| workload.pod_uid.is_some());
            if &*workload.path == "/" {
                owners.extend(workload.labels.key().map(|key| (key, 0)));
            } else if let (Some(id), Some(key)) = (id, workload.labels.key()) {
                owners.insert(key, usages.len());
                ids.insert(id.as_str(), usages.len());
                usages.push(Usage::default());
            }
        }
        let looks_at_http = snapshot
            .families()
            .filter(|family| family.metric().name == SUCCESS.name)
            .flat_map(Family::samples)
            .any(|(_, own, value)| own.contains("\"http\"") && *value == Value::Number(1.0));
        let family = |metric: &Metric| snapshot.families().find(|family| family.metric().name == metric.name);
        let waits = family(&cpu::WAIT).is_some_and(|family| family.shared().next().is_some());
        let silence = Silence { looks_at_http, waits, active: family(http::served()[1]).is_some() };
        usages.iter_mut().for_each(|usage| *usage = silence.usage());
        for family in snapshot.families() {
            let Some(column) = column(family.metric().name) else { continue };
            for (labels, own, value) in family.shared() {
                if let Some(&owner) = labels.key().and_then(|key| owners.get(&key)) {
                    column(&mut usages[owner], own, value);
                }
            }
        }
        this.of(usages, &ids, pods.into_iter().flat_map(Pods::all))
    }

    /// With these usages, of which the first is the host's, and the others are the containers' by what `ids` says of their ids; of
    /// these pods.
    pub(crate) fn of<'a>(
        mut self,
        mut usages: Vec<Usage>,
        ids: &FxHashMap<&str, usize>,
        pods: impl Iterator<Item = &'a kube::pod::Pod>,
    ) -> Self {
        for http in usages.iter_mut().filter_map(|usage| usage.http.as_mut()) {
            http.routes.sort_by(|one, other| one.route.cmp(&other.route));
        }
        self.host = std::mem::take(&mut usages[0]);
        pods.for_each(|pod| self.describe(pod, ids, &mut usages));
        self
    }

    fn describe(&mut self, pod: &kube::pod::Pod, ids: &FxHashMap<&str, usize>, usages: &mut [Usage]) {
        let is_measured = |container: &&kube::pod::Container| {
            container.is_running && matches!(container.kind, ContainerKind::Regular | ContainerKind::Sidecar)
        };
        let containers = pod.containers.iter().filter(is_measured).map(|container| {
            let known = container.ids.iter().find_map(|id| Some((id, *ids.get(id.as_str())?)));
            if let Some((id, at)) = known {
                self.usages.insert(id.clone(), std::mem::take(&mut usages[at]));
            }
            Container {
                number: 0,
                name: container.name.clone(),
                id: known.map(|(id, _)| id.clone()).unwrap_or_default(),
                requested_cores: container.requests.cpu,
                requested_bytes: container.requests.memory,
            }
        });
        let containers = containers.collect();
        let (owner_kind, owner_name) = pod.owner.clone().unwrap_or_default();
        let described = Pod {
            number: 0,
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            labels: pod.labels.clone(),
            owner_kind,
            owner_name,
            containers,
            created: pod.created,
        };
        self.pods.insert(pod.uid.clone(), Described(described));
    }
}

/// What it says of a container that a scrape does not mention it: it has waited for nothing, or has nothing that waits; unless
/// nobody looked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    /// Whether HTTP was looked at.
    pub(crate) looks_at_http: bool,
    /// Whether waits in run queues were.
    pub(crate) waits: bool,
    /// Whether requests that wait were.
    pub(crate) active: bool,
}

impl Silence {
    /// Of such a container.
    pub(crate) fn usage(self) -> Usage {
        let http = || Http { active: self.active.then_some(0), ..Http::default() };
        Usage { queued: self.waits.then_some(0), http: self.looks_at_http.then(http), ..Usage::default() }
    }
}

/// Puts a sample where it belongs: the container's, the metric's own labels, the value.
pub(crate) type Column = fn(&mut Usage, &str, &Value);

/// Where a metric belongs; nowhere if an adapter has no use for it.
pub(crate) fn column(metric: &str) -> Option<Column> {
    columns().into_iter().find(|(name, _)| *name == metric).map(|(_, column)| column)
}

/// Every metric that an adapter has a use for, and where it belongs.
pub(crate) fn columns() -> [(&'static str, Column); 12] {
    [
        (cpu::USAGE.name, |usage, _, value| usage.cpu = nanos(value)),
        (cpu::WAIT.name, |usage, _, value| usage.queued = sum(value)),
        (cpu::PERIODS.name, |usage, _, value| usage.periods = whole(value)),
        (cpu::THROTTLED_PERIODS.name, |usage, _, value| usage.throttled_periods = whole(value)),
        (memory::WORKING_SET.name, |usage, _, value| usage.memory = whole(value)),
        (pressure::CPU_WAITING.name, |usage, _, value| usage.cpu_pressure = nanos(value)),
        (pressure::MEMORY_WAITING.name, |usage, _, value| usage.memory_pressure = nanos(value)),
        (pressure::IO_WAITING.name, |usage, _, value| usage.io_pressure = nanos(value)),
        (block_io::LATENCY.name, |usage, _, value| {
            merge(usage.block_io.get_or_insert_default(), value);
        }),
        (http::served()[0].name, requests),
        (http::served()[1].name, |usage, _, value| {
            if let Some(http) = &mut usage.http {
                http.active = whole(value);
            }
        }),
        (http::UNPARSED.name, |usage, _, value| {
            if let Some(http) = &mut usage.http {
                http.unparsed += whole(value).unwrap_or(0);
            }
        }),
    ]
}

fn requests(usage: &mut Usage, own: &str, value: &Value) {
    let (Some(http), Value::Histogram(histogram)) = (&mut usage.http, value) else { return };
    let label = |wanted: &str| pairs(own).find(|(name, _)| *name == wanted).map(|(_, value)| value);
    let Some(route) = label("http_route") else { return };
    let at = http.routes.iter().position(|known| known.route == route).unwrap_or_else(|| {
        http.routes.push(Route { route: route.into_owned(), ..Route::default() });
        http.routes.len() - 1
    });
    let known = &mut http.routes[at];
    known.requests += histogram.count;
    if label("http_response_status_code")
        .and_then(|code| code.parse::<u16>().ok())
        .is_some_and(|code| code >= 500)
    {
        known.errors += histogram.count;
    }
    merge(known.duration.get_or_insert_default(), value);
}

fn merge(into: &mut Histogram, value: &Value) {
    let Value::Histogram(snapshot::Histogram { fine: Some(fine), .. }) = value else { return };
    let mut counts = **fine;
    for (bucket, count) in into.buckets.iter().zip(&into.counts) {
        counts[*bucket as usize] += count;
    }
    *into = Histogram::new(&counts);
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => Some(*number),
        Value::Histogram(_) => None,
    }
}

fn whole(value: &Value) -> Option<u64> {
    number(value).map(|number| number as u64)
}

/// Of seconds.
fn nanos(value: &Value) -> Option<u64> {
    number(value).map(|seconds| (seconds * 1e9).round() as u64)
}

fn sum(value: &Value) -> Option<u64> {
    match value {
        Value::Histogram(histogram) => Some((histogram.sum * 1e9).round() as u64),
        Value::Number(_) => None,
    }
}
