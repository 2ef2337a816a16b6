//! One scrape of one agent, put together again from the samples that bear its moment.

use std::collections::{BTreeMap, HashMap};

use rustc_hash::FxHashMap;

use super::answer::Series;
use crate::{
    collector::{agent::SUCCESS, cpu, http},
    kube::pod::Pod,
    snapshot::{Histogram, Labels, Value},
    stream::frame::{Frame, Silence, column},
};

/// What a histogram is called by its parts, where Prometheus has it as those: of a native one there are none.
const PARTS: [&str; 2] = ["_sum", "_count"];

/// The pods of the cluster.
#[derive(Debug, Default)]
pub(super) struct PodsById {
    /// By their uids.
    pods: HashMap<String, Pod>,
    /// The uids, by the ids of the containers.
    uids: HashMap<String, String>,
    are_known: bool,
}

impl PodsById {
    /// Whether the cluster has told of them.
    pub(super) fn are_known(&self) -> bool {
        self.are_known
    }

    /// These are all.
    pub(super) fn all(&mut self, pods: impl Iterator<Item = Pod>) {
        *self = Self { are_known: true, ..Self::default() };
        pods.for_each(|pod| self.set(pod));
    }

    /// It is new, or has changed.
    pub(super) fn set(&mut self, pod: Pod) {
        self.remove(&pod.uid);
        let ids = pod.containers.iter().flat_map(|container| &container.ids);
        self.uids.extend(ids.map(|id| (id.clone(), pod.uid.clone())));
        self.pods.insert(pod.uid.clone(), pod);
    }

    /// It is gone.
    pub(super) fn remove(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        pod.containers.iter().flat_map(|container| &container.ids).for_each(|id| _ = self.uids.remove(id));
    }

    fn of(&self, id: &str) -> Option<&Pod> {
        self.pods.get(self.uids.get(id)?)
    }
}

/// The samples of a scrape.
#[derive(Debug, Default)]
pub(super) struct Scrape<'a>(Vec<(&'a Series, Value)>);

impl<'a> Scrape<'a> {
    /// Adds one.
    pub(super) fn add(&mut self, series: &'a Series, value: Value) {
        self.0.push((series, value));
    }

    /// What the agent would have told of it, as the `instance` of its target, `millis` after 1970; none if it is of no agent of ours,
    /// or does not say of which node.
    pub(super) fn frame(self, instance: u64, millis: u64, pods: &PodsById) -> Option<Frame> {
        let has = |metric: &str| self.0.iter().any(|(series, _)| base(series.label("__name__")) == metric);
        if !has(SUCCESS.name) {
            return None;
        }
        let is_native = |metric: &str| {
            self.0.iter().any(|(series, value)| {
                series.label("__name__") == metric && matches!(value, Value::Histogram(_))
            })
        };
        let (waits, requests) = (cpu::WAIT.name, http::served()[0].name);
        let native = [waits, requests].map(|metric| (metric, is_native(metric)));
        let silence = Silence {
            looks_at_http: self.0.iter().any(|(series, value)| {
                series.label("__name__") == SUCCESS.name
                    && series.label("collector") == "http"
                    && *value == Value::Number(1.0)
            }),
            waits: has(waits),
            active: has(http::served()[1].name),
        };
        let node = self.0.iter().map(|(series, _)| series.label("node")).find(|node| !node.is_empty())?;
        let frame = Frame { instance, nanos: millis * 1_000_000, node: node.to_owned(), ..Frame::default() };
        let mut ids: FxHashMap<&str, usize> = FxHashMap::default();
        let mut usages = vec![silence.usage()];
        for (series, value) in &self.0 {
            let name = series.label("__name__");
            let metric = base(name);
            // Its parts beside a native histogram say the same.
            if name != metric && native.contains(&(metric, true)) {
                continue;
            }
            let Some(column) = column(metric) else { continue };
            let owner = if series.label("id") == "/" {
                0
            } else if series.label("pod").is_empty() || series.label("container").is_empty() {
                continue;
            } else {
                *ids.entry(series.label("name")).or_insert_with(|| {
                    usages.push(silence.usage());
                    usages.len() - 1
                })
            };
            let own: Vec<_> = ["http_route", "http_response_status_code"]
                .into_iter()
                .map(|label| (label, series.label(label)))
                .filter(|(_, value)| !value.is_empty())
                .collect();
            column(&mut usages[owner], Labels::new(&own).as_str(), &whole(name, value));
        }
        // Once each, however many containers it has.
        let known = ids.keys().filter_map(|id| pods.of(id)).map(|pod| (&pod.uid, pod));
        let known: BTreeMap<_, _> = known.collect();
        Some(frame.of(usages, &ids, known.into_values()))
    }
}

/// The name of the histogram that a part belongs to.
fn base(name: &str) -> &str {
    PARTS.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name)
}

/// The part of a histogram, as one of which no more is known.
fn whole(name: &str, value: &Value) -> Value {
    match value {
        Value::Number(sum) if name.ends_with(PARTS[0]) => {
            Value::Histogram(Histogram { sum: *sum, ..Histogram::default() })
        }
        Value::Number(count) if name.ends_with(PARTS[1]) => {
            Value::Histogram(Histogram { count: *count as u64, ..Histogram::default() })
        }
        value => value.clone(),
    }
}
