//! Names for what is in pods, from what the cluster says of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Tree, Workload, path};
use crate::{
    kube::{
        pod::{Container, Pod},
        pods::Pods,
    },
    snapshot::Labels,
};

/// How long something in a pod may stay without a name before it is shown by its id. The kubelet tells the API server of a
/// new container within a second or two.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a workload is to the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// In no pod, or in one that nobody could name: shown by its path.
    #[default]
    Plain,
    /// A pod's cgroup; nobody has named the pod.
    UnnamedPod,
    /// A pod's cgroup.
    Pod,
    /// In a pod, and not one of its containers as far as is known: not shown.
    Unnamed,
    /// In a pod and none of its containers, as the pause container: charged to the pod, not shown.
    Sandbox,
    /// A container.
    Container,
    /// In a known pod, and made while the source was away: shown by its id, with the pod's name.
    Anonymous,
}

/// Which container of which pod: the uid in its paths, and its name.
pub(super) type Owner = Arc<(String, String)>;

/// How names become labels.
#[derive(Clone, Debug)]
pub struct Names {
    /// This node's.
    pub node: String,
    /// The pod's labels that are wanted, and the names that they get.
    pub labels: Vec<(String, String)>,
    /// Whether the pod's maker is wanted.
    pub owner: bool,
    /// When the agent began to look.
    pub started: Instant,
}

impl Names {
    /// With the pod's labels of these names, under the names that kube-state-metrics gives them; of two that would have the same
    /// name there, the first.
    pub fn new(node: String, labels: &[String], owner: bool) -> Self {
        let mut named: Vec<(String, String)> = Vec::new();
        for label in labels {
            let plain = |char: char| if char.is_ascii_alphanumeric() { char } else { '_' };
            let name = format!("label_{}", label.chars().map(plain).collect::<String>());
            if named.iter().all(|(_, known)| *known != name) {
                named.push((label.clone(), name));
            }
        }
        Self { node, labels: named, owner, started: Instant::now() }
    }

    fn is_overdue(&self, workload: &Workload, now: Instant) -> bool {
        now.duration_since(workload.born.max(self.started)) > PATIENCE
    }

    /// The labels of what nobody names. The root has no name to cAdvisor, and what has one is a container to its dashboards.
    fn plain(&self, id: &str, name: &str) -> Labels {
        if id == "/" {
            return Labels::new(&[("id", id), ("node", &self.node)]);
        }
        Labels::new(&[("id", id), ("name", name), ("node", &self.node)])
    }

    /// The labels of a pod, of one of its containers, or of something in it that has only an id: cAdvisor's, and the node.
    fn labels(&self, path: &str, pod: &Pod, container: Option<&Container>, id: Option<&str>) -> Labels {
        let mut pairs = vec![("container", container.map_or("", |container| &*container.name))];
        pairs.extend([("id", path), ("image", container.map_or("", |container| &*container.image))]);
        for (label, name) in &self.labels {
            pairs.push((name, pod.labels.get(label).map_or("", |value| value)));
        }
        pairs.extend([("name", id.unwrap_or("")), ("namespace", &pod.namespace), ("node", &self.node)]);
        if let Some((kind, name)) = pod.owner.as_ref().filter(|_| self.owner) {
            pairs.extend([("owner_kind", &**kind), ("owner_name", name)]);
        }
        pairs.push(("pod", &pod.name));
        // To Prometheus an empty label is none.
        pairs.retain(|(_, value)| !value.is_empty());
        Labels::new(&pairs)
    }
}

impl Tree {
    /// From here on, what is in pods is shown when it has a name.
    pub fn expect_names(&mut self, names: Names) {
        self.names = Some(names);
    }

    /// What a workload is before anyone has named it.
    pub(super) fn newcomer(&self, found: &path::Workload<'_>, is_pod: bool) -> (Labels, Role) {
        let name = found.container_id.or(found.unit).unwrap_or(found.path);
        let role = if is_pod { Role::UnnamedPod } else { Role::Plain };
        match &self.names {
            None => (Labels::new(&[("id", found.path), ("name", name)]), role),
            Some(_) if found.pod_uid.is_some() && !is_pod => (Labels::withheld(), Role::Unnamed),
            Some(names) => (names.plain(found.path, name), role),
        }
    }

