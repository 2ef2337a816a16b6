//! One file per signal: reads what the kernel half counted, and emits a snapshot of it.

pub mod agent;
pub mod block_io;
pub mod cadvisor;
pub mod cpu;
pub mod http;
pub mod memory;
pub mod pods;
pub mod pressure;
pub mod spec;
pub mod tcp;

use exporter_ebpf::{
    Signal,
    series::{Family, SeriesKey},
};

use crate::{
    cgroup::tree::{NodeKey, Released, Tree, WorkloadId},
    config::Agent,
    http::guard,
    probes::Probes,
    route::Routes,
    series::{Key, Series, Sum},
    slots::Slots,
    snapshot::{Metric, Snapshot},
};

/// What a collector may look at during one scrape.
pub struct Context<'a> {
    /// The cgroups and their workloads.
    pub tree: &'a Tree,
    /// The workload of each slot.
    pub owners: &'a [Option<WorkloadId>],
    /// The histogram rows; none when the kernel half could not be loaded.
    pub series: Option<&'a Series>,
    /// Which of them are taken.
    pub rows: &'a [(u32, SeriesKey)],
    /// For whom.
    pub reader: Reader,
}

/// Whom the numbers are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A scrape: everything.
    Scrape,
    /// Adapters, every second: what [`crate::stream::frame`] has a place for.
    Adapter,
}

impl Context<'_> {
    /// The workload of a slot.
    pub fn owner(&self, slot: u32) -> Option<WorkloadId> {
        *self.owners.get(slot as usize)?
    }

    /// The sums of a family's rows, by workload.
    pub fn rows(&self, family: Family) -> Vec<(Key, Sum)> {
        self.series.map(|series| series.read(self.rows, family, |slot| self.owner(slot))).unwrap_or_default()
    }
}

/// A signal's user half.
pub trait Collector: Send {
    /// The signal's name.
    fn name(&self) -> &'static str;

    /// Whether it has anything for this reader.
    fn is_for(&self, _reader: Reader) -> bool {
        true
    }

    /// A cgroup was made, or found.
    fn admit(&mut self, _tree: &Tree, _cgroup: NodeKey) {}

    /// Has the kernel half bring its counters up to date, before any are read.
    ///
    /// # Errors
    /// When the kernel refuses; the collector is then not asked for more.
    fn settle(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Emits one scrape. What it cannot know it leaves out.
    ///
    /// # Errors
    /// When its source cannot be read at all; what it emitted is then dropped, and the other collectors go on.
    fn collect(&mut self, context: &Context<'_>, out: &mut Snapshot) -> anyhow::Result<()>;

    /// A cgroup has been shown for the last time: keeps what its workload still needs. `slot` is its slot, if it had one.
    fn release(&mut self, _released: &Released, _slot: Option<u32>) {}
}

/// A signal's part of METRICS.md.
pub struct Section {
    /// The signal's name.
    pub signal: &'static str,
    /// What it measures.
    pub summary: &'static str,
    /// Its metrics.
    pub metrics: Vec<&'static Metric>,
}

/// What a collector is built from, after its probes have been attached.
pub struct Start<'a> {
    /// The kernel half.
    pub probes: &'a mut Probes,
    /// The cgroups, walked.
    pub tree: &'a Tree,
    /// The kernel's counters; none when the kernel half could not be loaded.
    pub counters: Option<&'a (Slots, Series)>,
    /// The user's routes, for the collector that takes them; none when the kernel half could not be loaded.
    pub routes: Option<Routes>,
    /// What the user wants.
    pub config: &'a Agent,
}

/// A signal's entry in the list of collectors.
pub struct Entry {
    /// The kernel half.
    pub signal: &'static Signal,
    /// The metrics.
    pub metrics: &'static [&'static Metric],
    /// Builds the collector; called only when every required probe is attached.
    pub new: fn(&mut Start<'_>) -> anyhow::Result<Box<dyn Collector>>,
}

/// Every collector, in the order of the documentation.
pub static COLLECTORS: &[Entry] = &[
    Entry { signal: &exporter_ebpf::cpu::SIGNAL, metrics: cpu::METRICS, new: cpu::new },
    Entry { signal: &exporter_ebpf::memory::SIGNAL, metrics: memory::METRICS, new: memory::new },
    Entry { signal: &exporter_ebpf::pressure::SIGNAL, metrics: pressure::METRICS, new: pressure::new },
    Entry { signal: &exporter_ebpf::block_io::SIGNAL, metrics: block_io::METRICS, new: block_io::new },
    Entry { signal: &exporter_ebpf::http::SIGNAL, metrics: http::METRICS, new: http::new },
    Entry { signal: &exporter_ebpf::tcp::SIGNAL, metrics: tcp::METRICS, new: tcp::new },
];

/// Every metric, by signal, in the order of the documentation.
pub fn catalogue() -> Vec<Section> {
    let signals = COLLECTORS.iter().map(|entry| Section {
        signal: entry.signal.name,
        summary: entry.signal.summary,
        metrics: entry.metrics.to_vec(),
    });
    let pods = Section {
        signal: "kubernetes",
        summary: pods::SUMMARY,
        metrics: [spec::METRICS, pods::METRICS].concat(),
    };
    let own =
        Section { signal: "podmeter", summary: "The agent's own health.", metrics: agent::METRICS.to_vec() };
    let guard = Section { signal: "security", summary: guard::SUMMARY, metrics: guard::METRICS.to_vec() };
    signals.chain([pods, guard, own]).collect()
}

/// The slots' owners, and how many slots are of a cgroup that the tree does not know.
pub fn owners(slots: &Slots, tree: &Tree) -> (Vec<Option<WorkloadId>>, u64) {
    let mut owners = vec![None; slots.capacity() as usize];
    let mut unresolved = 0;
    for (slot, node) in slots.taken() {
        let owner = tree.charged(node);
        unresolved += u64::from(owner.is_none());
        owners[slot as usize] = owner;
    }
    (owners, unresolved)
}
