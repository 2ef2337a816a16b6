//! Memory: working set, usage, limits, faults, OOM kills. The kernel half is `exporter-ebpf/src/memory.rs`.

pub mod files;
pub mod vmstats;

use std::os::fd::{AsFd as _, OwnedFd};

use exporter_ebpf::memory::{MEMORY, MEMORY_WALK, Memory, READ, SAMPLE, SIGNAL, Walk};
use rustc_hash::FxHashMap;
use tracing::warn;

use self::vmstats::Order;
use super::{Collector, Context, Start};
use crate::{
    cgroup::{
        layout::HierarchyIndex,
        tree::{Tree, Workload, WorkloadId},
    },
    probes::Probes,
    snapshot::{Kind, Labels, Metric, Snapshot},
    sys,
    walker::Walker,
};

static USAGE: Metric = Metric::container(
    "container_memory_usage_bytes",
    Kind::Gauge,
    &[],
    "Memory charged, whenever it was last used.",
);
pub(crate) static WORKING_SET: Metric = Metric::container(
    "container_memory_working_set_bytes",
    Kind::Gauge,
    &[],
    "Usage without the inactive part of the page cache: what eviction and the OOM killer go by.",
);
static MAX_USAGE: Metric =
    Metric::container("container_memory_max_usage_bytes", Kind::Gauge, &[], "The highest usage so far.");
static RSS: Metric =
    Metric::container("container_memory_rss", Kind::Gauge, &[], "Anonymous memory in bytes.");
static CACHE: Metric = Metric::container("container_memory_cache", Kind::Gauge, &[], "Page cache in bytes.");
static MAPPED: Metric =
    Metric::container("container_memory_mapped_file", Kind::Gauge, &[], "Memory-mapped files in bytes.");
static ACTIVE_FILE: Metric = Metric::container(
    "container_memory_total_active_file_bytes",
    Kind::Gauge,
    &[],
    "The active part of the page cache.",
);
static INACTIVE_FILE: Metric = Metric::container(
    "container_memory_total_inactive_file_bytes",
    Kind::Gauge,
    &[],
    "The inactive part of the page cache.",
);
static SWAP: Metric =
    Metric::container("container_memory_swap", Kind::Gauge, &[], "Swap used in bytes. Only with cgroup v2.");
static FAILCNT: Metric = Metric::container(
    "container_memory_failcnt",
    Kind::Gauge,
    &[],
    "How often usage hit the limit. Only with cgroup v1. A count, but cAdvisor's name for it is not one of a counter.",
);
static FAILURES: Metric = Metric::container(
    "container_memory_failures_total",
    Kind::Counter,
    &["failure_type", "scope"],
    "Page faults (pgfault, the major ones included) and major page faults (pgmajfault); both scopes hold the sub-cgroups.",
);
static OOM: Metric = Metric::container(
    "container_oom_events_total",
    Kind::Counter,
    &[],
    "Processes that the OOM killer killed. Stays for an hour after the container's death.",
);
static LIMIT: Metric =
    Metric::container("container_spec_memory_limit_bytes", Kind::Gauge, &[], "The memory limit; 0 is none.");
static OF_LIMIT: Metric = Metric::container(
    "container_memory_limit_utilization_ratio",
    Kind::Gauge,
    &[],
    "Working set as a part of the limit. Only of a pod's containers that have one.",
);
static OF_REQUEST: Metric = Metric::container(
    "container_memory_request_utilization_ratio",
    Kind::Gauge,
    &[],
    "Working set as a part of what is requested. Only of a pod's containers that request any.",
);

static SOURCE: Metric = Metric::agent(
    "podmeter_memory_source",
    Kind::Gauge,
    &["source"],
    "1 for where memory was read in this scrape: from the kernel's counters in one go (iterator), or from the cgroups' files.",
);

/// The metrics of this signal.
pub static METRICS: &[&Metric] = &[
    &USAGE,
    &WORKING_SET,
    &MAX_USAGE,
    &RSS,
    &CACHE,
    &MAPPED,
    &ACTIVE_FILE,
    &INACTIVE_FILE,
    &SWAP,
    &FAILCNT,
    &FAILURES,
    &OOM,
    &LIMIT,
    &OF_LIMIT,
    &OF_REQUEST,
    &SOURCE,
];

