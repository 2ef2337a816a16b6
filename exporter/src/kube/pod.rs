//! A pod as the cluster describes it, and what of that podmeter keeps.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, de::IgnoredAny};

use super::quantity;

/// What names a container's series, and what it may use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// Its image, as the runtime calls it.
    pub image: String,
    /// The ids of its runs: of the one that runs or ran last, and of the one before.
    pub ids: Vec<String>,
    /// What it is to the pod.
    pub kind: ContainerKind,
    /// Whether it runs now, as far as the source has heard.
    pub is_running: bool,
    /// What the scheduler reserves for it.
    pub requests: Resources,
    /// What it may use at most.
    pub limits: Resources,
}

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContainerKind {
    /// One of those that the pod is for.
    #[default]
    Regular,
    /// Runs to its end before the others start.
    Init,
    /// An init container that goes on beside the others.
    Sidecar,
    /// Was added to a running pod.
    Ephemeral,
}

/// An amount of each resource; none where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resources {
    /// Cores.
    pub cpu: Option<f64>,
    /// Bytes.
    pub memory: Option<f64>,
}

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Its uid as in the API.
    pub uid: String,
    /// Its uid as in the paths of its cgroups: of a static pod, the hash of its configuration.
    pub cgroup_uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its containers of all kinds.
    pub containers: Vec<Container>,
    /// Its sandboxes, where the source knows them.
    pub sandboxes: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Kind and name of who made it.
    pub owner: Option<(String, String)>,
    /// When it was made, in seconds since 1970, where the source knows it.
    pub created: Option<u64>,
}

impl Pod {
    /// The container that has or had this id.
    pub fn container(&self, id: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.ids.iter().any(|known| known == id))
    }
}

/// A pod as the API server and the kubelet write it; what is not needed here is not read.
#[derive(Clone, Debug, Deserialize)]
pub struct Manifest {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    owner_references: Vec<Owner>,
    #[serde(default)]
    creation_timestamp: Option<Time>,
}

#[derive(Clone, Debug, Deserialize)]
struct Owner {
    kind: String,
    name: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    containers: Vec<ContainerSpec>,
    #[serde(default)]
    init_containers: Vec<ContainerSpec>,
    #[serde(default)]
    ephemeral_containers: Vec<ContainerSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerSpec {
    name: String,
    #[serde(default)]
    image: String,
    #[serde(default)]
    restart_policy: Option<String>,
    #[serde(default)]
    resources: ResourcesSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ResourcesSpec {
    #[serde(default)]
    requests: BTreeMap<String, String>,
    #[serde(default)]
    limits: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    container_statuses: Vec<ContainerStatus>,
    #[serde(default)]
    init_container_statuses: Vec<ContainerStatus>,
    #[serde(default)]
    ephemeral_container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    #[serde(default)]
    image: String,
    #[serde(default, rename = "containerID")]
    container_id: String,
    #[serde(default)]
    state: State,
    #[serde(default)]
    last_state: State,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct State {
    running: Option<IgnoredAny>,
    terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Deserialize)]
struct Terminated {
    #[serde(default, rename = "containerID")]
    container_id: String,
}

/// The kubelet's mark on what it makes from files; the mirror that the API has of it bears it too.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// The label by which a Deployment tells its ReplicaSets apart, and which ends their names.
const TEMPLATE_HASH: &str = "pod-template-hash";

impl Manifest {
    /// Where a watch would go on from here.
    pub fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// Its uid as in the API.
    pub fn uid(&self) -> &str {
        &self.metadata.uid
    }
}

impl From<Manifest> for Pod {
    fn from(manifest: Manifest) -> Self {
        let Manifest { metadata, spec, status } = manifest;
        let kinds = [
            (spec.init_containers, status.init_container_statuses, ContainerKind::Init),
            (spec.containers, status.container_statuses, ContainerKind::Regular),
            (spec.ephemeral_containers, status.ephemeral_container_statuses, ContainerKind::Ephemeral),
        ];
        let containers = kinds.into_iter().flat_map(|(specs, statuses, kind)| {
            specs.into_iter().map(move |spec| {
                let status = statuses.iter().find(|status| status.name == spec.name);
                container(spec, status, kind)
            })
        });
        Self {
            cgroup_uid: metadata.annotations.get(CONFIG_HASH).unwrap_or(&metadata.uid).clone(),
            owner: owner(&metadata),
            containers: containers.collect(),
            sandboxes: Vec::new(),
            created: metadata.creation_timestamp.and_then(|time| time.0.as_second().try_into().ok()),
            uid: metadata.uid,
            namespace: metadata.namespace,
            name: metadata.name,
            labels: metadata.labels,
        }
    }
}

fn container(spec: ContainerSpec, status: Option<&ContainerStatus>, kind: ContainerKind) -> Container {
    let is_sidecar = kind == ContainerKind::Init && spec.restart_policy.as_deref() == Some("Always");
    let image = status.map(|status| status.image.clone()).filter(|image| !image.is_empty());
    let last = |status: &ContainerStatus| {
        status.last_state.terminated.as_ref().map(|terminated| terminated.container_id.clone())
    };
    let ids = status.map(|status| [Some(status.container_id.clone()), last(status)]);
    let ids = ids.into_iter().flatten().flatten().filter_map(|id| Some(id.split_once("://")?.1.to_owned()));
    Container {
        ids: ids.filter(|id| !id.is_empty()).collect(),
        image: image.unwrap_or(spec.image),
        kind: if is_sidecar { ContainerKind::Sidecar } else { kind },
        is_running: status.is_some_and(|status| status.state.running.is_some()),
        requests: resources(&spec.resources.requests),
        limits: resources(&spec.resources.limits),
        name: spec.name,
    }
}

fn resources(amounts: &BTreeMap<String, String>) -> Resources {
    let amount = |name: &str| amounts.get(name).and_then(|text| quantity::parse(text));
    Resources { cpu: amount("cpu"), memory: amount("memory") }
}

/// Who made the pod; the Deployment of a ReplicaSet is in its name, and needs no question to the API server.
fn owner(metadata: &Metadata) -> Option<(String, String)> {
    let owner = metadata.owner_references.iter().find(|owner| owner.controller)?;
    let hash = metadata.labels.get(TEMPLATE_HASH).filter(|_| owner.kind == "ReplicaSet");
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    Some(match deployment {
        Some(name) => ("Deployment".to_owned(), name.to_owned()),
        None => (owner.kind.clone(), owner.name.clone()),
    })
}

#[cfg(test)]
mod tests;
