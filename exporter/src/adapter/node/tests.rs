use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::stream::message::{Container as Told, Usage};

const SECOND: u64 = 1_000_000_000;

fn node() -> Node {
    Node::new("n", Spans::only(Span::new(Duration::from_secs(15))))
}

fn pod(number: u32, name: &str, containers: &[(u32, &str)]) -> message::Pod {
    let containers = containers.iter().map(|&(number, name)| Told {
        number,
        name: name.to_owned(),
        id: if number > 0 { format!("run of {name}") } else { String::new() },
        ..Told::default()
    });
    message::Pod {
        number,
        uid: format!("uid of {name}"),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        containers: containers.collect(),
        ..message::Pod::default()
    }
}

fn usage(number: u32, cpu: u64) -> Usage {
    Usage { number, cpu: Some(cpu), memory: Some(1), ..Usage::default() }
}

fn update(full: bool, instance: u64, nanos: u64, pods: Vec<message::Pod>, usages: Vec<Usage>) -> Update {
    Update { full, instance, nanos, pods, usages, ..Update::default() }
}

fn cores(node: &Node) -> Vec<(String, f64)> {
    let query = "rate(container_cpu_usage_seconds_total[15s])";
    let query = Query::parse(query, Duration::from_secs(1)).unwrap();
    let used = |pod: &Pod| {
        let gathered = node.gather(pod, &query, &|_| true)?;
        let total: f64 = node.containers(pod)?.iter().map(|(_, total)| total.cpu().unwrap()).sum();
        let cores = query.value(&gathered).unwrap();
        assert!((cores - total).abs() <= total * 1e-9, "{cores} is not {total}");
        Some((pod.about.name.clone(), total))
    };
    node.pods().filter_map(used).collect()
}

#[test]
fn a_pod_is_complete_or_absent() {
    let mut node = node();
    let told = vec![pod(1, "web", &[(2, "app"), (0, "side")])];
    node.apply(1, update(true, 7, SECOND, told, vec![usage(2, 0)])).unwrap();
    node.apply(1, update(false, 7, 11 * SECOND, vec![], vec![usage(2, 5 * SECOND)])).unwrap();
    assert!(cores(&node).is_empty(), "one of its containers is not found");
    node.apply(
        1,
        update(false, 7, 12 * SECOND, vec![pod(1, "web", &[(2, "app"), (3, "side")])], vec![usage(3, 0)]),
    )
    .unwrap();
    assert!(cores(&node).is_empty(), "one of its containers is too young");
    node.apply(1, update(false, 7, 21 * SECOND, vec![], vec![usage(2, 10 * SECOND)])).unwrap();
    // 10 of 20 seconds, of which 15 were asked for and 20 are the shortest that is known; and nothing in nine.
    assert_eq!(cores(&node), [("web".to_owned(), 0.5)]);
    node.apply(1, Update { ended: vec![1], ..update(false, 7, 22 * SECOND, vec![], vec![]) }).unwrap();
    assert_eq!(node.pods().count(), 0);
}

#[test]
fn the_same_run_of_an_agent_goes_on_and_another_begins_anew() {
    let mut node = node();
    let told = |number, container| vec![pod(number, "web", &[(container, "app")])];
    node.apply(1, update(true, 7, SECOND, told(1, 2), vec![usage(2, 0)])).unwrap();
    node.apply(1, update(false, 7, 11 * SECOND, vec![], vec![usage(2, 5 * SECOND)])).unwrap();
    // Other numbers, and a pod that has gone meanwhile.
    node.apply(2, update(true, 7, 16 * SECOND, told(5, 6), vec![usage(6, 15 * SECOND / 2)])).unwrap();
    assert_eq!(cores(&node), [("web".to_owned(), 0.5)]);
    assert!(
        node.apply(1, update(false, 7, 17 * SECOND, vec![], vec![])).is_err(),
        "the stream before is over"
    );
    node.apply(3, update(true, 8, SECOND, told(1, 2), vec![usage(2, 3)])).unwrap();
    assert!(cores(&node).is_empty());
    node.apply(4, update(true, 8, 2 * SECOND, vec![], vec![])).unwrap();
    assert_eq!(node.pods().count(), 0);
}

