//! Pressure stall information of each cgroup. The kernel half is `exporter-ebpf/src/pressure.rs`.

use std::{fs, path::Path};

use exporter_ebpf::pressure::{PRESSURE_WALK, PRESSURES, Pressure, READ, SIGNAL};

use super::{Collector, Context, Start};
use crate::{
    cgroup::tree::{Tree, WorkloadId},
    probes::Probes,
    snapshot::{Kind, Metric, Snapshot},
    sys::{IterLink, MappedArray},
};

macro_rules! metric {
    ($id:ident, $name:literal, $help:literal) => {
        static $id: Metric =
            Metric { name: $name, kind: Kind::Counter, help: $help, labels: &[], per_container: true };
    };
}

metric!(
    CPU_WAITING,
    "container_pressure_cpu_waiting_seconds_total",
    "Time in which some task waited for a CPU; up to two seconds old, like all pressure."
);
metric!(
    CPU_STALLED,
    "container_pressure_cpu_stalled_seconds_total",
    "Time in which every task waited for a CPU."
);
metric!(
    MEMORY_WAITING,
    "container_pressure_memory_waiting_seconds_total",
    "Time in which some task waited for memory."
);
metric!(
    MEMORY_STALLED,
    "container_pressure_memory_stalled_seconds_total",
    "Time in which every task waited for memory."
);
metric!(IO_WAITING, "container_pressure_io_waiting_seconds_total", "Time in which some task waited for I/O.");
metric!(
    IO_STALLED,
    "container_pressure_io_stalled_seconds_total",
    "Time in which every task waited for I/O."
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
    let walker = root.filter(|_| start.probes.is_attached(READ)).map(|root| Walker::new(start.probes, &root));
    let walker =
        walker.and_then(|walker| walker.inspect_err(|error| start.probes.degrade_to_files(READ, error)).ok());
    Ok(Box::new(Collect { walker }))
}

struct Collect {
    walker: Option<Walker>,
}

/// Reads the totals of all cgroups in one go.
struct Walker {
    link: IterLink,
    records: MappedArray<Pressure>,
    next: MappedArray<u64>,
}

impl Walker {
    fn new(probes: &Probes, root: &Path) -> anyhow::Result<Self> {
        let link = probes.iter_cgroup(READ, root)?;
        Ok(Self { link, records: probes.array(PRESSURES)?, next: probes.array(PRESSURE_WALK)? })
    }

    fn read(&self, tree: &Tree) -> anyhow::Result<Vec<(WorkloadId, Totals)>> {
        let Some(v2) = tree.layout().v2 else { return Ok(Vec::new()) };
        self.next.set(0, 0);
        self.link.walk()?;
        let count = self.next.get(0).unwrap_or(0);
        anyhow::ensure!(count <= u64::from(self.records.len()), "{count} cgroups: raise --max-cgroups");
        let records = (0..count as u32).filter_map(|at| self.records.get(at));
        let totals = records.filter_map(|record| {
            let id = tree.workload_at((v2, record.id))?;
            let shown = tree.get(id).is_some_and(|workload| tree.is_shown(workload));
            shown.then(|| (id, record.total.map(|nanos| Some(nanos / 1000))))
        });
        Ok(totals.collect())
    }
}

impl Collector for Collect {
    fn name(&self) -> &'static str {
        SIGNAL.name
    }

    fn collect(&mut self, context: &Context<'_>, out: &mut Snapshot) -> anyhow::Result<()> {
        let tree = context.tree;
        let totals = match &self.walker {
            Some(walker) => {
                let mut totals = walker.read(tree)?;
                // The root's are the system's, which the iterator does not have.
                totals.extend(from_files(tree, |path| path == "/"));
                totals
            }
            None => from_files(tree, |_| true),
        };
        for (at, (_, _, metric)) in STATES.into_iter().enumerate() {
            let mut family = out.family(metric);
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
fn total(text: &str, kind: &str) -> Option<u64> {
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
