//! Our series beside those of a real kubelet's cAdvisor, of the same pods: name by name, label by label, and value by value.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use podmeter::{
    catalogue,
    collector::cadvisor::{DIFFERENCES, How, Of, With},
    snapshot::Kind,
};
use podmeter_tests::{cluster::kubelet::Kubelet, support::has_v2, wait};
use serde_json::{Value, json};

use super::{
    kubelet::{MIB, container, pod},
    node::{NODE, Node},
};

/// The names of cAdvisor's metrics of containers.
const CADVISOR: &str = include_str!("../../deploy/cadvisor.txt");

/// How far apart two looks at the same thing may be: the kernel's sums of memory are up to two seconds old.
const LOOK: f64 = 3.0;

/// The kernel's account of CPU time, which ours begins with, has microseconds; cAdvisor's on v1 has more.
const ROUNDED: f64 = 2e-6;

const CPU: &str = "container_cpu_usage_seconds_total";

/// Where CPU time is on v1: a runtime moves what it starts into one hierarchy after the other, while it runs. What it does in between
/// has been done for one cgroup there, and for another here (8.8 ms were seen). And where tracepoints do not fire beside a task of
/// PID 1, what a task did last counts when it has run again.
const MOVED: f64 = 0.02;

type Labels = BTreeMap<String, String>;

/// A series' name and labels, without those that say nothing and the one that only we have.
type Key = (String, Labels);

/// What one of both says at some time.
struct Sample {
    value: f64,
    /// Seconds since 1970.
    time: f64,
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// The metrics that both have, and their types.
fn shared() -> BTreeMap<&'static str, Kind> {
    let cadvisor: BTreeSet<_> = CADVISOR.lines().collect();
    let metrics = catalogue().into_iter().flat_map(|section| section.metrics);
    metrics.filter(|metric| cadvisor.contains(metric.name)).map(|metric| (metric.name, metric.kind)).collect()
}

/// The series of the shared metrics of what a kubelet manages, and of the root.
fn series(text: &str, kubelet: &Kubelet) -> BTreeMap<Key, Sample> {
    let (names, time) = (shared(), now());
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once('{')?;
        let (labels, value) = rest.rsplit_once("} ")?;
        names.contains_key(name).then_some((name, labels, value))
    });
    let parsed = lines.map(|(name, labels, value)| {
        let pairs = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
        let labels: Labels = pairs.filter(|(name, value)| !value.is_empty() && name != "node").collect();
        let mut parts = value.split(' ').map(|part| part.parse::<f64>().expect("a number"));
        let value = parts.next().expect("a value");
        ((name.to_owned(), labels), Sample { value, time: parts.next().map_or(time, |millis| millis / 1e3) })
    });
    let is_its =
        |labels: &Labels| labels.get("id").is_some_and(|id| id == "/" || id.starts_with(kubelet.cgroup()));
    parsed.filter(|((_, labels), _)| is_its(labels)).collect()
}

/// What a series is of.
fn of(labels: &Labels) -> Of {
    let has = |name: &str| labels.contains_key(name);
    match () {
        () if labels["id"] == "/" => Of::Node,
        () if has("container") => Of::Container,
        () if has("pod") && has("name") => Of::Pause,
        () if has("pod") => Of::Pod,
        () => Of::Slice,
    }
}

/// The place in the list of differences that allows a series to differ so.
fn allowed((name, labels): &Key, how: How) -> Option<usize> {
    let of = of(labels);
    DIFFERENCES.iter().position(|difference| {
        difference.how == how
            && is_here(difference.with)
            && difference.of.contains(&of)
            && (difference.metrics.is_empty() || difference.metrics.contains(&&**name))
    })
}

/// Whether memory is accounted so here.
fn is_here(with: With) -> bool {
    with == With::Any || (with == With::V2) == has_v2("memory")
}

/// What differs, as far as the list does not have it; and the places of the list that have been seen.
#[derive(Default)]
struct Verdict {
    unexplained: Vec<String>,
    seen: BTreeSet<usize>,
}

impl Verdict {
    fn differs(&mut self, key: &Key, how: How, what: &str) {
        match allowed(key, how) {
            Some(place) => _ = self.seen.insert(place),
            None => self.unexplained.push(format!("{how:?}: {key:?} {what}")),
        }
    }

    /// Which series one has and the other lacks.
    fn of_names(theirs: &BTreeMap<Key, Sample>, ours: &BTreeMap<Key, Sample>) -> Self {
        let mut this = Self::default();
        for (how, one, other) in [(How::OnlyTheirs, theirs, ours), (How::OnlyOurs, ours, theirs)] {
            for key in one.keys().filter(|key| !other.contains_key(*key)) {
                this.differs(key, how, "");
            }
        }
        this
    }
}

