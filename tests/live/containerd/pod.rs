//! Pods and their containers, made as a kubelet makes them; gone when dropped.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use podmeter_tests::{cgroup::Cgroup, cluster::NAMESPACE, image::IMAGE, wait};

use super::{
    message::{self, Identity, Made as Answer},
    node::{Made, NODE, Runtime},
};

/// A pod.
pub(super) struct Pod {
    runtime: Arc<Runtime>,
    config: message::Sandbox,
    /// Its cgroup's path.
    path: String,
    sandbox: String,
    _cgroup: Made,
}

/// A container of a pod, which runs.
pub(super) struct Container {
    pod: Arc<Pod>,
    name: String,
    id: String,
    path: String,
    log: String,
}

/// The pods that a driver's tests share: a server and a client, each on a network of its own.
pub(super) struct Pods {
    pub(super) server: Container,
    pub(super) client: Container,
}

impl Pods {
    /// Starts them.
    pub(super) fn start(runtime: &Arc<Runtime>) -> Self {
        let start = |pod: &str, name: &str, command: &[&str]| Pod::run(runtime, pod).start(name, 0, command);
        Self {
            server: start("web", "server", &["/bin/http-peer", "serve", "0.0.0.0:8080"]),
            client: start("caller", "client", &["/bin/sh", "-c", COUNTS]),
        }
    }
}

/// Counts to each number that is written to `/go`, and does nothing else: see [`Container::count_to`].
const COUNTS: &str = "/bin/busybox mkfifo /go
while :; do read most </go; i=0; while [ $i -lt $most ]; do i=$((i+1)); done; done";

/// What runs until it is killed.
pub(super) const SLEEP: &[&str] = &["/bin/busybox", "sleep", "1000000"];

impl Pod {
    /// Runs it, without containers.
    pub(super) fn run(runtime: &Arc<Runtime>, name: &str) -> Arc<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{:08x}-0000-4000-8000-{number:012x}", std::process::id());
        let path = runtime.driver.parent(&uid);
        let cgroup = Made::new(runtime.driver, &path);
        let metadata = message::SandboxMetadata {
            name: name.to_owned(),
            uid: uid.clone(),
            namespace: NAMESPACE.to_owned(),
        };
        let security = message::SandboxSecurity { namespaces: Some(namespaces()) };
        let config = message::Sandbox {
            labels: labels(&metadata),
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: runtime.logs.path().join(&uid).display().to_string(),
            linux: Some(message::SandboxLinux { cgroup_parent: path.clone(), security: Some(security) }),
        };
        fs::create_dir(&config.log_directory).expect("our own directory");
        let question = message::RunSandbox { config: Some(config.clone()) };
        let answer: Answer = runtime.cri.call("RuntimeService/RunPodSandbox", question);
        let runtime = runtime.clone();
        Arc::new(Self { runtime, config, path, sandbox: answer.id, _cgroup: cgroup })
    }

    /// Starts a container in it.
    pub(super) fn start(self: &Arc<Self>, name: &str, attempt: u32, command: &[&str]) -> Container {
        let metadata = self.metadata();
        let mut labels = labels(metadata);
        labels.insert("io.kubernetes.container.name".to_owned(), name.to_owned());
        let log = format!("{name}-{attempt}.log");
        let linux = message::ContainerLinux {
            resources: Some(message::Resources { cpu_shares: 102, memory_limit: 256 << 20 }),
            security: Some(message::ContainerSecurity { namespaces: Some(namespaces()) }),
        };
        let config = message::Container {
            metadata: Some(message::ContainerMetadata { name: name.to_owned(), attempt }),
            image: Some(message::Image { name: IMAGE.to_owned() }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            labels,
            log_path: log.clone(),
            linux: Some(linux),
        };
        let question = message::CreateContainer {
            sandbox: self.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let Answer { id } = self.runtime.cri.call("RuntimeService/CreateContainer", question);
        self.runtime.cri.tell("StartContainer", &id);
        let log = format!("{}/{log}", self.config.log_directory);
        let (pod, path) = (self.clone(), self.runtime.driver.path(&self.path, &id));
        Container { pod, name: name.to_owned(), path, id, log }
    }

    fn metadata(&self) -> &message::SandboxMetadata {
        self.config.metadata.as_ref().expect("its own")
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.metadata().name
    }

    /// Its address.
    pub(super) fn address(&self) -> String {
        let question = Identity { id: self.sandbox.clone() };
        let answer: message::SandboxStatus =
            self.runtime.cri.call("RuntimeService/PodSandboxStatus", question);
        answer.status.and_then(|status| status.network).expect("a network of its own").address
    }

    /// All labels of its own series.
    pub(super) fn labels(&self) -> String {
        let (path, name) = (&self.path, self.name());
        format!("id=\"{path}\",namespace=\"{NAMESPACE}\",node=\"{NODE}\",pod=\"{name}\"")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // A second panic would take the first one's words.
        let methods = ["StopPodSandbox", "RemovePodSandbox"].into_iter().filter(|_| !thread::panicking());
        methods.for_each(|method| self.runtime.cri.tell(method, &self.sandbox));
    }
}

impl Container {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The pod that it is in.
    pub(super) fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Where its cgroup is.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Its cgroup, which the runtime has made.
    pub(super) fn cgroup(&self) -> Cgroup {
        assert!(fs::exists(format!("/sys/fs/cgroup{}", self.path)).expect("cgroup v2"), "no {}", self.path);
        Cgroup::at(&self.path)
    }

    /// All labels of its series.
    pub(super) fn labels(&self) -> String {
        let (name, id, path, pod) = (&self.name, &self.id, &self.path, self.pod.name());
        format!(
            "container=\"{name}\",id=\"{path}\",image=\"{IMAGE}\",name=\"{id}\",namespace=\"{NAMESPACE}\",\
             node=\"{NODE}\",pod=\"{pod}\""
        )
    }

    /// What it printed so far, as the runtime keeps it for the kubelet.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Has the client's first process count, and waits until it sleeps again.
    pub(super) fn count_to(&self, most: u32) {
        let members = self.cgroup().read("v2", "cgroup.procs");
        let pipe = format!("/proc/{}/root/go", members.trim());
        wait::until("a pipe", || fs::exists(&pipe).unwrap_or(false).then_some(()));
        // It reads once it waits: the second number when it is done with the first.
        for number in [most, 0] {
            fs::write(&pipe, format!("{number}\n")).expect("it waits for numbers");
        }
        // And with the second.
        drop(OpenOptions::new().write(true).open(&pipe).expect("it waits for numbers"));
    }

    /// Runs a script in it; what that printed.
    pub(super) fn run(&self, script: &str) -> String {
        self.pod.runtime.cri.run(&self.id, script)
    }

    /// Has the runtime kill it. The kubelet leaves the remains for a while.
    pub(super) fn kill(&self) {
        self.pod.runtime.cri.tell("StopContainer", &self.id);
    }
}

/// As a kubelet has it: the pod has a network of its own, and each container sees its own processes.
fn namespaces() -> message::Namespaces {
    message::Namespaces { network: message::POD, pid: message::CONTAINER }
}

fn labels(of: &message::SandboxMetadata) -> HashMap<String, String> {
    let label = |name: &str, value: &str| (format!("io.kubernetes.pod.{name}"), value.to_owned());
    [label("name", &of.name), label("namespace", &of.namespace), label("uid", &of.uid)].into()
}
