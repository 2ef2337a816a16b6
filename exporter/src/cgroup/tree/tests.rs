use std::path::PathBuf;

use super::{super::layout::Hierarchy, *};

const POD: &str = "/kubepods/burstable/pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

fn tree() -> Tree {
    let hierarchy = |id| Hierarchy { id, root: PathBuf::from("/nonexistent") };
    let hierarchies = vec![hierarchy(0), hierarchy(4)];
    Tree::new(Layout { hierarchies, v2: Some(0), memory: Some(1), ..Layout::default() })
}

fn container() -> String {
    format!("{POD}/{}", "ab".repeat(32))
}

#[test]
fn sub_cgroups_roll_up_and_pods_only_group() {
    let mut tree = tree();
    for (id, path) in [(1, "/"), (2, "/kubepods"), (3, "/kubepods/burstable"), (4, POD)] {
        tree.add((0, id), path);
    }
    tree.add((0, 5), &container());
    tree.add((0, 6), &format!("{}/init.scope", container()));
    tree.add((1, 5), &container());
    let container_id = tree.workload_of((0, 5));
    assert_eq!(tree.workload_of((0, 6)), container_id);
    assert_eq!(tree.workload_of((1, 5)), container_id, "one workload over the hierarchies");
    assert_eq!(tree.workload_at((0, 5)), container_id);
    assert_eq!(tree.workload_at((0, 6)), None);
    let shown: Vec<_> = tree.shown().map(|(_, workload)| workload.path.to_string()).collect();
    assert_eq!(shown, ["/".to_owned(), container()]);
}

#[test]
fn a_dead_cgroup_is_shown_once_more() {
    let mut tree = tree();
    tree.add((0, 5), &container());
    assert_eq!(tree.release(), []);
    tree.remove((0, 5), 0);
    assert!(tree.shown().any(|(_, workload)| workload.is_dead()), "before the next scrape ends");
    assert_eq!(tree.release(), [Released { key: (0, 5), workload: 0, survives: false, pod: None }]);
    assert_eq!(tree.shown().count(), 0);
    assert_eq!(tree.len(), 0);
    assert_eq!(tree.release(), []);
}

#[test]
fn oom_kills_outlive_the_workload_and_go_on_with_its_path() {
    let mut tree = tree();
    tree.add((1, 7), "/system.slice/a.service");
    tree.add((1, 8), "/system.slice/a.service/sub");
    tree.remove((1, 8), 2);
    tree.remove((1, 7), 1);
    tree.release();
    assert_eq!(
        tree.graves().iter().map(|grave| grave.oom_kills).collect::<Vec<_>>(),
        [3],
        "v1 counts each cgroup's own"
    );
    tree.add((1, 9), "/system.slice/a.service");
    assert!(tree.graves().is_empty());
    assert_eq!(tree.all().next().unwrap().1.oom_kills, 3);
}

#[test]
fn v2_counts_oom_kills_hierarchically() {
    let mut tree = tree();
    tree.add((0, 7), "/system.slice/a.service");
    tree.add((0, 8), "/system.slice/a.service/sub");
    tree.remove((0, 8), 2);
    tree.remove((0, 7), 2);
    tree.release();
    assert_eq!(tree.graves()[0].oom_kills, 2);
}

#[test]
fn a_leaf_with_a_child_is_no_leaf() {
    let mut tree = tree();
    tree.add((0, 1), "/");
    tree.add((0, 2), "/a");
    assert_eq!(tree.shown().count(), 2);
    tree.add((0, 3), "/a/b");
    let shown: Vec<_> = tree.shown().map(|(_, workload)| &*workload.path).collect();
    assert_eq!(shown, ["/", "/a/b"]);
    tree.remove((0, 3), 0);
    assert!(tree.shown().any(|(_, workload)| &*workload.path == "/a"));
}

#[test]
fn unknown_and_repeated_events_change_nothing() {
    let mut tree = tree();
    tree.remove((0, 99), 5);
    tree.add((0, 1), "/a");
    tree.add((0, 1), "/a");
    tree.remove((0, 1), 0);
    tree.remove((0, 1), 0);
    assert_eq!(tree.release().len(), 1);
}

#[test]
fn oom_kills_stay_when_the_death_is_found_by_walking() {
    let mut tree = tree();
    tree.add((1, 7), "/a");
    tree.saw_oom_kills((1, 7), 2);
    // The hierarchy of this tree does not exist: nothing is found there.
    tree.walk();
    assert_eq!(tree.all().next().unwrap().1.oom_kills, 2);
    tree.release();
    assert_eq!(tree.graves()[0].oom_kills, 2);
}
