//! TCP. The kernel half is `exporter-ebpf/src/tcp.rs`.

use std::time::Instant;

use exporter_ebpf::{
    series::Family,
    tcp::{ADOPT, Failure, SIGNAL, TCP, Tcp, WALK},
};
use rustc_hash::FxHashMap;
use tracing::debug;

use super::{Collector, Context, Reader, Start};
use crate::{
    cgroup::tree::{Released, WorkloadId},
    probes::Probes,
    snapshot::{Kind, Metric, Snapshot},
    sys::{IterLink, MappedArray},
};

static RECEIVED: Metric = Metric::container(
    "container_tcp_received_bytes_total",
    Kind::Counter,
    &[],
    "Payload that TCP sockets received, whatever they speak and to whichever host.",
);
static SENT: Metric = Metric::container(
    "container_tcp_sent_bytes_total",
    Kind::Counter,
    &[],
    "Payload that TCP sockets sent; what was sent again counts once.",
);
static ACCEPTED: Metric = Metric::container(
    "container_tcp_accepted_connections_total",
    Kind::Counter,
    &[],
    "TCP connections that others opened: completed handshakes, accepted by the application yet or not.",
);
static OPENED: Metric = Metric::container(
    "container_tcp_opened_connections_total",
    Kind::Counter,
    &[],
    "TCP connections that the container opened.",
);
static FAILED: Metric = Metric::container(
    "container_tcp_failed_connections_total",
    Kind::Counter,
    &["reason"],
    "TCP connections that the container tried to open in vain: refused, timeout, unreachable, aborted (by itself) or other.",
);
static RETRANSMITS: Metric =
    Metric::container("container_tcp_retransmits_total", Kind::Counter, &[], "TCP segments sent again.");
static RESETS: Metric = Metric::container(
    "container_tcp_resets_total",
    Kind::Counter,
    &["direction"],
    "TCP resets that sockets sent or received; those that no socket was there for are nobody's.",
);
static RTT: Metric = Metric::container(
    "container_tcp_rtt_seconds",
    Kind::Histogram,
    &[],
    "Smoothed round-trip times of TCP connections: one observation at the end of a connection, and one at each scrape before which it moved bytes.",
);

/// The metrics of this signal.
pub static METRICS: &[&Metric] =
    &[&RECEIVED, &SENT, &ACCEPTED, &OPENED, &FAILED, &RETRANSMITS, &RESETS, &RTT];

/// Upper bounds of the round-trip buckets, ns: 50 us to 1 s.
pub const RTT_BOUNDS: [u64; 13] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
];

/// What a metric takes from an account.
type Counter = fn(&Tcp) -> u64;

/// Builds the collector, and has the kernel half know the connections that are open already.
///
/// # Errors
/// When the map of the slots' accounts cannot be had.
pub fn new(start: &mut Start<'_>) -> anyhow::Result<Box<dyn Collector>> {
    Ok(Box::new(Collect::new(start.probes)?))
}

/// The collector.
struct Collect {
    tcp: MappedArray<Tcp>,
    walk: Option<IterLink>,
    /// What cgroups that are gone had counted for workloads that go on.
    retained: FxHashMap<WorkloadId, Tcp>,
}

impl Collect {
    fn new(probes: &mut Probes) -> anyhow::Result<Self> {
        let tcp = probes.array(TCP)?;
        if probes.is_attached(ADOPT) {
            let started = Instant::now();
            let adopted = probes.iter_files(ADOPT).and_then(|link| Ok(link.walk()?));
            debug!(took_seconds = started.elapsed().as_secs_f64(), "open files searched for connections");
            if let Err(error) = adopted {
                probes.degrade(ADOPT, format!("connections from before the agent do not count: {error:#}"));
            }
        }
        let walk = probes.iter_sockets(&WALK);
        Ok(Self { tcp, walk, retained: FxHashMap::default() })
    }

    /// The accounts of the workloads, in order.
    fn accounts(&self, context: &Context<'_>) -> Vec<(WorkloadId, Tcp)> {
        let mut sums = self.retained.clone();
        for (slot, owner) in context.owners.iter().enumerate() {
            let (Some(owner), Some(own)) = (owner, self.tcp.get(slot as u32)) else { continue };
            if own != EMPTY {
                sum(sums.entry(*owner).or_insert(EMPTY), &own);
            }
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_unstable_by_key(|(id, _)| *id);
        sums
    }
}

const EMPTY: Tcp = Tcp {
    received: 0,
    sent: 0,
    accepted: 0,
    opened: 0,
    failed: [0; Failure::ALL.len()],
    retransmits: 0,
    resets_sent: 0,
    resets_received: 0,
    row: 0,
    reserved: 0,
};

fn sum(to: &mut Tcp, own: &Tcp) {
    let Tcp { received, sent, accepted, opened, failed, retransmits, resets_sent, resets_received, .. } = own;
    to.received += received;
    to.sent += sent;
    to.accepted += accepted;
    to.opened += opened;
    to.failed.iter_mut().zip(failed).for_each(|(to, own)| *to += own);
    to.retransmits += retransmits;
    to.resets_sent += resets_sent;
    to.resets_received += resets_received;
}

impl Collector for Collect {
    fn name(&self) -> &'static str {
        SIGNAL.name
    }

    fn is_for(&self, reader: Reader) -> bool {
        reader == Reader::Scrape
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        Ok(self.walk.as_ref().map_or(Ok(()), IterLink::walk)?)
    }

    fn collect(&mut self, context: &Context<'_>, out: &mut Snapshot) -> anyhow::Result<()> {
        let accounts = self.accounts(context);
        let accounts: Vec<_> =
            accounts.iter().filter_map(|(id, tcp)| Some((&context.tree.get(*id)?.labels, tcp))).collect();
        let counters: [(&'static Metric, Counter); 5] = [
            (&RECEIVED, |tcp| tcp.received),
            (&SENT, |tcp| tcp.sent),
            (&ACCEPTED, |tcp| tcp.accepted),
            (&OPENED, |tcp| tcp.opened),
            (&RETRANSMITS, |tcp| tcp.retransmits),
        ];
        for (metric, value) in counters {
            let family = out.family(metric);
            for (labels, tcp) in &accounts {
                family.value(labels, &[], value(tcp) as f64);
            }
        }
        let family = out.family(&FAILED);
        for (labels, tcp) in &accounts {
            for (failure, count) in Failure::ALL.iter().zip(tcp.failed).filter(|(_, count)| *count > 0) {
                family.value(labels, &[failure.name()], count as f64);
            }
        }
        let family = out.family(&RESETS);
        for (labels, tcp) in &accounts {
            family.value(labels, &["received"], tcp.resets_received as f64);
            family.value(labels, &["sent"], tcp.resets_sent as f64);
        }
        let family = out.family(&RTT);
        for (key, sum) in context.rows(Family::TcpRtt) {
            if let Some(workload) = context.tree.get(key.workload) {
                family.histogram(&workload.labels, &[], sum.histogram(&RTT_BOUNDS));
            }
        }
        Ok(())
    }

    fn release(&mut self, released: &Released, slot: Option<u32>) {
        if let Some((slot, own)) = slot.and_then(|slot| Some((slot, self.tcp.get(slot)?))) {
            if released.survives {
                sum(self.retained.entry(released.workload).or_insert(EMPTY), &own);
            }
            self.tcp.set(slot, EMPTY);
        }
        if !released.survives {
            self.retained.remove(&released.workload);
        }
    }
}
