//! Memory: what the memory controller knows of each cgroup, in one read for all of them.
//!
//! What: page counters, vmstats and events of every memory cgroup, on v1 and on v2 alike: the kernel keeps the numbers, so
//! there is no hook on any path of an application.
//! Hooks: `iter/cgroup` (6.1+) over the hierarchy of the memory controller, when scraped. Older kernels: the files.
//! Maps: `MEMORY_RECORD`, one record of scratch space per CPU.
//! Metrics: `container_memory_*`, `container_oom_events_total`, `container_spec_memory_*`, `container_pressure_*` (files).
//! Cost: about 0.4 us per cgroup and scrape, nothing in between.
//!
//! The order of `memcg_vmstats.state[]` and `events[]` is private to each kernel (since 6.10 an index table that BTF does not
//! show), so the record carries the arrays, and user space finds the entries by comparing them with `memory.stat`.

use crate::{Field, Hook, Probe, Signal, Source, cgroup::ID_FIELDS, layout::layout};

/// This signal.
pub const SIGNAL: Signal = Signal {
    name: "memory",
    summary: "Working set, usage, limits, faults, OOM kills and pressure.",
    probes: &[Probe {
        program: READ,
        hook: Hook::IterCgroup,
        fields: &[
            ID_FIELDS[0],
            ID_FIELDS[1],
            Field { global: "CGROUP_SUBSYS", source: Source::Offset("cgroup", &["subsys"]) },
            Field {
                global: "MEMORY_CGRP_ID",
                source: Source::Enumerator("cgroup_subsys_id", "memory_cgrp_id"),
            },
            Field { global: "MEMCG_USAGE", source: Source::Offset("mem_cgroup", &["memory.usage"]) },
            Field { global: "MEMCG_MAX", source: Source::Offset("mem_cgroup", &["memory.max"]) },
            Field { global: "MEMCG_WATERMARK", source: Source::Offset("mem_cgroup", &["memory.watermark"]) },
            Field { global: "MEMCG_FAILCNT", source: Source::Offset("mem_cgroup", &["memory.failcnt"]) },
            // One union: `swap` on v2, `memsw` (memory and swap) on v1.
            Field { global: "MEMCG_SWAP_USAGE", source: Source::Offset("mem_cgroup", &["swap.usage"]) },
            Field { global: "MEMCG_EVENTS", source: Source::Offset("mem_cgroup", &["memory_events"]) },
            Field {
                global: "MEMCG_OOM_KILL",
                source: Source::Enumerator("memcg_memory_event", "MEMCG_OOM_KILL"),
            },
            Field { global: "MEMCG_VMSTATS", source: Source::Offset("mem_cgroup", &["vmstats"]) },
            Field { global: "VMSTATS_STATE", source: Source::Offset("memcg_vmstats", &["state"]) },
            Field { global: "VMSTATS_EVENTS", source: Source::Offset("memcg_vmstats", &["events"]) },
        ],
        // Without it the files say the same.
        required: false,
    }],
    maps: &["MEMORY_RECORD"],
};

/// The program that reads [`Memory`].
pub const READ: &str = "memory_read";

/// How much of `memcg_vmstats.state[]` a record carries: it has 40 entries on 6.18, 54 on 6.1.
pub const STATE: usize = 56;
/// How much of `memcg_vmstats.events[]`: it has 31 entries on 6.18.
pub const EVENTS: usize = 40;

layout! {
    /// One memory cgroup. Pages are the kernel's.
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
        /// `memcg_vmstats.state[]`: pages or bytes, hierarchical, as of the last flush.
        pub state: [u64; STATE],
        /// `memcg_vmstats.events[]`.
        pub events: [u64; EVENTS],
    }
    size 56 + 8 * (STATE + EVENTS)
}

#[cfg(target_arch = "bpf")]
mod probe {
    use aya_ebpf::{
        Global, btf_maps::PerCpuArray, helpers::generated::bpf_probe_read_kernel, macros::btf_map,
    };

    use super::Memory;
    use crate::{
        cgroup::probe::{CGROUP_SUBSYS, MEMCG_EVENTS, MEMCG_OOM_KILL, MEMORY_CGRP_ID, id},
        kernel::{Iter, read},
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

    /// A record is larger than the stack of a program.
    #[btf_map]
    static MEMORY_RECORD: PerCpuArray<Memory, 1> = PerCpuArray::new();

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "iter/cgroup")]
    extern "C" fn memory_read(ctx: *const Iter) -> i32 {
        // SAFETY: the context of iter/cgroup; `cgroup` is a BTF pointer, null once at the end; read() faults safely, and
        // `css` is the first member of struct mem_cgroup.
        unsafe {
            let cgroup = (*ctx).object;
            if cgroup.is_null() {
                return 0;
            }
            let css = cgroup.add(8 * MEMORY_CGRP_ID.load() as usize);
            let Some(memcg) = read::<*const u8>(css, &CGROUP_SUBSYS) else { return 0 };
            let Some(record) = MEMORY_RECORD.get_ptr_mut(0) else { return 0 };
            if memcg.is_null() {
                return 0;
            }
            let Some(vmstats) = read::<*const u8>(memcg, &MEMCG_VMSTATS) else { return 0 };
            (*record).id = id(cgroup);
            (*record).usage = read(memcg, &MEMCG_USAGE).unwrap_or(0);
            (*record).max = read(memcg, &MEMCG_MAX).unwrap_or(0);
            (*record).watermark = read(memcg, &MEMCG_WATERMARK).unwrap_or(0);
            (*record).failcnt = read(memcg, &MEMCG_FAILCNT).unwrap_or(0);
            (*record).swap = read(memcg, &MEMCG_SWAP_USAGE).unwrap_or(0);
            (*record).oom_kills =
                read(memcg.add(8 * MEMCG_OOM_KILL.load() as usize), &MEMCG_EVENTS).unwrap_or(0);
            copy(&raw mut (*record).state, vmstats.add(VMSTATS_STATE.load() as usize));
            copy(&raw mut (*record).events, vmstats.add(VMSTATS_EVENTS.load() as usize));
            (*ctx).write(&*record)
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
