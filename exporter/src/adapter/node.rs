//! What one agent has told: its node, and the pods on it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};

use super::{
    labels::Labels,
    query::{Gathered, Query},
    sample::Sample,
    total::Total,
    window::{Ring, Span, Spans},
};
use crate::stream::message::{self, Update};

/// More pods or containers than this no node has: who tells of more tells nonsense.
const MOST: usize = 20_000;

/// Who a pod is.
#[derive(Debug, PartialEq)]
pub struct About {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Kind and name of what made it; empty if nothing did.
    pub owner: (String, String),
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Who it is.
    pub about: Arc<About>,
    /// When its agent first told of it.
    pub since: Instant,
    containers: Box<[Container]>,
}

/// A run of a container.
#[derive(Debug)]
struct Container {
    number: u32,
    name: Arc<str>,
    id: String,
    samples: Ring,
}

/// When something was so.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By our own clock.
    pub date: SystemTime,
    /// The window that ended then, ns.
    pub nanos: u64,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Whose updates count: a stream that began later takes the node over.
    stream: u64,
    instance: u64,
    /// When the agent reported last: by its clock, by ours, and the date.
    clock: u64,
    heard: Instant,
    date: SystemTime,
    spans: Spans,
    host: Ring,
    pods: HashMap<u32, Pod>,
    /// Of a container's number, its pod's.
    places: HashMap<u32, u32>,
}

impl Node {
    /// Nothing is known of it yet.
    pub fn new(name: &str, spans: Spans) -> Self {
        Self {
            name: name.into(),
            stream: 0,
            instance: 0,
            clock: 0,
            heard: Instant::now(),
            date: SystemTime::now(),
            spans,
            host: Ring::default(),
            pods: HashMap::new(),
            places: HashMap::new(),
        }
    }

    /// Takes an update of a stream.
    ///
    /// # Errors
    /// When it is none that an agent sends.
    pub fn apply(&mut self, stream: u64, update: Update) -> anyhow::Result<()> {
        let Update { full, instance, nanos, host, pods, ended, usages, .. } = update;
        ensure!(
            pods.len() <= MOST && usages.len() <= MOST,
            "an update has {} pods, {} usages",
            pods.len(),
            usages.len()
        );
        let previous = if full { self.begin(stream, instance) } else { self.clock };
        ensure!(stream == self.stream, "another agent speaks for the node {}", self.name);
        ensure!(instance == self.instance, "an agent became another within a stream");
        ensure!(nanos > self.clock, "an agent's clock went back");
        for number in ended {
            if let Some(pod) = self.pods.remove(&number) {
                pod.containers.iter().for_each(|container| _ = self.places.remove(&container.number));
            }
        }
        for pod in pods {
            self.describe(pod)?;
        }
        ensure!(self.pods.len() <= MOST, "a node has {} pods", self.pods.len());
        if let Some(usage) = host {
            let sample = Sample::new(nanos, usage, self.host.last())?;
            self.host.push(sample, previous, &self.spans);
        }
        for usage in usages {
            let pod = self.places.get(&usage.number).and_then(|number| self.pods.get_mut(number));
            let container =
                pod.and_then(|pod| pod.containers.iter_mut().find(|own| own.number == usage.number));
            let samples = &mut container.context("a usage of nobody")?.samples;
            let sample = Sample::new(nanos, usage, samples.last())?;
            samples.push(sample, previous, &self.spans);
        }
        if full {
            self.forget_the_rest();
        }
        (self.clock, self.heard, self.date) = (nanos, Instant::now(), SystemTime::now());
        Ok(())
    }

    /// A stream begins. What the same run of the agent had told before goes on; another counts from anew.
    fn begin(&mut self, stream: u64, instance: u64) -> u64 {
        if instance != self.instance {
            (self.clock, self.host) = (0, Ring::default());
            self.pods.clear();
        }
        (self.stream, self.instance) = (stream, instance);
        // Their numbers were the stream's before.
        let pods = std::mem::take(&mut self.pods).into_values().enumerate();
        self.pods = pods.map(|(at, pod)| (u32::MAX - at as u32, pod)).collect();
        self.places.clear();
        self.clock
    }

