//! Cgroups: their slots, their births and deaths.
//!
//! What: a small dense number (slot) for each cgroup that does something, so that every other signal counts in arrays;
//! and an event for each cgroup made or removed, so that user space never walks the tree in steady state.
//! Hooks: `tp_btf/cgroup_mkdir`, `tp_btf/cgroup_rmdir` (5.5+; both run in process context under `cgroup_mutex`).
//! Maps: `CGROUPS` (id -> slot), `CGROUP_CACHE` (a direct-mapped cache of it), `SLOTS`, `FREE_SLOTS`, `CGROUP_EVENTS`.
//! Metrics: `podmeter_cgroups`, `podmeter_container_info`, `container_oom_events_total` of the dead (see `memory`).
//! Cost: a cached lookup is 3 loads; an event 5 us per cgroup made, 2 us per cgroup removed (6.18).
//!
//! A slot is given at first sight, in the kernel, so nothing that a new cgroup does is missed; user space takes it back
//! after the cgroup's death. Slot 0 is for what has none.

use crate::{Field, Hook, Probe, Signal, Source, layout::layout};

/// This signal.
pub const SIGNAL: Signal = Signal {
    name: "cgroup",
    summary: "Births and deaths of cgroups, by event.",
    probes: &[
        Probe {
            program: "cgroup_mkdir",
            hook: Hook::BtfTracepoint("cgroup_mkdir"),
            fields: EVENT_FIELDS,
            required: true,
        },
        Probe {
            program: "cgroup_rmdir",
            hook: Hook::BtfTracepoint("cgroup_rmdir"),
            fields: EVENT_FIELDS,
            required: true,
        },
    ],
    maps: &[CGROUPS, CGROUP_CACHE, SLOTS, FREE_SLOTS, CGROUP_EVENTS],
};

/// What every walk from a cgroup to its id reads.
pub(crate) const ID_FIELDS: [Field; 2] = [
    Field { global: "CGROUP_KN", source: Source::Offset("cgroup", &["kn"]) },
    Field { global: "KERNFS_NODE_ID", source: Source::Offset("kernfs_node", &["id"]) },
];

const EVENT_FIELDS: &[Field] = &[
    ID_FIELDS[0],
    ID_FIELDS[1],
    Field { global: "CGROUP_ROOT", source: Source::Offset("cgroup", &["root"]) },
    Field { global: "CGROUP_ROOT_HIERARCHY_ID", source: Source::Offset("cgroup_root", &["hierarchy_id"]) },
    Field { global: "CGROUP_SUBSYS", source: Source::Offset("cgroup", &["subsys"]) },
    Field { global: "MEMORY_CGRP_ID", source: Source::Enumerator("cgroup_subsys_id", "memory_cgrp_id") },
    Field { global: "MEMCG_EVENTS", source: Source::Offset("mem_cgroup", &["memory_events"]) },
    Field { global: "MEMCG_OOM_KILL", source: Source::Enumerator("memcg_memory_event", "MEMCG_OOM_KILL") },
];

/// How many cgroups can have a slot unless a flag says otherwise.
pub const DEFAULT_SLOTS: u32 = 16_384;
/// Entries of the direct-mapped cache; a power of two.
pub const CACHE_ENTRIES: usize = 4096;
/// How many bytes of a cgroup's path an event carries, with the terminating 0; a longer one is found by walking.
pub const EVENT_PATH: usize = 512;

/// The map of cgroup keys to slots.
pub const CGROUPS: &str = "CGROUPS";
/// The map that caches it.
pub const CGROUP_CACHE: &str = "CGROUP_CACHE";
/// The map of slots.
pub const SLOTS: &str = "SLOTS";
/// The queue of free slots.
pub const FREE_SLOTS: &str = "FREE_SLOTS";
/// The ring of events.
pub const CGROUP_EVENTS: &str = "CGROUP_EVENTS";

/// Bit of a cgroup key that tells ids of the hierarchy of the block controller (v1) from those of v2: the numbers overlap.
pub const IO_HIERARCHY: u64 = 1 << 63;

