//! The order of the kernel's memory statistics: found by comparing them with the files, never assumed.
//!
//! `memcg_vmstats.state[]` was indexed by `enum node_stat_item` until 6.10 and is by a private table since; `events[]` by a
//! private table since 6.1. What all have in common: `NR_INACTIVE_FILE` and `NR_ACTIVE_FILE` are entries 2 and 3,
//! `NR_ANON_MAPPED`, `NR_FILE_MAPPED` and `NR_FILE_PAGES` follow each other, and so do `PGFAULT` and `PGMAJFAULT`
//! (include/linux/mmzone.h, mm/memcontrol.c). Where the numbers of a cgroup that has some of everything (the root, as a
//! rule), or of several that have not, agree with their files at exactly one place, that is the place; until then, and if
//! it never happens, the files are read.

use std::os::fd::BorrowedFd;

use exporter_ebpf::memory::{EVENTS, INACTIVE_FILE, Memory, STATE, Sample};

use super::{Values, files};
use crate::{
    cgroup::{layout::HierarchyIndex, tree::Tree},
    probes::Probes,
    sys,
};

/// How much evidence is enough, and how many cgroups are tried at most.
const AGREE: usize = 2;
const TRIED: usize = 64;

/// Where the entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// `NR_ANON_MAPPED` in `state[]`.
    pub anon: usize,
    /// `PGFAULT` in `events[]`.
    pub faults: usize,
}

/// A record as values.
pub fn values(record: &Memory, page: u64, is_v2: bool) -> Values {
    let bytes = |pages: u64| pages.saturating_mul(page);
    // A statistic that is being added up can be below zero for a moment: the kernel's files say 0 then.
    let state = |pages: u64| bytes((pages as i64).max(0) as u64);
    Values {
        usage: bytes(record.usage),
        max_usage: Some(bytes(record.watermark)),
        limit: Some(bytes(record.max)).filter(|limit| *limit < 1 << 62),
        anon: state(record.mapped[0]),
        mapped: state(record.mapped[1]),
        file: state(record.mapped[2]),
        inactive_file: state(record.file_lru[0]),
        active_file: state(record.file_lru[1]),
        swap: is_v2.then_some(bytes(record.swap)),
        failcnt: (!is_v2).then_some(record.failcnt),
        faults: record.faults[0],
        major_faults: record.faults[1],
        oom_kills: Some(record.oom_kills),
    }
}

/// Finds the order by the files of cgroups that are quiet; `None` while too few agree. `program` gives samples.
pub fn find(tree: &Tree, hierarchy: HierarchyIndex, program: BorrowedFd<'_>, page: u64) -> Option<Order> {
    let mount = &tree.layout().hierarchies[hierarchy];
    let mut samples = Vec::new();
    for (_, workload) in tree.shown().take(TRIED) {
        let Some(files) = files::values(tree, hierarchy, workload).filter(is_telling) else { continue };
        let Ok(bytes) = Probes::sample_cgroup(program, &mount.directory(&workload.path)) else { continue };
        samples.extend(sys::records::<Sample>(&bytes).map(|sample| (sample, files)));
        if let Some(order) = agree(&samples, page) {
            return Some(order);
        }
    }
    None
}

/// Zeroes agree with everything.
fn is_telling(files: &Values) -> bool {
    files.anon > 0 && files.faults > 0
}

/// What an agreement is worth: one of seven numbers, none of them zero, is no coincidence.
fn weight(files: &Values) -> usize {
    let Values { anon, mapped, file, inactive_file, active_file, faults, major_faults, .. } = *files;
    let is_rich = ![anon, mapped, file, inactive_file, active_file, faults, major_faults].contains(&0);
    if is_rich { AGREE } else { 1 }
}

/// The order in which most of the samples, and enough of them, agree with their files; none if two orders are as good. A busy
/// cgroup has moved on between the two readings and agrees with none.
fn agree(samples: &[(Sample, Values)], page: u64) -> Option<Order> {
    let is = |pages: u64, bytes: u64| pages.checked_mul(page) == Some(bytes);
    let fits = |order: &Order, (sample, files): &(Sample, Values)| {
        let (state, events) = (&sample.state, &sample.events);
        is(state[order.anon], files.anon)
            && is(state[order.anon + 1], files.mapped)
            && is(state[order.anon + 2], files.file)
            && is(state[INACTIVE_FILE], files.inactive_file)
            && is(state[INACTIVE_FILE + 1], files.active_file)
            && events[order.faults] == files.faults
            && events[order.faults + 1] == files.major_faults
    };
    let orders = (0..STATE - 2).flat_map(|anon| (0..EVENTS - 1).map(move |faults| Order { anon, faults }));
    let (mut best, mut agreeing, mut is_unique) = (None, AGREE - 1, false);
    for order in orders {
        let agree = samples.iter().filter(|sample| fits(&order, sample));
        let count = agree.map(|(_, files)| weight(files)).sum();
        if count > agreeing {
            (best, agreeing, is_unique) = (Some(order), count, true);
        } else if count == agreeing {
            is_unique = false;
        }
    }
    best.filter(|_| is_unique)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    fn sample(seed: u64) -> Sample {
        Sample {
            state: std::array::from_fn(|i| seed * 100 + i as u64),
            events: std::array::from_fn(|i| seed * 1000 + i as u64),
        }
    }

    /// What the files say of the sample if anonymous memory is entry 14 and faults are entry 12.
    fn files(sample: &Sample) -> Values {
        let pages = |at: usize| sample.state[at] * PAGE;
        Values {
            anon: pages(14),
            mapped: pages(15),
            file: pages(16),
            inactive_file: pages(2),
            active_file: pages(3),
            faults: sample.events[12],
            major_faults: sample.events[13],
            ..Values::default()
        }
    }

    #[test]
    fn finds_the_order_where_two_agree() {
        let (a, b, busy) = (sample(1), sample(2), sample(3));
        let moved = Values { faults: 1, ..files(&busy) };
        let samples = [(a, files(&a)), (busy, moved), (b, files(&b))];
        assert_eq!(agree(&samples, PAGE), Some(Order { anon: 14, faults: 12 }));
    }

    #[test]
    fn the_order_that_more_agree_on_wins() {
        let (a, b) = (sample(1), sample(2));
        // Without page cache, entries 20 to 22 say the same as 14 to 16.
        let mut poor = sample(3);
        poor.state[14..17].copy_from_slice(&[7, 0, 0]);
        poor.state[20..23].copy_from_slice(&[7, 0, 0]);
        let poor = (poor, files(&poor));
        assert_eq!(agree(&[poor, poor], PAGE), None);
        assert_eq!(
            agree(&[poor, poor, (a, files(&a)), (b, files(&b))], PAGE),
            Some(Order { anon: 14, faults: 12 })
        );
    }

    #[test]
    fn one_is_enough_only_with_some_of_everything() {
        let a = sample(1);
        assert_eq!(agree(&[(a, files(&a))], PAGE), Some(Order { anon: 14, faults: 12 }));
        let mut poor = a;
        poor.events[13] = 0;
        assert_eq!(agree(&[(poor, files(&poor))], PAGE), None);
        let flat = Sample { state: [7; STATE], events: [7; EVENTS] };
        assert_eq!(agree(&[(flat, files(&flat)), (flat, files(&flat))], PAGE), None, "two orders are none");
        assert_eq!(agree(&[], PAGE), None);
    }
}
