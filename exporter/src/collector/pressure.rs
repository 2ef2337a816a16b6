//! Pressure stall information of each cgroup. The kernel half is `exporter-ebpf/src/pressure.rs`.

use std::fs;

use exporter_ebpf::pressure::{PRESSURE_WALK, PRESSURES, Pressure, READ, SIGNAL};

use super::{Collector, Context, Start};
use crate::{
    cgroup::tree::{Tree, WorkloadId},
    snapshot::{Kind, Metric, Snapshot},
    walker::Walker,
};

pub(crate) static CPU_WAITING: Metric = Metric::container(
    "container_pressure_cpu_waiting_seconds_total",
    Kind::Counter,
    &[],
    "Time in which some task waited for a CPU; up to two seconds old, like all pressure.",
);
static CPU_STALLED: Metric = Metric::container(
    "container_pressure_cpu_stalled_seconds_total",
    Kind::Counter,
    &[],
    "Time in which every task waited for a CPU.",
);
pub(crate) static MEMORY_WAITING: Metric = Metric::container(
    "container_pressure_memory_waiting_seconds_total",
    Kind::Counter,
    &[],
    "Time in which some task waited for memory.",
);
static MEMORY_STALLED: Metric = Metric::container(
    "container_pressure_memory_stalled_seconds_total",
    Kind::Counter,
    &[],
    "Time in which every task waited for memory.",
);
pub(crate) static IO_WAITING: Metric = Metric::container(
    "container_pressure_io_waiting_seconds_total",
    Kind::Counter,
    &[],
    "Time in which some task waited for I/O.",
);
static IO_STALLED: Metric = Metric::container(
    "container_pressure_io_stalled_seconds_total",
    Kind::Counter,
    &[],
    "Time in which every task waited for I/O.",
);

/// The metrics of this signal.
pub static METRICS: &[&Metric] =
    &[&CPU_WAITING, &CPU_STALLED, &MEMORY_WAITING, &MEMORY_STALLED, &IO_WAITING, &IO_STALLED];

/// In the order of [`Pressure::total`]: the file, the line in it, the metric.
const STATES: [(&str, &str, &Metric); 6] = [
    ("io.pressure", "some", &IO_WAITING),
    ("io.pressure", "full", &IO_STALLED),
    ("memory.pressure", "some", &MEMORY_WAITING),
    ("memory.pressure", "full", &MEMORY_STALLED),
    ("cpu.pressure", "some", &CPU_WAITING),
    ("cpu.pressure", "full", &CPU_STALLED),
];

/// What a workload's cgroup says, microseconds as in the files; what a file lacks is missing.
type Totals = [Option<u64>; 6];

/// Builds the collector; the files say what its iterator says, so it needs no probe.
///
/// # Errors
/// Never.
pub fn new(start: &mut Start<'_>) -> anyhow::Result<Box<dyn Collector>> {
    let root = start.tree.layout().v2().map(|v2| v2.root.clone());
    let walker = root
        .filter(|_| start.probes.is_attached(READ))
        .map(|root| Walker::new(start.probes, READ, &root, PRESSURES, PRESSURE_WALK));
    let walker =
        walker.and_then(|walker| walker.inspect_err(|error| start.probes.degrade_to_files(READ, error)).ok());
    Ok(Box::new(Collect { walker }))
}

struct Collect {
    walker: Option<Walker<Pressure>>,
}

impl Collector for Collect {
    fn name(&self) -> &'static str {
        SIGNAL.name
    }

    fn collect(&mut self, context: &Context<'_>, out: &mut Snapshot) -> anyhow::Result<()> {
        let tree = context.tree;
        let totals = match &self.walker {
            Some(walker) => {
                let shown = |record: &Pressure| {
                    let id = tree.workload_at((tree.layout().v2?, record.id))?;
                    tree.is_shown(tree.get(id)?).then_some(id)
                };
                let micros = |record: Pressure| record.total.map(|nanos| Some(nanos / 1000));
                let records = walker.read(0)?;
                let mut totals: Vec<_> =
                    records.filter_map(|record| Some((shown(&record)?, micros(record)))).collect();
                // The root's are the system's, which the iterator does not have.
                totals.extend(from_files(tree, |path| path == "/"));
                totals
            }
            None => from_files(tree, |_| true),
        };
        for (at, (_, _, metric)) in STATES.into_iter().enumerate() {
            let family = out.family(metric);
            for (id, totals) in &totals {
                if let (Some(micros), Some(workload)) = (totals[at], tree.get(*id)) {
                    family.value(&workload.labels, &[], micros as f64 / 1e6);
                }
            }
        }
        Ok(())
    }
}

/// Reads the files of the shown workloads with such a path; nothing where the kernel has PSI switched off.
fn from_files(tree: &Tree, wants: impl Fn(&str) -> bool) -> Vec<(WorkloadId, Totals)> {
    let Some(v2) = tree.layout().v2() else { return Vec::new() };
    let wanted = tree.shown().filter(|(_, workload)| wants(&workload.path));
    let totals = wanted.map(|(id, workload)| {
        let directory = v2.directory(&workload.path);
        let files = ["io.pressure", "memory.pressure", "cpu.pressure"]
            .map(|name| (name, fs::read_to_string(directory.join(name)).unwrap_or_default()));
        let text = |wanted: &str| files.iter().find(|(name, _)| *name == wanted).map_or("", |(_, text)| text);
        (id, STATES.map(|(file, kind, _)| total(text(file), kind)))
    });
    totals.collect()
}

/// The `total` of a line `some avg10=… avg60=… avg300=… total=MICROSECONDS`.
pub fn total(text: &str, kind: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
    line.rsplit_once("total=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_totals() {
        let text = "some avg10=1.99 avg60=0.37 avg300=0.59 total=9285880\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";
        assert_eq!(total(text, "some"), Some(9_285_880));
        assert_eq!(total(text, "full"), Some(12));
        assert_eq!(total("some avg10=1.99", "some"), None);
        assert_eq!(total("", "full"), None);
    }
}
