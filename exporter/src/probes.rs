//! Loads the object, attaches every signal that it can, and keeps a verdict for each probe. Names no signal.

mod attach;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::Path,
};

use anyhow::{Context as _, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader, Endianness, Pod,
    maps::{Map, MapData},
};
use exporter_ebpf::{Hook, Probe, SIGNALS};

pub use self::verdict::{State, Verdict};
use self::{
    attach::{Attached, attach, iterated, while_packets_load},
    verdict::{explain, lacks_helper},
};
use crate::{
    btf::{self, Btf},
    sys::{self, IterLink, MappedArray},
};

/// The compiled kernel half; `cargo xtask ebpf` makes it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../object/podmeter.bpf.o");

/// What the loader needs to know of the machine and of the user's wishes.
pub struct Plan<'a> {
    /// The kernel's BTF.
    pub btf: &'a Path,
    /// The root of cgroup v2, if there is one.
    pub cgroup: Option<&'a Path>,
    /// The signals that are wanted.
    pub signals: &'a BTreeSet<&'static str>,
    /// Globals that are not from BTF.
    pub globals: &'a [(&'static str, u32)],
    /// Sizes of maps.
    pub sizes: &'a [(&'static str, u32)],
    /// Whether the kernel half's debug messages are wanted.
    pub debug: bool,
}

/// The loaded object and what became of each probe. Dropped, or killed, it leaves nothing attached: links are descriptors.
pub struct Probes {
    ebpf: Option<Ebpf>,
    verdicts: Vec<Verdict>,
    /// Kernel memory of each map, bytes, by name: a map's does not change.
    map_memory: Vec<(String, u64)>,
}

impl Probes {
    /// Loads the object without attaching anything yet: user space fills its queues first.
    ///
    /// What cannot be had becomes a verdict; nothing here is fatal.
    pub fn load(plan: &Plan<'_>) -> Self {
        let btf = std::fs::read(plan.btf)
            .map_err(|error| format!("{}: {error}", plan.btf.display()))
            .and_then(|bytes| Btf::parse(bytes).map_err(|error| format!("{}: {error}", plan.btf.display())));
        let mut verdicts = Vec::new();
        let mut globals = BTreeMap::new();
        for signal in SIGNALS {
            for probe in signal.probes {
                let refused = if plan.signals.contains(signal.name) {
                    resolve(probe, btf.as_ref(), &mut globals)
                        .err()
                        .map(|reason| (State::Unsupported, reason))
                } else {
                    Some((State::Disabled, "switched off".to_owned()))
                };
                let (state, reason) = refused.unwrap_or((State::Failed, "not attached yet".to_owned()));
                verdicts.push(Verdict { signal: signal.name, program: probe.program, state, reason });
            }
        }
        // Kernels before 5.11 charge maps to this limit; where it cannot be lifted, loading says so.
        _ = sys::lift_memlock();
        let ebpf = match load_object(plan, &globals) {
            Ok(ebpf) => Some(ebpf),
            Err(error) => {
                let reason = explain(&error);
                for verdict in verdicts.iter_mut().filter(|verdict| verdict.state == State::Failed) {
                    verdict.reason.clone_from(&reason);
                }
                None
            }
        };
        let map_memory = ebpf.as_ref().map(map_memory).unwrap_or_default();
        Self { ebpf, verdicts, map_memory }
    }

    /// Attaches every probe that [`Self::load`] found possible.
    pub fn attach(&mut self, plan: &Plan<'_>) {
        let Some(ebpf) = &mut self.ebpf else { return };
        let possible: Vec<_> =
            self.verdicts.iter().filter(|verdict| verdict.state == State::Failed).collect();
        let wanted = |name: &str| possible.iter().any(|verdict| verdict.program == name);
        let kernel_btf =
            while_packets_load(ebpf, wanted, || aya::Btf::parse_file(plan.btf, Endianness::default()));
        let probes = SIGNALS.iter().flat_map(|signal| signal.probes);
        for (probe, verdict) in probes.zip(&mut self.verdicts) {
            if verdict.state != State::Failed {
                continue;
            }
            match attach(ebpf, probe, plan, kernel_btf.as_ref().ok()) {
                Ok(Attached::Whole) => (verdict.state, verdict.reason) = (State::Attached, String::new()),
                Ok(Attached::ByFile(error)) => {
                    let reason = format!("walking the open files of all tasks instead: {}", explain(&error));
                    (verdict.state, verdict.reason) = (State::Degraded, reason);
                }
                Err(error) => {
                    verdict.reason = explain(&error);
                    if lacks_helper(&verdict.reason) {
                        verdict.state = State::Unsupported;
                    }
                }
            }
        }
    }

