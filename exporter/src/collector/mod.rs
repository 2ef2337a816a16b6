//! One file per signal: reads what the kernel half counted, and emits a snapshot of it.

pub mod agent;
pub mod block_io;
pub mod cpu;
pub mod http;
pub mod memory;
pub mod pressure;

use exporter_ebpf::series::Family;

use crate::{
    cgroup::tree::{Released, Tree, WorkloadId},
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
}

impl Context<'_> {
    /// The workload of a slot.
    pub fn owner(&self, slot: u32) -> Option<WorkloadId> {
        *self.owners.get(slot as usize)?
    }

    /// The sums of a family's rows, by workload.
    pub fn rows(&self, family: Family) -> Vec<(Key, Sum)> {
        self.series.map(|series| series.read(family, |slot| self.owner(slot))).unwrap_or_default()
    }
}

/// A signal's user half.
pub trait Collector: Send {
    /// The signal's name.
    fn name(&self) -> &'static str;

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

/// Every metric, by signal, in the order of the documentation.
pub fn catalogue() -> Vec<Section> {
    let section = |signal: &exporter_ebpf::Signal, metrics: &[&'static [&'static Metric]]| Section {
        signal: signal.name,
        summary: signal.summary,
        metrics: metrics.concat(),
    };
    vec![
        section(&exporter_ebpf::cpu::SIGNAL, &[cpu::METRICS]),
        section(&exporter_ebpf::memory::SIGNAL, &[memory::METRICS, pressure::METRICS]),
        section(&exporter_ebpf::block_io::SIGNAL, &[block_io::METRICS]),
        section(&exporter_ebpf::http::SIGNAL, &[http::METRICS]),
        Section { signal: "podmeter", summary: "The agent's own health.", metrics: agent::METRICS.to_vec() },
    ]
}

/// The slots' owners, and how many slots are of a cgroup that the tree does not know.
pub fn owners(slots: &Slots, tree: &Tree) -> (Vec<Option<WorkloadId>>, u64) {
    let mut owners = vec![None; slots.capacity() as usize];
    let mut unresolved = 0;
    for (slot, node) in slots.taken() {
        let owner = tree.workload_of(node);
        unresolved += u64::from(owner.is_none());
        owners[slot as usize] = owner;
    }
    (owners, unresolved)
}
