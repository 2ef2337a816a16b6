//! Memory: what the memory controller knows of each cgroup, in one read for all of them.
//!
//! What: page counters, vmstats and events of every memory cgroup, on v1 and on v2 alike: the kernel keeps the numbers, so
//! there is no hook on any path of an application.
//! Hooks: `iter/cgroup` (6.1+) over the hierarchy of the memory controller, when scraped. Older kernels: the files.
//! Maps: `MEMORY` (the records of the last walk), `MEMORY_WALK` (its position, and where to find what), `MEMORY_SAMPLE` (scratch).
//! Metrics: `container_memory_*`, `container_oom_events_total`, `container_spec_memory_*`.
//! Cost: 0.9 us per cgroup and scrape (6.18, net of the statistics' own 58 ns), nothing in between.
//!
//! Records go to an array that user space has mapped: an iterator over cgroups cannot be read on after its first buffer of
//! 32 KiB (`cgroup_iter_seq_start`: EOPNOTSUPP). The order of `memcg_vmstats.state[]` and `events[]` is private to each kernel
//! (since 6.10 an index table that BTF does not show): `memory_sample` gives the arrays of single cgroups, and user space finds
//! the entries by comparing them with `memory.stat`.

use crate::{Field, Hook, Probe, Signal, Source, cgroup::ID_FIELDS, layout::layout};

/// This signal.
pub const SIGNAL: Signal = Signal {
    name: "memory",
    summary: "Working set, usage, limits, faults and OOM kills.",
    probes: &[
        // Without them the files say the same.
        Probe { program: READ, hook: Hook::IterCgroup, fields: FIELDS, required: false },
        Probe { program: SAMPLE, hook: Hook::IterCgroup, fields: FIELDS, required: false },
    ],
    maps: &[MEMORY, MEMORY_WALK, "MEMORY_SAMPLE"],
};

const FIELDS: &[Field] = &[
    ID_FIELDS[0],
    ID_FIELDS[1],
    Field { global: "CGROUP_SUBSYS", source: Source::Offset("cgroup", &["subsys"]) },
    Field { global: "MEMORY_CGRP_ID", source: Source::Enumerator("cgroup_subsys_id", "memory_cgrp_id") },
    Field { global: "MEMCG_USAGE", source: Source::Offset("mem_cgroup", &["memory.usage"]) },
    Field { global: "MEMCG_MAX", source: Source::Offset("mem_cgroup", &["memory.max"]) },
    Field { global: "MEMCG_WATERMARK", source: Source::Offset("mem_cgroup", &["memory.watermark"]) },
    Field { global: "MEMCG_FAILCNT", source: Source::Offset("mem_cgroup", &["memory.failcnt"]) },
    // One union: `swap` on v2, `memsw` (memory and swap) on v1.
    Field { global: "MEMCG_SWAP_USAGE", source: Source::Offset("mem_cgroup", &["swap.usage"]) },
    Field { global: "MEMCG_EVENTS", source: Source::Offset("mem_cgroup", &["memory_events"]) },
    Field { global: "MEMCG_OOM_KILL", source: Source::Enumerator("memcg_memory_event", "MEMCG_OOM_KILL") },
    Field { global: "MEMCG_VMSTATS", source: Source::Offset("mem_cgroup", &["vmstats"]) },
    Field { global: "VMSTATS_STATE", source: Source::Offset("memcg_vmstats", &["state"]) },
    Field { global: "VMSTATS_EVENTS", source: Source::Offset("memcg_vmstats", &["events"]) },
];

/// The program that fills [`MEMORY`].
pub const READ: &str = "memory_read";
/// The program that gives a [`Sample`].
pub const SAMPLE: &str = "memory_sample";
/// The map of [`Memory`], by position in the walk.
pub const MEMORY: &str = "MEMORY";
/// The map of the [`Walk`].
pub const MEMORY_WALK: &str = "MEMORY_WALK";

/// How much of `memcg_vmstats.state[]` a sample carries: it has 40 entries on 6.18, 54 on 6.1.
pub const STATE: usize = 56;
/// How much of `memcg_vmstats.events[]`: it has 31 entries on 6.18.
pub const EVENTS: usize = 40;
/// `NR_INACTIVE_FILE` in `state[]`, and `NR_ACTIVE_FILE` after it, in every order so far.
pub const INACTIVE_FILE: usize = 2;

layout! {
    /// A walk over all memory cgroups.
    pub struct Walk {
        /// How many records have been written: user space sets it to 0 before the walk.
        pub next: u64,
        /// `NR_ANON_MAPPED` in `state[]`; `NR_FILE_MAPPED` and `NR_FILE_PAGES` follow it.
        pub anon: u64,
        /// `PGFAULT` in `events[]`; `PGMAJFAULT` follows it.
        pub faults: u64,
    }
    size 24
}

layout! {
    /// One memory cgroup. Pages are the kernel's; statistics are hierarchical, as of the last flush.
    pub struct Memory {
        /// The cgroup's id in the hierarchy of the memory controller.
        pub id: u64,
        /// Pages charged, hierarchically.
        pub usage: u64,
        /// The limit in pages; `i64::MAX / page size` is none.
        pub max: u64,
        /// The highest `usage` so far.
        pub watermark: u64,
        /// How often the limit was hit.
        pub failcnt: u64,
        /// Pages of swap (v2), or of memory and swap (v1).
        pub swap: u64,
        /// Processes that the OOM killer killed: hierarchical on v2, the cgroup's own on v1.
        pub oom_kills: u64,
        /// Pages of the page cache: the inactive part, the active part.
        pub file_lru: [u64; 2],
        /// Pages: anonymous, mapped files, page cache.
        pub mapped: [u64; 3],
        /// Page faults, the major ones included, and major page faults.
        pub faults: [u64; 2],
    }
    size 112
}

