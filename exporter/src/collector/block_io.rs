//! Block I/O: bytes, operations and latency. The kernel half is `exporter-ebpf/src/block_io.rs`.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
};

use exporter_ebpf::{
    block_io::{Detail, SIGNAL},
    series::Family,
};

use super::{Collector, Context, Start};
use crate::{
    cgroup::tree::{Tree, Workload, WorkloadId, naming::Role},
    series::{Key, Sum},
    snapshot::{Kind, Labels, Metric, Snapshot},
};

static READS: Metric = Metric::container(
    "container_fs_reads_total",
    Kind::Counter,
    &["device"],
    "Reads that the device completed.",
);
static READ_BYTES: Metric = Metric::container(
    "container_fs_reads_bytes_total",
    Kind::Counter,
    &["device"],
    "Bytes read from the device.",
);
static WRITES: Metric = Metric::container(
    "container_fs_writes_total",
    Kind::Counter,
    &["device"],
    "Writes that the device completed.",
);
static WRITE_BYTES: Metric = Metric::container(
    "container_fs_writes_bytes_total",
    Kind::Counter,
    &["device"],
    "Bytes written to the device.",
);
pub(crate) static LATENCY: Metric = Metric::container(
    "container_fs_io_latency_seconds",
    Kind::Histogram,
    &["device", "operation"],
    "From the making of a request to its completion by the device, queueing included.",
);

/// The metrics of this signal.
pub static METRICS: &[&Metric] = &[&READS, &READ_BYTES, &WRITES, &WRITE_BYTES, &LATENCY];

/// Upper bounds of the latency buckets, ns: 25 us to 10 s.
pub const LATENCY_BOUNDS: [u64; 14] = [
    25_000,
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
    1_000_000_000,
    10_000_000_000,
];

/// Builds the collector.
///
/// # Errors
/// Never.
pub fn new(start: &mut Start<'_>) -> anyhow::Result<Box<dyn Collector>> {
    Ok(Box::new(Collect { sysfs: start.config.sysfs.clone(), devices: HashMap::new() }))
}

/// The collector.
struct Collect {
    sysfs: PathBuf,
    devices: HashMap<(u32, u32), String>,
}

impl Collect {
    /// The device's node, as cAdvisor has it: `/dev/sda`; the numbers where sysfs does not know it (any more).
    fn device(&mut self, detail: Detail) -> String {
        let numbers = (detail.major, detail.minor);
        let sysfs = &self.sysfs;
        let name = self.devices.entry(numbers).or_insert_with(|| {
            let path = sysfs.join(format!("dev/block/{}:{}/uevent", numbers.0, numbers.1));
            let text = fs::read_to_string(path).unwrap_or_default();
            let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
            name.map_or_else(|| format!("{}:{}", numbers.0, numbers.1), |name| format!("/dev/{name}"))
        });
        name.clone()
    }
}

impl Collector for Collect {
    fn name(&self) -> &'static str {
        SIGNAL.name
    }

    fn collect(&mut self, context: &Context<'_>, out: &mut Snapshot) -> anyhow::Result<()> {
        let rows = context.rows(Family::BlockIo);
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(key, sum)| {
                let detail = Detail::unpack(key.detail);
                (key, detail.operation, self.device(detail), sum)
            })
            .collect();
        emit(context, &rows, out);
        Ok(())
    }
}

/// The name of a `REQ_OP_*` (linux/blk_types.h, unchanged since 4.8 where the number is here).
fn operation(number: u8) -> &'static str {
    match number {
        0 => "read",
        1 => "write",
        2 => "flush",
        3 => "discard",
        5 => "secure_erase",
        9 => "write_zeroes",
        _ => "other",
    }
}

/// What devices completed for a workload.
#[derive(Clone, Copy, Default)]
struct Done {
    operations: u64,
    bytes: u64,
}

/// What a metric takes from it.
type Value = fn(&Done) -> u64;

/// By workload, operation and device; a pod's is that of its containers, of those that are gone too.
fn totals<'a>(tree: &Tree, rows: &'a [(Key, u8, String, Sum)]) -> BTreeMap<(WorkloadId, u8, &'a str), Done> {
    let mut totals = BTreeMap::<_, Done>::new();
    for (key, operation, device, sum) in rows {
        let pod = tree.get(key.workload).and_then(|workload| workload.pod);
        let pod = pod.filter(|pod| tree.get(*pod).is_some_and(|pod| pod.role == Role::Pod));
        for workload in [key.workload].into_iter().chain(pod) {
            let done = totals.entry((workload, *operation, device.as_str())).or_default();
            done.operations += sum.count() + sum.unmeasured;
            done.bytes += sum.bytes;
        }
    }
    totals
}

fn emit(context: &Context<'_>, rows: &[(Key, u8, String, Sum)], out: &mut Snapshot) {
    let labels =
        |workload: WorkloadId| context.tree.get(workload).map_or(&Labels::NONE, |workload| &workload.labels);
    let totals = totals(context.tree, rows);
    let values: [(&'static Metric, u8, Value); 4] = [
        (&READS, 0, |done| done.operations),
        (&READ_BYTES, 0, |done| done.bytes),
        (&WRITES, 1, |done| done.operations),
        (&WRITE_BYTES, 1, |done| done.bytes),
    ];
    for (metric, of, value) in values {
        let family = out.family(metric);
        for ((workload, _, device), done) in totals.iter().filter(|((_, operation, _), _)| *operation == of) {
            family.value(labels(*workload), &[device], value(done) as f64);
        }
    }
    let family = out.family(&LATENCY);
    let is_pod = |key: &Key| context.tree.get(key.workload).is_some_and(Workload::is_pod);
    for (key, number, device, sum) in rows.iter().filter(|(key, ..)| !is_pod(key)) {
        if sum.count() > 0 {
            family.histogram(
                labels(key.workload),
                &[device, operation(*number)],
                sum.clone().histogram(&LATENCY_BOUNDS),
            );
        }
    }
}
