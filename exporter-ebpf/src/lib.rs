//! podmeter's kernel half: one module per signal, with the layout that it shares with user space, its hooks and its probe.
//!
//! The library compiles for two targets. For BPF it is the programs and maps; for the host it is the layouts, the
//! declarations below and the pure code (histogram index, HTTP head and route), which is tested there.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics, asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        internal_features,
        reason = "core::sync::atomic has no add on the BPF target: it lacks compare-and-swap"
    )
)]

pub mod block_io;
pub mod cgroup;
pub mod cpu;
pub mod histogram;
pub mod http;
#[cfg(target_arch = "bpf")]
mod kernel;
mod layout;
pub mod loss;
pub mod memory;
pub mod pressure;
pub mod series;
pub mod socket;
pub mod tcp;

/// Everything that user space needs to know about a signal.
#[derive(Clone, Copy, Debug)]
pub struct Signal {
    /// The name in flags, verdicts and metrics.
    pub name: &'static str,
    /// What it measures, in a sentence.
    pub summary: &'static str,
    /// Its programs.
    pub probes: &'static [Probe],
    /// Its maps.
    pub maps: &'static [&'static str],
}

/// A program in the object and the hook it attaches to.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// The program's name in the object.
    pub program: &'static str,
    /// Where it attaches.
    pub hook: Hook,
    /// What it reads from kernel structs.
    pub fields: &'static [Field],
    /// Whether the signal says nothing at all without it; otherwise it is only degraded.
    pub required: bool,
}

/// Where a program attaches. The loader is one `match` over this, for every signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A BTF-typed tracepoint (5.5+).
    BtfTracepoint(&'static str),
    /// Packets that arrive at, or leave, the sockets of the whole cgroup v2 tree (links: 5.7+).
    CgroupSkbIngress,
    /// See [`Hook::CgroupSkbIngress`].
    CgroupSkbEgress,
    /// Walks the cgroups of one hierarchy, on demand (6.1+).
    IterCgroup,
    /// Walks the sockets that have an entry in the named socket storage map, on demand (5.9+). Where the kernel refuses the program,
    /// the other one walks the open files of all tasks (see [`socket`]).
    IterSockets {
        /// The map.
        storage: &'static str,
        /// The other program.
        by_file: &'static str,
    },
    /// Walks the open files of all tasks, on demand (5.8+).
    IterTaskFile,
    /// Attached to nothing: run on demand on a chosen CPU (5.10+).
    OnCpu,
}

/// A value that the kernel's BTF decides and that a program reads as a constant.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The read-only global that takes the value, a `u32`.
    pub global: &'static str,
    /// How to find it.
    pub source: Source,
}

/// How to find a [`Field`]'s value in BTF.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// The byte offset of a member, by struct and dotted path; the first path that exists wins.
    Offset(&'static str, &'static [&'static str]),
    /// The byte offset of a member that some kernels have elsewhere, by struct and name; 0, which no such member is at, where it
    /// is missing.
    Perhaps(&'static str, &'static str),
    /// The value of an enumerator.
    Enumerator(&'static str, &'static str),
    /// The index, among a BTF tracepoint's arguments, of the pointer to the named struct.
    Argument(&'static str, &'static str),
}

/// Every signal, in the order of the documentation. `cgroup` comes first: the others charge to the slots that it keeps.
pub const SIGNALS: &[&Signal] = &[
    &cgroup::SIGNAL,
    &cpu::SIGNAL,
    &memory::SIGNAL,
    &pressure::SIGNAL,
    &block_io::SIGNAL,
    &http::SIGNAL,
    &tcp::SIGNAL,
];
