//! Everything that agents have told, and whose it is.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tracing::warn;

use super::{
    node::{Moment, Node},
    pod::{About, Pod},
    total::Total,
    window::Spans,
};
use crate::stream::message::Update;

/// How long a node is remembered whose agent is silent: if the same agent comes back, its windows go on.
const REMEMBERED: Duration = Duration::from_secs(120);

/// How many pods are remembered of which two agents tell, so that it is said once.
const CONTESTED: usize = 10_000;

/// A node that several may ask while its agent tells.
pub type Shared = Arc<Mutex<Node>>;

type ByNode = BTreeMap<Arc<str>, Shared>;

/// What is known of all nodes.
#[derive(Debug)]
pub struct Store {
    spans: Spans,
    /// After which silence of its agent nothing is said of a node and its pods.
    age: Duration,
    nodes: RwLock<ByNode>,
    /// The nodes that have pods of a namespace.
    namespaces: RwLock<BTreeMap<String, ByNode>>,
    /// The pods of which was said that agents of two nodes tell of them.
    contested: Mutex<BTreeSet<String>>,
}

/// What is known of a pod at one moment.
#[derive(Clone, Debug)]
pub struct Reading<T> {
    /// Who it is.
    pub about: Arc<About>,
    /// When.
    pub moment: Moment,
    /// What it used.
    pub used: T,
    since: Instant,
}

impl<T> Reading<T> {
    /// By namespace and name. Of two pods of one name the one that was made later is the one that there is, and comes first; where
    /// nobody says when they were made, the one that was heard of later.
    fn key(&self) -> impl Ord {
        (&*self.about.namespace, &*self.about.name, Reverse((self.about.created, self.since)))
    }
}

/// Locks a node.
pub fn lock(node: &Shared) -> MutexGuard<'_, Node> {
    node.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Knows nothing yet.
    pub fn new(spans: Spans, age: Duration) -> Self {
        Self {
            spans,
            age,
            nodes: RwLock::default(),
            namespaces: RwLock::default(),
            contested: Mutex::default(),
        }
    }

    /// The node of this name, made if it is new.
    pub fn node(&self, name: &str) -> Shared {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Mutex::new(Node::new(name, self.spans.clone())));
        Arc::clone(nodes.entry(name.into()).or_insert_with(new))
    }

    /// Takes an update of a stream.
    ///
    /// # Errors
    /// When it is none that an agent sends.
    pub fn apply(&self, node: &Shared, stream: u64, update: Update) -> anyhow::Result<()> {
        let is_same_pods = update.pods.is_empty() && update.ended.is_empty() && !update.full;
        let mut known = lock(node);
        if is_same_pods {
            return known.apply(stream, update);
        }
        let own = |node: &Node| node.namespaces().into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        let before = own(&known);
        let result = known.apply(stream, update);
        let (after, name) = (own(&known), Arc::clone(&known.name));
        drop(known);
        let mut namespaces = self.namespaces.write().unwrap_or_else(PoisonError::into_inner);
        for new in after.difference(&before) {
            namespaces.entry(new.clone()).or_default().insert(Arc::clone(&name), Arc::clone(node));
        }
        for gone in before.difference(&after) {
            forget(&mut namespaces, gone, &name);
        }
        result
    }

    /// Forgets nodes whose agents have been silent for long.
    pub fn sweep(&self) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let silent: Vec<_> = nodes
            .iter()
            .filter(|(_, node)| lock(node).heard().elapsed() > REMEMBERED.max(2 * self.age))
            .map(|(name, node)| (Arc::clone(name), Arc::clone(node)))
            .collect();
        silent.iter().for_each(|(name, _)| _ = nodes.remove(name));
        drop(nodes);
        for (name, node) in silent {
            let own: Vec<_> = lock(&node).namespaces().into_iter().map(str::to_owned).collect();
            let mut namespaces = self.namespaces.write().unwrap_or_else(PoisonError::into_inner);
            own.iter().for_each(|namespace| forget(&mut namespaces, namespace, &name));
        }
    }

    fn shared(&self, namespace: Option<&str>) -> Vec<Shared> {
        match namespace {
            None => self.nodes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect(),
            Some(namespace) => {
                let namespaces = self.namespaces.read().unwrap_or_else(PoisonError::into_inner);
                namespaces.get(namespace).into_iter().flat_map(BTreeMap::values).cloned().collect()
            }
        }
    }

    /// The longest window that may be asked for.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.spans.longest())
    }

    /// Whether any agent has reported of late.
    pub fn has_data(&self) -> bool {
        self.shared(None).iter().any(|node| lock(node).is_fresh(self.age))
    }

    /// What pods used, by namespace and name: of those whom `wants` says yes to, and of whom `read` knows it.
    pub fn pods<T>(
        &self,
        namespace: Option<&str>,
        wants: impl Fn(&About) -> bool,
        read: impl Fn(&Node, &Pod) -> Option<(u64, T)>,
    ) -> Vec<Reading<T>> {
        let mut readings = Vec::new();
        for shared in self.shared(namespace) {
            let node = lock(&shared);
            if !node.is_fresh(self.age) {
                continue;
            }
            let wanted = node.pods().filter(|pod| {
                namespace.is_none_or(|namespace| pod.about.namespace == namespace) && wants(&pod.about)
            });
            readings.extend(wanted.filter_map(|pod| {
                let (nanos, used) = read(&node, pod)?;
                let moment = node.moment(nanos);
                Some(Reading { about: Arc::clone(&pod.about), moment, used, since: pod.since })
            }));
        }
        // A pod that was made anew under its name may still be on the node that it left: the newer one counts.
        readings.sort_unstable_by(|one, other| one.key().cmp(&other.key()));
        let mut contested = BTreeSet::new();
        readings.dedup_by(|other, one| {
            let is_same = one.about.name == other.about.name && one.about.namespace == other.about.namespace;
            if is_same && one.about.uid == other.about.uid {
                contested.insert(one.about.uid.clone());
            }
            is_same
        });
        if !contested.is_empty() {
            // A pod is on one node for as long as it lives: what the other agent says is not so, and nobody knows which one that is.
            readings.retain(|reading| !contested.contains(&reading.about.uid));
            self.tell_of(&contested);
        }
        readings
    }

    /// Says once which pods two agents tell of.
    fn tell_of(&self, contested: &BTreeSet<String>) {
        let mut told = self.contested.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() > CONTESTED {
            told.clear();
        }
        let new: Vec<_> = contested.iter().filter(|uid| told.insert((*uid).clone())).collect();
        if let Some(first) = new.first() {
            warn!(
                pods = new.len(),
                uid = first,
                "agents of two nodes tell of the same pods: these are absent"
            );
        }
    }

    /// What nodes used, by name.
    pub fn nodes(&self, wants: impl Fn(&str) -> bool) -> Vec<(Arc<str>, Moment, Total)> {
        let nodes = self.shared(None);
        let fresh = nodes.iter().filter_map(|shared| {
            let node = lock(shared);
            if !node.is_fresh(self.age) || !wants(&node.name) {
                return None;
            }
            let total = node.host()?;
            Some((Arc::clone(&node.name), node.moment(total.nanos), total))
        });
        fresh.collect()
    }
}

