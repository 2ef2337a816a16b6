//! Which cgroups there are, and the workload that each belongs to. Walked once; followed by events from then on.

pub mod naming;

use std::{
    cell::Cell,
    fs,
    os::unix::fs::DirEntryExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};

use self::naming::{Names, Owner, Role};
use super::{
    layout::{HierarchyIndex, Layout},
    path,
};
use crate::{kube::pod::Resources, snapshot::Labels};

/// A cgroup: ids are unique within a hierarchy only.
pub type NodeKey = (HierarchyIndex, u64);

/// A workload's number while it lives.
pub type WorkloadId = usize;

/// How long the OOM kills of a dead workload stay, and of how many.
const GRAVE_AGE: Duration = Duration::from_secs(3600);
const GRAVES: usize = 1024;

/// A container, a systemd unit, or a cgroup that is neither; its own sub-cgroups roll up to it.
#[derive(Debug)]
pub struct Workload {
    /// The path of its uppermost cgroup.
    pub path: Arc<str>,
    /// Its container id, 64 hex digits.
    pub container_id: Option<String>,
    /// The runtime that the path tells.
    pub runtime: Option<path::Runtime>,
    /// Its pod's uid.
    pub pod_uid: Option<String>,
    /// Its systemd unit.
    pub unit: Option<String>,
    /// The labels of its series.
    pub labels: Labels,
    /// Its cgroups, the dead ones that have not been released among them.
    pub nodes: Vec<NodeKey>,
    /// OOM kills of its cgroups that are gone, and of the runs before of the same container.
    pub oom_kills: u64,
    /// The workload of the pod that it is in.
    pub pod: Option<WorkloadId>,
    /// What it is to the cluster.
    pub role: Role,
    /// What the scheduler reserves for it.
    pub requests: Resources,
    /// What it may use at most, by the pod's description.
    pub limits: Resources,
    /// Which container of which pod it is, however often that restarts.
    owner: Option<Owner>,
    /// The version of the pod that named it.
    version: u64,
    born: Instant,
    alive: usize,
}

impl Workload {
    /// Whether all its cgroups are gone: it is shown once more.
    pub fn is_dead(&self) -> bool {
        self.alive == 0
    }

    /// Changes when its pod does.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether it is a pod's own cgroup, in which its containers are.
    pub fn is_pod(&self) -> bool {
        matches!(self.role, Role::Pod | Role::UnnamedPod)
    }
}

#[derive(Debug)]
struct Node {
    path: Arc<str>,
    workload: WorkloadId,
    /// What its memory controller had counted when it was last read: a death that is learned by walking brings no count.
    oom_kills: Cell<u64>,
    /// In which scrape it was found dead.
    died: Option<u64>,
}

/// What is left of a workload that had OOM kills.
#[derive(Debug)]
pub struct Grave {
    /// The labels of its series.
    pub labels: Labels,
    /// How many of its processes were killed.
    pub oom_kills: u64,
    path: Arc<str>,
    container_id: Option<String>,
    pod_uid: Option<String>,
    owner: Option<Owner>,
    since: Instant,
}

/// A cgroup that has been shown for the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// The cgroup.
    pub key: NodeKey,
    /// Its workload.
    pub workload: WorkloadId,
    /// Whether the workload goes on, and keeps what the cgroup had counted.
    pub survives: bool,
    /// The workload of its pod, which goes on.
    pub pod: Option<WorkloadId>,
}

/// The cgroups and their workloads.
#[derive(Debug, Default)]
pub struct Tree {
    layout: Layout,
    nodes: FxHashMap<NodeKey, Node>,
    workloads: Vec<Option<Workload>>,
    by_path: FxHashMap<Arc<str>, WorkloadId>,
    /// How many cgroups are directly below a path, over all hierarchies.
    children: FxHashMap<Arc<str>, u32>,
    dying: Vec<NodeKey>,
    /// What is new since it was asked for.
    added: Vec<NodeKey>,
    graves: Vec<Grave>,
    names: Option<Names>,
    scrape: u64,
    /// Directories that could not be read, because their path is too long or they vanished.
    pub unreadable: u64,
    /// How many times the tree was walked.
    pub walks: u64,
}

impl Tree {
    /// An empty tree; [`Self::walk`] fills it.
    pub fn new(layout: Layout) -> Self {
        Self { layout, ..Self::default() }
    }