/// Where the cache keeps a key; user space clears the entry of a cgroup that is gone.
#[inline(always)]
pub fn cache_index(key: u64) -> u32 {
    // Fibonacci hashing of the low half (an inode number), with the hierarchy's bit folded in.
    let low = (key as u32) ^ ((key >> 32) as u32);
    (low.wrapping_mul(0x9E37_79B1) >> 20) & (CACHE_ENTRIES as u32 - 1)
}

layout! {
    /// A slot's owner.
    pub struct Slot {
        /// The cgroup's key; 0 when the slot is free.
        pub key: u64,
        /// How many HTTP rows it has, against its budget.
        pub routes: u64,
    }
    size 16
}

layout! {
    /// A cgroup was made or removed.
    pub struct Event {
        /// Its id within its hierarchy: the inode number of its directory.
        pub id: u64,
        /// How many of its processes the OOM killer had killed when it was removed.
        pub oom_kills: u64,
        /// Its hierarchy, as in /proc/cgroups; 0 is v2.
        pub hierarchy: u32,
        /// 1 when it was removed.
        pub removed: u32,
        /// Its path within the hierarchy, with a terminating 0 unless it was too long.
        pub path: [u8; EVENT_PATH],
    }
    size 24 + EVENT_PATH
}

#[cfg(target_arch = "bpf")]
pub(crate) mod probe {
    use aya_ebpf::{
        Global,
        btf_maps::{Array, HashMap, Queue, RingBuf},
        helpers::bpf_probe_read_kernel_str_bytes,
        macros::{btf_map, btf_tracepoint},
        programs::BtfTracePointContext,
    };
    use aya_log_ebpf::debug;

    use super::{CACHE_ENTRIES, DEFAULT_SLOTS, Event, Slot, cache_index};
    use crate::{
        kernel::{MMAPABLE, load, read},
        loss::{Loss, count},
    };

    #[unsafe(no_mangle)]
    pub(crate) static CGROUP_KN: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    pub(crate) static KERNFS_NODE_ID: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static CGROUP_ROOT: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static CGROUP_ROOT_HIERARCHY_ID: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    pub(crate) static CGROUP_SUBSYS: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    pub(crate) static MEMORY_CGRP_ID: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    pub(crate) static MEMCG_EVENTS: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    pub(crate) static MEMCG_OOM_KILL: Global<u32> = Global::new(0);
    /// A bit for each hierarchy whose events user space wants.
    #[unsafe(no_mangle)]
    static HIERARCHIES: Global<u32> = Global::new(0);

    #[btf_map]
    static CGROUPS: HashMap<u64, u32, { DEFAULT_SLOTS as usize }> = HashMap::new();
    /// Low half of the key, then the slot: one word, so that it is read and written whole.
    #[btf_map]
    static CGROUP_CACHE: Array<u64, CACHE_ENTRIES, MMAPABLE> = Array::new();
    #[btf_map]
    static SLOTS: Array<Slot, { DEFAULT_SLOTS as usize }, MMAPABLE> = Array::new();
    #[btf_map]
    static FREE_SLOTS: Queue<u32, { DEFAULT_SLOTS as usize }> = Queue::new();
    #[btf_map]
    static CGROUP_EVENTS: RingBuf<Event, { 256 * 1024 }> = RingBuf::new();

    const BPF_NOEXIST: u64 = 1;

    /// The id of a cgroup.
    ///
    /// # Safety
    /// `cgroup` is a BTF pointer.
    #[inline(always)]
    pub(crate) unsafe fn id(cgroup: *const u8) -> u64 {
        // SAFETY: the caller's.
        unsafe { load(load(cgroup, &CGROUP_KN), &KERNFS_NODE_ID) }
    }

