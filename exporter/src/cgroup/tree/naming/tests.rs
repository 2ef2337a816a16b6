use std::path::PathBuf;

use super::*;
use crate::cgroup::{
    layout::{Hierarchy, Layout},
    tree::Released,
};
use crate::kube::pods::Failure;

const UID: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

fn tree() -> Tree {
    let hierarchy = |id| Hierarchy { id, root: PathBuf::from("/nonexistent") };
    let mut tree = Tree::new(Layout {
        hierarchies: vec![hierarchy(0)],
        v2: Some(0),
        memory: Some(0),
        ..Layout::default()
    });
    tree.expect_names(Names::new(
        "node1".to_owned(),
        &["app".to_owned(), "a.b".to_owned(), "a/b".to_owned()],
        true,
    ));
    tree
}

/// Lets as much time pass as something may stay unnamed.
fn later(tree: &mut Tree) {
    let past = Instant::now().checked_sub(2 * PATIENCE).unwrap();
    tree.names.as_mut().unwrap().started = past;
    tree.workloads.iter_mut().flatten().for_each(|workload| workload.born = past);
    tree.graves.iter_mut().for_each(|grave| grave.since = past);
}

fn pod_path() -> String {
    format!("/kubepods/burstable/pod{UID}")
}

fn path(digit: &str) -> String {
    format!("{}/{}", pod_path(), digit.repeat(64))
}

/// A pod with a container `app` that has had these ids.
fn pod(ids: &[&str]) -> Pod {
    let app = Container {
        name: "app".to_owned(),
        image: "app:1".to_owned(),
        ids: ids.iter().map(|digit| digit.repeat(64)).collect(),
        ..Container::default()
    };
    Pod {
        uid: UID.to_owned(),
        cgroup_uid: UID.to_owned(),
        namespace: "shop".to_owned(),
        name: "web-1".to_owned(),
        containers: vec![app],
        labels: [("app".to_owned(), "web".to_owned())].into(),
        owner: Some(("Deployment".to_owned(), "web".to_owned())),
        ..Pod::default()
    }
}

fn labels(tree: &Tree, id: u64) -> String {
    tree.get(tree.workload_of((0, id)).unwrap()).unwrap().labels.as_str().to_owned()
}

fn shown(tree: &Tree) -> Vec<&str> {
    tree.shown().map(|(_, workload)| &*workload.path).collect()
}

