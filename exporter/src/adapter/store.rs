//! Everything that agents have told, and whose it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use super::{
    node::{About, Moment, Node},
    total::Total,
    window::Spans,
};
use crate::stream::message::Update;

/// How long a node is remembered whose agent is silent: if the same agent comes back, its windows go on.
const REMEMBERED: Duration = Duration::from_secs(120);

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

/// Locks a node.
pub fn lock(node: &Shared) -> MutexGuard<'_, Node> {
    node.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Knows nothing yet.
    pub fn new(spans: Spans, age: Duration) -> Self {
        Self { spans, age, nodes: RwLock::default(), namespaces: RwLock::default() }
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
        self.shared(None).iter().any(|node| self.is_fresh(&lock(node)))
    }

    fn is_fresh(&self, node: &Node) -> bool {
        node.heard().elapsed() <= self.age
    }

    /// What pods used, by namespace and name: of those whom `wants` says yes to, and of whom `read` knows it.
    pub fn pods<T>(
        &self,
        namespace: Option<&str>,
        wants: impl Fn(&About) -> bool,
        read: impl Fn(&Node, &super::node::Pod) -> Option<(u64, T)>,
    ) -> Vec<Reading<T>> {
        let mut readings = Vec::new();
        for shared in self.shared(namespace) {
            let node = lock(&shared);
            if !self.is_fresh(&node) {
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
        let key = |reading: &Reading<T>| (reading.about.namespace.clone(), reading.about.name.clone());
        readings.sort_by_cached_key(|reading| (key(reading), std::cmp::Reverse(reading.since)));
        readings.dedup_by(|one, other| {
            one.about.name == other.about.name && one.about.namespace == other.about.namespace
        });
        readings
    }

    /// What nodes used, by name.
    pub fn nodes(&self, wants: impl Fn(&str) -> bool) -> Vec<(Arc<str>, Moment, Total)> {
        let nodes = self.shared(None);
        let fresh = nodes.iter().filter_map(|shared| {
            let node = lock(shared);
            if !self.is_fresh(&node) || !wants(&node.name) {
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