#[test]
fn one_agent_speaks_for_a_node_until_its_stream_ends() {
    let mut node = node();
    let [one, other]: [Arc<str>; 2] = ["http://a".into(), "http://b".into()];
    assert!(node.is_free());
    node.hand_to(&one).unwrap();
    assert_eq!(node.hand_to(&other), Err(one.clone()));
    let anew: Arc<str> = "http://a".into();
    node.hand_to(&anew).unwrap();
    drop((one, anew));
    assert!(node.is_free());
    node.hand_to(&other).unwrap();
}

#[test]
fn whose_clock_goes_back_begins_anew() {
    let mut node = node();
    let told = || vec![pod(1, "web", &[(2, "app")])];
    node.apply(1, update(true, 7, 100 * SECOND, told(), vec![usage(2, 0)])).unwrap();
    node.apply(1, update(false, 7, 110 * SECOND, vec![], vec![usage(2, 5 * SECOND)])).unwrap();
    assert_eq!(cores(&node).len(), 1);
    assert!(node.apply(1, update(false, 7, 50 * SECOND, vec![], vec![usage(2, 6 * SECOND)])).is_err());
    node.apply(2, update(true, 7, 51 * SECOND, told(), vec![usage(2, 6 * SECOND)])).unwrap();
    assert!(cores(&node).is_empty(), "no window across");
    node.apply(2, update(false, 7, 61 * SECOND, vec![], vec![usage(2, 8 * SECOND)])).unwrap();
    assert_eq!(cores(&node), [("web".to_owned(), 0.2)]);
}

#[test]
fn what_no_agent_says_is_refused() {
    let begun = || {
        let mut node = node();
        node.apply(1, update(true, 7, SECOND, vec![pod(1, "web", &[(2, "app")])], vec![usage(2, 0)]))
            .unwrap();
        node
    };
    let histogram = |buckets: &[u32], counts: &[u64]| {
        let block_io = Some(message::Histogram { buckets: buckets.to_vec(), counts: counts.to_vec() });
        Usage { block_io, ..usage(2, 1) }
    };
    let mut half = begun();
    half.apply(1, update(false, 7, 2 * SECOND, vec![], vec![usage(2, 1), usage(9, 0)])).unwrap_err();
    assert!(!half.is_fresh(Duration::from_secs(60)), "of which it is not known what is so");
    half.apply(2, update(true, 7, 3 * SECOND, vec![pod(1, "web", &[(2, "app")])], vec![usage(2, 1)]))
        .unwrap();
    assert!(half.is_fresh(Duration::from_secs(60)));
    for (why, update) in [
        ("time goes back", update(false, 7, SECOND, vec![], vec![])),
        ("another agent", update(false, 8, 2 * SECOND, vec![], vec![])),
        ("nobody's usage", update(false, 7, 2 * SECOND, vec![], vec![usage(9, 0)])),
        ("no number", update(false, 7, 2 * SECOND, vec![pod(0, "x", &[])], vec![])),
        ("no name", update(false, 7, 2 * SECOND, vec![pod(3, "", &[])], vec![])),
        ("too many", update(false, 7, 2 * SECOND, vec![pod(3, "many", &[(0, "app"); MOST])], vec![])),
        ("uneven", update(false, 7, 2 * SECOND, vec![], vec![histogram(&[1], &[])])),
        ("no order", update(false, 7, 2 * SECOND, vec![], vec![histogram(&[2, 1], &[1, 1])])),
        ("too many buckets", update(false, 7, 2 * SECOND, vec![], vec![histogram(&[9999], &[1])])),
    ] {
        assert!(begun().apply(1, update).is_err(), "{why}");
    }
}

proptest! {
    #[test]
    fn garbage_never_makes_a_rate_that_cannot_be(
        updates in prop::collection::vec(
            (any::<bool>(), 0u64..3, 0u64..60 * SECOND, prop::collection::vec((0u32..4, 0u32..6), 0..3),
             prop::collection::vec((0u32..6, prop_oneof![any::<u64>(), 0u64..SECOND]), 0..4)),
            0..20,
        )
    ) {
        let mut node = node();
        for (full, instance, nanos, pods, usages) in updates {
            let pods = pods.into_iter().map(|(own, container)| pod(own, "web", &[(container, "app")])).collect();
            let usages = usages.into_iter().map(|(number, cpu)| usage(number, cpu)).collect();
            _ = node.apply(1, update(full, instance, nanos, pods, usages));
            for (_, cores) in cores(&node) {
                prop_assert!(cores.is_finite() && cores >= 0.0);
            }
        }
    }
}
