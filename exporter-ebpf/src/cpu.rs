//! CPU: on-CPU time and run-queue wait per cgroup, and what CFS bandwidth control did.
//!
//! What: the time that tasks of a cgroup ran, and how long each of them had waited in the run queue when it got a CPU.
//! Hooks: `tp_btf/sched_switch`, which alone gives both. The time is what the kernel charged to the task while it was on the
//! CPU (`se.sum_exec_runtime`, of which cpu.stat is the sum: neither has time that a hypervisor stole); the wait is the run
//! queue's clock less `sched_info.last_queued`. No wakeup hook, no state per task, no clock read. Before a scrape,
//! `cpu_settle` is run on each CPU, so that a task that has not been switched out yet is charged up to the last tick.
//! `tp_btf/cgroup_attach_task` divides the time of a task that is moved while it runs, as runtimes do with what they start (5.19+: the
//! helper that finds another CPU's element).
//! `iter/cgroup` (6.1+) reads the bandwidth counters of all cgroups.
//! Maps: `CPU` (by slot), `RUNNING` (by CPU: the task on it, whose it is, and how far it has been charged), `BANDWIDTHS` and
//! `BANDWIDTH_WALK` (the records of the last walk, and their number), rows of `series`.
//! Metrics: `container_cpu_usage_seconds_total`, `container_cpu_run_queue_latency_seconds`, `container_cpu_cfs_*`,
//! `container_spec_cpu_{quota,period}`.
//! Cost: see `cargo xtask bench`; README has the figure.
//!
//! A sandbox can hide switches: tracepoints do not fire while its init runs, in perf and ftrace neither. The task that such a
//! switch put on the CPU is charged from `sched_info.last_arrival` by the clock, and the loss `switch_unseen` counts it; what
//! ran before it in secret is not known.
//! Of a process with several threads that moves, the first one's time is divided; that of the others which run at that moment counts
//! for where they were, up to the next scrape or switch.
//! A wait that a migration between CPUs interrupts counts from the arrival in the last queue, as `last_queued` does.

use crate::{Field, Hook, Probe, Signal, Source, cgroup::ID_FIELDS, layout::layout};

/// This signal.
pub const SIGNAL: Signal = Signal {
    name: "cpu",
    summary: "On-CPU time, run-queue waits and CFS throttling.",
    probes: &[
        Probe {
            program: "cpu_switch",
            hook: Hook::BtfTracepoint("sched_switch"),
            fields: TASK_FIELDS,
            required: true,
        },
        Probe { program: SETTLE, hook: Hook::OnCpu, fields: TASK_FIELDS, required: false },
        // Without it what is moved while it runs counts for where it was, up to the next scrape or switch.
        Probe {
            program: "cpu_move",
            hook: Hook::BtfTracepoint("cgroup_attach_task"),
            fields: MOVE_FIELDS,
            required: false,
        },
        Probe {
            program: "cpu_bandwidth",
            hook: Hook::IterCgroup,
            fields: &[
                ID_FIELDS[0],
                ID_FIELDS[1],
                Field { global: "CGROUP_SUBSYS", source: Source::Offset("cgroup", &["subsys"]) },
                Field {
                    global: "CPU_CGRP_ID",
                    source: Source::Enumerator("cgroup_subsys_id", "cpu_cgrp_id"),
                },
                Field {
                    global: "TASK_GROUP_PERIOD",
                    source: Source::Offset("task_group", &["cfs_bandwidth.period"]),
                },
                Field {
                    global: "TASK_GROUP_QUOTA",
                    source: Source::Offset("task_group", &["cfs_bandwidth.quota"]),
                },
                Field {
                    global: "TASK_GROUP_NR_PERIODS",
                    source: Source::Offset("task_group", &["cfs_bandwidth.nr_periods"]),
                },
                Field {
                    global: "TASK_GROUP_NR_THROTTLED",
                    source: Source::Offset("task_group", &["cfs_bandwidth.nr_throttled"]),
                },
                Field {
                    global: "TASK_GROUP_THROTTLED_TIME",
                    source: Source::Offset("task_group", &["cfs_bandwidth.throttled_time"]),
                },
            ],
            // Without it the files say the same.
            required: false,
        },
    ],
    maps: &[CPU, "RUNNING", BANDWIDTHS, BANDWIDTH_WALK],
};

const MOVE_FIELDS: &[Field] = &[
    TASK_FIELDS[0],
    TASK_FIELDS[1],
    TASK_FIELDS[3],
    TASK_FIELDS[4],
    TASK_FIELDS[5],
    // In the task itself before 5.16, on x86.
    Field { global: "TASK_CPU", source: Source::Offset("task_struct", &["thread_info.cpu", "cpu"]) },
];

const TASK_FIELDS: &[Field] = &[
    ID_FIELDS[0],
    ID_FIELDS[1],
    Field { global: "TASK_PID", source: Source::Offset("task_struct", &["pid"]) },
    Field { global: "TASK_CGROUPS", source: Source::Offset("task_struct", &["cgroups"]) },
    Field { global: "CSS_SET_DFL_CGRP", source: Source::Offset("css_set", &["dfl_cgrp"]) },
    Field { global: "TASK_RUNTIME", source: Source::Offset("task_struct", &["se.sum_exec_runtime"]) },
    Field {
        global: "TASK_LAST_ARRIVAL",
        source: Source::Offset("task_struct", &["sched_info.last_arrival"]),
    },
    Field { global: "TASK_LAST_QUEUED", source: Source::Offset("task_struct", &["sched_info.last_queued"]) },
    // From a task to the clock of the run queue that it is on (CONFIG_FAIR_GROUP_SCHED).
    Field { global: "TASK_CFS_RQ", source: Source::Offset("task_struct", &["se.cfs_rq"]) },
    Field { global: "CFS_RQ_RQ", source: Source::Offset("cfs_rq", &["rq"]) },
    Field { global: "RQ_CLOCK", source: Source::Offset("rq", &["clock"]) },
];

/// The map of [`Cpu`], by slot.
pub const CPU: &str = "CPU";
/// The program that [`Hook::OnCpu`] runs.
pub const SETTLE: &str = "cpu_settle";
/// The program that fills [`BANDWIDTHS`].
pub const BANDWIDTH: &str = "cpu_bandwidth";
/// The map of [`Bandwidth`], by position in the walk.
pub const BANDWIDTHS: &str = "BANDWIDTHS";
/// The map of how many records have been written: user space sets it to 0 before the walk.
pub const BANDWIDTH_WALK: &str = "BANDWIDTH_WALK";

layout! {
    /// What a cgroup's tasks ran.
    pub struct Cpu {
        /// On-CPU time, ns.
        pub on_cpu: u64,
        /// The row of its run-queue waits; 0 before the first.
        pub row: u32,
        /// Keeps the size explicit.
        pub reserved: u32,
    }
    size 16
}

layout! {
    /// CFS bandwidth control of one cgroup that has a quota.
    pub struct Bandwidth {
        /// The cgroup's id in the hierarchy of the cpu controller.
        pub id: u64,
        /// Length of a period, ns.
        pub period: u64,
        /// Quota per period, ns.
        pub quota: u64,
        /// Periods that passed while it had something to run.
        pub periods: u32,
        /// Those in which it was throttled.
        pub throttled_periods: u32,
        /// How long it was throttled, ns, summed over CPUs.
        pub throttled: u64,
    }
    size 40
}

#[cfg(target_arch = "bpf")]
mod probe;
