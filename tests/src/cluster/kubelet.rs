//! A real kubelet with a real containerd and runc, which joins a test's cluster; gone, with its pods, when dropped.
//!
//! It is in a mount namespace of its own, so that it leaves nothing in /run, /var and the kernel's settings.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use serde_json::{Value, json};

use super::{Cluster, program, spawn};
pub use crate::image::IMAGE;
use crate::{
    cgroup,
    image::{self, PAUSE},
    machine::free_port,
    process::signal,
    temp::TempDir,
    wait,
};

/// The kubelet, and the runtime below it.
#[derive(Debug)]
pub struct Kubelet {
    directory: TempDir,
    processes: Child,
    port: u16,
    /// The cgroup that its pods are in.
    cgroup: String,
    /// In every hierarchy that there is, which are more than we read.
    root: Vec<PathBuf>,
}

/// Becomes the kubelet, in a mount namespace. The kernel's settings that it would change are files of its own there, and
/// cAdvisor finds containerd's socket where it looks.
const ENTER: &str = r#"
set -e
cd "$1"
mount -t tmpfs none /var/log
mount -t tmpfs none /run
mkdir -p /run/containerd /run/netns /var/lib/kubelet
mount -t tmpfs none /var/lib/kubelet
ln -s "$1/containerd.sock" /run/containerd/containerd.sock
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1; do
    file=setting-$(echo "${setting%%=*}" | tr / -)
    echo "${setting#*=}" > "$file"
    mount --bind "$file" "/proc/sys/${setting%%=*}"
done
containerd --config containerd.toml > containerd.log 2>&1 &
echo $! > containerd.pid
i=0
until ctr -a containerd.sock version > /dev/null 2>&1; do
    i=$((i+1)); [ $i -lt 300 ]; sleep 0.1
done
ctr -a containerd.sock -n k8s.io images import image.tar
exec "$2" --config=kubelet.yaml --kubeconfig=kubeconfig --hostname-override="$3" --root-dir="$1/kubelet" \
    --cert-dir="$1/pki" --cloud-provider=external
"#;

impl Kubelet {
    /// Joins as a node of this name, and waits until the API has the node.
    ///
    /// # Panics
    /// When it does not, with what it logged.
    pub fn start(cluster: &Cluster, node: &str) -> Self {
        let directory = TempDir::on_disk("kubelet");
        let path = directory.path().display().to_string();
        let name = format!("/podmeter-test-{}-{node}", std::process::id());
        let root = hierarchies().iter().map(|hierarchy| hierarchy.join(&name[1..])).collect::<Vec<_>>();
        root.iter().for_each(|directory| fs::create_dir(directory).expect("root"));
        cluster.keys.node(cluster.directory.path(), node);
        let [certificate, key] = cluster.certificate("kubelet").map(|path| path.display().to_string());
        let port = free_port();
        let file = |name: &str| cluster.directory.path().join(name).display().to_string();
        directory.file("kubeconfig", json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", cluster.port), "certificate-authority": file("ca.crt")}}],
            "users": [{"name": "u", "user": {"client-certificate": file("node.crt"), "client-key": file("node.key")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }).to_string());
        directory.file("kubelet.yaml", json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": "127.0.0.1", "port": port, "healthzPort": 0, "readOnlyPort": 0,
            "authentication": {
                "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": file("ca.crt")}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": certificate, "tlsPrivateKeyFile": key,
            "containerRuntimeEndpoint": format!("unix://{path}/containerd.sock"),
            "cgroupDriver": "cgroupfs", "cgroupRoot": name, "failCgroupV1": false,
            "enforceNodeAllocatable": [], "protectKernelDefaults": true, "makeIPTablesUtilChains": false,
            "failSwapOn": false, "resolvConf": "", "podLogsDir": format!("{path}/pods"), "volumePluginDir": format!("{path}/plugins"),
            "staticPodPath": format!("{path}/manifests"), "fileCheckFrequency": "1s",
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
                "imagefs.available": "0%", "imagefs.inodesFree": "0%"},
            "imageGCHighThresholdPercent": 100, "syncFrequency": "5s",
        }).to_string());
        fs::create_dir(directory.path().join("manifests")).expect("our own directory");
        directory.file("containerd.toml", containerd(&path));
        image::archive(&directory, &[]);
        let mut command = Command::new("unshare");
        command.args(["--mount", "/bin/sh", "-c", ENTER, "sh", &path]);
        command.arg(program("PODMETER_KUBELET")).arg(node);
        let processes = spawn(&directory, &mut command, "kubelet");
        let this = Self { directory, processes, port, cgroup: name, root };
        let found = wait::perhaps(|| (cluster.get(&format!("/api/v1/nodes/{node}")).0 == 200).then_some(()));
        assert!(found.is_some(), "the node does not join:\n{}", this.log());
        this
    }

    /// What the kubelet logged.
    ///
    /// # Panics
    /// When there is no log.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.path().join("kubelet.log")).expect("a log");
        text.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }

    /// Where its API is.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The cgroup that its pods are in.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The runtime's socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("containerd.sock")
    }

    /// Makes a static pod, from a file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_static(&self, name: &str, pod: &Value) {
        self.directory.file(&format!("manifests/{name}.json"), pod.to_string());
    }

    /// What the kubelet's own cAdvisor says.
    ///
    /// # Panics
    /// When the kubelet refuses.
    pub fn cadvisor(&self, cluster: &Cluster) -> String {
        cluster.fetch(&format!("{}/metrics/cadvisor", self.url()), None)
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the kubelet's last words:\n{}", self.log());
        }
        _ = self.processes.kill();
        _ = self.processes.wait();
        // Its pods' processes go with their cgroups; the shims, which are in none of them, by what they have open.
        if let Ok(pid) = fs::read_to_string(self.directory.path().join("containerd.pid")) {
            let pid: u32 = pid.trim().parse().expect("a process id");
            for shim in shims(self.directory.path()) {
                signal(shim, "KILL");
            }
            signal(pid, "KILL");
        }
        for directory in &self.root {
            remove(directory);
        }
        // Empty: what was in it was in the namespace. That of a real kubelet is not.
        _ = fs::remove_dir("/var/lib/kubelet");
    }
}

/// Where cgroups are mounted, whatever of.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("procfs");
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let cgroups = fields.filter(|fields| matches!(fields[2], "cgroup" | "cgroup2"));
    cgroups.map(|fields| PathBuf::from(fields[1])).collect()
}

/// The shims of this containerd: they have its socket's path in their arguments.
fn shims(directory: &Path) -> Vec<u32> {
    let socket = directory.join("containerd.sock").display().to_string();
    let processes = fs::read_dir("/proc").expect("procfs").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_shim = |pid: &u32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("containerd-shim") && line.contains(&socket)
    };
    pids.filter(is_shim).collect()
}

/// Removes a cgroup with all that is below it, and who is in there.
fn remove(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    wait::perhaps(|| {
        cgroup::kill_all(directory);
        (fs::remove_dir(directory).is_ok() || !directory.exists()).then_some(())
    });
}

fn containerd(path: &str) -> String {
    format!(
        r#"
version = 2
root = "{path}/root"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{path}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  stream_server_address = "127.0.0.1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{path}/cni/bin"
    conf_dir = "{path}/cni/net.d"
"#
    )
}