#[test]
fn containers_and_pods_are_named_and_the_pause_container_is_not_shown() {
    let mut tree = tree();
    tree.add((0, 1), "/");
    tree.add((0, 4), &pod_path());
    tree.add((0, 5), &path("0"));
    tree.add((0, 6), &path("a"));
    tree.add((0, 7), &format!("{}/crio-conmon-x", pod_path()));
    assert_eq!(shown(&tree), ["/"], "before anyone has named them");
    let mut pods = Pods::default();
    assert_eq!(tree.name(&pods), 2, "the pause container may have come just now, too");
    pods.heard_from();
    pods.set(pod(&["a"]));
    tree.name(&pods);
    let (pod, app) = (pod_path(), path("a"));
    assert_eq!(shown(&tree), ["/", &pod, &app]);
    assert_eq!(labels(&tree, 1), r#"id="/",node="node1""#);
    assert_eq!(
        labels(&tree, 4),
        format!(
            r#"id="{pod}",label_app="web",namespace="shop",node="node1",owner_kind="Deployment",owner_name="web",pod="web-1""#
        )
    );
    assert_eq!(
        labels(&tree, 6),
        format!(
            r#"container="app",id="{app}",image="app:1",label_app="web",name="{}",namespace="shop",node="node1",owner_kind="Deployment",owner_name="web",pod="web-1""#,
            "a".repeat(64)
        )
    );
    later(&mut tree);
    assert_eq!(tree.name(&pods), 0);
    assert_eq!(shown(&tree), ["/", &pod, &app], "nor later");
    let workload = tree.workload_of((0, 6)).unwrap();
    assert_eq!(tree.get(workload).unwrap().pod, tree.workload_of((0, 4)));
}

#[test]
fn what_is_in_none_of_a_pods_containers_is_charged_to_the_pod() {
    let (mut tree, mut pods) = (tree(), Pods::default());
    tree.add((0, 4), &pod_path());
    tree.add((0, 5), &path("0"));
    tree.add((0, 6), &path("a"));
    tree.add((0, 7), &format!("{}/crio-conmon-x", pod_path()));
    pods.heard_from();
    pods.set(pod(&["a"]));
    tree.name(&pods);
    let of = |tree: &Tree, ids: [u64; 4]| ids.map(|id| tree.path((0, id)).map(|_| tree.charged((0, id))));
    let own = |id| Some(tree.workload_of((0, id)));
    let (pod, fresh, app) = (own(4), own(5), own(6));
    assert_eq!(of(&tree, [4, 5, 6, 7]), [pod, fresh, app, pod], "it may yet be named");
    later(&mut tree);
    tree.name(&pods);
    assert_eq!(of(&tree, [4, 5, 6, 7]), [pod, pod, app, pod]);
}

#[test]
fn a_name_stays_when_the_api_forgets() {
    let (mut tree, mut pods) = (tree(), Pods::default());
    tree.add((0, 4), &pod_path());
    tree.add((0, 6), &path("a"));
    pods.set(pod(&["a"]));
    tree.name(&pods);
    let before = [labels(&tree, 4), labels(&tree, 6)];
    // Two restarts later it is not among the ids any more; and then its pod is deleted.
    pods.set(pod(&["c", "b"]));
    tree.name(&pods);
    assert_eq!([labels(&tree, 4), labels(&tree, 6)], before);
    pods.remove(UID);
    later(&mut tree);
    tree.name(&pods);
    assert_eq!([labels(&tree, 4), labels(&tree, 6)], before);
}

#[test]
fn what_nobody_names_is_shown_by_its_id_in_the_end() {
    let (mut tree, pods) = (tree(), Pods::default());
    tree.add((0, 4), &pod_path());
    tree.add((0, 6), &path("a"));
    assert_eq!((tree.name(&pods), tree.shown().count()), (1, 0));
    later(&mut tree);
    assert_eq!(tree.name(&pods), 1);
    assert_eq!(shown(&tree), [path("a")]);
    assert_eq!(labels(&tree, 6), format!(r#"id="{}",name="{}",node="node1""#, path("a"), "a".repeat(64)));
    let mut pods = pods;
    pods.set(pod(&["a"]));
    assert_eq!(tree.name(&pods), 0);
    assert!(labels(&tree, 6).starts_with(r#"container="app","#), "better late than never");
}

#[test]
fn while_the_source_is_away_a_new_container_has_its_pods_name() {
    let (mut tree, mut pods) = (tree(), Pods::default());
    tree.add((0, 4), &pod_path());
    tree.add((0, 5), &path("0"));
    tree.add((0, 6), &path("a"));
    pods.heard_from();
    pods.set(pod(&["a"]));
    tree.name(&pods);
    pods.lost(Failure::Unreachable, String::new());
    tree.add((0, 7), &path("b"));
    assert_eq!(tree.name(&pods), 2, "the pause container may have come just now, too");
    assert_eq!(shown(&tree), [pod_path(), path("a")], "it may be named any moment");
    tree.names.as_mut().unwrap().started = Instant::now().checked_sub(2 * PATIENCE).unwrap();
    let workload = tree.workload_of((0, 7)).unwrap();
    let judged = |tree: &Tree, id, is_late| {
        let workload = tree.get(tree.workload_of((0, id)).unwrap()).unwrap();
        judge(workload, Some(&pod(&["a"])), pods.away(), is_late)
    };
    assert_eq!(judged(&tree, 7, true), Role::Anonymous);
    assert_eq!(judged(&tree, 5, true), Role::Sandbox, "it was there before, and was not named then");
    let names = tree.names.clone().unwrap();
    tree.workloads[workload].as_mut().unwrap().rename(&names, Role::Anonymous, Some(&pod(&["a"])));
    let text = labels(&tree, 7);
    assert!(text.contains(r#"pod="web-1""#) && !text.contains("container="), "{text}");
    pods.heard_from();
    pods.set(pod(&["b", "a"]));
    tree.name(&pods);
    assert!(labels(&tree, 7).starts_with(r#"container="app","#));
}

#[test]
fn oom_kills_go_on_with_the_next_run_of_a_container() {
    let (mut tree, mut pods) = (tree(), Pods::default());
    tree.add((0, 4), &pod_path());
    tree.add((0, 6), &path("a"));
    pods.set(pod(&["a"]));
    tree.name(&pods);
    tree.remove((0, 6), 1);
    let pod_workload = tree.workload_of((0, 4));
    assert_eq!(
        tree.release(),
        [Released { key: (0, 6), workload: 1, survives: false, pod: pod_workload }],
        "its pod goes on"
    );
    assert_eq!(tree.graves().len(), 1);
    tree.add((0, 7), &path("b"));
    pods.set(pod(&["b", "a"]));
    tree.name(&pods);
    assert!(tree.graves().is_empty(), "one series, and not two");
    let run = tree.workload_of((0, 7)).unwrap();
    assert_eq!(tree.get(run).unwrap().oom_kills, 1);
    // The run after that is there before this one is buried.
    tree.remove((0, 7), 2);
    tree.add((0, 8), &path("c"));
    pods.set(pod(&["c", "b"]));
    tree.name(&pods);
    assert!(tree.has_successor(tree.get(run).unwrap()));
    tree.release();
    let run = tree.workload_of((0, 8)).unwrap();
    assert_eq!((tree.get(run).unwrap().oom_kills, tree.graves().len()), (3, 0));
}

#[test]
fn who_died_before_it_had_a_name_gets_one() {
    let (mut tree, mut pods) = (tree(), Pods::default());
    tree.add((0, 4), &pod_path());
    tree.add((0, 6), &path("a"));
    tree.name(&pods);
    tree.remove((0, 6), 1);
    tree.release();
    assert!(tree.graves()[0].labels.is_withheld());
    pods.set(pod(&["b", "a"]));
    tree.name(&pods);
    assert!(tree.graves()[0].labels.as_str().starts_with(r#"container="app","#));
}

#[test]
fn whom_nobody_names_is_buried_by_its_id() {
    let (mut tree, pods) = (tree(), Pods::default());
    tree.add((0, 6), &path("a"));
    tree.name(&pods);
    tree.remove((0, 6), 1);
    tree.release();
    later(&mut tree);
    tree.name(&pods);
    assert!(tree.graves()[0].labels.as_str().starts_with(&format!(r#"id="{}""#, path("a"))));
}

#[test]
fn a_pod_that_is_found_after_its_containers_has_them() {
    let mut tree = tree();
    tree.add((0, 6), &path("a"));
    assert_eq!(tree.all().next().unwrap().1.pod, None);
    tree.add((0, 4), &pod_path());
    let pod = tree.workload_of((0, 4));
    assert_eq!(tree.get(tree.workload_of((0, 6)).unwrap()).unwrap().pod, pod);
    tree.remove((0, 4), 0);
    tree.release();
    assert_eq!(tree.get(tree.workload_of((0, 6)).unwrap()).unwrap().pod, None, "its number is used again");
}
