//! A node of a cluster: its pods in the API and as cgroups, and an agent that runs as a pod's process would.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use podmeter_tests::{
    agent::{self, Agent},
    cgroup::Cgroup,
    cluster::{Cluster, NAMESPACE},
    temp::TempDir,
};
use serde_json::{Value, json};

/// The node's name.
pub(crate) const NODE: &str = "node-1";
const ACCOUNT: &str = "podmeter";
const ROLE: &str = "podmeter-pods";
/// The path of the namespace's pods.
const PODS: &str = "/api/v1/namespaces/shop/pods";

/// The node, and its cluster.
pub(crate) struct Node {
    pub(crate) cluster: Cluster,
    /// What the kubelet mounts into a pod: the token, and whom to trust.
    secrets: TempDir,
}

/// A pod that the API knows, and that has a cgroup.
pub(crate) struct Pod {
    pub(crate) name: String,
    /// Its own cgroup.
    pub(crate) cgroup: Cgroup,
}

/// 64 hex digits that nobody else has.
pub(crate) fn container_id() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{:032x}{:032x}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A container's part of a pod's status.
pub(crate) fn status(name: &str, id: &str, before: Option<&str>) -> Value {
    let url = |id: &str| format!("containerd://{id}");
    let last = before.map_or(json!({}), |id| json!({"terminated": {"exitCode": 1, "containerID": url(id)}}));
    json!({
        "name": name, "image": image(name), "imageID": "", "ready": true, "restartCount": u8::from(before.is_some()),
        "containerID": url(id), "state": {"running": {}}, "lastState": last,
    })
}

/// The image of a container of this name.
pub(crate) fn image(container: &str) -> String {
    format!("registry.test/{container}:1")
}

impl Node {
    /// A cluster with a node, and an account for the agent that may do nothing yet.
    pub(crate) fn start() -> Self {
        Self::of(Cluster::start())
    }

    /// As [`Self::start`], of this cluster.
    pub(crate) fn of(cluster: Cluster) -> Self {
        let secrets = TempDir::new("account");
        fs::copy(cluster.authority(), secrets.path().join("ca.crt")).expect("a certificate");
        secrets.file("namespace", NAMESPACE);
        let this = Self { cluster, secrets };
        this.give_token(&this.cluster.account(ACCOUNT));
        this
    }

    /// Lets the agent's account watch pods: what the shipped role has for that.
    pub(crate) fn grant(&self) {
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]);
        self.cluster.grant(ACCOUNT, ROLE, &rules);
    }

    /// Replaces the token, as the kubelet does before it expires.
    pub(crate) fn give_token(&self, token: &str) {
        self.secrets.file("new", token);
        let path = |name: &str| self.secrets.path().join(name);
        fs::rename(path("new"), path("token")).expect("the same directory");
    }

    /// Starts the agent where a pod's process finds its account.
    pub(crate) fn agent(&self, flags: &[&str]) -> Agent {
        self.agent_at("127.0.0.1:0", flags)
    }

    /// As [`Self::agent`], on a port that is known.
    pub(crate) fn agent_at(&self, listen: &str, flags: &[&str]) -> Agent {
        const ENTER: &str = "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io && \
                             ln -s \"$0\" /run/secrets/kubernetes.io/serviceaccount && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "/bin/sh", "-c", ENTER]).arg(self.secrets.path()).arg(agent::binary());
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("NODE_NAME", NODE);
        command.env("KUBERNETES_SERVICE_PORT", self.cluster.port().to_string());
        Agent::start_at(listen, &mut command, flags)
    }

    /// Makes a pod of this node with these containers; its cgroup, for those of the containers.
    pub(crate) fn pod(&self, name: &str, containers: &[&str]) -> Pod {
        self.pod_of(name, &json!({"nodeName": NODE, "containers": specs(containers)}), &json!({}))
    }

    /// Makes a pod as it is given.
    pub(crate) fn pod_of(&self, name: &str, spec: &Value, annotations: &Value) -> Pod {
        self.pod_with(&json!({"name": name, "annotations": annotations}), spec)
    }

    /// Makes a pod with metadata of its own.
    pub(crate) fn pod_with(&self, metadata: &Value, spec: &Value) -> Pod {
        let (name, annotations) = (metadata["name"].as_str().expect("a name"), &metadata["annotations"]);
        let object = json!({"metadata": metadata, "spec": spec});
        let made = self.cluster.create(PODS, &object);
        let hash = annotations["kubernetes.io/config.hash"].as_str();
        let uid = hash.or(made["metadata"]["uid"].as_str()).expect("a uid");
        let cgroup = Cgroup::new(&format!("kubepods/burstable/pod{uid}"));
        Pod { name: name.to_owned(), cgroup }
    }

    /// Tells the API of a pod's containers, as its kubelet would.
    pub(crate) fn tell(&self, pod: &Pod, statuses: &Value) {
        let mut status = statuses.clone();
        status["phase"] = json!("Running");
        self.cluster.patch(&format!("{PODS}/{}/status", pod.name), &json!({"status": status}));
    }

    /// Deletes a pod from the API.
    pub(crate) fn delete(&self, pod: &str) {
        self.cluster.delete(&format!("{PODS}/{pod}"));
    }

    /// The account of the agent.
    pub(crate) fn account(&self) -> &'static str {
        ACCOUNT
    }

    /// A certificate for the agent, and its key.
    pub(crate) fn certificate(&self) -> [PathBuf; 2] {
        self.cluster.certificate("agent")
    }
}

/// What a pod says of its containers.
pub(crate) fn specs(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"name": name, "image": image(name)})).collect()
}