layout! {
    /// The statistics of one memory cgroup, in the kernel's own order.
    pub struct Sample {
        /// `memcg_vmstats.state[]`: pages or bytes, hierarchical, as of the last flush.
        pub state: [u64; STATE],
        /// `memcg_vmstats.events[]`.
        pub events: [u64; EVENTS],
    }
    size 8 * (STATE + EVENTS)
}

#[cfg(target_arch = "bpf")]
mod probe {
    use aya_ebpf::{
        Global,
        btf_maps::{Array, PerCpuArray},
        helpers::generated::bpf_probe_read_kernel,
        macros::btf_map,
    };

    use super::{EVENTS, INACTIVE_FILE, Memory, STATE, Sample, Walk};
    use crate::{
        cgroup::{
            DEFAULT_SLOTS,
            probe::{CGROUP_SUBSYS, MEMCG_EVENTS, MEMCG_OOM_KILL, MEMORY_CGRP_ID, id},
        },
        kernel::{Iter, MMAPABLE, read},
    };

    #[unsafe(no_mangle)]
    static MEMCG_USAGE: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static MEMCG_MAX: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static MEMCG_WATERMARK: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static MEMCG_FAILCNT: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static MEMCG_SWAP_USAGE: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static MEMCG_VMSTATS: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static VMSTATS_STATE: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static VMSTATS_EVENTS: Global<u32> = Global::new(0);

    #[btf_map]
    static MEMORY: Array<Memory, { DEFAULT_SLOTS as usize }, MMAPABLE> = Array::new();
    #[btf_map]
    static MEMORY_WALK: Array<Walk, 1, MMAPABLE> = Array::new();
    /// A sample is larger than the stack of a program.
    #[btf_map]
    static MEMORY_SAMPLE: PerCpuArray<Sample, 1> = PerCpuArray::new();

    /// The memory cgroup of the iterator's cgroup, and its statistics.
    ///
    /// # Safety
    /// `ctx` is the context of iter/cgroup.
    #[inline(always)]
    unsafe fn find(ctx: *const Iter) -> Option<(*const u8, *const u8, *const u8)> {
        // SAFETY: `cgroup` is null once, at the end; read() faults safely, and `css` is the first member of mem_cgroup.
        unsafe {
            let cgroup = (*ctx).object;
            if cgroup.is_null() {
                return None;
            }
            let css = cgroup.add(8 * MEMORY_CGRP_ID.load() as usize);
            let memcg = read::<*const u8>(css, &CGROUP_SUBSYS).filter(|memcg| !memcg.is_null())?;
            Some((cgroup, memcg, read::<*const u8>(memcg, &MEMCG_VMSTATS)?))
        }
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "iter/cgroup")]
    extern "C" fn memory_read(ctx: *const Iter) -> i32 {
        // SAFETY: the context of iter/cgroup; read() and copy() fault safely; one walk at a time.
        unsafe {
            let Some((cgroup, memcg, vmstats)) = find(ctx) else { return 0 };
            let Some(walk) = MEMORY_WALK.get_ptr_mut(0) else { return 0 };
            let at = (*walk).next;
            (*walk).next = at + 1;
            let Some(record) = MEMORY.get_ptr_mut(at as u32) else { return 0 };
            (*record).id = id(cgroup);
            (*record).usage = read(memcg, &MEMCG_USAGE).unwrap_or(0);
            (*record).max = read(memcg, &MEMCG_MAX).unwrap_or(0);
            (*record).watermark = read(memcg, &MEMCG_WATERMARK).unwrap_or(0);
            (*record).failcnt = read(memcg, &MEMCG_FAILCNT).unwrap_or(0);
            (*record).swap = read(memcg, &MEMCG_SWAP_USAGE).unwrap_or(0);
            let events = memcg.add(8 * MEMCG_OOM_KILL.load() as usize);
            (*record).oom_kills = read(events, &MEMCG_EVENTS).unwrap_or(0);
            let state = vmstats.wrapping_add(VMSTATS_STATE.load() as usize);
            let events = vmstats.wrapping_add(VMSTATS_EVENTS.load() as usize);
            copy(&raw mut (*record).file_lru, state.wrapping_add(8 * INACTIVE_FILE));
            copy(&raw mut (*record).mapped, state.wrapping_add(8 * ((*walk).anon as usize % STATE)));
            copy(&raw mut (*record).faults, events.wrapping_add(8 * ((*walk).faults as usize % EVENTS)));
        }
        0
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "iter/cgroup")]
    extern "C" fn memory_sample(ctx: *const Iter) -> i32 {
        // SAFETY: the context of iter/cgroup; copy() faults safely; the scratch record is this CPU's.
        unsafe {
            let Some((_, _, vmstats)) = find(ctx) else { return 0 };
            let Some(sample) = MEMORY_SAMPLE.get_ptr_mut(0) else { return 0 };
            copy(&raw mut (*sample).state, vmstats.wrapping_add(VMSTATS_STATE.load() as usize));
            copy(&raw mut (*sample).events, vmstats.wrapping_add(VMSTATS_EVENTS.load() as usize));
            (*ctx).write(&*sample)
        }
    }

    /// # Safety
    /// `to` points into a map value; `from` may be any kernel address, of which a fault leaves zeroes.
    #[inline(always)]
    unsafe fn copy<T>(to: *mut T, from: *const u8) {
        // SAFETY: the caller's.
        unsafe { _ = bpf_probe_read_kernel(to.cast(), size_of::<T>() as u32, from.cast()) }
    }
}
