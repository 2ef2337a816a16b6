//! The hooks, and the walk over the bandwidth counters.

use aya_ebpf::{
    Global,
    btf_maps::{Array, PerCpuArray},
    helpers::{bpf_get_current_task_btf, generated::bpf_map_lookup_percpu_elem},
    macros::{btf_map, btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};

use super::{Bandwidth, Cpu};
use crate::{
    cgroup::{
        DEFAULT_SLOTS,
        probe::{CGROUP_SUBSYS, id, slot},
    },
    kernel::{Iter, MMAPABLE, add, load, read, seldom},
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
static TASK_CPU: Global<u32> = Global::new(0);
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

/// The task on a CPU. What begins with `moved` is written by any CPU, the rest by its own alone.
#[repr(C)]
struct Running {
    /// Its address, which tells tasks apart; 0 before the first switch.
    task: u64,
    /// Its run time that has been charged, ns.
    runtime: u64,
    /// Whom it is charged to.
    slot: u32,
    /// The same, since it moved.
    moved_slot: u32,
    /// What its run time was then, ns.
    moved_runtime: u64,
    /// The task that was moved while it was here; 0 if none was.
    moved: u64,
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
        if known != task as u64 {
            charge(slot_of(task), unseen(task));
        } else if (*running).moved == known {
            seldom();
            (*running).moved = 0;
            let until = (*running).moved_runtime.max(charged).min(runtime);
            charge((*running).slot, until.wrapping_sub(charged));
            (*running).slot = (*running).moved_slot;
            charge((*running).slot, runtime.wrapping_sub(until));
        } else {
            charge((*running).slot, runtime.wrapping_sub(charged));
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
    if nanos as i64 > 0
        && let Some(cpu) = CPU.get_ptr_mut(slot)
    {
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
        (*running).moved = 0;
        if load::<u32>(next, &TASK_PID) == 0 {
            return 0;
        }
        let slot = slot_of(next);
        (*running).slot = slot;
        let queued: u64 = load(next, &TASK_LAST_QUEUED);
        if queued == 0 {
            return 0;
        }
        let now = clock(next);
        if now < queued {
            count(Loss::NegativeDelta);
            return 0;
        }
        wait(slot, now - queued);
    }
    0
}

/// Charges a task that runs while it is moved, on whatever CPU, up to this moment for where it was. Like the kernel, which charges
/// by the tick and at each switch: `se.sum_exec_runtime` is what has been charged already.
///
/// match-proto:v4.16:void cgroup_attach_task(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)
#[btf_tracepoint(function = "cgroup_attach_task")]
fn cpu_move(ctx: BtfTracePointContext) -> i32 {
    let task: *const u8 = ctx.arg(2);
    // SAFETY: argument 2 is a BTF pointer to struct task_struct; the helper gives an array element, or null.
    unsafe {
        let (map, first) = (core::ptr::from_ref(&RUNNING).cast_mut().cast(), 0u32);
        let key = core::ptr::from_ref(&first).cast_mut().cast();
        let running: *mut Running = bpf_map_lookup_percpu_elem(map, key, load(task, &TASK_CPU)).cast();
        if running.is_null() {
            return 0;
        }
        let slot = slot_of(task);
        let has_moved = (*running).moved == task as u64;
        // Moves within v1 are told of too.
        if (*running).task != task as u64 || ((*running).slot == slot && !has_moved) {
            return 0;
        }
        (*running).moved_slot = slot;
        if !has_moved {
            (*running).moved_runtime = load(task, &TASK_RUNTIME);
            // Last: the CPU that it runs on may look at any moment.
            core::ptr::write_volatile(&raw mut (*running).moved, task as u64);
        }
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
    unsafe {
        let task = bpf_get_current_task_btf().cast_const().cast();
        settle(running, task);
        (*running).slot = slot_of(task);
    }
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
