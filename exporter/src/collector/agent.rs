//! The agent's own health: verdicts and cost of its probes, fill of its maps, losses, its own CPU and memory.

use std::{collections::HashMap, fs};

use exporter_ebpf::loss::{LOSSES, Loss};

use super::Context;
use crate::{
    probes::{Probes, State},
    series::Series,
    snapshot::{Kind, Labels, Metric, Snapshot},
    sys::{self, MappedArray},
};

static BUILD: Metric = Metric::agent(
    "podmeter_build_info",
    Kind::Gauge,
    &["version", "kernel"],
    "Always 1: the agent's version and the kernel's.",
);
static PROBE: Metric = Metric::agent(
    "podmeter_probe_state",
    Kind::Gauge,
    &["signal", "program", "state"],
    "1 for the state that the probe is in: attached, disabled, degraded, unsupported or failed.",
);
static RUN_TIME: Metric = Metric::agent(
    "podmeter_probe_run_seconds_total",
    Kind::Counter,
    &["program"],
    "Time that the program ran. Only while kernel.bpf_stats_enabled is 1.",
);
static RUNS: Metric = Metric::agent(
    "podmeter_probe_runs_total",
    Kind::Counter,
    &["program"],
    "How often the program ran. Only while kernel.bpf_stats_enabled is 1.",
);
static MEMORY: Metric = Metric::agent(
    "podmeter_ebpf_memory_bytes",
    Kind::Gauge,
    &["kind", "name"],
    "Kernel memory that a map or a program is charged with.",
);
static CAPACITY: Metric =
    Metric::agent("podmeter_map_capacity", Kind::Gauge, &["map"], "How many entries the map can have.");
static ENTRIES: Metric =
    Metric::agent("podmeter_map_entries", Kind::Gauge, &["map"], "How many entries the map has.");
static LOST: Metric = Metric::agent(
    "podmeter_lost_total",
    Kind::Counter,
    &["reason"],
    "Events that were not counted where they belong, or not at all, by reason.",
);
static CGROUPS: Metric =
    Metric::agent("podmeter_cgroups", Kind::Gauge, &[], "Cgroups known, over all hierarchies.");
static UNRESOLVED: Metric = Metric::agent(
    "podmeter_cgroups_unresolved",
    Kind::Gauge,
    &[],
    "Cgroups that were seen to do something and whose path is not known: in no container's series.",
);
static WALKS: Metric = Metric::agent(
    "podmeter_cgroup_walks_total",
    Kind::Counter,
    &[],
    "How often the cgroup tree was walked: once, and again after a lost event.",
);
static UNREADABLE: Metric = Metric::agent(
    "podmeter_cgroup_unreadable_total",
    Kind::Counter,
    &[],
    "Cgroup directories that could not be read while walking.",
);
static CONTAINER: Metric = Metric::agent(
    "podmeter_container_info",
    Kind::Gauge,
    &["id", "container_id", "pod_uid", "runtime", "unit"],
    "Always 1: what the path of the cgroup tells.",
);
static CPU: Metric = Metric::agent(
    "podmeter_process_cpu_seconds_total",
    Kind::Counter,
    &[],
    "CPU time that the agent consumed in user space and in system calls.",
);
static RSS: Metric =
    Metric::agent("podmeter_process_resident_memory_bytes", Kind::Gauge, &[], "The agent's resident memory.");
static FDS: Metric =
    Metric::agent("podmeter_process_open_fds", Kind::Gauge, &[], "File descriptors that the agent has open.");
/// Judges a collector; the registry emits it.
pub static SUCCESS: Metric = Metric::agent(
    "podmeter_collector_success",
    Kind::Gauge,
    &["collector"],
    "Whether the collector succeeded in this scrape.",
);
/// Times a collector; the registry emits it.
pub static DURATION: Metric = Metric::agent(
    "podmeter_collector_duration_seconds",
    Kind::Gauge,
    &["collector"],
    "How long the collector took in this scrape.",
);

/// The metrics of the agent itself.
pub static METRICS: &[&Metric] = &[
    &BUILD,
    &PROBE,
    &RUN_TIME,
    &RUNS,
    &MEMORY,
    &CAPACITY,
    &ENTRIES,
    &LOST,
    &CGROUPS,
    &UNRESOLVED,
    &WALKS,
    &UNREADABLE,
    &CONTAINER,
    &CPU,
    &RSS,
    &FDS,
    &SUCCESS,
    &DURATION,
];

/// What the agent tells of itself.
pub struct Health {
    losses: Option<MappedArray<u64>>,
    kernel: String,
}