    /// Names what can be named, and tells how many containers of pods have no name as yet.
    pub fn name(&mut self, pods: &Pods) -> usize {
        let Some(names) = self.names.take() else { return 0 };
        let now = Instant::now();
        let (mut unnamed, mut is_changed) = (0, false);
        for workload in self.workloads.iter_mut().flatten() {
            let Some(uid) = &workload.pod_uid else { continue };
            let known = pods.get(uid);
            let is_late = names.is_overdue(workload, now);
            let role = judge(workload, known.map(|known| &known.pod), pods.away(), is_late);
            let version = known.map_or(workload.version, |known| known.version);
            if role != workload.role || version != workload.version {
                workload.rename(&names, role, known.map(|known| &known.pod));
                workload.version = version;
                is_changed = true;
            }
            let is_missing = match role {
                Role::Unnamed => !workload.is_dead(),
                Role::Anonymous | Role::Plain => true,
                Role::UnnamedPod | Role::Pod | Role::Container | Role::Sandbox => false,
            };
            unnamed += usize::from(is_missing && workload.container_id.is_some());
        }
        if !self.graves.is_empty() {
            self.name_graves(&names, pods, is_changed);
        }
        self.names = Some(names);
        unnamed
    }

    /// What died before it had a name, and what runs again.
    fn name_graves(&mut self, names: &Names, pods: &Pods, is_changed: bool) {
        for grave in self.graves.iter_mut().filter(|grave| grave.labels.is_withheld()) {
            let known = grave.pod_uid.as_ref().and_then(|uid| pods.get(uid));
            let id = grave.container_id.as_deref();
            let container = known.zip(id).and_then(|(known, id)| known.pod.container(id));
            if let (Some(known), Some(container)) = (known, container) {
                grave.labels = names.labels(&grave.path, &known.pod, Some(container), id);
                grave.owner = Some(Arc::new((known.pod.cgroup_uid.clone(), container.name.clone())));
            } else if grave.since.elapsed() > PATIENCE {
                grave.labels = match known {
                    Some(known) => names.labels(&grave.path, &known.pod, None, id),
                    None => names.plain(&grave.path, id.unwrap_or(&grave.path)),
                };
            }
        }
        if !is_changed {
            return;
        }
        let owners = self.workloads.iter_mut().flatten().filter(|workload| !workload.is_dead());
        for workload in owners.filter(|workload| workload.owner.is_some()) {
            self.graves.retain(|grave| {
                let is_its_own = grave.owner == workload.owner;
                workload.oom_kills += if is_its_own { grave.oom_kills } else { 0 };
                !is_its_own
            });
        }
    }

    /// The run that followed on this one of a container.
    pub(super) fn successor(&mut self, workload: &Workload) -> Option<&mut Workload> {
        let others = self.workloads.iter_mut().flatten().filter(|other| !other.is_dead());
        workload.owner.as_ref()?;
        others.into_iter().find(|other| other.owner == workload.owner && other.path != workload.path)
    }

    /// Whether a container's next run is shown already.
    pub fn has_successor(&self, workload: &Workload) -> bool {
        let mut others = self.all().filter(|(_, other)| !other.is_dead() && other.path != workload.path);
        workload.owner.is_some() && others.any(|(_, other)| other.owner == workload.owner)
    }
}

impl Workload {
    fn rename(&mut self, names: &Names, role: Role, pod: Option<&Pod>) {
        let id = self.container_id.as_deref();
        let container = pod.zip(id).and_then(|(pod, id)| pod.container(id));
        self.labels = match (role, pod, container) {
            (Role::Unnamed | Role::Sandbox, ..) => Labels::withheld(),
            (Role::Pod, Some(pod), _) => names.labels(&self.path, pod, None, None),
            (Role::Container, Some(pod), Some(_)) => names.labels(&self.path, pod, container, id),
            (Role::Anonymous, Some(pod), _) => names.labels(&self.path, pod, None, id),
            (Role::Plain | Role::UnnamedPod, ..) => names.plain(&self.path, id.unwrap_or(&self.path)),
            // The API has forgotten it, or its pod: it keeps its name.
            (Role::Container | Role::Anonymous | Role::Pod, ..) => self.labels.clone(),
        };
        if let (Some(pod), Some(container)) = (pod, container) {
            self.owner = Some(Arc::new((pod.cgroup_uid.clone(), container.name.clone())));
            (self.requests, self.limits) = (container.requests, container.limits);
        }
        self.role = role;
    }
}

/// What a workload in a pod is, by what is known of the pod. `away` is since when the source has been away.
fn judge(workload: &Workload, pod: Option<&Pod>, away: Option<Instant>, is_late: bool) -> Role {
    let Some(pod) = pod else {
        return match workload.role {
            Role::Unnamed if is_late => Role::Plain,
            role => role,
        };
    };
    let Some(id) = &workload.container_id else {
        return if workload.is_pod() { Role::Pod } else { Role::Sandbox };
    };
    if pod.container(id).is_some() {
        return Role::Container;
    }
    let is_sandbox = pod.sandboxes.contains(id);
    match workload.role {
        // The pod was told of anew, without it: it ran before the last run.
        Role::Container => Role::Container,
        _ if is_sandbox => Role::Sandbox,
        _ if is_late && away.is_some_and(|since| workload.born > since) => Role::Anonymous,
        _ if is_late => Role::Sandbox,
        _ => Role::Unnamed,
    }
}

#[cfg(test)]
mod tests;
