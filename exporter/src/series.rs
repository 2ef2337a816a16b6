//! The histogram rows, from user space: reading them by workload, and giving them back.

use aya::maps::{HashMap as BpfHashMap, MapData, Queue};
use exporter_ebpf::{
    histogram::{BUCKETS, finite_bounds},
    series::{FREE_ROWS, Family, ROWS, Row, SERIES, SeriesKey},
};

use rustc_hash::FxHashMap;

use crate::{cgroup::tree::WorkloadId, probes::Probes, snapshot::Histogram, sys::MappedArray};

/// What a sum of rows counts: the workload, and what the family makes of `detail` and `route`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The workload.
    pub workload: WorkloadId,
    /// The family's own.
    pub detail: u64,
    /// The hash of an HTTP route.
    pub route: u64,
}

/// A sum of rows.
#[derive(Clone, Debug)]
pub struct Sum {
    /// Observations by bucket.
    pub buckets: Box<[u64; BUCKETS]>,
    /// The sum of the observations, ns.
    pub nanos: u64,
    /// Bytes moved, or of the bodies of responses.
    pub bytes: u64,
    /// Bytes of the bodies of requests.
    pub received: u64,
    /// Events that are in no bucket.
    pub unmeasured: u64,
    /// A slot whose cgroup has the route.
    pub slot: u32,
}

impl Default for Sum {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), nanos: 0, bytes: 0, received: 0, unmeasured: 0, slot: 0 }
    }
}

impl Sum {
    /// Adds a row.
    pub fn add(&mut self, row: &Row) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&row.buckets) {
            *sum = sum.wrapping_add(*bucket);
        }
        self.nanos = self.nanos.wrapping_add(row.sum);
        self.bytes = self.bytes.wrapping_add(row.bytes);
        self.received = self.received.wrapping_add(row.received);
        self.unmeasured = self.unmeasured.wrapping_add(row.unmeasured);
        self.slot = row.key.slot;
    }

    /// Adds another sum; its slot stays, so that the route can be looked up.
    pub fn merge(&mut self, other: &Self) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&*other.buckets) {
            *sum = sum.wrapping_add(*bucket);
        }
        self.nanos = self.nanos.wrapping_add(other.nanos);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.received = self.received.wrapping_add(other.received);
        self.unmeasured = self.unmeasured.wrapping_add(other.unmeasured);
        self.slot = other.slot;
    }

    /// How many observations there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The classic histogram with these upper bounds (ns), each of which is a bound of the kernel's buckets: exact.
    pub fn histogram(self, bounds: &[u64]) -> Histogram {
        let (mut at, mut seen) = (0, 0);
        let mut buckets = Vec::with_capacity(bounds.len());
        for &bound in bounds {
            while finite_bounds().get(at).is_some_and(|&own| own <= bound) {
                seen += self.buckets[at];
                at += 1;
            }
            buckets.push((bound as f64 / 1e9, seen));
        }
        let (sum, count) = (self.nanos as f64 / 1e9, self.count());
        Histogram { buckets, sum, count, fine: Some(self.buckets), exemplars: Vec::new() }
    }
}

/// Of which a pod's series have what its containers counted, those that are gone among them: as cAdvisor's.
const OF_PODS: Family = Family::BlockIo;

/// The user side of the kernel's rows.
pub struct Series {
    rows: MappedArray<Row>,
    index: BpfHashMap<MapData, SeriesKey, u32>,
    free: Queue<MapData, u32>,
    /// What cgroups that are gone had counted for workloads that go on.
    retained: FxHashMap<(u32, Key), Sum>,
}

impl Series {
    /// Takes the maps, and offers every row but 0, which is none.
    ///
    /// # Errors
    /// When a map cannot be had.
    pub fn new(probes: &mut Probes) -> anyhow::Result<Self> {
        let rows = probes.array(ROWS)?;
        let mut free: Queue<_, u32> = probes.take(FREE_ROWS)?;
        for row in 1..rows.len() {
            free.push(row, 0)?;
        }
        Ok(Self { rows, index: probes.take(SERIES)?, free, retained: FxHashMap::default() })
    }

