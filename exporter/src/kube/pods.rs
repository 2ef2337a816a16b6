//! The pods of this node, as far as the source has told, and how well it does.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;

use super::pod::Pod;

/// Why a source did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// It does not know us: the token has expired, or is not from here.
    Unauthorized,
    /// It knows us, and a rule is missing.
    Forbidden,
    /// It cannot be reached, or the connection broke.
    Unreachable,
    /// It has forgotten where we were: everything is told again.
    Expired,
    /// Anything else.
    Other,
}

impl Failure {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::Unauthorized, Self::Forbidden, Self::Unreachable, Self::Expired, Self::Other];

    /// As in the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Unreachable => "unreachable",
            Self::Expired => "expired",
            Self::Other => "other",
        }
    }
}

/// A pod that the tree can be named by.
#[derive(Debug)]
pub struct Known {
    /// What the source said.
    pub pod: Pod,
    /// Grows with every change of any pod.
    pub version: u64,
}

/// What the source has told.
#[derive(Debug)]
pub struct Pods {
    by_uid: FxHashMap<Arc<str>, Known>,
    version: u64,
    /// Whether everything was told once.
    synced: bool,
    /// Since when the source has been away; none while it is there.
    away: Option<Instant>,
    heard: Option<Instant>,
    failures: FxHashMap<Failure, u64>,
    message: String,
}

impl Default for Pods {
    fn default() -> Self {
        Self {
            by_uid: FxHashMap::default(),
            version: 0,
            synced: false,
            away: Some(Instant::now()),
            heard: None,
            failures: FxHashMap::default(),
            message: String::from("not asked yet"),
        }
    }
}

impl Pods {
    /// The pod whose cgroups have this uid.
    pub fn get(&self, cgroup_uid: &str) -> Option<&Known> {
        self.by_uid.get(cgroup_uid)
    }

    /// Every pod.
    pub fn all(&self) -> impl Iterator<Item = &Pod> {
        self.by_uid.values().map(|known| &known.pod)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_uid.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }

    /// Changes whenever a pod does.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether the source has told everything once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Since when the source has been away; none while it is there.
    pub fn away(&self) -> Option<Instant> {
        self.away
    }

    /// How long ago it said anything.
    pub fn heard(&self) -> Option<Duration> {
        self.heard.map(|at| at.elapsed())
    }

    /// How often it failed, by reason.
    pub fn failures(&self, failure: Failure) -> u64 {
        self.failures.get(&failure).copied().unwrap_or(0)
    }

    /// What went wrong last; empty while nothing is.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// A pod is new, or has changed.
    pub fn set(&mut self, pod: Pod) {
        let known = self.by_uid.get(&*pod.cgroup_uid);
        if known.is_none_or(|known| known.pod != pod) {
            self.version += 1;
            self.by_uid.insert(pod.cgroup_uid.as_str().into(), Known { pod, version: self.version });
        }
    }

    /// A pod is gone from the source. What it named keeps its name.
    pub fn remove(&mut self, uid: &str) {
        self.by_uid.retain(|_, known| known.pod.uid != uid);
    }

    /// Everything has been told: what is not in `uids` is gone.
    pub fn synced(&mut self, uids: &FxHashSet<String>) {
        self.by_uid.retain(|_, known| uids.contains(&known.pod.uid));
        self.synced = true;
    }

    /// The source answers.
    pub fn heard_from(&mut self) {
        self.heard = Some(Instant::now());
        self.away = None;
        self.message.clear();
    }

    /// The source does not answer. Tells whether it is news.
    pub fn lost(&mut self, failure: Failure, message: String) -> bool {
        *self.failures.entry(failure).or_default() += 1;
        self.away.get_or_insert_with(Instant::now);
        let is_news = self.message != message;
        self.message = message;
        is_news
    }
}

/// What the source's task and the scrape share.
#[derive(Debug, Default)]
pub struct Shared {
    pods: Mutex<Pods>,
    /// Something in a pod has no name: for sources that must be asked.
    pub wanted: Notify,
}

impl Shared {
    /// The pods. Held for as long as it takes to look, never while waiting for anyone.
    pub fn lock(&self) -> MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, cgroup_uid: &str, name: &str) -> Pod {
        let text = str::to_owned;
        Pod { uid: text(uid), cgroup_uid: text(cgroup_uid), name: text(name), ..Pod::default() }
    }

    #[test]
    fn only_a_change_is_a_change() {
        let mut pods = Pods::default();
        pods.set(pod("u", "u", "a"));
        let version = pods.version();
        pods.set(pod("u", "u", "a"));
        assert_eq!(pods.version(), version);
        pods.set(pod("u", "u", "b"));
        assert!(pods.version() > version);
        assert_eq!(pods.get("u").unwrap().pod.name, "b");
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let mut pods = Pods::default();
        pods.set(pod("mirror", "hash", "static"));
        pods.set(pod("u", "u", "a"));
        pods.synced(&FxHashSet::from_iter(["mirror".to_owned()]));
        assert!(pods.get("hash").is_some() && pods.get("u").is_none());
        pods.remove("mirror");
        assert!(pods.is_empty());
    }

    #[test]
    fn an_absence_begins_with_the_first_failure() {
        let mut pods = Pods::default();
        pods.heard_from();
        assert!(pods.lost(Failure::Unreachable, "refused".to_owned()));
        let since = pods.away();
        assert!(!pods.lost(Failure::Unreachable, "refused".to_owned()), "no news");
        assert_eq!((pods.away(), pods.failures(Failure::Unreachable)), (since, 2));
        pods.heard_from();
        assert_eq!((pods.away(), pods.message()), (None, ""));
    }
}