/// What the memory controller says of a cgroup and all below it; bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// Memory charged.
    pub usage: u64,
    /// The highest usage so far; kernels before 5.19 keep it from v2's files.
    pub max_usage: Option<u64>,
    /// The limit.
    pub limit: Option<u64>,
    /// Anonymous memory.
    pub anon: u64,
    /// Page cache.
    pub file: u64,
    /// Memory-mapped files.
    pub mapped: u64,
    /// The active part of the page cache.
    pub active_file: u64,
    /// The inactive part of the page cache.
    pub inactive_file: u64,
    /// Swap; v2 only.
    pub swap: Option<u64>,
    /// How often the limit was hit; v1 only.
    pub failcnt: Option<u64>,
    /// Page faults.
    pub faults: u64,
    /// Major page faults.
    pub major_faults: u64,
    /// OOM kills: of the cgroup alone on v1; not of v2's root.
    pub oom_kills: Option<u64>,
}

impl Values {
    /// What cannot be had back without a look at who uses it.
    fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.inactive_file)
    }
}

/// Builds the collector; its files say what its iterator says, so it needs no probe.
///
/// # Errors
/// Never.
pub fn new(start: &mut Start<'_>) -> anyhow::Result<Box<dyn Collector>> {
    Ok(Box::new(Collect::new(start.probes, start.tree)))
}

/// What a container may use, or is reserved; nothing where its pod does not say.
type Most = fn(&Workload) -> Option<f64>;

/// What a metric takes from the values; nothing where they do not have it.
type Gauge = fn(&Values) -> Option<u64>;

/// The collector.
struct Collect {
    walker: Option<Walker<Memory, Walk>>,
    /// The program that gives the statistics of one cgroup in the kernel's order.
    sample: Option<OwnedFd>,
    order: Option<Order>,
    /// Scrapes so far. The search costs some milliseconds, so it is made less often when it keeps finding nothing.
    searches: u32,
    last: FxHashMap<WorkloadId, Values>,
    page: u64,
}

impl Collect {
    /// Links the iterator, if the kernel has it.
    fn new(probes: &mut Probes, tree: &Tree) -> Self {
        let root = tree.layout().memory.map(|index| tree.layout().hierarchies[index].root.clone());
        let walker = root
            .filter(|_| probes.is_attached(READ) && probes.is_attached(SAMPLE))
            .map(|root| Walker::new(probes, READ, &root, MEMORY, MEMORY_WALK))
            .and_then(|walker| walker.inspect_err(|error| probes.degrade_to_files(READ, error)).ok());
        let sample = probes.with_fd(SAMPLE, |fd| Ok(fd.try_clone_to_owned()?)).ok();
        Self { walker, sample, order: None, searches: 0, last: FxHashMap::default(), page: sys::page_size() }
    }

    /// Reads every shown workload; OOM kills of v1's sub-cgroups are summed up.
    fn read(&mut self, tree: &Tree) -> FxHashMap<WorkloadId, Values> {
        let Some(hierarchy) = tree.layout().memory else { return FxHashMap::default() };
        if let (Some(walker), Some(sample)) = (&self.walker, &self.sample) {
            // Reading the root's statistics makes the kernel add up what the CPUs hold back.
            files::flush(&tree.layout().hierarchies[hierarchy]);
            if self.order.is_none() && (self.searches < 4 || self.searches.is_multiple_of(16)) {
                self.order = vmstats::find(tree, hierarchy, sample.as_fd(), self.page);
            }
            self.searches += 1;
            match self.order.map(|order| self.walk(walker, order, tree, hierarchy)) {
                Some(Ok(values)) => return values,
                Some(Err(error)) => {
                    warn!(
                        "reading the memory of all cgroups failed, reading their files from now on: {error:#}"
                    );
                    (self.walker, self.order) = (None, None);
                }
                None => {}
            }
        }
        files::read(tree, hierarchy)
    }

    fn walk(
        &self,
        walker: &Walker<Memory, Walk>,
        order: Order,
        tree: &Tree,
        hierarchy: HierarchyIndex,
    ) -> anyhow::Result<FxHashMap<WorkloadId, Values>> {
        let is_v2 = tree.layout().hierarchies[hierarchy].is_v2();
        let mut values: FxHashMap<WorkloadId, Values> = FxHashMap::default();
        let mut sub_kills: FxHashMap<WorkloadId, u64> = FxHashMap::default();
        let start = Walk { next: 0, anon: order.anon as u64, faults: order.faults as u64 };
        for record in walker.read(start)? {
            tree.saw_oom_kills((hierarchy, record.id), record.oom_kills);
            let key = (hierarchy, record.id);
            if let Some(id) = tree.workload_at(key) {
                values.insert(id, vmstats::values(&record, self.page, is_v2));
            } else if !is_v2 && let Some(id) = tree.workload_of(key) {
                *sub_kills.entry(id).or_default() += record.oom_kills;
            }
        }
        for (id, kills) in sub_kills {
            values.entry(id).and_modify(|values| values.oom_kills = values.oom_kills.map(|own| own + kills));
        }
        // The root has no page counter of its own: its file adds up statistics.
        for (id, workload) in tree.all().filter(|(_, workload)| &*workload.path == "/") {
            values.remove(&id);
            values.extend(files::values(tree, hierarchy, workload).map(|root| (id, root)));
        }
        Ok(values)
    }
}