fn forget(namespaces: &mut BTreeMap<String, ByNode>, namespace: &str, node: &str) {
    if let Some(nodes) = namespaces.get_mut(namespace) {
        nodes.remove(node);
        if nodes.is_empty() {
            namespaces.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapter::window::Span,
        stream::message::{self, Usage},
    };

    const SECOND: u64 = 1_000_000_000;

    /// What the pod `web` uses, as told by the agents of these nodes: each says when it was made, its uid, and how many cores.
    fn used(told: &[(&str, Option<u64>, &str, u64)]) -> Vec<f64> {
        let spans = Spans::only(Span::new(Duration::from_secs(10)));
        let store = Store::new(spans, Duration::from_secs(60));
        for (stream, (node, created, uid, cores)) in (1..).zip(told) {
            let container = message::Container {
                number: 2,
                name: "app".to_owned(),
                id: "run".to_owned(),
                ..message::Container::default()
            };
            let pod = message::Pod {
                number: 1,
                uid: (*uid).to_owned(),
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
                containers: vec![container],
                created: *created,
                ..message::Pod::default()
            };
            let usage = |cpu| vec![Usage { number: 2, cpu: Some(cpu), ..Usage::default() }];
            let node = store.node(node);
            let first = Update {
                full: true,
                instance: 7,
                nanos: SECOND,
                pods: vec![pod],
                usages: usage(0),
                ..Update::default()
            };
            store.apply(&node, stream, first).unwrap();
            let second = Update {
                instance: 7,
                nanos: 11 * SECOND,
                usages: usage(cores * 10 * SECOND),
                ..Update::default()
            };
            store.apply(&node, stream, second).unwrap();
        }
        let read = |node: &Node, pod: &Pod| {
            let containers = node.containers(pod)?;
            let nanos = containers.iter().map(|(_, total)| total.nanos).max()?;
            Some((nanos, containers.iter().map(|(_, total)| total.cpu().unwrap()).sum::<f64>()))
        };
        store.pods(Some("shop"), |_| true, read).into_iter().map(|reading| reading.used).collect()
    }

    #[test]
    fn of_two_pods_of_one_name_the_one_counts_that_was_made_later() {
        let (old, new) = (("a", Some(100), "u-1", 1), ("b", Some(200), "u-2", 2));
        assert_eq!(used(&[old, new]), [2.0]);
        // The agent of the node that it left was started anew since.
        assert_eq!(used(&[new, old]), [2.0]);
        // An agent that does not say when, as of before: whoever says so is believed first, and then whoever told of it later.
        assert_eq!(used(&[new, ("a", None, "u-1", 1)]), [2.0]);
        assert_eq!(used(&[("b", None, "u-2", 2), ("a", None, "u-1", 1)]), [1.0]);
    }

    #[test]
    fn a_pod_of_two_nodes_is_absent() {
        assert!(used(&[("a", Some(100), "u-1", 1), ("b", Some(100), "u-1", 2)]).is_empty());
        assert!(used(&[("a", Some(100), "u-1", 1), ("b", Some(900), "u-1", 2)]).is_empty());
        // Of one that there was before, it does not matter.
        let contested = [("a", Some(100), "u-1", 1), ("b", Some(100), "u-1", 1), ("c", Some(200), "u-2", 3)];
        assert_eq!(used(&contested), [3.0]);
    }
}