    /// The slot of a cgroup key, given at first sight; 0 when all are taken.
    #[inline(always)]
    pub(crate) fn slot(key: u64) -> u32 {
        let tag = (key as u32) ^ ((key >> 32) as u32);
        let Some(entry) = CGROUP_CACHE.get_ptr_mut(cache_index(key)) else { return 0 };
        // SAFETY: an array element; one aligned word.
        let cached = unsafe { core::ptr::read_volatile(entry) };
        if (cached >> 32) as u32 == tag && cached as u32 != 0 {
            return cached as u32;
        }
        let slot = find(key);
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(entry, u64::from(tag) << 32 | u64::from(slot)) };
        slot
    }

    #[inline(never)]
    fn find(key: u64) -> u32 {
        // SAFETY: the value is copied out at once.
        if let Some(&slot) = unsafe { CGROUPS.get(key) } {
            return slot;
        }
        let Ok(Some(slot)) = FREE_SLOTS.pop() else {
            count(Loss::CgroupSlots);
            return 0;
        };
        let Some(fresh) = SLOTS.get_ptr_mut(slot) else { return 0 };
        // SAFETY: an array element that nobody else uses before it is in CGROUPS.
        unsafe { (*fresh).key = key };
        if CGROUPS.insert(key, slot, BPF_NOEXIST).is_ok() {
            return slot;
        }
        // Another CPU was faster: the map decides.
        // SAFETY: as above.
        unsafe { (*fresh).key = 0 };
        _ = FREE_SLOTS.push(slot, 0);
        // SAFETY: the value is copied out at once.
        unsafe { CGROUPS.get(key) }.copied().unwrap_or(0)
    }

    /// The owner of a slot.
    #[inline(always)]
    pub(crate) fn owner(slot: u32) -> Option<*mut Slot> {
        SLOTS.get_ptr_mut(slot)
    }

    /// match-proto:v5.5:void cgroup_mkdir(struct cgroup *cgrp, const char *path)
    #[btf_tracepoint(function = "cgroup_mkdir")]
    fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
        report(&ctx, false);
        0
    }

    /// match-proto:v5.5:void cgroup_rmdir(struct cgroup *cgrp, const char *path)
    #[btf_tracepoint(function = "cgroup_rmdir")]
    fn cgroup_rmdir(ctx: BtfTracePointContext) -> i32 {
        report(&ctx, true);
        0
    }

    #[inline(always)]
    fn report(ctx: &BtfTracePointContext, removed: bool) {
        let cgroup: *const u8 = ctx.arg(0);
        let path: *const u8 = ctx.arg(1);
        // SAFETY: argument 0 is a BTF pointer to struct cgroup.
        let (hierarchy, id) =
            unsafe { (load::<u32>(load(cgroup, &CGROUP_ROOT), &CGROUP_ROOT_HIERARCHY_ID), id(cgroup)) };
        if hierarchy > 31 || HIERARCHIES.load() & (1 << hierarchy) == 0 {
            return;
        }
        let Some(mut entry) = CGROUP_EVENTS.reserve(0) else {
            count(Loss::CgroupEvents);
            debug!(ctx, "cgroup event ring full: hierarchy {} id {}", hierarchy, id);
            return;
        };
        let event = entry.as_mut_ptr();
        // SAFETY: the ring's record has the size of Event, and is written whole.
        unsafe {
            (*event).id = id;
            (*event).hierarchy = hierarchy;
            (*event).removed = removed as u32;
            (*event).oom_kills = if removed { oom_kills(cgroup) } else { 0 };
            (*event).path[0] = 0;
            _ = bpf_probe_read_kernel_str_bytes(path, &mut (*event).path);
        }
        entry.submit(0);
    }

    /// The memory controller's own count, still there while the cgroup is being removed: `css_killed_work_fn` clears
    /// `subsys[]` only later, and needs the `cgroup_mutex` that the tracepoint runs under.
    ///
    /// # Safety
    /// `cgroup` is a kernel pointer.
    #[inline(always)]
    unsafe fn oom_kills(cgroup: *const u8) -> u64 {
        // SAFETY: read() faults safely, and `css` is the first member of struct mem_cgroup since the beginning.
        unsafe {
            let css = cgroup.add(8 * MEMORY_CGRP_ID.load() as usize);
            match read::<*const u8>(css, &CGROUP_SUBSYS) {
                Some(memcg) if !memcg.is_null() => {
                    read(memcg.add(8 * MEMCG_OOM_KILL.load() as usize), &MEMCG_EVENTS).unwrap_or(0)
                }
                _ => 0,
            }
        }
    }
}