impl Health {
    /// Takes the map of losses; without the object there is none.
    pub fn new(probes: &mut Probes) -> Self {
        let losses = probes.array(LOSSES).ok();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        Self { losses, kernel }
    }

    /// How often each thing was lost so far.
    pub fn losses(&self) -> HashMap<&'static str, u64> {
        let losses = self.losses.as_ref();
        let count = |loss: &Loss| losses.and_then(|losses| losses.get(*loss as u32)).unwrap_or(0);
        Loss::ALL.iter().map(|loss| (loss.name(), count(loss))).collect()
    }

    /// How many events of cgroups were lost so far.
    pub fn lost_events(&self) -> u64 {
        self.losses.as_ref().and_then(|losses| losses.get(Loss::CgroupEvents as u32)).unwrap_or(0)
    }

    /// Emits everything but the judgements on collectors.
    pub fn collect(
        &self,
        probes: &Probes,
        context: &Context<'_>,
        slots: u32,
        unresolved: u64,
        out: &mut Snapshot,
    ) {
        out.family(&BUILD).value(&Labels::NONE, &[env!("CARGO_PKG_VERSION"), &self.kernel], 1.0);
        let family = out.family(&PROBE);
        for verdict in probes.verdicts() {
            for state in State::ALL {
                let is = f64::from(u8::from(verdict.state == state));
                family.value(&Labels::NONE, &[verdict.signal, verdict.program, state.as_str()], is);
            }
        }
        Self::cost(probes, out);
        let family = out.family(&CAPACITY);
        family.value(&Labels::NONE, &["SLOTS"], f64::from(context.owners.len() as u32));
        family.value(&Labels::NONE, &["ROWS"], f64::from(context.series.map_or(0, Series::capacity)));
        let family = out.family(&ENTRIES);
        family.value(&Labels::NONE, &["SLOTS"], f64::from(slots));
        family.value(&Labels::NONE, &["ROWS"], f64::from(context.rows.len() as u32));
        if self.losses.is_some() {
            let losses = self.losses();
            let family = out.family(&LOST);
            for loss in Loss::ALL {
                family.value(&Labels::NONE, &[loss.name()], losses[loss.name()] as f64);
            }
        }
        let tree = context.tree;
        out.family(&CGROUPS).value(&Labels::NONE, &[], tree.len() as f64);
        out.family(&UNRESOLVED).value(&Labels::NONE, &[], unresolved as f64);
        out.family(&WALKS).value(&Labels::NONE, &[], tree.walks as f64);
        out.family(&UNREADABLE).value(&Labels::NONE, &[], tree.unreadable as f64);
        let family = out.family(&CONTAINER);
        for (_, workload) in tree.shown() {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let runtime = workload.runtime.map_or("", |runtime| runtime.as_str());
            let (container, pod, unit) =
                (text(&workload.container_id), text(&workload.pod_uid), text(&workload.unit));
            if !(container.is_empty() && pod.is_empty() && unit.is_empty()) {
                family.value(&Labels::NONE, &[&workload.path, &container, &pod, runtime, &unit], 1.0);
            }
        }
        process(out);
    }

    fn cost(probes: &Probes, out: &mut Snapshot) {
        let Some(object) = probes.object() else { return };
        let mut programs: Vec<_> =
            object.programs().filter_map(|(name, program)| Some((name, program.info().ok()?))).collect();
        programs.sort_by_key(|(name, _)| *name);
        if fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|text| text.trim() == "1") {
            let family = out.family(&RUN_TIME);
            for (name, info) in &programs {
                family.value(&Labels::NONE, &[name], info.run_time().as_secs_f64());
            }
            let family = out.family(&RUNS);
            for (name, info) in &programs {
                family.value(&Labels::NONE, &[name], info.run_count() as f64);
            }
        }
        let family = out.family(&MEMORY);
        for (name, bytes) in probes.map_memory() {
            family.value(&Labels::NONE, &["map", name], *bytes as f64);
        }
        for (name, info) in &programs {
            if let Ok(bytes) = info.memory_locked() {
                family.value(&Labels::NONE, &["program", name], f64::from(bytes));
            }
        }
    }
}

/// The agent's own CPU time, memory and descriptors.
fn process(out: &mut Snapshot) {
    let Ok(myself) = procfs::process::Process::myself() else { return };
    if let Ok(stat) = myself.stat() {
        let ticks = stat.utime + stat.stime;
        out.family(&CPU).value(&Labels::NONE, &[], ticks as f64 / procfs::ticks_per_second() as f64);
        out.family(&RSS).value(&Labels::NONE, &[], (stat.rss * sys::page_size()) as f64);
    }
    if let Ok(count) = myself.fd_count() {
        out.family(&FDS).value(&Labels::NONE, &[], count as f64);
    }
}
