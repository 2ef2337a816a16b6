//! Which pod and container a cgroup is: what the cluster says of the pods of this node.
//!
//! A source fills [`pods::Pods`]; a scrape joins them with the cgroups ([`crate::cgroup::tree::Tree::name`]).

mod api;
mod asked;
pub(crate) mod client;
mod cri;
mod kubelet;
pub mod pod;
pub mod pods;
pub mod quantity;
pub(crate) mod remembered;
pub mod review;
mod trust;
pub(crate) mod watch;

use std::{env, fs, path::Path, sync::Arc};

use clap::ValueEnum;

use self::pods::Shared;
use crate::config;

/// Where the cluster puts a pod's token, and the certificate of its authority.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Who tells which pod a container belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PodSource {
    /// Nobody: a container is known by its id, a pod by its uid.
    None,
    /// The API server, by a watch of this node's pods.
    Api,
    /// The kubelet of this node.
    Kubelet,
    /// The container runtime of this node.
    Cri,
}

impl PodSource {
    /// What the user wants, or what the surroundings tell.
    pub fn resolve(wanted: Option<Self>) -> Self {
        let is_in_cluster =
            || env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(ACCOUNT).join("token").exists();
        wanted.unwrap_or_else(|| if is_in_cluster() { Self::Api } else { Self::None })
    }
}

/// This node's name in the cluster. The kubelet's default is the machine's, in lower case.
pub fn node_name(config: &config::Kube) -> String {
    let given = config.node_name.clone().filter(|name| !name.is_empty());
    given.unwrap_or_else(|| {
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase()
    })
}

/// Fills `pods` for as long as the agent runs.
pub async fn follow(config: config::Kube, pods: Arc<Shared>) {
    match PodSource::resolve(config.pod_source) {
        PodSource::None => {}
        PodSource::Api => api::follow(&config, &pods).await,
        PodSource::Kubelet => asked::follow(kubelet::Kubelet::new(config), &pods).await,
        PodSource::Cri => asked::follow(cri::Cri::new(config.cri_socket), &pods).await,
    }
}