    /// The verdicts, in the order of [`SIGNALS`].
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// Revises the verdict on a probe that attached but does not do what it should.
    pub fn degrade(&mut self, program: &str, reason: String) {
        for verdict in self.verdicts.iter_mut().filter(|verdict| verdict.program == program) {
            (verdict.state, verdict.reason) = (State::Degraded, reason.clone());
        }
    }

    /// Like [`Self::degrade`], for an iterator whose cgroups' files say the same.
    pub fn degrade_to_files(&mut self, program: &str, error: &anyhow::Error) {
        self.degrade(program, format!("reading the cgroups' files instead: {error:#}"));
    }

    /// Whether the program is loaded and, if it has a hook, attached.
    pub fn is_attached(&self, program: &str) -> bool {
        self.verdicts.iter().any(|verdict| verdict.program == program && verdict.state == State::Attached)
    }

    /// Takes a map out of the object.
    ///
    /// # Errors
    /// When the object was not loaded, has no such map, or it is of another type.
    pub fn take<T: TryFrom<Map, Error: std::error::Error + Send + Sync + 'static>>(
        &mut self,
        name: &str,
    ) -> anyhow::Result<T> {
        let ebpf = self.ebpf.as_mut().ok_or_else(|| anyhow!("the eBPF object is not loaded"))?;
        let map =
            ebpf.take_map(name).with_context(|| format!("map {name} is not in the object, or taken"))?;
        T::try_from(map).with_context(|| format!("map {name}"))
    }

    /// Maps an array into memory.
    ///
    /// # Errors
    /// As [`Self::take`], or when the kernel refuses.
    pub fn array<T: Pod>(&self, name: &str) -> anyhow::Result<MappedArray<T>> {
        let ebpf = self.ebpf.as_ref().ok_or_else(|| anyhow!("the eBPF object is not loaded"))?;
        let Some(Map::Array(data)) = ebpf.map(name) else {
            return Err(anyhow!("array {name} is not in the object"));
        };
        let len = data.info()?.max_entries();
        MappedArray::new(data.fd().as_fd(), len).with_context(|| format!("mapping {name}"))
    }

    /// Links an attached iterator program to the hierarchy at `root`.
    ///
    /// # Errors
    /// When it is not loaded or the kernel refuses.
    pub fn iter_cgroup(&self, program: &str, root: &Path) -> anyhow::Result<IterLink> {
        let root = File::open(root).with_context(|| format!("opening {}", root.display()))?;
        self.with_fd(program, |fd| Ok(IterLink::cgroup(fd, root.as_fd())?))
    }

    /// Runs an attached iterator program over one cgroup: what it wrote.
    ///
    /// # Errors
    /// As [`Self::iter_cgroup`].
    pub fn sample_cgroup(program: BorrowedFd<'_>, cgroup: &Path) -> anyhow::Result<Vec<u8>> {
        let cgroup = File::open(cgroup).with_context(|| format!("opening {}", cgroup.display()))?;
        let mut bytes = Vec::new();
        IterLink::one_cgroup(program, cgroup.as_fd())?.read(&mut bytes)?;
        Ok(bytes)
    }

    /// Links what walks sockets for a probe of [`Hook::IterSockets`]: to their storage, or to the open files. `None` if neither can be
    /// had; then, and where less is found so, the verdict says why.
    pub fn iter_sockets(&mut self, probe: &Probe) -> Option<IterLink> {
        let Hook::IterSockets { storage, by_file } = probe.hook else { return None };
        let linked = if self.is_attached(probe.program) {
            self.iter_map(probe.program, storage)
        } else if self.is_loaded(by_file) {
            self.iter_files(by_file)
        } else {
            return None;
        };
        let reason = |error| format!("open connections are not looked at before a scrape: {error:#}");
        linked.map_err(|error| self.degrade(probe.program, reason(error))).ok()
    }

    fn iter_map(&self, program: &str, map: &str) -> anyhow::Result<IterLink> {
        let data = self.ebpf.as_ref().and_then(|ebpf| ebpf.map(map)).and_then(data);
        let data = data.with_context(|| format!("map {map} is not in the object"))?;
        self.with_fd(program, |fd| Ok(IterLink::map(fd, data.fd().as_fd())?))
    }

    /// Links an attached iterator program to the open files of all tasks.
    ///
    /// # Errors
    /// As [`Self::iter_cgroup`], and in a PID namespace that has not all of them.
    pub fn iter_files(&self, program: &str) -> anyhow::Result<IterLink> {
        ensure!(
            sees_all_tasks(),
            "in a PID namespace of its own it sees no other's files: hostPID, or --pid=host"
        );
        self.with_fd(program, |fd| Ok(IterLink::files(fd)?))
    }

    fn is_loaded(&self, program: &str) -> bool {
        self.with_fd(program, |_| Ok(())).is_ok()
    }

    /// Calls `f` with the descriptor of a loaded program.
    ///
    /// # Errors
    /// When it is not loaded, or those of `f`.
    pub fn with_fd<R>(
        &self,
        program: &str,
        f: impl FnOnce(BorrowedFd<'_>) -> anyhow::Result<R>,
    ) -> anyhow::Result<R> {
        let found = self.ebpf.as_ref().and_then(|ebpf| ebpf.program(program));
        let fd = found.with_context(|| format!("program {program} is not in the object"))?.fd()?;
        f(fd.as_fd())
    }

    /// Kernel memory that each map is charged with, bytes, by name.
    pub fn map_memory(&self) -> &[(String, u64)] {
        &self.map_memory
    }

    /// The object, for its statistics and its log; `None` when it could not be loaded.
    pub fn object(&self) -> Option<&Ebpf> {
        self.ebpf.as_ref()
    }

    /// See [`Self::object`].
    pub fn object_mut(&mut self) -> Option<&mut Ebpf> {
        self.ebpf.as_mut()
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").field("verdicts", &self.verdicts).finish_non_exhaustive()
    }
}