impl Collector for Collect {
    fn name(&self) -> &'static str {
        SIGNAL.name
    }

    fn collect(&mut self, context: &Context<'_>, out: &mut Snapshot) -> anyhow::Result<()> {
        let tree = context.tree;
        let mut values = self.read(tree);
        // What died since the last scrape is shown once more, as it was then.
        // But for a container that runs again already: it would have twice what it has.
        let is_last = |workload: &Workload| workload.is_dead() && !tree.has_successor(workload);
        for (id, _) in tree.all().filter(|(_, workload)| is_last(workload)) {
            if let Some(last) = self.last.get(&id) {
                values.entry(id).or_insert(Values { oom_kills: last.oom_kills.and(Some(0)), ..*last });
            }
        }
        let shown: Vec<_> = tree
            .shown()
            .filter_map(|(id, workload)| values.get(&id).map(|values| (workload, values)))
            .collect();
        let gauges: [(&'static Metric, Gauge); 11] = [
            (&USAGE, |v| Some(v.usage)),
            (&WORKING_SET, |v| Some(v.working_set())),
            (&MAX_USAGE, |v| v.max_usage),
            (&RSS, |v| Some(v.anon)),
            (&CACHE, |v| Some(v.file)),
            (&MAPPED, |v| Some(v.mapped)),
            (&ACTIVE_FILE, |v| Some(v.active_file)),
            (&INACTIVE_FILE, |v| Some(v.inactive_file)),
            (&SWAP, |v| v.swap),
            (&FAILCNT, |v| v.failcnt),
            // cAdvisor's way of saying none.
            (&LIMIT, |v| Some(v.limit.unwrap_or(0))),
        ];
        for (metric, value) in gauges {
            let family = out.family(metric);
            for (workload, values) in &shown {
                if let Some(value) = value(values) {
                    family.value(&workload.labels, &[], value as f64);
                }
            }
        }
        let ratios: [(&'static Metric, Most); 2] = [
            (&OF_LIMIT, |workload| workload.limits.memory),
            (&OF_REQUEST, |workload| workload.requests.memory),
        ];
        for (metric, most) in ratios {
            let family = out.family(metric);
            for (workload, values) in &shown {
                if let Some(most) = most(workload).filter(|most| *most > 0.0) {
                    family.value(&workload.labels, &[], values.working_set() as f64 / most);
                }
            }
        }
        let family = out.family(&FAILURES);
        for (workload, values) in &shown {
            for scope in ["container", "hierarchy"] {
                family.value(&workload.labels, &["pgfault", scope], values.faults as f64);
                family.value(&workload.labels, &["pgmajfault", scope], values.major_faults as f64);
            }
        }
        let family = out.family(&OOM);
        // A kill is a container's: its pod's count would be the same kill again.
        for (workload, values) in shown.iter().filter(|(workload, _)| !workload.is_pod()) {
            if let Some(kills) = values.oom_kills {
                family.value(&workload.labels, &[], (workload.oom_kills + kills) as f64);
            }
        }
        // Dead before the first scrape saw them: their kills are known all the same.
        let is_read = |id: &WorkloadId| values.get(id).is_some_and(|values| values.oom_kills.is_some());
        let unread = tree.all().filter(|(id, workload)| !is_read(id) && workload.oom_kills > 0);
        for (_, workload) in unread.filter(|(_, workload)| !workload.is_pod()) {
            family.value(&workload.labels, &[], workload.oom_kills as f64);
        }
        for grave in tree.graves() {
            family.value(&grave.labels, &[], grave.oom_kills as f64);
        }
        let family = out.family(&SOURCE);
        for (source, is) in [("iterator", self.order.is_some()), ("files", self.order.is_none())] {
            family.value(&Labels::NONE, &[source], f64::from(u8::from(is)));
        }
        self.last = values;
        Ok(())
    }
}