    /// Where the hierarchies are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Walks every hierarchy: adds what is new, buries what is gone. Once, and when events are missing: it reads every directory.
    pub fn walk(&mut self) {
        self.walks += 1;
        for index in 0..self.layout.hierarchies.len() {
            let hierarchy = &self.layout.hierarchies[index];
            let mut found = Vec::new();
            if let Ok(id) = super::layout::id(&hierarchy.root) {
                found.push((id, "/".to_owned()));
            }
            let mut stack = vec![String::from("/")];
            while let Some(path) = stack.pop() {
                let Ok(entries) = fs::read_dir(hierarchy.directory(&path)) else {
                    self.unreadable += 1;
                    continue;
                };
                for entry in entries.flatten() {
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        let name = entry.file_name();
                        let child = format!("{}/{}", path.trim_end_matches('/'), name.to_string_lossy());
                        found.push((entry.ino(), child.clone()));
                        stack.push(child);
                    }
                }
            }
            let seen: FxHashSet<u64> = found.iter().map(|(id, _)| *id).collect();
            let gone = self
                .nodes
                .iter()
                .filter(|((of, id), node)| *of == index && node.died.is_none() && !seen.contains(id));
            let gone: Vec<_> = gone.map(|(&key, _)| key).collect();
            for key in gone {
                self.remove(key, 0);
            }
            for (id, path) in found {
                self.add((index, id), &path);
            }
        }
    }

    /// A cgroup exists.
    pub fn add(&mut self, key: NodeKey, path: &str) {
        if self.nodes.contains_key(&key) {
            return;
        }
        let workload = self.admit(path);
        let path: Arc<str> = path.into();
        if let Some(parent) = parent(&path) {
            *self.children.entry(parent.into()).or_default() += 1;
        }
        if let Some(workload) = self.workloads[workload].as_mut() {
            workload.nodes.push(key);
            workload.alive += 1;
        }
        self.nodes.insert(key, Node { path, workload, oom_kills: Cell::new(0), died: None });
        self.added.push(key);
    }

    /// The cgroups that are new since this was asked last.
    pub fn take_added(&mut self) -> Vec<NodeKey> {
        std::mem::take(&mut self.added)
    }

    /// The workload of a path, made if it is new.
    fn admit(&mut self, path: &str) -> WorkloadId {
        let found = path::workload(path);
        if let Some(&known) = self.by_path.get(found.path) {
            return known;
        }
        let own: Arc<str> = found.path.into();
        let pod = path::pod(found.path).filter(|_| found.pod_uid.is_some());
        let is_pod = pod == Some(found.path) && found.container_id.is_none() && found.unit.is_none();
        let (labels, role) = self.newcomer(&found, is_pod);
        let mut workload = Workload {
            labels,
            role,
            pod: pod.filter(|_| !is_pod).and_then(|pod| self.by_path.get(pod).copied()),
            requests: Resources::default(),
            limits: Resources::default(),
            owner: None,
            version: 0,
            born: Instant::now(),
            container_id: found.container_id.map(str::to_owned),
            runtime: found.runtime,
            pod_uid: found.pod_uid.map(Into::into),
            unit: found.unit.map(str::to_owned),
            path: own.clone(),
            nodes: Vec::new(),
            oom_kills: 0,
            alive: 0,
        };
        // A unit that restarts has the path that it had: its counter goes on.
        if let Some(at) = self.graves.iter().position(|grave| grave.path == own) {
            workload.oom_kills = self.graves.swap_remove(at).oom_kills;
        }
        let id = self.workloads.iter().position(Option::is_none).unwrap_or_else(|| {
            self.workloads.push(None);
            self.workloads.len() - 1
        });
        self.workloads[id] = Some(workload);
        if is_pod {
            // Most often none: what is above comes first.
            let inside = |workload: &&mut Workload| path::pod(&workload.path) == Some(&*own);
            let inside = self.workloads.iter_mut().flatten().filter(inside);
            inside.filter(|workload| workload.path != own).for_each(|workload| workload.pod = Some(id));
        }
        self.by_path.insert(own, id);
        id
    }

    /// A cgroup is gone; it is shown once more. `oom_kills` are those that its memory controller had counted.
    pub fn remove(&mut self, key: NodeKey, oom_kills: u64) {
        let Some(node) = self.nodes.get_mut(&key).filter(|node| node.died.is_none()) else { return };
        node.died = Some(self.scrape);
        self.dying.push(key);
        if let Some(parent) = parent(&node.path)
            && let Some(children) = self.children.get_mut(parent)
        {
            *children -= 1;
            if *children == 0 {
                self.children.remove(parent);
            }
        }
        let oom_kills = oom_kills.max(node.oom_kills.get());
        let is_v2 = self.layout.hierarchies[key.0].is_v2();
        if let Some(workload) = self.workloads[node.workload].as_mut() {
            workload.alive -= 1;
            // On v2 the count of a cgroup holds those of its sub-cgroups.
            if !is_v2 || node.path == workload.path {
                workload.oom_kills += oom_kills;
            }
        }
    }

    /// Keeps what the memory controller of a cgroup counts, in case its death is learned by walking.
    pub fn saw_oom_kills(&self, key: NodeKey, oom_kills: u64) {
        if let Some(node) = self.nodes.get(&key) {
            node.oom_kills.set(oom_kills);
        }
    }

    /// The workload of a cgroup.
    pub fn workload_of(&self, key: NodeKey) -> Option<WorkloadId> {
        self.nodes.get(&key).map(|node| node.workload)
    }

    /// The workload whose series have what is counted of a cgroup: its own, or the pod's of what is in none of a pod's containers.
    pub fn charged(&self, key: NodeKey) -> Option<WorkloadId> {
        let own = self.workload_of(key)?;
        let pod = self.get(own).filter(|workload| workload.role == Role::Sandbox).and_then(|found| found.pod);
        Some(pod.unwrap_or(own))
    }

    /// The workload of a cgroup, if the cgroup is the workload's uppermost, whose files say what the whole uses.
    pub fn workload_at(&self, key: NodeKey) -> Option<WorkloadId> {
        let node = self.nodes.get(&key)?;
        (self.get(node.workload)?.path == node.path).then_some(node.workload)
    }

    /// The path of a cgroup.
    pub fn path(&self, key: NodeKey) -> Option<&str> {
        self.nodes.get(&key).map(|node| &*node.path)
    }

    /// A workload by its number.
    pub fn get(&self, id: WorkloadId) -> Option<&Workload> {
        self.workloads.get(id)?.as_ref()
    }

    /// Whether the workload's series are shown by themselves: containers, pods that have a name, units, leaves and the root.
    /// Others (slices) only group, and are shown when a task of theirs did something.
    pub fn is_shown(&self, workload: &Workload) -> bool {
        if workload.labels.is_withheld() {
            return false;
        }
        workload.container_id.is_some()
            || workload.role == Role::Pod
            || workload.unit.is_some()
            || &*workload.path == "/"
            || !self.children.contains_key(&workload.path)
    }

    /// The workloads that are shown by themselves.
    pub fn shown(&self) -> impl Iterator<Item = (WorkloadId, &Workload)> {
        self.all().filter(|(_, workload)| self.is_shown(workload))
    }

    /// Every workload.
    pub fn all(&self) -> impl Iterator<Item = (WorkloadId, &Workload)> {
        self.workloads.iter().enumerate().filter_map(|(id, workload)| Some((id, workload.as_ref()?)))
    }

    /// How many cgroups are known, in all hierarchies.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The dead workloads that had OOM kills, for an hour.
    pub fn graves(&self) -> &[Grave] {
        &self.graves
    }

    /// Ends a scrape: what died before it began has now been shown once more, and is released.
    pub fn release(&mut self) -> Vec<Released> {
        let scrape = self.scrape;
        let (ready, dying) = std::mem::take(&mut self.dying).into_iter().partition(|key| {
            self.nodes.get(key).is_none_or(|node| node.died.is_some_and(|died| died <= scrape))
        });
        self.dying = dying;
        self.scrape += 1;
        let ready: Vec<NodeKey> = ready;
        let released = ready.into_iter().filter_map(|key| {
            let node = self.nodes.remove(&key)?;
            let workload = self.workloads[node.workload].as_mut()?;
            workload.nodes.retain(|known| *known != key);
            let (survives, pod) = (!workload.nodes.is_empty(), workload.pod);
            if !survives {
                self.bury(node.workload);
            }
            Some(Released { key, workload: node.workload, survives, pod })
        });
        let released = released.collect();
        self.graves.retain(|grave| grave.since.elapsed() < GRAVE_AGE);
        released
    }

    fn bury(&mut self, id: WorkloadId) {
        let Some(workload) = self.workloads[id].take() else { return };
        self.by_path.remove(&workload.path);
        if workload.is_pod() {
            let members = self.workloads.iter_mut().flatten().filter(|member| member.pod == Some(id));
            members.for_each(|member| member.pod = None);
        }
        // Of a pod they are its containers', once more.
        if workload.oom_kills == 0 || workload.is_pod() {
            return;
        }
        if let Some(successor) = self.successor(&workload) {
            successor.oom_kills += workload.oom_kills;
            return;
        }
        if self.graves.len() >= GRAVES {
            self.graves.remove(0);
        }
        let Workload { labels, oom_kills, path, container_id, pod_uid, owner, .. } = workload;
        let since = Instant::now();
        self.graves.push(Grave { labels, oom_kills, path, container_id, pod_uid, owner, since });
    }
}

/// The path above; none above the root.
fn parent(path: &str) -> Option<&str> {
    if path == "/" {
        return None;
    }
    Some(path.rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent }))
}

#[cfg(test)]
mod tests;
