//! CPU time as a part of what a container requests, and of what it may use.

use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::{
    cgroup::tree::{Tree, Workload, WorkloadId},
    snapshot::{Kind, Metric, Snapshot},
};

pub(super) static OF_LIMIT: Metric = Metric::container(
    "container_cpu_limit_utilization_ratio",
    Kind::Gauge,
    &[],
    "CPU time since a scrape at least five seconds ago, most often the one before, as a part of the limit. Only of a pod's containers that have one.",
);
pub(super) static OF_REQUEST: Metric = Metric::container(
    "container_cpu_request_utilization_ratio",
    Kind::Gauge,
    &[],
    "CPU time since a scrape at least five seconds ago, most often the one before, as a part of what is requested. Only of a pod's containers that request any.",
);

/// Over less than this a ratio says little: where two scrape one shortly after the other, both get one of the same length.
const WINDOW: Duration = Duration::from_secs(5);

/// When, and what had been consumed by then, ns.
type Sample = (Instant, i64);

/// What the containers with a request or a limit had consumed in scrapes before.
#[derive(Debug, Default)]
pub(super) struct Utilization {
    samples: FxHashMap<WorkloadId, Samples>,
}

#[derive(Debug)]
struct Samples {
    /// At least [`WINDOW`] before the last.
    reference: Option<Sample>,
    last: Sample,
    /// Cores in use, as of this scrape.
    cores: Option<f64>,
}

impl Samples {
    fn add(&mut self, now: Instant, nanos: i64) {
        if now.duration_since(self.last.0) >= WINDOW {
            (self.reference, self.last) = (Some(self.last), (now, nanos));
        }
        self.cores = self
            .reference
            .map(|(at, before)| (nanos - before).max(0) as f64 / now.duration_since(at).as_nanos() as f64);
    }
}

impl Utilization {
    /// In this scrape, a workload has consumed so much.
    pub(super) fn add(&mut self, id: WorkloadId, workload: &Workload, nanos: i64) {
        if workload.requests.cpu.or(workload.limits.cpu).is_some() {
            let now = Instant::now();
            let first = Samples { reference: None, last: (now, nanos), cores: None };
            self.samples.entry(id).or_insert(first).add(now, nanos);
        }
    }

    /// Emits the ratios.
    pub(super) fn emit(&self, tree: &Tree, out: &mut Snapshot) {
        type Most = fn(&Workload) -> Option<f64>;
        let both: [(&'static Metric, Most); 2] =
            [(&OF_LIMIT, |workload| workload.limits.cpu), (&OF_REQUEST, |workload| workload.requests.cpu)];
        for (metric, most) in both {
            let family = out.family(metric);
            for (id, samples) in &self.samples {
                let Some(workload) = tree.get(*id) else { continue };
                let most = most(workload).filter(|most| *most > 0.0);
                if let (Some(cores), Some(most)) = (samples.cores, most) {
                    family.value(&workload.labels, &[], cores / most);
                }
            }
        }
    }

    /// A workload is gone.
    pub(super) fn forget(&mut self, id: WorkloadId) {
        self.samples.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_over_five_seconds_at_least() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut samples = Samples { reference: None, last: (start, 0), cores: None };
        samples.add(after(1), 1_000_000_000);
        assert_eq!(samples.cores, None, "nothing to compare with");
        samples.add(after(10), 5_000_000_000);
        assert_eq!(samples.cores, Some(0.5));
        // Another scraper, a second later: over the same time and that second.
        samples.add(after(11), 5_500_000_000);
        assert_eq!(samples.cores, Some(0.5));
        samples.add(after(20), 15_000_000_000);
        assert_eq!(samples.cores, Some(1.0), "since the tenth second");
    }
}
