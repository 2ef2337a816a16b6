//! Containers as a kubelet makes them: cgroups with work in them, which the agent asks a real API server to name.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use podmeter_tests::{
    agent::{Agent, binary},
    cgroup::Cgroup,
    cluster::{Cluster, NAMESPACE},
    process::Gated,
    temp::TempDir,
};
use serde_json::{Value, json};

use crate::{objects::parse, path};

/// The node's name, and where its pods are.
pub(crate) const NODE: &str = "node-1";
const PODS: &str = "/api/v1/namespaces/shop/pods";

/// The tests' own server.
const PEER: &str = env!("CARGO_BIN_EXE_http-peer");

/// A node of a real API server, whose pods are cgroups here.
pub(crate) struct Node {
    pub(crate) cluster: Cluster,
    files: TempDir,
    /// Goes last: the containers are below it.
    cgroup: Cgroup,
}

impl Node {
    pub(crate) fn start() -> Self {
        let this = Self {
            cluster: Cluster::start(),
            files: TempDir::new("node"),
            cgroup: Cgroup::new("kubepods/burstable"),
        };
        let token = this.cluster.account("podmeter");
        this.cluster.grant("podmeter", "podmeter", &role());
        std::fs::copy(this.cluster.authority(), this.files.path().join("ca.crt")).expect("a certificate");
        this.files.file("namespace", NAMESPACE);
        this.files.file("token", token);
        this
    }

    /// An agent that asks the API server for this node's pods, with the rights of the shipped role.
    pub(crate) fn agent(&self) -> Agent {
        // Where a pod's process finds its account.
        const ENTER: &str = "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io && \
                             ln -s \"$0\" /run/secrets/kubernetes.io/serviceaccount && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "/bin/sh", "-c", ENTER]).arg(self.files.path()).arg(binary());
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
        command.env("KUBERNETES_SERVICE_PORT", self.cluster.port().to_string());
        let agent = Agent::start_by(&mut command, &["--pod-source", "api", "--node-name", NODE]);
        agent.scrape_until("pods", |scrape| scrape.value("podmeter_kube_synced", &[]) == Some(1.0));
        agent
    }

    /// A pod with one container of the same name.
    pub(crate) fn container(&self, name: &'static str) -> Container {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("{:032x}{:032x}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let image = format!("registry.example/{name}:1");
        let limits = json!({"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "300m", "memory": "128Mi"}});
        let made = self.cluster.create(PODS, &json!({
            "metadata": {"name": format!("{name}-0")},
            "spec": {"nodeName": NODE, "containers": [{"name": name, "image": image, "resources": limits}]},
        }));
        let status = json!({"phase": "Running", "containerStatuses": [{
            "name": name, "image": image, "imageID": "", "ready": true, "restartCount": 0,
            "containerID": format!("containerd://{id}"), "state": {"running": {}},
        }]});
        self.cluster.patch(&format!("{PODS}/{name}-0/status"), &json!({"status": status}));
        let uid = made["metadata"]["uid"].as_str().expect("a uid");
        let container =
            Container { cgroup: self.cgroup.child(&format!("pod{uid}/{id}")), files: TempDir::on_disk(name) };
        container.limit(30, 128);
        container
    }
}

/// The rules of the shipped role.
fn role() -> Value {
    let text = std::fs::read_to_string(path("deploy/kustomize/base/rbac.yaml")).expect("ours");
    parse(&text)[&("ClusterRole".to_owned(), "podmeter".to_owned())]["rules"].clone()
}

/// The container of a pod, and its cgroup.
pub(crate) struct Container {
    pub(crate) cgroup: Cgroup,
    files: TempDir,
}

impl Container {
    /// At most so many hundredths of a CPU, and so many MiB.
    fn limit(&self, hundredths: u32, mebibytes: u64) {
        let quota = hundredths * 1000;
        let (v2_cpu, v2_memory) = ("cpu.max", "memory.max");
        if self.cgroup.controller("cpu").join(v2_cpu).exists() {
            self.cgroup.write("cpu", v2_cpu, &format!("{quota} 100000"));
        } else {
            self.cgroup.write("cpu", "cpu.cfs_quota_us", &quota.to_string());
        }
        let file = if self.cgroup.controller("memory").join(v2_memory).exists() {
            v2_memory
        } else {
            "memory.limit_in_bytes"
        };
        self.cgroup.write("memory", file, &(mebibytes << 20).to_string());
    }

    /// Starts a shell's script in it.
    pub(crate) fn run(&self, script: &str) -> Gated {
        let mut process = self.cgroup.spawn(&["/bin/sh", "-c", script]);
        process.go();
        process
    }

    /// Starts reads and writes that reach a device, without end.
    pub(crate) fn use_disk(&self) -> Gated {
        let file = self.files.path().join("blocks").display().to_string();
        self.run(&format!(
            "while :; do dd if=/dev/zero of={file} bs=64k count=8 oflag=direct 2>&-; \
             dd if={file} of=/dev/null bs=64k iflag=direct 2>&-; done"
        ))
    }

    /// Starts the tests' own server in it; with its address.
    pub(crate) fn serve(&self) -> (Gated, String) {
        let mut process = self.cgroup.spawn(&[PEER, "serve", "127.0.0.1:0"]);
        let address = process.go().line();
        (process, address)
    }
}

/// Requests that go on, one after the other, from this process's own cgroup.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// A thread for each path.
    pub(crate) fn start(address: &str, paths: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = paths.iter().map(|path| {
            let (stop, address) = (stop.clone(), address.to_owned());
            let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    ask(&address, &request);
                    // Not as fast as it goes: the machine has other work. How many there are does not matter.
                    thread::sleep(Duration::from_millis(20));
                }
            })
        });
        Self { threads: threads.collect(), stop }
    }
}

/// A request, and its answer to the end; a connection that fails is no concern of a load.
fn ask(address: &str, request: &str) {
    if let Ok(mut stream) = TcpStream::connect(address) {
        _ = stream.write_all(request.as_bytes());
        _ = stream.read_to_end(&mut Vec::new());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| _ = thread.join());
    }
}
