//! The order of the kernel's memory statistics: found by comparing them with the files, never assumed.
//!
//! `memcg_vmstats.state[]` was indexed by `enum node_stat_item` until 6.10 and is by a private table since; `events[]` by a
//! private table since 6.1. What all have in common: `NR_INACTIVE_FILE` and `NR_ACTIVE_FILE` are entries 2 and 3,
//! `NR_ANON_MAPPED`, `NR_FILE_MAPPED` and `NR_FILE_PAGES` follow each other, and so do `PGFAULT` and `PGMAJFAULT`
//! (include/linux/mmzone.h, mm/memcontrol.c). Where the numbers of several cgroups agree with their files at exactly one
//! place, that is the place; until then, and if it never happens, the files are read.

use exporter_ebpf::memory::{EVENTS, Memory, STATE};

use super::{Values, files};
use crate::cgroup::{layout::HierarchyIndex, tree::Tree};

/// How many cgroups must agree, and how many are tried at most.
const AGREE: usize = 2;
const TRIED: usize = 64;

const INACTIVE_FILE: usize = 2;
const ACTIVE_FILE: usize = 3;

/// Where the entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// `NR_ANON_MAPPED` in `state[]`.
    anon: usize,
    /// `PGFAULT` in `events[]`.
    faults: usize,
}

impl Order {
    /// A record as values.
    pub fn values(&self, record: &Memory, page: u64, is_v2: bool) -> Values {
        let bytes = |pages: u64| pages.saturating_mul(page);
        // A statistic that is being added up can be below zero for a moment: the kernel's files say 0 then.
        let state = |at: usize| bytes((record.state[at] as i64).max(0) as u64);
        Values {
            usage: bytes(record.usage),
            max_usage: Some(bytes(record.watermark)),
            limit: Some(bytes(record.max)).filter(|limit| *limit < 1 << 62),
            anon: state(self.anon),
            file: state(self.anon + 2),
            mapped: state(self.anon + 1),
            active_file: state(ACTIVE_FILE),
            inactive_file: state(INACTIVE_FILE),
            swap: is_v2.then_some(bytes(record.swap)),
            failcnt: (!is_v2).then_some(record.failcnt),
            faults: record.events[self.faults],
            major_faults: record.events[self.faults + 1],
            oom_kills: record.oom_kills,
        }
    }
}

/// Finds the order by the files of cgroups that are quiet; `None` while too few agree.
pub fn find(tree: &Tree, hierarchy: HierarchyIndex, records: &[Memory], page: u64) -> Option<Order> {
    let workload = |record: &Memory| tree.get(tree.workload_at((hierarchy, record.id))?);
    let known = records.iter().filter_map(|record| Some((record, workload(record)?)));
    // Those that say something: zeroes agree with everything.
    let telling = known.filter(|(record, workload)| record.usage > 0 && &*workload.path != "/");
    let samples = telling
        .take(TRIED)
        .filter_map(|(record, workload)| Some((record, files::values(tree, hierarchy, workload)?)));
    agree(&samples.collect::<Vec<_>>(), page)
}

/// The only order in which at least [`AGREE`] of the samples agree with their files. A busy cgroup has moved on between the two
/// readings and agrees with none.
fn agree(samples: &[(&Memory, Values)], page: u64) -> Option<Order> {
    let orders = (0..STATE - 2).flat_map(|anon| (0..EVENTS - 1).map(move |faults| Order { anon, faults }));
    let mut fitting = orders.filter(|order| {
        let fits = |(record, files): &&(&Memory, Values)| {
            let own = order.values(record, page, false);
            files.anon > 0
                && files.file > 0
                && files.faults > 0
                && (
                    own.anon,
                    own.mapped,
                    own.file,
                    own.faults,
                    own.major_faults,
                    own.inactive_file,
                    own.active_file,
                ) == (
                    files.anon,
                    files.mapped,
                    files.file,
                    files.faults,
                    files.major_faults,
                    files.inactive_file,
                    files.active_file,
                )
        };
        samples.iter().filter(fits).count() >= AGREE
    });
    let found = fitting.next()?;
    fitting.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seed: u64) -> Memory {
        let mut record = Memory {
            id: 1,
            usage: 9,
            max: 0,
            watermark: 0,
            failcnt: 0,
            swap: 0,
            oom_kills: 0,
            state: [0; STATE],
            events: [0; EVENTS],
        };
        record.state = std::array::from_fn(|i| seed * 100 + i as u64);
        record.events = std::array::from_fn(|i| seed * 1000 + i as u64);
        record
    }

    fn files(record: &Memory) -> Values {
        Order { anon: 14, faults: 12 }.values(record, 4096, false)
    }

    #[test]
    fn finds_the_order_where_two_agree() {
        let (a, b, busy) = (record(1), record(2), record(3));
        let moved = Values { faults: 1, ..files(&busy) };
        let samples = [(&a, files(&a)), (&busy, moved), (&b, files(&b))];
        assert_eq!(agree(&samples, 4096), Some(Order { anon: 14, faults: 12 }));
    }

    #[test]
    fn one_is_not_enough_and_two_orders_are_none() {
        let a = record(1);
        assert_eq!(agree(&[(&a, files(&a))], 4096), None);
        let mut flat = record(1);
        flat.state = [7; STATE];
        flat.events = [7; EVENTS];
        assert_eq!(agree(&[(&flat, files(&flat)), (&flat, files(&flat))], 4096), None);
        assert_eq!(agree(&[], 4096), None);
    }
}
