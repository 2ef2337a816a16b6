//! The memory controller's files, v1 and v2: for kernels without `iter/cgroup`, for the root, and to check the iterator.

use std::fs;

use rustc_hash::FxHashMap;

use super::Values;
use crate::cgroup::{
    layout::{Hierarchy, HierarchyIndex},
    tree::{NodeKey, Tree, Workload, WorkloadId},
};

/// Above this a limit is none, as in cAdvisor: v1 writes the largest multiple of a page.
const UNLIMITED: u64 = 1 << 62;

/// Makes the kernel add up the statistics of all cgroups: reading the root's does.
pub fn flush(hierarchy: &Hierarchy) {
    _ = fs::read(hierarchy.root.join("memory.stat"));
}

/// Reads every shown workload.
pub fn read(tree: &Tree, hierarchy: HierarchyIndex) -> FxHashMap<WorkloadId, Values> {
    tree.shown().filter_map(|(id, workload)| Some((id, values(tree, hierarchy, workload)?))).collect()
}

/// Reads one workload; `None` where the controller has no such cgroup (any more).
pub fn values(tree: &Tree, hierarchy: HierarchyIndex, workload: &Workload) -> Option<Values> {
    let mount = &tree.layout().hierarchies[hierarchy];
    let directory = mount.directory(&workload.path);
    let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
    if mount.is_v2() {
        let current = if &*workload.path == "/" { None } else { Some(read("memory.current")?) };
        let values = v2(current.as_deref(), &read("memory.stat")?, read)?;
        note(tree, hierarchy, workload, values.oom_kills);
        return Some(values);
    }
    let mut values = v1(&read("memory.usage_in_bytes")?, &read("memory.stat")?, read)?;
    note(tree, hierarchy, workload, values.oom_kills);
    for &key in workload.nodes.iter().filter(|key| key.0 == hierarchy) {
        let Some(path) = tree.path(key).filter(|path| **path != *workload.path) else { continue };
        let text = fs::read_to_string(mount.directory(path).join("memory.oom_control"));
        if let Some(kills) = text.ok().and_then(|text| Stat(&text).get("oom_kill")) {
            tree.saw_oom_kills(key, kills);
            values.oom_kills = values.oom_kills.map(|own| own + kills);
        }
    }
    Some(values)
}

/// Tells the tree what a workload's uppermost cgroup counts.
fn note(tree: &Tree, hierarchy: HierarchyIndex, workload: &Workload, kills: Option<u64>) {
    let here = |key: &&NodeKey| key.0 == hierarchy && tree.path(**key) == Some(&*workload.path);
    if let (Some(&key), Some(kills)) = (workload.nodes.iter().find(here), kills) {
        tree.saw_oom_kills(key, kills);
    }
}

/// What v2's files say: `memory.current`, `memory.stat`, and those that `read` reads. The root has no `memory.current`: its usage is what the kernel says of v1's root (`mem_cgroup_usage`), and runc of v2's.
pub fn v2(current: Option<&str>, stat: &str, read: impl Fn(&str) -> Option<String>) -> Option<Values> {
    let stat = Stat(stat);
    Some(Values {
        usage: match current {
            Some(current) => number(current)?,
            None => stat.get("anon")?.checked_add(stat.get("file")?)?,
        },
        max_usage: read("memory.peak").and_then(|text| number(&text)),
        limit: read("memory.max").and_then(|text| number(&text)),
        anon: stat.get("anon")?,
        file: stat.get("file")?,
        mapped: stat.get("file_mapped")?,
        active_file: stat.get("active_file")?,
        inactive_file: stat.get("inactive_file")?,
        swap: read("memory.swap.current").and_then(|text| number(&text)),
        failcnt: None,
        faults: stat.get("pgfault")?,
        major_faults: stat.get("pgmajfault")?,
        oom_kills: read("memory.events").and_then(|text| Stat(&text).get("oom_kill")),
    })
}

/// What v1's files say: `memory.usage_in_bytes`, `memory.stat`, and those that `read` reads.
pub fn v1(usage: &str, stat: &str, read: impl Fn(&str) -> Option<String>) -> Option<Values> {
    let stat = Stat(stat);
    let limit = read("memory.limit_in_bytes").and_then(|text| number(&text));
    Some(Values {
        usage: number(usage)?,
        max_usage: read("memory.max_usage_in_bytes").and_then(|text| number(&text)),
        limit: limit.filter(|limit| *limit < UNLIMITED),
        anon: stat.get("total_rss")?,
        file: stat.get("total_cache")?,
        mapped: stat.get("total_mapped_file")?,
        active_file: stat.get("total_active_file")?,
        inactive_file: stat.get("total_inactive_file")?,
        swap: None,
        failcnt: read("memory.failcnt").and_then(|text| number(&text)),
        faults: stat.get("total_pgfault")?,
        major_faults: stat.get("total_pgmajfault")?,
        oom_kills: read("memory.oom_control").and_then(|text| Stat(&text).get("oom_kill")),
    })
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A file of lines `name value`.
struct Stat<'a>(&'a str);

impl Stat<'_> {
    fn get(&self, name: &str) -> Option<u64> {
        number(self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V1: &str = "cache 1\nrss 2\ntotal_cache 4096\ntotal_rss 8192\ntotal_mapped_file 100\ntotal_inactive_file 50\n\
                      total_active_file 60\ntotal_pgfault 7\ntotal_pgmajfault 1\n";
    const V2: &str =
        "anon 8192\nfile 4096\nfile_mapped 100\ninactive_file 50\nactive_file 60\npgfault 7\npgmajfault 1\n";

    #[test]
    fn both_versions_say_the_same() {
        let v1 = v1("12288\n", V1, |name| match name {
            "memory.limit_in_bytes" => Some("1048576\n".into()),
            "memory.max_usage_in_bytes" => Some("20000\n".into()),
            "memory.oom_control" => Some("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n".into()),
            _ => None,
        });
        let v2 = v2(Some("12288\n"), V2, |name| match name {
            "memory.max" => Some("1048576\n".into()),
            "memory.peak" => Some("20000\n".into()),
            "memory.events" => Some("low 0\nhigh 0\nmax 9\noom 4\noom_kill 3\n".into()),
            _ => None,
        });
        assert!(v1.is_some());
        assert_eq!(v1, v2);
        assert_eq!(v1.unwrap().oom_kills, Some(3));
    }

    #[test]
    fn the_root_of_v2_uses_what_is_anonymous_and_cached() {
        let root = v2(None, V2, |_| None).unwrap();
        assert_eq!((root.usage, root.anon, root.file), (12_288, 8192, 4096));
        assert_eq!((root.limit, root.max_usage, root.swap, root.oom_kills), (None, None, None, None));
    }

    #[test]
    fn no_limit_is_none() {
        let limit = |text: &'static str| v1("0", V1, move |_| Some(text.into())).unwrap().limit;
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("4096\n"), Some(4096));
        assert_eq!(v2(Some("0"), V2, |_| Some("max\n".into())).unwrap().limit, None);
    }

    #[test]
    fn a_file_that_lacks_a_line_gives_nothing() {
        assert_eq!(v2(Some("0"), "anon 1\n", |_| None), None);
        assert_eq!(v1("x", V1, |_| None), None);
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            _ = v1(&text, &text, |_| Some(text.clone()));
            _ = v2(Some(&text), &text, |_| Some(text.clone()));
        }
    }
}
