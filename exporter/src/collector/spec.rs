//! What a pod's containers were given, by cAdvisor's names, where no signal's kernel half has it: from the cgroups' files, which are
//! read when a container gets its name and when the cluster says that its pod has changed.

use std::{fs, sync::Arc};

use rustc_hash::FxHashMap;

use crate::{
    cgroup::{
        layout::Hierarchy,
        tree::{Tree, Workload, naming::Role},
    },
    snapshot::{Kind, Metric, Snapshot},
};

static SHARES: Metric = Metric::container(
    "container_spec_cpu_shares",
    Kind::Gauge,
    &[],
    "Weight against others where CPUs are short; what is requested, 1024 for a core. Converted from cpu.weight with cgroup v2.",
);
static RESERVATION: Metric = Metric::container(
    "container_spec_memory_reservation_limit_bytes",
    Kind::Gauge,
    &[],
    "Where reclaim begins: memory.high, or the soft limit with cgroup v1; 0 is nowhere.",
);
static SWAP_LIMIT: Metric = Metric::container(
    "container_spec_memory_swap_limit_bytes",
    Kind::Gauge,
    &[],
    "The swap limit (of memory and swap together with cgroup v1); 0 is none.",
);

/// The metrics of this file.
pub static METRICS: &[&Metric] = &[&SHARES, &RESERVATION, &SWAP_LIMIT];

/// cAdvisor shows more than this as 0.
const NO_LIMIT: u64 = 1 << 62;

/// What was read of the pods' cgroups.
#[derive(Debug, Default)]
pub struct Specs(FxHashMap<Arc<str>, (u64, Spec)>);

/// What a metric takes from it; nothing where a file does not say.
type Value = fn(&Spec) -> Option<u64>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spec {
    shares: Option<u64>,
    reservation: Option<u64>,
    swap_limit: Option<u64>,
}

impl Specs {
    /// Emits what is known, after reading what is new.
    pub fn collect(&mut self, tree: &Tree, out: &mut Snapshot) {
        let is_given = |workload: &Workload| matches!(workload.role, Role::Container | Role::Pod);
        let workloads: Vec<_> = tree.all().map(|(_, workload)| workload).collect();
        let mut before = std::mem::take(&mut self.0);
        for workload in workloads.iter().filter(|workload| is_given(workload)) {
            let version = workload.version();
            // What is dead has no files any more.
            let known =
                before.remove(&workload.path).filter(|(read, _)| *read == version || workload.is_dead());
            let spec = known.map_or_else(|| read(tree, workload), |(_, spec)| spec);
            self.0.insert(workload.path.clone(), (version, spec));
        }
        let values: [(&'static Metric, Value); 3] = [
            (&SHARES, |spec| spec.shares),
            (&RESERVATION, |spec| spec.reservation),
            (&SWAP_LIMIT, |spec| spec.swap_limit),
        ];
        for (metric, value) in values {
            let family = out.family(metric);
            for workload in &workloads {
                if let Some(value) = self.0.get(&workload.path).and_then(|(_, spec)| value(spec)) {
                    family.value(&workload.labels, &[], value as f64);
                }
            }
        }
    }
}

fn read(tree: &Tree, workload: &Workload) -> Spec {
    let hierarchy = |index: Option<usize>| index.map(|index| &tree.layout().hierarchies[index]);
    let number = |hierarchy: &Hierarchy, name: &str| {
        let text = fs::read_to_string(hierarchy.directory(&workload.path).join(name)).ok()?;
        limit(&text)
    };
    let shares = hierarchy(tree.layout().cpu).and_then(|cpu| match cpu.is_v2() {
        true => number(cpu, "cpu.weight").filter(|weight| *weight > 0).map(shares),
        false => number(cpu, "cpu.shares"),
    });
    let Some(memory) = hierarchy(tree.layout().memory) else { return Spec { shares, ..Spec::default() } };
    let [high, swap] = match memory.is_v2() {
        true => ["memory.high", "memory.swap.max"],
        false => ["memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes"],
    };
    let reservation = number(memory, high);
    // A kernel that keeps no account of swap sets no limit to it.
    let swap_limit = number(memory, swap).or(reservation.and(Some(0)));
    Spec { shares, reservation, swap_limit }
}

/// The kernel's weights, 1 to 10000, as the shares that a kubelet makes them from, 2 to 262144.
fn shares(weight: u64) -> u64 {
    2 + (weight - 1) * 262_142 / 9_999
}

/// The number in a file; 0 where there is no limit.
fn limit(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(0),
        number => number.parse().ok().map(|bytes| if bytes > NO_LIMIT { 0 } else { bytes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_as_cadvisor_has_them() {
        assert_eq!(limit("max\n"), Some(0));
        assert_eq!(limit("9223372036854771712\n"), Some(0));
        assert_eq!(limit("67108864\n"), Some(67_108_864));
        assert_eq!(limit(""), None);
    }

    #[test]
    fn weights_become_shares() {
        assert_eq!((shares(1), shares(100), shares(10_000)), (2, 2597, 262_144));
    }
}
