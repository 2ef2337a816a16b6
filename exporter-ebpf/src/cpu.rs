//! CPU: on-CPU time and run-queue wait per cgroup, and what CFS bandwidth control did.
//!
//! What: the time that tasks of a cgroup ran, and how long each of them had waited in the run queue when it got a CPU.
//! Hooks: `tp_btf/sched_switch`, which alone gives both. The time is what the kernel charged to the task while it was on the
//! CPU (`se.sum_exec_runtime`, of which cpu.stat is the sum: neither has time that a hypervisor stole); the wait is the run
//! queue's clock less `sched_info.last_queued`. No wakeup hook, no state per task, no clock read. Before a scrape,
//! `cpu_settle` is run on each CPU, so that a task that has not been switched out yet is charged up to the last tick.
//! `iter/cgroup` (6.1+) reads the bandwidth counters of all cgroups.
//! Maps: `CPU` (by slot), `RUNNING` (by CPU: the task on it, and how far it has been charged), `BANDWIDTHS` and
//! `BANDWIDTH_WALK` (the records of the last walk, and their number), rows of `series`.
//! Metrics: `container_cpu_usage_seconds_total`, `container_cpu_run_queue_latency_seconds`, `container_cpu_cfs_*`,
//! `container_spec_cpu_{quota,period}`.
//! Cost: see `cargo xtask bench`; README has the figure.
//!
//! A sandbox can hide switches: tracepoints do not fire while its init runs, in perf and ftrace neither. The task that such a
//! switch put on the CPU is charged from `sched_info.last_arrival` by the clock, and the loss `switch_unseen` counts it; what
//! ran before it in secret is not known.
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
mod probe {
    use aya_ebpf::{
        Global,
        btf_maps::{Array, PerCpuArray},
        helpers::bpf_get_current_task_btf,
        macros::{btf_map, btf_tracepoint, raw_tracepoint},
        programs::{BtfTracePointContext, RawTracePointContext},
    };

    use super::{Bandwidth, Cpu};
    use crate::{
        cgroup::{
            DEFAULT_SLOTS,
            probe::{CGROUP_SUBSYS, id, slot},
        },
        kernel::{Iter, MMAPABLE, add, load, read},
        loss::{Loss, count},
        series::{self, Family, SeriesKey},
    };

    #[unsafe(no_mangle)]
    static TASK_RUNTIME: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_LAST_ARRIVAL: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_PID: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_CGROUPS: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static CSS_SET_DFL_CGRP: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_LAST_QUEUED: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_CFS_RQ: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static CFS_RQ_RQ: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static RQ_CLOCK: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static CPU_CGRP_ID: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_GROUP_PERIOD: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_GROUP_QUOTA: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_GROUP_NR_PERIODS: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_GROUP_NR_THROTTLED: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_GROUP_THROTTLED_TIME: Global<u32> = Global::new(0);

    #[btf_map]
    static CPU: Array<Cpu, { DEFAULT_SLOTS as usize }, MMAPABLE> = Array::new();

    #[btf_map]
    static BANDWIDTHS: Array<Bandwidth, { DEFAULT_SLOTS as usize }, MMAPABLE> = Array::new();
    #[btf_map]
    static BANDWIDTH_WALK: Array<u64, 1, MMAPABLE> = Array::new();

    /// The task on a CPU.
    #[repr(C)]
    struct Running {
        /// Its address, which tells tasks apart; 0 before the first switch.
        task: u64,
        /// Its run time that has been charged, ns.
        runtime: u64,
    }

    /// Per CPU: `sched_switch` runs with interrupts off, and the settling interrupt therefore never in its midst.
    #[btf_map]
    static RUNNING: PerCpuArray<Running, 1> = PerCpuArray::new();

    /// The clock of the run queue of a task that is on a CPU, ns.
    ///
    /// # Safety
    /// `task` is a BTF pointer to struct task_struct.
    #[inline(always)]
    unsafe fn clock(task: *const u8) -> u64 {
        // SAFETY: the caller's.
        unsafe { load(load(load(task, &TASK_CFS_RQ), &CFS_RQ_RQ), &RQ_CLOCK) }
    }

    /// Charges the task on this CPU for what it ran since it was charged last.
    ///
    /// # Safety
    /// `task` is a BTF pointer to struct task_struct, of the task that is on this CPU; `running` is this CPU's.
    #[inline(always)]
    unsafe fn settle(running: *mut Running, task: *const u8) {
        // SAFETY: the caller's.
        unsafe {
            let runtime: u64 = load(task, &TASK_RUNTIME);
            let (known, charged) = ((*running).task, (*running).runtime);
            (*running).task = task as u64;
            (*running).runtime = runtime;
            // Nothing is charged for what began before the first switch: user space takes it from the kernel's account.
            if known == 0 || load::<u32>(task, &TASK_PID) == 0 {
                return;
            }
            let nanos = if known == task as u64 { runtime.wrapping_sub(charged) } else { unseen(task) };
            if nanos as i64 > 0 {
                charge(slot_of(task), nanos);
            }
        }
    }

