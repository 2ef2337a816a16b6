//! A pod: what its agent tells of it, what the API server says of it, and what the autoscaler is to make of both.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, SystemTime},
};

use podmeter::{
    adapter::answer::date,
    stream::message::{self, Usage},
};
use podmeter_tests::random::Random;
use serde_json::{Value, json};

use crate::{
    container::{Container, LAST, TIMES, Traffic, divided},
    formula::Standing,
};

/// How many agents there are.
pub(crate) const AGENTS: u16 = 6;
/// From which of them on they are silent in the end.
pub(crate) const SILENT: u16 = 4;
/// The agent that starts anew, and at which time.
pub(crate) const RESTARTED: (u16, usize) = (3, 3);

/// What is measured of a pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Measure {
    Cpu,
    Memory,
    /// Per second, on a route or on all.
    Requests(Option<usize>),
    Active,
}

/// Of a pod's life, what the API server has. Times are seconds ago.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) phase: &'static str,
    pub(crate) started: Option<u64>,
    /// Whether it is ready, and since when it is so.
    pub(crate) ready: Option<(bool, u64)>,
    pub(crate) is_deleted: bool,
}

/// A pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) containers: Vec<Container>,
    uid: String,
    /// Which agent tells of it, and at which times; none does if nobody does.
    pub(crate) told: Option<(u16, Range<usize>)>,
    /// None if the API server has no such pod.
    pub(crate) status: Option<Status>,
    /// Whether there is a newer pod of this name.
    pub(crate) is_replaced: bool,
}

