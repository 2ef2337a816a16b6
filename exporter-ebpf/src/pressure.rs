//! Pressure: how long tasks of each cgroup were stalled for want of CPU, memory or I/O (PSI).
//!
//! What: the kernel's own totals for every cgroup of v2, so there is no hook on any path of an application.
//! Hooks: `iter/cgroup` (6.1+) over cgroup v2, when scraped. Older kernels, and the root: the files.
//! Maps: `PRESSURES` (the records of the last walk), `PRESSURE_WALK` (their number).
//! Metrics: `container_pressure_*`.
//! Cost: 0.6 us per cgroup and scrape (6.18, net of the statistics' own 58 ns), nothing in between.
//!
//! The kernel adds the totals up every two seconds while there is something to add (`psi_avgs_work`), and when a file is read:
//! what is read here is as of then.

use crate::{Field, Hook, Probe, Signal, Source, cgroup::ID_FIELDS, layout::layout};

/// This signal.
pub const SIGNAL: Signal = Signal {
    name: "pressure",
    summary: "Time in which tasks were stalled for want of CPU, memory or I/O.",
    probes: &[Probe {
        program: READ,
        hook: Hook::IterCgroup,
        fields: &[
            ID_FIELDS[0],
            ID_FIELDS[1],
            // A pointer since 6.1 (34f26a15611a).
            Field { global: "CGROUP_PSI", source: Source::Offset("cgroup", &["psi"]) },
            Field { global: "PSI_ENABLED", source: Source::Offset("psi_group", &["enabled"]) },
            Field { global: "PSI_TOTAL", source: Source::Offset("psi_group", &["total"]) },
        ],
        // Without it the files say the same.
        required: false,
    }],
    maps: &[PRESSURES, PRESSURE_WALK],
};

/// The program that fills [`PRESSURES`].
pub const READ: &str = "pressure_read";
/// The map of [`Pressure`], by position in the walk.
pub const PRESSURES: &str = "PRESSURES";
/// The map of how many records have been written: user space sets it to 0 before the walk.
pub const PRESSURE_WALK: &str = "PRESSURE_WALK";

layout! {
    /// The totals of one cgroup, ns.
    pub struct Pressure {
        /// The cgroup's id in v2.
        pub id: u64,
        /// By `enum psi_states` of linux/psi_types.h: I/O some and full, memory some and full, CPU some and full.
        pub total: [u64; 6],
    }
    size 56
}

#[cfg(target_arch = "bpf")]
mod probe {
    use aya_ebpf::{Global, btf_maps::Array, macros::btf_map};

    use super::Pressure;
    use crate::{
        cgroup::{DEFAULT_SLOTS, probe::id},
        kernel::{Iter, MMAPABLE, read},
    };

    #[unsafe(no_mangle)]
    static CGROUP_PSI: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static PSI_ENABLED: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static PSI_TOTAL: Global<u32> = Global::new(0);

    #[btf_map]
    static PRESSURES: Array<Pressure, { DEFAULT_SLOTS as usize }, MMAPABLE> = Array::new();
    #[btf_map]
    static PRESSURE_WALK: Array<u64, 1, MMAPABLE> = Array::new();

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "iter/cgroup")]
    extern "C" fn pressure_read(ctx: *const Iter) -> i32 {
        // SAFETY: the context of iter/cgroup; `cgroup` is a BTF pointer, null once at the end; read() faults safely; one walk
        // at a time.
        unsafe {
            let cgroup = (*ctx).object;
            if cgroup.is_null() {
                return 0;
            }
            // Null in the root, whose totals are the system's.
            let Some(psi) = read::<*const u8>(cgroup, &CGROUP_PSI).filter(|psi| !psi.is_null()) else {
                return 0;
            };
            if read::<u8>(psi, &PSI_ENABLED) != Some(1) {
                return 0;
            }
            let Some(total) = read::<[u64; 6]>(psi, &PSI_TOTAL) else { return 0 };
            let Some(walk) = PRESSURE_WALK.get_ptr_mut(0) else { return 0 };
            let at = *walk;
            *walk = at + 1;
            if let Some(record) = PRESSURES.get_ptr_mut(at as u32) {
                (*record).id = id(cgroup);
                (*record).total = total;
            }
        }
        0
    }
}
