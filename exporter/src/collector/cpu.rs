//! CPU: on-CPU time, run-queue waits, CFS throttling. The kernel half is `exporter-ebpf/src/cpu.rs`.

mod utilization;

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use exporter_ebpf::{
    cpu::{BANDWIDTH, BANDWIDTH_WALK, BANDWIDTHS, Bandwidth, CPU, Cpu, SETTLE, SIGNAL},
    series::Family,
};

use rustc_hash::FxHashMap;

use self::utilization::{OF_LIMIT, OF_REQUEST, Utilization};
use super::{Collector, Context, Reader, Start, owners};
use crate::{
    cgroup::tree::{Released, Tree, Workload, WorkloadId},
    probes::Probes,
    snapshot::{Kind, Labels, Metric, Snapshot},
    sys::{self, MappedArray},
    walker::Walker,
};

pub(crate) static USAGE: Metric = Metric::container(
    "container_cpu_usage_seconds_total",
    Kind::Counter,
    &["cpu"],
    "CPU time consumed. Starts from the kernel's own account and grows by scheduler events; id=\"/\" is the whole node.",
);
pub(crate) static WAIT: Metric = Metric::container(
    "container_cpu_run_queue_latency_seconds",
    Kind::Histogram,
    &[],
    "How long tasks waited in a run queue before they got a CPU.",
);
pub(crate) static PERIODS: Metric = Metric::container(
    "container_cpu_cfs_periods_total",
    Kind::Counter,
    &[],
    "Enforcement periods that passed. Only where there is a CPU quota.",
);
pub(crate) static THROTTLED_PERIODS: Metric = Metric::container(
    "container_cpu_cfs_throttled_periods_total",
    Kind::Counter,
    &[],
    "Enforcement periods in which the container was throttled. Only where there is a CPU quota.",
);
static THROTTLED: Metric = Metric::container(
    "container_cpu_cfs_throttled_seconds_total",
    Kind::Counter,
    &[],
    "Time for which the container was throttled, summed over CPUs. Only where there is a CPU quota.",
);
static SPEC_PERIOD: Metric = Metric::container(
    "container_spec_cpu_period",
    Kind::Gauge,
    &[],
    "Length of an enforcement period in microseconds. Only where there is a CPU quota.",
);
static SPEC_QUOTA: Metric = Metric::container(
    "container_spec_cpu_quota",
    Kind::Gauge,
    &[],
    "CPU time per enforcement period in microseconds. Only where there is a CPU quota.",
);

/// The metrics of this signal.
pub static METRICS: &[&Metric] = &[
    &USAGE,
    &OF_LIMIT,
    &OF_REQUEST,
    &WAIT,
    &PERIODS,
    &THROTTLED_PERIODS,
    &THROTTLED,
    &SPEC_PERIOD,
    &SPEC_QUOTA,
];

/// Upper bounds of the wait buckets, ns: 10 us to 10 s.
pub const WAIT_BOUNDS: [u64; 13] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
];

/// Builds the collector.
///
/// # Errors
/// When the map of the slots' CPU time cannot be had.
pub fn new(start: &mut Start<'_>) -> anyhow::Result<Box<dyn Collector>> {
    let mut this = Collect::new(start.probes, start.tree, possible_cpus(&start.config.sysfs))?;
    if let Some((slots, series)) = start.counters {
        let (owners, _) = owners(slots, start.tree);
        let reader = Reader::Scrape;
        this.seed(&Context { tree: start.tree, owners: &owners, series: Some(series), rows: &[], reader });
    }
    Ok(Box::new(this))
}