impl Pod {
    /// A pod that runs, is ready, and is told of by an agent that goes on.
    pub(crate) fn new(
        random: &mut Random,
        namespace: &str,
        name: &str,
        app: &str,
        containers: Vec<Container>,
    ) -> Self {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let tier = random.pick(&["front", "back"]);
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: BTreeMap::from([label("app", app), label("tier", tier)]),
            containers,
            uid: format!("{:016x}", random.word()),
            told: Some((random.below(usize::from(SILENT)) as u16, 0..TIMES.len())),
            status: Some(Status {
                phase: "Running",
                started: Some(3600),
                ready: Some((true, 3500)),
                is_deleted: false,
            }),
            is_replaced: false,
        }
    }

    /// Another pod of the same name, on another node.
    pub(crate) fn again(&self, random: &mut Random) -> Self {
        Self { uid: format!("{:016x}", random.word()), ..self.clone() }
    }

    /// Up to which time nothing is known of it any more that came before; none if nothing is in the end.
    fn from(&self) -> Option<usize> {
        let (agent, times) = self.told.as_ref()?;
        let from = if *agent == RESTARTED.0 { times.start.max(RESTARTED.1) } else { times.start };
        let is_told = *agent < SILENT && times.contains(&LAST) && !self.is_replaced;
        let is_whole = !self.containers.is_empty()
            && self.containers.iter().all(|container| container.is_found && container.window(from) > 0);
        (is_told && is_whole).then_some(from)
    }

    /// Its window, seconds: the longest of its containers'.
    pub(crate) fn window(&self) -> Option<u64> {
        let from = self.from()?;
        self.containers.iter().map(|container| container.window(from)).max()
    }

    /// What each container is measured to use: nanocores and bytes.
    pub(crate) fn usages(&self) -> Option<BTreeMap<&'static str, (i64, i64)>> {
        let from = self.from()?;
        let of = |own: &Container| (own.name, (own.nanocores(from), own.memory()));
        Some(self.containers.iter().map(of).collect())
    }

    /// What it, or one container of it, is measured to use, in parts of a thousand.
    pub(crate) fn used(&self, measure: Measure, container: Option<&str>) -> Option<i64> {
        let from = self.from()?;
        let own = self.containers.iter().filter(|own| container.is_none_or(|name| own.name == name));
        match measure {
            Measure::Cpu => Some(own.map(|own| own.millicores(from)).sum()),
            Measure::Memory => Some(own.map(|own| own.memory() * 1000).sum()),
            Measure::Requests(_) | Measure::Active => requests([self].into_iter(), measure),
        }
    }

    /// What it requests, in parts of a thousand; none if a container requests none.
    pub(crate) fn request(&self, measure: Measure, container: Option<&str>) -> Option<i64> {
        let own = self.containers.iter().filter(|own| container.is_none_or(|name| own.name == name));
        own.map(|own| if measure == Measure::Memory { own.bytes } else { own.cores }).sum()
    }

    /// Whether it is ready to serve.
    pub(crate) fn is_ready(&self) -> bool {
        self.status.as_ref().is_some_and(|status| {
            status.phase == "Running" && status.ready.is_some_and(|(is_ready, _)| is_ready)
        })
    }

    /// What it is to the algorithm. CPU that a pod uses while it starts says nothing of its load: none counts that was measured
    /// before it was ready for a window, within five minutes of its start, nor any of a pod that was never ready, which is one whose
    /// readiness has changed within thirty seconds of its start, or never.
    pub(crate) fn standing(&self, measure: Measure) -> Standing {
        let Some(status) = &self.status else { return Standing::Ignored };
        if status.is_deleted || status.phase == "Failed" {
            return Standing::Ignored;
        }
        if status.phase == "Pending" {
            return Standing::NotYetReady;
        }
        let (Measure::Cpu, Some(window)) = (measure, self.window()) else { return Standing::Counts };
        let is_set_aside = match (status.started, status.ready) {
            (Some(started), Some((is_ready, changed))) if started < 300 => !is_ready || changed < window,
            (Some(started), Some((is_ready, changed))) => !is_ready && changed + 30 > started,
            _ => true,
        };
        if is_set_aside { Standing::NotYetReady } else { Standing::Counts }
    }

    /// As an agent tells of it at a time, with what its containers have used.
    pub(crate) fn tell(&self, agent: u16, at: usize) -> Option<(message::Pod, Vec<(String, Usage)>)> {
        self.told.as_ref().filter(|(own, times)| *own == agent && times.contains(&at))?;
        let pod = message::Pod {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            labels: self.labels.clone(),
            owner_kind: "Deployment".to_owned(),
            owner_name: self.labels["app"].clone(),
            containers: self.containers.iter().map(|own| own.described(at)).collect(),
            ..message::Pod::default()
        };
        let found = self.containers.iter().filter(|own| own.is_found);
        Some((pod, found.map(|own| own.usage(at)).collect()))
    }

    /// As the API server has it now.
    pub(crate) fn object(&self) -> Option<Value> {
        let Status { phase, started, ready, is_deleted } = self.status.as_ref()?;
        let ago = |seconds: u64| date(SystemTime::now() - Duration::from_secs(seconds));
        let containers: Vec<_> = self.containers.iter().map(Container::spec).collect();
        let mut object = json!({
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": self.labels},
            "spec": {"containers": containers}, "status": {"phase": phase},
        });
        if *is_deleted {
            object["metadata"]["deletionTimestamp"] = ago(3).into();
        }
        if let Some(started) = started {
            object["status"]["startTime"] = ago(*started).into();
        }
        if let Some((is_ready, changed)) = ready {
            let status = if *is_ready { "True" } else { "False" };
            object["status"]["conditions"] =
                json!([{"type": "Ready", "status": status, "lastTransitionTime": ago(*changed)}]);
        }
        Some(object)
    }
}

/// Of the requests of pods together, in parts of a thousand. None where none was seen, and there may have been some.
pub(crate) fn requests<'a>(pods: impl Iterator<Item = &'a Pod>, measure: Measure) -> Option<i64> {
    let known = pods.filter_map(|pod| Some((pod, pod.from()?)));
    let own: Vec<_> =
        known.flat_map(|(pod, from)| pod.containers.iter().map(move |own| (own, from))).collect();
    let has = |traffic| own.iter().any(|(own, _)| own.traffic == traffic);
    let seen = own.iter().filter(|(own, _)| own.traffic == Traffic::Requests);
    let sum: i64 = match measure {
        Measure::Requests(route) => seen.map(|(own, from)| own.requests(*from, route)).sum(),
        _ => seen.map(|(own, _)| own.active() * 30_000).sum(),
    };
    let is_known = has(Traffic::Requests) || (has(Traffic::None) && !has(Traffic::Unreadable));
    is_known.then(|| divided(sum, 30))
}