/// Pods of every kind that matters to what is counted: with limits and without, at work and idle, of the API's and a file's.
fn pods(node: &Node, kubelet: &Kubelet) {
    const BUSY: &str =
        "while :; do i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; /bin/busybox sleep 1; done";
    const DISK: &str = "while :; do /bin/busybox dd if=/dev/zero of=/blocks bs=64k count=8 oflag=direct; \
                        /bin/busybox dd if=/blocks of=/dev/null bs=64k iflag=direct; /bin/busybox sleep 1; done 2>/dev/null";
    const IDLE: &str = "exec /bin/busybox sleep 100000";
    let unlimited = |name: &str| {
        let mut plain = container(name, IDLE);
        plain.as_object_mut().expect("a container").remove("resources");
        plain
    };
    let of = |name: &str, containers: Value, init: Value| {
        let object = json!({"metadata": {"name": name}, "spec": pod(&containers, &init)});
        node.cluster.create("/api/v1/namespaces/shop/pods", &object);
    };
    of(
        "web",
        json!([container("app", BUSY), container("side", DISK)]),
        json!([container("setup", "exit 0")]),
    );
    of("idle", json!([container("app", IDLE)]), json!([]));
    of("plain", json!([unlimited("app")]), json!([]));
    let spec = pod(&json!([container("app", IDLE)]), &json!([]));
    let file = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "file", "namespace": "shop"}, "spec": spec});
    kubelet.write_static("file", &file);
}

#[test]
fn our_series_are_those_of_the_kubelets_cadvisor() {
    let node = Node::start();
    node.grant();
    let kubelet = Kubelet::start(&node.cluster, NODE);
    pods(&node, &kubelet);
    let agent = node.agent(&["--pod-source", "api"]);
    let theirs = || series(&kubelet.cadvisor(&node.cluster), &kubelet);
    let ours = || series(&agent.scrape().0, &kubelet);
    let mut last = Vec::new();
    let names = wait::perhaps(|| {
        let (theirs, ours) = (theirs(), ours());
        let containers = ours.keys().filter(|(name, labels)| name == CPU && of(labels) == Of::Container);
        let is_complete = containers.count() == 5;
        let verdict = Verdict::of_names(&theirs, &ours);
        last.clone_from(&verdict.unexplained);
        (last.is_empty() && is_complete).then_some(verdict)
    });
    let names = names.unwrap_or_else(|| panic!("{} unexplained: {last:#?}", last.len()));
    let values = of_values(&theirs, &ours);
    assert!(values.unexplained.is_empty(), "{:#?}", values.unexplained);
    for (place, difference) in
        DIFFERENCES.iter().enumerate().filter(|(_, difference)| is_here(difference.with))
    {
        let is_seen = names.seen.contains(&place) || values.seen.contains(&place);
        assert!(is_seen, "nothing differs so any more: {difference:?}");
    }
}

/// By how much a gauge may be beyond what it was when we looked: what idles does not move, what works and the machine do.
fn moves((name, labels): &Key, value: f64) -> f64 {
    match of(labels) {
        _ if name.starts_with("container_spec_") => 0.0,
        Of::Node => value / 10.0,
        _ if labels["pod"] == "web" => MIB,
        _ => 0.0,
    }
}

/// Each of cAdvisor's samples, which have the time at which it looked, lies between what we said before it and what we say after it.
fn of_values(
    theirs: &dyn Fn() -> BTreeMap<Key, Sample>,
    ours: &dyn Fn() -> BTreeMap<Key, Sample>,
) -> Verdict {
    let (kinds, begun) = (shared(), now());
    let mut history = Vec::new();
    let mut old = Vec::new();
    let mut look = || {
        history.push((now(), ours()));
        let theirs = theirs();
        let is_old = |sample: &Sample| sample.time <= begun + LOOK + 1.0;
        old = theirs.iter().filter(|(_, sample)| is_old(sample)).map(|(key, _)| key.clone()).collect();
        old.is_empty().then_some(theirs)
    };
    // It looks at what idles every 15 s, and puts that off by up to as long again (cAdvisor's `jitter`): one wait may be too short.
    let theirs = wait::perhaps(&mut look).or_else(|| wait::perhaps(&mut look));
    let theirs = theirs.unwrap_or_else(|| panic!("cAdvisor has not looked again at {old:#?}"));
    let end = now() + LOOK + 1.0;
    wait::until("what we say after it", || {
        history.push((now(), ours()));
        (now() > end).then_some(())
    });
    let mut verdict = Verdict::default();
    let mut compared = BTreeSet::new();
    for (key, sample) in &theirs {
        let at = |of: Option<&(f64, BTreeMap<Key, Sample>)>| Some(of?.1.get(key)?.value);
        let before = at(history.iter().rfind(|(time, _)| *time <= sample.time - LOOK));
        let after = at(history.iter().find(|(time, _)| *time >= sample.time + LOOK));
        // Of those that only one of both has there is nothing to compare.
        let (Some(before), Some(after)) = (before, after) else { continue };
        let near = history.iter().filter(|(time, _)| (time - sample.time).abs() <= LOOK + 1.0);
        let near = near.filter_map(|(_, all)| Some(all.get(key)?.value)).chain([before, after]);
        let (low, high, slack) = match kinds[&*key.0] {
            Kind::Counter if key.0 == CPU && !has_v2("cpu") => (before, after, MOVED),
            Kind::Counter => (before, after, ROUNDED),
            _ => {
                let (low, high) =
                    near.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
                (low, high, moves(key, high))
            }
        };
        compared.insert(&key.0);
        if !(low - slack..=high + slack).contains(&sample.value) {
            verdict.differs(key, How::Values, &format!("{} is not within {low} to {high}", sample.value));
        }
    }
    let both: BTreeSet<_> =
        theirs.keys().filter(|key| history[0].1.contains_key(*key)).map(|key| &key.0).collect();
    // One that only began to be counted meanwhile, as the first read of a disk, may be compared too.
    assert!(both.is_subset(&compared), "every metric that both have is compared: {both:?}, {compared:?}");
    assert!(compared.len() > 15, "{compared:?}");
    verdict
}
