//! How much of what connections carried could be parsed, and why the rest could not.

use std::collections::{BTreeMap, HashMap};

use exporter_ebpf::http::coverage::{COVERAGE, Coverage, Reason};

use crate::{
    cgroup::tree::{Released, WorkloadId},
    collector::Context,
    probes::Probes,
    snapshot::{Kind, Metric, Snapshot},
    sys::MappedArray,
};

pub(super) static SEEN: Metric = Metric::container(
    "podmeter_http_coverage_seen_bytes_total",
    Kind::Counter,
    &[],
    "Payload of TCP connections that the HTTP programs saw.",
);
pub(super) static PARSED: Metric = Metric::container(
    "podmeter_http_coverage_parsed_bytes_total",
    Kind::Counter,
    &[],
    "What of it was HTTP/1 that was followed from its first byte to its last.",
);
pub(crate) static UNPARSED: Metric = Metric::container(
    "podmeter_http_coverage_unparsed_bytes_total",
    Kind::Counter,
    &["reason"],
    "What of it was not: other protocols (tls, http2, unknown), connections that became something else (upgraded) or had too many requests outstanding (pipeline), and HTTP whose beginning was not seen (unmatched).",
);

/// Nothing carried.
const UNCOVERED: Coverage = Coverage { parsed: 0, unparsed: [0; Reason::ALL.len()] };

fn add(sum: &mut Coverage, coverage: &Coverage) {
    sum.parsed += coverage.parsed;
    for (sum, bytes) in sum.unparsed.iter_mut().zip(coverage.unparsed) {
        *sum += bytes;
    }
}

/// The kernel's accounts, by slot.
pub(super) struct Accounts {
    own: MappedArray<Coverage>,
    /// What cgroups that are gone had carried, by the workload that goes on.
    retained: HashMap<WorkloadId, Coverage>,
}

impl Accounts {
    pub(super) fn new(probes: &Probes) -> anyhow::Result<Self> {
        Ok(Self { own: probes.array(COVERAGE)?, retained: HashMap::new() })
    }

    /// A cgroup is gone: what it had carried goes to its workload, if that goes on.
    pub(super) fn release(&mut self, released: &Released, slot: Option<u32>) {
        if !released.survives {
            self.retained.remove(&released.workload);
        }
        let Some((slot, coverage)) = slot.and_then(|slot| Some((slot, self.own.get(slot)?))) else { return };
        if released.survives && coverage != UNCOVERED {
            add(self.retained.entry(released.workload).or_insert(UNCOVERED), &coverage);
        }
        self.own.set(slot, UNCOVERED);
    }

    pub(super) fn emit(&self, context: &Context<'_>, out: &mut Snapshot) {
        let retained = self.retained.iter().map(|(workload, coverage)| (*workload, *coverage));
        let mut sums: BTreeMap<WorkloadId, Coverage> = retained.collect();
        for (slot, owner) in context.owners.iter().enumerate() {
            let (Some(owner), Some(coverage)) = (owner, self.own.get(slot as u32)) else { continue };
            if coverage != UNCOVERED {
                add(sums.entry(*owner).or_insert(UNCOVERED), &coverage);
            }
        }
        let of = |id: &WorkloadId| context.tree.get(*id).map(|workload| &workload.labels);
        let shown: Vec<_> = sums.iter().filter_map(|(id, coverage)| Some((of(id)?, coverage))).collect();
        let family = out.family(&SEEN);
        for (labels, coverage) in &shown {
            let seen = coverage.parsed + coverage.unparsed.iter().sum::<u64>();
            family.value(labels, &[], seen as f64);
        }
        let family = out.family(&PARSED);
        for (labels, coverage) in &shown {
            family.value(labels, &[], coverage.parsed as f64);
        }
        let family = out.family(&UNPARSED);
        for (labels, coverage) in &shown {
            for (reason, bytes) in Reason::ALL.iter().zip(coverage.unparsed).filter(|(_, bytes)| *bytes > 0) {
                family.value(labels, &[reason.name()], bytes as f64);
            }
        }
    }
}