/// Finds what the probe reads in BTF; a reason when the kernel lacks something.
fn resolve(
    probe: &Probe,
    btf: Result<&Btf, &String>,
    globals: &mut BTreeMap<&'static str, u32>,
) -> Result<(), String> {
    let needs_btf =
        !probe.fields.is_empty() || !matches!(probe.hook, Hook::CgroupSkbIngress | Hook::CgroupSkbEgress);
    let btf = match btf {
        Ok(btf) => btf,
        Err(reason) if needs_btf => return Err(format!("no kernel BTF: {reason}")),
        Err(_) => return Ok(()),
    };
    match probe.hook {
        Hook::BtfTracepoint(name) if !btf.has_tracepoint(name) => {
            return Err(btf::Error::Missing(format!("tracepoint {name}")).to_string());
        }
        hook => {
            if let Some(kind) = iterated(hook).filter(|kind| !btf.has_iterator(kind)) {
                return Err(btf::Error::Missing(format!("iterator {kind}")).to_string());
            }
        }
    }
    for field in probe.fields {
        globals.insert(field.global, btf.resolve(&field.source).map_err(|error| error.to_string())?);
    }
    Ok(())
}

fn load_object(plan: &Plan<'_>, globals: &BTreeMap<&'static str, u32>) -> anyhow::Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (name, value) in globals {
        loader.override_global(name, value, true);
    }
    for (name, value) in plan.globals {
        loader.override_global(name, value, true);
    }
    // 0 compiles the messages out: the verifier drops what a constant condition never reaches.
    let level: u8 = if plan.debug { aya_log::Level::Debug as u8 } else { 0 };
    loader.override_global(aya_log::LEVEL, &level, false);
    for &(name, size) in plan.sizes {
        loader.map_max_entries(name, size);
    }
    Ok(loader.load(OBJECT)?)
}

/// Whether the tasks of this PID namespace are all tasks: it is the first one, whose number is fixed (`PROC_PID_INIT_INO` in
/// include/linux/proc_ns.h).
fn sees_all_tasks() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name == Path::new("pid:[4026531836]"))
}

/// The data of a map of any type.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::Queue(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}

/// What the kernel says in /proc/self/fdinfo that each map is charged with.
fn map_memory(ebpf: &Ebpf) -> Vec<(String, u64)> {
    let charged = |map| {
        let path = format!("/proc/self/fdinfo/{}", data(map)?.fd().as_fd().as_raw_fd());
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
    };
    let mut memory: Vec<_> =
        ebpf.maps().filter_map(|(name, map)| Some((name.to_owned(), charged(map)?))).collect();
    memory.sort();
    memory
}
