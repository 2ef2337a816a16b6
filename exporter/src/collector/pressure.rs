//! Pressure stall information of each cgroup, from its `*.pressure` files (cgroup v2, 4.20+). The kernel keeps it.

use std::fs;

use super::Context;
use crate::{
    cgroup::tree::Workload,
    snapshot::{Kind, Metric, Snapshot},
};

macro_rules! metric {
    ($id:ident, $name:literal, $help:literal) => {
        pub(super) static $id: Metric =
            Metric { name: $name, kind: Kind::Counter, help: $help, labels: &[], per_container: true };
    };
}

metric!(
    CPU_WAITING,
    "container_pressure_cpu_waiting_seconds_total",
    "Time in which some task waited for a CPU."
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

const RESOURCES: [(&str, &Metric, &Metric); 3] = [
    ("cpu.pressure", &CPU_WAITING, &CPU_STALLED),
    ("memory.pressure", &MEMORY_WAITING, &MEMORY_STALLED),
    ("io.pressure", &IO_WAITING, &IO_STALLED),
];

/// Emits the pressure of every shown workload that is on cgroup v2; nothing where the kernel has PSI switched off.
pub fn collect(context: &Context<'_>, out: &mut Snapshot) {
    let Some(v2) = context.tree.layout().v2() else { return };
    let shown: Vec<&Workload> = context.tree.shown().map(|(_, workload)| workload).collect();
    for (file, waiting, stalled) in RESOURCES {
        let read = shown.iter().filter_map(|workload| {
            let text = fs::read_to_string(v2.directory(&workload.path).join(file)).ok()?;
            Some((workload, text))
        });
        let read: Vec<_> = read.collect();
        for (metric, kind) in [(waiting, "some"), (stalled, "full")] {
            let mut family = out.family(metric);
            for (workload, text) in &read {
                if let Some(micros) = total(text, kind) {
                    family.value(&workload.labels, &[], micros as f64 / 1e6);
                }
            }
        }
    }
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