/// The CPUs that there can be, from a list such as `0-3,8`; those that are offline are passed over later.
fn possible_cpus(sysfs: &Path) -> Vec<u32> {
    let text = fs::read_to_string(sysfs.join("devices/system/cpu/possible")).unwrap_or_default();
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// The collector.
struct Collect {
    cpu: MappedArray<Cpu>,
    settle: Option<(OwnedFd, Vec<u32>)>,
    bandwidth: Option<Walker<Bandwidth>>,
    /// What a workload had consumed before the probe saw it, ns; negative when the kernel's account lags.
    base: FxHashMap<WorkloadId, i64>,
    /// What cgroups that are gone had consumed, ns: of workloads that go on, and of all.
    retained: FxHashMap<WorkloadId, u64>,
    departed: u64,
    /// What those of a pod's containers had consumed that are gone, ns, by the pod's own workload.
    buried: FxHashMap<WorkloadId, u64>,
    utilization: Utilization,
}

impl Collect {
    fn new(probes: &mut Probes, tree: &Tree, cpus: Vec<u32>) -> anyhow::Result<Self> {
        let settle =
            probes.is_attached(SETTLE).then(|| probes.with_fd(SETTLE, |fd| Ok(fd.try_clone_to_owned()?)));
        let settle = settle.transpose()?.map(|fd| (fd, cpus));
        let root = tree.layout().cpu.map(|index| tree.layout().hierarchies[index].root.clone());
        let walker = root
            .filter(|_| probes.is_attached(BANDWIDTH))
            .map(|root| Walker::new(probes, BANDWIDTH, &root, BANDWIDTHS, BANDWIDTH_WALK));
        let bandwidth = walker
            .and_then(|walker| walker.inspect_err(|error| probes.degrade_to_files(BANDWIDTH, error)).ok());
        let cpu = probes.array(CPU)?;
        let (base, retained, buried) = Default::default();
        let utilization = Utilization::default();
        Ok(Self { cpu, settle, bandwidth, base, retained, departed: 0, buried, utilization })
    }

    /// Takes over the kernel's account of what each workload had consumed before. Once, after attaching.
    fn seed(&mut self, context: &Context<'_>) {
        self.charge();
        let counted = self.counted(context);
        let total: u64 = counted.values().sum();
        let pods = self.pods(context, &counted);
        let Some(v2) = context.tree.layout().v2() else { return };
        for (id, workload) in context.tree.all() {
            let path = v2.directory(&workload.path).join("cpu.stat");
            let Some(usage) = fs::read_to_string(path).ok().and_then(|text| usage(&text)) else { continue };
            let own = counted.get(&id).copied().unwrap_or(0) + pods.get(&id).copied().unwrap_or(0);
            let own = if &*workload.path == "/" { total } else { own };
            self.base.insert(id, usage as i64 - own as i64);
        }
    }

    /// Charges the slices that are under way.
    fn charge(&self) {
        if let Some((fd, cpus)) = &self.settle {
            for &cpu in cpus {
                // ENXIO is a CPU that went offline: nothing runs there.
                _ = sys::run_on_cpu(fd.as_fd(), cpu);
            }
        }
    }

    /// What each workload consumed since the probe saw it, ns.
    fn counted(&self, context: &Context<'_>) -> FxHashMap<WorkloadId, u64> {
        let mut sums = self.retained.clone();
        for (slot, owner) in context.owners.iter().enumerate() {
            if let (Some(owner), Some(cpu)) = (owner, self.cpu.get(slot as u32)) {
                *sums.entry(*owner).or_default() += cpu.on_cpu;
            }
        }
        sums
    }

    /// What the containers of each pod consumed since the probe saw them, ns, by the pod's own workload.
    fn pods(
        &self,
        context: &Context<'_>,
        counted: &FxHashMap<WorkloadId, u64>,
    ) -> FxHashMap<WorkloadId, u64> {
        let mut sums = self.buried.clone();
        for (id, workload) in context.tree.all() {
            if let (Some(pod), Some(nanos)) = (workload.pod, counted.get(&id)) {
                *sums.entry(pod).or_default() += nanos;
            }
        }
        sums
    }

    fn usage(&mut self, context: &Context<'_>, out: &mut Snapshot) {
        let counted = self.counted(context);
        let pods = self.pods(context, &counted);
        // Slot 0 has what no slot could be given for.
        let homeless = self.cpu.get(0).map_or(0, |cpu| cpu.on_cpu);
        let total = counted.values().sum::<u64>() + homeless + self.departed;
        let family = out.family(&USAGE);
        let v2 = context.tree.layout().v2;
        // A cgroup of another hierarchy alone has no tasks that are charged to it: its time is not known.
        let charged =
            |workload: &Workload| workload.nodes.iter().any(|(hierarchy, _)| Some(*hierarchy) == v2);
        for (id, workload) in context.tree.all().filter(|(_, workload)| charged(workload)) {
            let own = counted.get(&id).copied();
            let nanos = match (&*workload.path, own) {
                ("/", _) => total,
                (_, None | Some(0)) if !context.tree.is_shown(workload) => continue,
                (_, own) => own.unwrap_or(0) + pods.get(&id).copied().unwrap_or(0),
            };
            let nanos = (nanos as i64 + self.base.get(&id).copied().unwrap_or(0)).max(0);
            family.value(&workload.labels, &["total"], nanos as f64 / 1e9);
            self.utilization.add(id, workload, nanos);
        }
        self.utilization.emit(context.tree, out);
    }

    fn throttling(&self, context: &Context<'_>, out: &mut Snapshot) -> anyhow::Result<()> {
        let limited = match &self.bandwidth {
            Some(walker) => {
                let id =
                    |record: Bandwidth| context.tree.workload_at((context.tree.layout().cpu?, record.id));
                walker.read(0)?.filter_map(|record| Some((id(record)?, record))).collect()
            }
            None => from_files(context.tree),
        };
        let workload =
            |id: WorkloadId| context.tree.get(id).map_or(&Labels::NONE, |workload| &workload.labels);
        let values: [(&'static Metric, BandwidthValue); 5] = [
            (&PERIODS, |b| f64::from(b.periods)),
            (&THROTTLED_PERIODS, |b| f64::from(b.throttled_periods)),
            (&THROTTLED, |b| b.throttled as f64 / 1e9),
            (&SPEC_PERIOD, |b| b.period as f64 / 1e3),
            (&SPEC_QUOTA, |b| b.quota as f64 / 1e3),
        ];
        for (metric, value) in values {
            let family = out.family(metric);
            for (id, bandwidth) in &limited {
                family.value(workload(*id), &[], value(bandwidth));
            }
        }
        Ok(())
    }
}

impl Collect {
    /// What a workload that is gone had consumed stays its pod's, and the node's.
    fn depart(&mut self, released: &Released, nanos: u64) {
        self.departed += nanos;
        if let Some(pod) = released.pod {
            *self.buried.entry(pod).or_default() += nanos;
        }
    }
}

impl Collector for Collect {
    fn name(&self) -> &'static str {
        SIGNAL.name
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        self.charge();
        Ok(())
    }

    fn collect(&mut self, context: &Context<'_>, out: &mut Snapshot) -> anyhow::Result<()> {
        self.usage(context, out);
        let waits = context.rows(Family::CpuWait);
        let family = out.family(&WAIT);
        for (key, sum) in waits {
            if let Some(workload) = context.tree.get(key.workload) {
                family.histogram(&workload.labels, &[], sum.histogram(&WAIT_BOUNDS));
            }
        }
        self.throttling(context, out)
    }

    fn release(&mut self, released: &Released, slot: Option<u32>) {
        if let Some((slot, cpu)) = slot.and_then(|slot| Some((slot, self.cpu.get(slot)?))) {
            if released.survives {
                *self.retained.entry(released.workload).or_default() += cpu.on_cpu;
            } else {
                self.depart(released, cpu.on_cpu);
            }
            self.cpu.set(slot, Cpu { on_cpu: 0, row: 0, reserved: 0 });
        }
        if !released.survives {
            let retained = self.retained.remove(&released.workload).unwrap_or(0);
            self.depart(released, retained);
            self.base.remove(&released.workload);
            self.buried.remove(&released.workload);
            self.utilization.forget(released.workload);
        }
    }
}

/// `usage_usec` of a v2 cpu.stat, in ns.
pub fn usage(text: &str) -> Option<u64> {
    field(text, "usage_usec")?.checked_mul(1000)
}

/// The value of a line `name value`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// What a metric takes from a record.
type BandwidthValue = fn(&Bandwidth) -> f64;

/// What [`Bandwidth`] has, from the files: two per workload, for kernels without `iter/cgroup`.
fn from_files(tree: &Tree) -> Vec<(WorkloadId, Bandwidth)> {
    let Some(hierarchy) = tree.layout().cpu.map(|index| &tree.layout().hierarchies[index]) else {
        return Vec::new();
    };
    let read = |workload: &Workload, name: &str| {
        fs::read_to_string(hierarchy.directory(&workload.path).join(name)).ok()
    };
    let limited = tree.shown().filter_map(|(id, workload)| {
        let stat = read(workload, "cpu.stat")?;
        let bandwidth = if hierarchy.is_v2() {
            parse_v2(&read(workload, "cpu.max")?, &stat)
        } else {
            parse_v1(&read(workload, "cpu.cfs_quota_us")?, &read(workload, "cpu.cfs_period_us")?, &stat)
        };
        Some((id, bandwidth?))
    });
    limited.collect()
}

/// cpu.max is `quota period` in microseconds, or `max period`.
pub fn parse_v2(max: &str, stat: &str) -> Option<Bandwidth> {
    let (quota, period) = max.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    bandwidth(quota, period, stat, field(stat, "throttled_usec")?.checked_mul(1000)?)
}

/// cpu.cfs_quota_us is -1 without a quota; `throttled_time` is in nanoseconds here.
pub fn parse_v1(quota: &str, period: &str, stat: &str) -> Option<Bandwidth> {
    let quota: u64 = quota.trim().parse().ok()?;
    bandwidth(quota, period.trim().parse().ok()?, stat, field(stat, "throttled_time")?)
}

fn bandwidth(quota: u64, period: u64, stat: &str, throttled: u64) -> Option<Bandwidth> {
    Some(Bandwidth {
        id: 0,
        period: period.checked_mul(1000)?,
        quota: quota.checked_mul(1000)?,
        periods: field(stat, "nr_periods")? as u32,
        throttled_periods: field(stat, "nr_throttled")? as u32,
        throttled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_both_versions_say_the_same() {
        let v2 =
            parse_v2("50000 100000\n", "usage_usec 7\nnr_periods 20\nnr_throttled 5\nthrottled_usec 1500\n");
        let v1 = parse_v1("50000\n", "100000\n", "nr_periods 20\nnr_throttled 5\nthrottled_time 1500000\n");
        assert!(v2.is_some());
        assert_eq!(v2, v1);
    }

    #[test]
    fn no_quota_is_no_series() {
        assert_eq!(parse_v2("max 100000\n", "nr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"), None);
        assert_eq!(parse_v1("-1\n", "100000\n", "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n"), None);
        assert_eq!(parse_v2("", ""), None);
    }

    #[test]
    fn reads_usage() {
        assert_eq!(usage("usage_usec 22382280\nuser_usec 1\n"), Some(22_382_280_000));
        assert_eq!(usage("user_usec 1\n"), None);
        assert_eq!(usage(&format!("usage_usec {}\n", u64::MAX)), None, "no overflow");
    }
}
