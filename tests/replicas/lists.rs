//! What the clients of Kubernetes list, and how they take errors.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    calculator::{Failure, Item, Selection},
    cases,
    cluster::{Cluster, memory, node},
    container::LAST,
    pod::{Pod, RESTARTED, SILENT},
};

/// A pod by its namespace and name.
type Name<'a> = (&'a str, &'a str);

fn names(items: &[Item]) -> BTreeSet<Name<'_>> {
    items.iter().map(|item| (&*item.namespace, &*item.name)).collect()
}

fn name(pod: &Pod) -> Name<'_> {
    (&pod.namespace, &pod.name)
}

fn labels(labels: &str) -> Selection<'_> {
    Selection { labels, ..Selection::default() }
}

fn fields(fields: &str) -> Selection<'_> {
    Selection { fields, ..Selection::default() }
}

fn named(name: &str) -> Selection<'_> {
    Selection { name, ..Selection::default() }
}

/// Whether a rate is what it should be, but for the little by which the agents' clocks have gone on.
fn is_rate(said: i64, wanted: i64) -> bool {
    (wanted - 1 - wanted / 1_000_000..=wanted + 1).contains(&said)
}

#[test]
fn clients_list_what_there_is() {
    let cases = cases(80);
    let mut cluster = Cluster::start(&cases);
    let calculator = &mut cluster.calculator;
    let pods: Vec<&Pod> =
        cases.iter().flat_map(|case| &case.pods).filter(|pod| pod.usages().is_some()).collect();
    let some = |wants: &dyn Fn(&Pod) -> bool| -> BTreeSet<Name<'_>> {
        pods.iter().filter(|pod| wants(pod)).map(|pod| name(pod)).collect()
    };
    let all = calculator.pods("", &Selection::default()).expect("a list");
    assert_eq!(names(&all), some(&|_| true));
    let items: BTreeMap<Name<'_>, &Item> =
        all.iter().map(|item| ((&*item.namespace, &*item.name), item)).collect();
    for pod in &pods {
        let (item, usages) = (items[&name(pod)], pod.usages().expect("known"));
        assert_eq!(item.usage.len(), usages.len(), "{pod:#?}");
        assert_eq!(item.window.round() as u64, pod.window().expect("known"), "{pod:#?}");
        for (container, (nanocores, bytes)) in usages {
            let used = &item.usage[container];
            assert!(is_rate(used.cpu, nanocores), "{} for {nanocores} of {container} of {pod:#?}", used.cpu);
            assert_eq!(used.memory, bytes, "{container} of {pod:#?}");
        }
    }

    let is = |pod: &Pod, key: &str, value: &str| pod.labels.get(key).is_some_and(|own| own == value);
    type Wants<'a> = &'a dyn Fn(&Pod) -> bool;
    let selections: [(Selection<'_>, Wants<'_>); 6] = [
        (labels("app=web"), &|pod| is(pod, "app", "web")),
        (labels("app!=web,tier"), &|pod| !is(pod, "app", "web")),
        (labels("tier in (front),app notin (other)"), &|pod| {
            is(pod, "tier", "front") && !is(pod, "app", "other")
        }),
        (labels("!tier"), &|_| false),
        (fields("metadata.name=web-1"), &|pod| pod.name == "web-1"),
        (fields("metadata.namespace!=case-3"), &|pod| pod.namespace != "case-3"),
    ];
    for (selection, wants) in selections {
        let items = calculator.pods("", &selection).expect("a list");
        assert_eq!(names(&items), some(wants), "{} {}", selection.labels, selection.fields);
    }
    let items = calculator.pods("case-3", &Selection::default()).expect("a list");
    assert_eq!(names(&items), some(&|pod| pod.namespace == "case-3"));
    let first = pods[0];
    let one = calculator.pods(&first.namespace, &named(&first.name)).expect("a pod");
    assert_eq!(names(&one), BTreeSet::from([name(first)]));

    let nodes = calculator.nodes(&Selection::default()).expect("a list");
    assert_eq!(nodes.len(), usize::from(SILENT));
    for agent in 0..SILENT {
        let one = calculator.nodes(&named(&node(agent))).expect("a node");
        let (listed, used) = (nodes.iter().find(|item| item.name == node(agent)), &one[0].usage[""]);
        assert_eq!(
            (listed.expect("listed").usage[""].memory, used.memory),
            (used.memory, memory(LAST) as i64)
        );
        assert!(is_rate(used.cpu, (i64::from(agent) + 1) * 100_000_000), "{} of {agent}", used.cpu);
        assert_eq!(one[0].window.round() as u64, if agent == RESTARTED.0 { 10 } else { 15 });
    }
    let values = calculator.external("case-3", "http_active_requests", "app").expect("a value");
    assert_eq!((values.len(), &*values[0].name), (1, "http_active_requests"));
    let active = some(&|pod| pod.namespace == "case-3");
    assert!(values[0].usage[""].value >= 0 && !active.is_empty());
}

#[test]
fn clients_tell_errors_apart() {
    let cases = cases(80);
    let mut cluster = Cluster::start(&cases);
    let calculator = &mut cluster.calculator;
    let mut pods = cases.iter().flat_map(|case| &case.pods);
    let is_silent = |pod: &&Pod| pod.told.as_ref().is_some_and(|(agent, _)| *agent >= SILENT);
    let silent = pods.find(is_silent).expect("some agents are silent");
    let missing = [
        (calculator.pods("case-3", &named("gone")), "podmetrics.metrics.k8s.io \"case-3/gone\" not found"),
        (calculator.pods(&silent.namespace, &named(&silent.name)), "podmetrics.metrics.k8s.io"),
        (calculator.nodes(&named("gone")), "nodemetrics.metrics.k8s.io \"gone\" not found"),
        (calculator.nodes(&named(&node(SILENT))), "nodemetrics.metrics.k8s.io"),
        (calculator.external("case-3", "gone", ""), "the server could not find the metric gone"),
        (
            calculator.external("case-3", "http_requests_per_second", "app=gone"),
            "the server could not find the metric",
        ),
        (calculator.external("gone", "http_requests_per_second", ""), "the server could not find the metric"),
    ];
    for (answer, text) in missing {
        let failure = refusal(answer, text);
        assert!(failure.not_found && failure.reason == "NotFound", "{failure:?}");
        assert!(failure.text.contains(text), "{failure:?}");
    }
    let bad = [
        (
            calculator.pods("case-3", &fields("spec.nodeName=node-0")),
            "field label not supported: spec.nodeName",
        ),
        (calculator.pods("case-3", &labels("app=/")), "unable to parse requirement"),
        (calculator.nodes(&labels("app in web")), "unable to parse requirement"),
    ];
    for (answer, text) in bad {
        let failure = refusal(answer, text);
        assert!(!failure.not_found && failure.reason == "BadRequest", "{failure:?}");
        assert!(failure.text.contains(text), "{failure:?}");
    }
}

fn refusal(answer: Result<Vec<Item>, Failure>, of: &str) -> Failure {
    match answer {
        Err(failure) => failure,
        Ok(items) => panic!("{items:?}, and not {of}"),
    }
}