    /// How long a task has been on its CPU, ns, whose arrival was not seen.
    ///
    /// # Safety
    /// As [`clock`].
    #[inline(always)]
    unsafe fn unseen(task: *const u8) -> u64 {
        count(Loss::SwitchUnseen);
        // SAFETY: the caller's.
        unsafe { clock(task).wrapping_sub(load(task, &TASK_LAST_ARRIVAL)) }
    }

    /// The slot of a task.
    ///
    /// # Safety
    /// `task` is a BTF pointer to struct task_struct.
    #[inline(always)]
    unsafe fn slot_of(task: *const u8) -> u32 {
        // SAFETY: the caller's.
        unsafe { slot(id(load(load(task, &TASK_CGROUPS), &CSS_SET_DFL_CGRP))) }
    }

    #[inline(always)]
    fn charge(slot: u32, nanos: u64) {
        if let Some(cpu) = CPU.get_ptr_mut(slot) {
            // SAFETY: an array element.
            unsafe { add(&raw mut (*cpu).on_cpu, nanos) }
        }
    }

    /// match-proto:v5.18:void sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)
    #[btf_tracepoint(function = "sched_switch")]
    fn cpu_switch(ctx: BtfTracePointContext) -> i32 {
        let (prev, next): (*const u8, *const u8) = (ctx.arg(1), ctx.arg(2));
        let Some(running) = RUNNING.get_ptr_mut(0) else { return 0 };
        // SAFETY: arguments 1 and 2 are BTF pointers to struct task_struct; `running` is this CPU's, and interrupts are off.
        unsafe {
            settle(running, prev);
            (*running).task = next as u64;
            (*running).runtime = load(next, &TASK_RUNTIME);
            let queued: u64 = load(next, &TASK_LAST_QUEUED);
            if queued == 0 || load::<u32>(next, &TASK_PID) == 0 {
                return 0;
            }
            let now = clock(next);
            if now < queued {
                count(Loss::NegativeDelta);
                return 0;
            }
            wait(slot_of(next), now - queued);
        }
        0
    }

    #[inline(always)]
    fn wait(slot: u32, nanos: u64) {
        let Some(cpu) = CPU.get_ptr_mut(slot) else { return };
        // SAFETY: array elements.
        unsafe {
            let mut index = (*cpu).row;
            if index == 0 {
                let key = SeriesKey { slot, family: Family::CpuWait as u32, detail: 0, route: 0 };
                index = series::kernel::find(&key);
                (*cpu).row = index;
            }
            if let Some(row) = series::kernel::row(index) {
                series::kernel::observe(row, nanos);
            }
        }
    }

    /// Run by user space on each CPU before a scrape (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_RUN_ON_CPU`, an interrupt there):
    /// charges the task that is running now, so that a slice of minutes is not invisible until it ends.
    #[raw_tracepoint]
    fn cpu_settle(_ctx: RawTracePointContext) -> i32 {
        let Some(running) = RUNNING.get_ptr_mut(0) else { return 0 };
        // SAFETY: the helper gives a BTF pointer to the current task; `running` is this CPU's.
        unsafe { settle(running, bpf_get_current_task_btf().cast_const().cast()) }
        0
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "iter/cgroup")]
    extern "C" fn cpu_bandwidth(ctx: *const Iter) -> i32 {
        // SAFETY: the context of iter/cgroup; `cgroup` is a BTF pointer, null once at the end; read() faults safely, and
        // `css` is the first member of struct task_group.
        unsafe {
            let cgroup = (*ctx).object;
            if cgroup.is_null() {
                return 0;
            }
            let css = cgroup.add(8 * CPU_CGRP_ID.load() as usize);
            let Some(group) = read::<*const u8>(css, &CGROUP_SUBSYS) else { return 0 };
            if group.is_null() {
                return 0;
            }
            let quota = read(group, &TASK_GROUP_QUOTA).unwrap_or(u64::MAX);
            if quota == u64::MAX {
                return 0;
            }
            let Some(walk) = BANDWIDTH_WALK.get_ptr_mut(0) else { return 0 };
            let at = *walk;
            *walk = at + 1;
            let Some(record) = BANDWIDTHS.get_ptr_mut(at as u32) else { return 0 };
            (*record).id = id(cgroup);
            (*record).period = read(group, &TASK_GROUP_PERIOD).unwrap_or(0);
            (*record).quota = quota;
            (*record).periods = read(group, &TASK_GROUP_NR_PERIODS).unwrap_or(0);
            (*record).throttled_periods = read(group, &TASK_GROUP_NR_THROTTLED).unwrap_or(0);
            (*record).throttled = read(group, &TASK_GROUP_THROTTLED_TIME).unwrap_or(0);
        }
        0
    }
}