    /// How many rows there are.
    pub fn capacity(&self) -> u32 {
        self.rows.len()
    }

    fn key(&self, row: u32) -> Option<SeriesKey> {
        self.rows.first::<SeriesKey>(row).filter(|key| key.family != Family::Free as u32)
    }

    /// Which rows are taken, and by what: looking at all of them is most of the cost of reading a few.
    pub fn index(&self) -> Vec<(u32, SeriesKey)> {
        (1..self.rows.len()).filter_map(|row| Some((row, self.key(row)?))).collect()
    }

    /// The sums of a family's rows by workload, in order, of the rows in `index`. `owner` tells the workload of a slot; a row
    /// without one is left out.
    pub fn read(
        &self,
        index: &[(u32, SeriesKey)],
        family: Family,
        owner: impl Fn(u32) -> Option<WorkloadId>,
    ) -> Vec<(Key, Sum)> {
        let retained = self.retained.iter().filter(|((of, _), _)| *of == family as u32);
        let mut sums: FxHashMap<Key, Sum> = retained.map(|((_, key), sum)| (*key, sum.clone())).collect();
        for (index, key) in index.iter().filter(|(_, key)| key.family == family as u32) {
            let (Some(workload), Some(row)) = (owner(key.slot), self.rows.get(*index)) else { continue };
            sums.entry(Key { workload, detail: key.detail, route: key.route }).or_default().add(&row);
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_unstable_by_key(|(key, _)| *key);
        sums
    }

    /// Takes back the rows of a slot; what they counted goes to `heir`, if there is one, or else to the pod, if it is a pod's too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release(
        &mut self,
        slot: u32,
        heir: Option<WorkloadId>,
        pod: Option<WorkloadId>,
    ) -> anyhow::Result<()> {
        for index in 1..self.rows.len() {
            let Some(key) = self.key(index).filter(|key| key.slot == slot) else { continue };
            self.index.remove(&key)?;
            let Some(row) = self.rows.get(index) else { continue };
            let pod = pod.filter(|_| key.family == OF_PODS as u32);
            if let Some(workload) = heir.or(pod) {
                let own = Key { workload, detail: key.detail, route: key.route };
                self.retained.entry((key.family, own)).or_default().add(&row);
            }
            self.rows.set(index, EMPTY);
            self.free.push(index, 0)?;
        }
        Ok(())
    }

    /// Forgets what was retained for a workload that has ended, for its number is used again; but for what is its pod's too.
    pub fn forget(&mut self, workload: WorkloadId, pod: Option<WorkloadId>) {
        let ended = self.retained.extract_if(|(_, key), _| key.workload == workload);
        let kept = ended.filter(|((family, _), _)| *family == OF_PODS as u32);
        for ((family, key), sum) in kept.collect::<Vec<_>>() {
            if let Some(workload) = pod {
                self.retained.entry((family, Key { workload, ..key })).or_default().merge(&sum);
            }
        }
    }
}

const EMPTY: Row = Row {
    key: SeriesKey { slot: 0, family: Family::Free as u32, detail: 0, route: 0 },
    sum: 0,
    bytes: 0,
    received: 0,
    unmeasured: 0,
    reserved: 0,
    buckets: [0; BUCKETS],
};

#[cfg(test)]
mod tests {
    use exporter_ebpf::histogram::index;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn classic_buckets_are_exact(nanos in prop::collection::vec(0u64..20_000_000_000, 0..200)) {
            let mut row = EMPTY;
            for &value in &nanos {
                row.buckets[index(value)] += 1;
                row.sum += value;
            }
            let mut sum = Sum::default();
            sum.add(&row);
            let bounds = [5_000_000, 10_000_000, 250_000_000, 1_000_000_000, 10_000_000_000];
            let histogram = sum.histogram(&bounds);
            for (bound, (_, count)) in bounds.iter().zip(&histogram.buckets) {
                prop_assert_eq!(*count, nanos.iter().filter(|value| *value <= bound).count() as u64);
            }
            prop_assert_eq!(histogram.count, nanos.len() as u64);
        }
    }
}
