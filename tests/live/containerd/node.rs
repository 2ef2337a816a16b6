//! The machine as a node: its containerd, with one driver of cgroups, and an agent that asks it for names.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use podmeter_tests::{
    agent::Agent,
    cgroup::Cgroup,
    image::{self, IMAGE, PAUSE},
    support::Place,
    temp::TempDir,
    wait,
};
use serde_json::json;

use super::{cri::Cri, message, pod::Pods};
use crate::http::lab::PEER;

/// The node's name.
pub(super) const NODE: &str = "node-1";
/// Where Debian's containerd listens: the agent looks there by itself.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// Who makes the containers' cgroups, and how they are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driver {
    /// The runtime makes directories. Here that is crun.
    Cgroupfs,
    /// systemd makes slices and scopes, asked by runc.
    Systemd,
}

impl Driver {
    /// The cgroup of a pod of the class `Burstable`, as a kubelet tells it the runtime.
    pub(super) fn parent(self, uid: &str) -> String {
        match self {
            Self::Cgroupfs => format!("/kubepods/burstable/pod{uid}"),
            Self::Systemd => format!("{}/{}", self.class(), Self::slice(uid)),
        }
    }

    /// The cgroup of all pods of that class.
    fn class(self) -> &'static str {
        match self {
            Self::Cgroupfs => "/kubepods/burstable",
            Self::Systemd => "/kubepods.slice/kubepods-burstable.slice",
        }
    }

    fn slice(uid: &str) -> String {
        format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"))
    }

    /// The cgroup of a container of a pod.
    pub(super) fn path(self, parent: &str, id: &str) -> String {
        match self {
            Self::Cgroupfs => format!("{parent}/{id}"),
            Self::Systemd => format!("{parent}/cri-containerd-{id}.scope"),
        }
    }
}

/// The cgroup that a kubelet makes for a pod or for pods of a class; gone when dropped.
pub(super) enum Made {
    Directory(#[expect(dead_code, reason = "removed when dropped")] Cgroup),
    Slice(String),
}

impl Made {
    /// Makes the cgroup at a path.
    pub(super) fn new(driver: Driver, path: &str) -> Self {
        match driver {
            Driver::Cgroupfs => Self::Directory(Cgroup::at(path)),
            Driver::Systemd => {
                let slice = path.rsplit('/').next().expect("a name").to_owned();
                systemctl(&["start", &slice]);
                Self::Slice(slice)
            }
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Self::Slice(slice) = self
            && !thread::panicking()
        {
            systemctl(&["stop", slice]);
        }
    }
}

/// The runtime, with one driver; stopped when dropped.
pub(super) struct Runtime {
    pub(super) driver: Driver,
    pub(super) cri: Cri,
    /// Where containers' logs are.
    pub(super) logs: TempDir,
    /// Of all pods of the class.
    _class: Made,
}

/// A node that runs. Fields are dropped in this order.
pub(super) struct Node {
    /// Taken by the test that ends them.
    pub(super) pods: Option<Pods>,
    runtime: Arc<Runtime>,
    pub(super) agent: Agent,
}

/// The node that runs now. The last one ends with the machine.
static NOW: Mutex<Option<Node>> = Mutex::new(None);

/// A node with this driver, for one test: the one that was there for the test before, if it is of that kind; else with the same
/// agent, which takes long to start on an emulated machine, and sees one runtime go and another come.
///
/// # Panics
/// On a machine that is not there to be taken over, or when something does not start.
pub(super) fn with(driver: Driver, test: impl FnOnce(&mut Node)) {
    let place = Place::here();
    assert!(
        place.is_guest() && place.leg == "systemd",
        "{place:?} is no machine for this: `cargo xtask vm run --leg systemd`"
    );
    let mut now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
    let mut node = match now.take() {
        Some(node) if node.runtime.driver == driver => node,
        Some(Node { pods, runtime, agent }) => {
            drop((pods, runtime));
            Node { pods: None, runtime: Arc::new(Runtime::start(driver)), agent }
        }
        None => {
            let agent = thread::spawn(|| {
                Agent::start(&["--signals", "cpu,memory,http", "--pod-source", "cri", "--node-name", NODE])
            });
            let runtime = Arc::new(Runtime::start(driver));
            let pods = Some(Pods::start(&runtime));
            Node { pods, runtime, agent: agent.join().expect("an agent") }
        }
    };
    if node.pods.is_none() {
        node.pods = Some(Pods::start(&node.runtime));
    }
    test(now.insert(node));
}

impl Node {
    /// The pods that the tests share.
    pub(super) fn pods(&self) -> &Pods {
        self.pods.as_ref().expect("no test before has taken them")
    }
}

impl Runtime {
    fn start(driver: Driver) -> Self {
        write("/etc/containerd/config.toml", &containerd(driver));
        write("/etc/cni/net.d/10-pods.conflist", &network());
        systemctl(&["start", "containerd.service"]);
        let cri = Cri::new(SOCKET);
        let has_images = || {
            let known: message::Images = cri.call("ImageService/ListImages", message::Nothing {});
            let has = |name: &str| known.items.iter().any(|image| image.tags.iter().any(|tag| tag == name));
            (has(IMAGE) && has(PAUSE)).then_some(())
        };
        // The one before may have left them.
        if has_images().is_none() {
            let images = TempDir::on_disk("images");
            image::archive(&images, &[Path::new(PEER)]);
            let archive = images.path().join("image.tar").display().to_string();
            must(&["ctr", "--namespace", "k8s.io", "images", "import", "--no-unpack", &archive]);
            // By an event of its own, the runtime's API learns of them.
            wait::until("both images", has_images);
        }
        Self { driver, cri, logs: TempDir::on_disk("logs"), _class: Made::new(driver, driver.class()) }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        systemctl(&["stop", "containerd.service"]);
    }
}

fn write(path: &str, text: &str) {
    let path = Path::new(path);
    fs::create_dir_all(path.parent().expect("a directory")).expect("root");
    fs::write(path, text).expect("root");
}

fn systemctl(arguments: &[&str]) {
    must(&[&["systemctl"], arguments].concat());
}

/// Runs a program that must do what it is told; without it, what the machine's journal has.
fn must(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output().expect("a program of the guest");
    if !output.status.success() {
        let journal = Command::new("journalctl").args(["--no-pager", "--lines=30"]).output();
        let said = [output.stdout, output.stderr, journal.map(|output| output.stdout).unwrap_or_default()];
        panic!("{command:?}: {}", String::from_utf8_lossy(&said.concat()));
    }
}

fn containerd(driver: Driver) -> String {
    let (program, is_systemd) = match driver {
        Driver::Cgroupfs => ("crun", false),
        Driver::Systemd => ("runc", true),
    };
    format!(
        r#"
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{program}"
      SystemdCgroup = {is_systemd}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
"#
    )
}

/// Each pod has an end of a wire, whose other end is at the node's bridge.
fn network() -> String {
    let addresses =
        json!({"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]], "dataDir": "/run/cni"});
    let bridge = json!({"type": "bridge", "bridge": "pods0", "isGateway": true, "ipam": addresses});
    json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}).to_string()
}