    /// After a full update: what it had not is gone.
    fn forget_the_rest(&mut self) {
        self.pods.retain(|number, _| *number <= u32::MAX - MOST as u32);
    }

    fn describe(&mut self, described: message::Pod) -> anyhow::Result<()> {
        let message::Pod { number, uid, namespace, name, labels, owner_kind, owner_name, containers } =
            described;
        ensure!(number > 0 && number <= u32::MAX - MOST as u32, "a pod without a number");
        ensure!(!namespace.is_empty() && !name.is_empty(), "a pod without a name");
        let known = self.pods.remove(&number).or_else(|| {
            let before = self.pods.iter().find(|(_, pod)| pod.about.uid == uid).map(|(number, _)| *number)?;
            self.pods.remove(&before)
        });
        let (mut before, since) = match known {
            Some(pod) => (pod.containers, pod.since),
            None => (Box::default(), Instant::now()),
        };
        before.iter().for_each(|container| _ = self.places.remove(&container.number));
        let containers = containers.into_iter().map(|container| {
            let own = before.iter_mut().find(|own| !own.id.is_empty() && own.id == container.id);
            if container.number > 0 {
                self.places.insert(container.number, number);
            }
            Container {
                number: container.number,
                name: container.name.into(),
                id: container.id,
                samples: own.map(|own| std::mem::take(&mut own.samples)).unwrap_or_default(),
            }
        });
        let containers = containers.collect();
        let (labels, owner) = (labels.into(), (owner_kind, owner_name));
        let about = Arc::new(About { uid, namespace, name, labels, owner });
        self.pods.insert(number, Pod { about, since, containers });
        Ok(())
    }

    /// What was told last came from someone who had it at `date`, and that is so long ago.
    pub fn was_so(&mut self, date: SystemTime, ago: Duration) {
        (self.date, self.heard) = (date, self.heard.checked_sub(ago).unwrap_or(self.heard));
    }

    /// How long ago the agent reported.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// The pods.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// What each container of a pod used; none unless that is known of all of them.
    pub fn containers(&self, pod: &Pod) -> Option<Vec<(Arc<str>, Total)>> {
        if pod.containers.is_empty() {
            return None;
        }
        let totals = pod.containers.iter().map(|container| {
            let mut total = Total::default();
            total.add(container.samples.window(self.clock, self.spans.usual)?);
            Some((Arc::clone(&container.name), total))
        });
        totals.collect()
    }

    /// What a query asks of a pod, of requests those on routes that `wants` says yes to; none unless that is known of all its containers.
    pub fn gather(&self, pod: &Pod, query: &Query, wants: &dyn Fn(&str) -> bool) -> Option<Gathered> {
        if pod.containers.is_empty() {
            return None;
        }
        let mut gathered = query.nothing();
        for container in &pod.containers {
            let window =
                |span: Option<Span>| container.samples.window(self.clock, span.unwrap_or(self.spans.usual));
            query.add(&container.name, window, wants, &mut gathered)?;
        }
        Some(gathered)
    }

    /// What the whole node used.
    pub fn host(&self) -> Option<Total> {
        let mut total = Total::default();
        total.add(self.host.window(self.clock, self.spans.usual)?);
        Some(total)
    }

    /// When the last update came, and a window that ended then.
    pub fn moment(&self, nanos: u64) -> Moment {
        Moment { date: self.date, nanos }
    }

    /// The namespaces that it has pods of.
    pub fn namespaces(&self) -> BTreeSet<&str> {
        self.pods.values().map(|pod| &*pod.about.namespace).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::stream::message::{Container as Told, Usage};

    const SECOND: u64 = 1_000_000_000;

    fn node() -> Node {
        Node::new("n", Spans::new(Span::new(Duration::from_secs(15)), std::iter::empty()))
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
        for (why, update) in [
            ("time goes back", update(false, 7, SECOND, vec![], vec![])),
            ("another agent", update(false, 8, 2 * SECOND, vec![], vec![])),
            ("nobody's usage", update(false, 7, 2 * SECOND, vec![], vec![usage(9, 0)])),
            ("no number", update(false, 7, 2 * SECOND, vec![pod(0, "x", &[])], vec![])),
            ("no name", update(false, 7, 2 * SECOND, vec![pod(3, "", &[])], vec![])),
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
}
