//! An API server that aggregates an adapter, which listens to an agent.

use std::{
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use podmeter_tests::{
    adapter::Adapter,
    agent::Agent,
    cgroup::Cgroup,
    cluster::{Cluster, NAMESPACE},
    machine::free_port,
    temp::TempDir,
    wait,
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::{
    kube::node::{NODE, Node, Pod, container_id, specs, status},
    prometheus::{BOTH, Prometheus, current},
};

/// The account of the adapter, and its Service.
pub(super) const ACCOUNT: &str = "podmeter-adapter";

/// Everything. Fields are dropped in this order.
pub(super) struct Lab {
    pub(super) adapter: Adapter,
    /// Whom the adapter asks in the agent's place.
    _prometheus: Option<Prometheus>,
    pub(super) agent: Agent,
    pub(super) node: Node,
    port: u16,
    /// The flags by which the adapter gets its numbers.
    source: String,
    files: TempDir,
}

/// What the agent measures.
const SIGNALS: [&str; 2] = ["--signals", "cpu,memory,pressure,block_io,http"];

/// What is between the agent and the adapter.
enum Between {
    /// A stream in plain text.
    Nothing,
    /// A Prometheus.
    Prometheus,
    /// A stream over TLS, for whom the cluster lets read it.
    Tls,
}

impl Between {
    fn agent(&self, node: &Node) -> Agent {
        if !matches!(self, Self::Tls) {
            return node.agent(&SIGNALS);
        }
        let rules = json!([
            {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
            {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]}]);
        node.cluster.grant(node.account(), "podmeter-auth", &rules);
        let [certificate, key] = node.certificate().map(|path| path.display().to_string());
        let secure = ["--auth", "kubernetes", "--tls-cert", &certificate, "--tls-key", &key];
        node.agent(&[&SIGNALS[..], &secure].concat())
    }
}

/// A container of a pod, and the cgroups of both.
pub(super) struct Container {
    pub(super) cgroup: Cgroup,
    _pod: Pod,
}

impl Lab {
    /// With flags for the adapter.
    pub(super) fn start(flags: &[&str]) -> Self {
        Self::of(&Between::Nothing, flags)
    }

    /// The same, with a Prometheus between the agent and the adapter.
    pub(super) fn by_prometheus(flags: &[&str]) -> Self {
        Self::of(&Between::Prometheus, flags)
    }

    /// The same, with an agent that serves over TLS, to whom the cluster lets read it.
    pub(super) fn over_tls(flags: &[&str]) -> Self {
        Self::of(&Between::Tls, flags)
    }

    fn of(between: &Between, flags: &[&str]) -> Self {
        let node = Node::start();
        node.grant();
        let agent = between.agent(&node);
        let files = TempDir::new("adapter");
        let token = node.cluster.account(ACCOUNT);
        files.file("token", &token);
        files.file("agent-token", &token);
        grant(&node);
        let port = free_port();
        register(&node, port);
        let prometheus = matches!(between, Between::Prometheus).then(|| {
            allow(&node.cluster, &shipped("../components/adapter-prometheus/rbac.yaml"));
            Prometheus::start(&current(), &agent, BOTH)
        });
        let source = match (&prometheus, between) {
            (Some(prometheus), _) => {
                format!("--source=prometheus=http://{} --prometheus-interval=1", prometheus.address)
            }
            (None, Between::Tls) => format!(
                "--agent=https://{} --agent-ca={} --agent-token-file={}",
                agent.address,
                node.cluster.authority().display(),
                files.path().join("agent-token").display()
            ),
            (None, _) => format!("--agent=http://{}", agent.address),
        };
        let adapter = adapter(&node, &files, port, &source, flags);
        let this = Self { adapter, _prometheus: prometheus, agent, node, port, source, files };
        let groups =
            ["metrics.k8s.io/v1beta1", "custom.metrics.k8s.io/v1beta2", "external.metrics.k8s.io/v1beta1"];
        wait::until("the APIs", || {
            let is_there = |group: &&str| this.get(&format!("/apis/{group}")).0 == 200;
            groups.iter().all(is_there).then_some(())
        });
        this
    }

    /// Starts the adapter once more where it was.
    pub(super) fn restart(&mut self, flags: &[&str]) {
        // Its port is taken while it runs.
        self.adapter.child.kill().expect("it runs");
        self.adapter.child.wait().expect("our own child");
        self.adapter = adapter(&self.node, &self.files, self.port, &self.source, flags);
    }

    /// Starts a replica of the adapter.
    pub(super) fn replica(&self, flags: &[&str]) -> Adapter {
        adapter(&self.node, &self.files, free_port(), &self.source, flags)
    }

    /// Where the token of the adapter's account is.
    pub(super) fn token(&self) -> String {
        self.files.path().join("token").display().to_string()
    }

    /// Kills the agent.
    pub(super) fn kill_agent(&mut self) {
        self.agent.child.kill().expect("it runs");
        self.agent.child.wait().expect("our own child");
    }

    /// Starts another agent where the one was that was killed, in plain text.
    pub(super) fn start_agent(&mut self) {
        self.agent = self.node.agent_at(&self.agent.address.to_string(), &SIGNALS);
    }

    /// Gives the adapter another token for agents.
    pub(super) fn give_token(&self, token: &str) {
        self.files.file("agent-token", token);
    }

    /// Has the adapter, when it starts again, trust others that an agent is who it says it is.
    pub(super) fn trust(&mut self, authority: &str) {
        let own = self.node.cluster.authority().display().to_string();
        self.source = self.source.replace(&own, authority);
    }

    /// Makes a pod with one container, which runs as far as the API knows, with labels of its own.
    pub(super) fn container(&self, pod: &str, labels: &Value, owner: &Value) -> Container {
        let metadata = json!({"name": pod, "labels": labels, "ownerReferences": owner});
        let pod = self.node.pod_with(&metadata, &json!({"nodeName": NODE, "containers": specs(&["app"])}));
        let id = container_id();
        let cgroup = pod.cgroup.child(&id);
        self.node.tell(&pod, &json!({"containerStatuses": [status("app", &id, None)]}));
        Container { cgroup, _pod: pod }
    }

    /// What the API server has at a path of one of the groups.
    pub(super) fn get(&self, path: &str) -> (u16, Value) {
        self.node.cluster.get(path)
    }

    /// The answer to a path, once there is one.
    pub(super) fn answer(&self, path: &str) -> Value {
        wait::until(path, || Some(self.get(path)).filter(|(code, _)| *code == 200)).1
    }
}

/// Tells the API server who serves the groups, as deploy/ does. Whom to trust that it is they, the adapter tells it.
pub(super) fn register(node: &Node, port: u16) {
    let service = json!({
        "metadata": {"name": ACCOUNT},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}});
    node.cluster.create(&format!("/api/v1/namespaces/{NAMESPACE}/services"), &service);
    for mut object in shipped("apiservices.yaml") {
        object["spec"]["service"]["port"] = json!(port);
        node.cluster.create("/apis/apiregistration.k8s.io/v1/apiservices", &object);
    }
}

/// The objects of a file that is shipped, for the tests' namespace.
pub(super) fn shipped(file: &str) -> Vec<Value> {
    let path = format!("{}/../deploy/kustomize/adapter/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("it is shipped");
    objects(&text.replace("namespace: podmeter\n", &format!("namespace: {NAMESPACE}\n")))
}

/// The objects of a file's text.
pub(super) fn objects(text: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(text);
    documents.map(|object| Value::deserialize(object).expect("YAML")).collect()
}

pub(super) fn adapter(node: &Node, files: &TempDir, port: u16, source: &str, flags: &[&str]) -> Adapter {
    let token = files.path().join("token").display().to_string();
    let server = format!("https://127.0.0.1:{}", node.cluster.port());
    let authority = node.cluster.authority().display().to_string();
    let service = format!("{NAMESPACE}/{ACCOUNT}");
    let own = [
        ["--service", &service],
        ["--api-server", &server],
        ["--api-ca", &authority],
        ["--api-token-file", &token],
    ];
    let source: Vec<_> = source.split(' ').collect();
    Adapter::at(&format!("127.0.0.1:{port}"), &[own.as_flattened(), &source, flags].concat())
}

/// Gives the adapter's account the rights that are shipped, and no other.
pub(super) fn grant(node: &Node) {
    allow(&node.cluster, &shipped("rbac.yaml"));
}

/// Makes roles and their bindings.
pub(super) fn allow(cluster: &Cluster, objects: &[Value]) {
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    for object in objects {
        let kind = format!("{}s", object["kind"].as_str().expect("a kind").to_lowercase());
        let path = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("{RBAC}/namespaces/{namespace}/{kind}"),
            None => format!("{RBAC}/{kind}"),
        };
        cluster.create(&path, object);
    }
}

/// A number that grows, read again and again while a test does something else.
pub(super) struct Recording {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<(f64, f64)>>>,
}

impl Recording {
    /// The CPU time of a cgroup, s: the kernel's own account.
    pub(super) fn of_cpu(cgroup: &Cgroup) -> Self {
        let file = cgroup.v2().join("cpu.stat");
        Self::start(move || {
            let text = fs::read_to_string(&file).expect("the cgroup is there");
            let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<f64>().ok());
            usage.expect("a usage") / 1e6
        })
    }

    /// Reads it a hundred times a second.
    pub(super) fn start(read: impl Fn() -> f64 + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut points = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                points.push((now(), read()));
                thread::sleep(Duration::from_millis(10));
            }
            points
        });
        Self { stop, thread: Some(thread) }
    }

    /// What was read, and when.
    pub(super) fn stop(mut self) -> Growth {
        self.stop.store(true, Ordering::Relaxed);
        Growth(self.thread.take().expect("once").join().expect("a recording"))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// How a number grew: when, and what it was.
pub(super) struct Growth(Vec<(f64, f64)>);

impl Growth {
    fn at(&self, time: f64) -> f64 {
        let after = self.0.partition_point(|(at, _)| *at < time);
        let (Some(before), Some(after)) = (self.0.get(after.wrapping_sub(1)), self.0.get(after)) else {
            panic!("{time} is not within {:?} to {:?}", self.0.first(), self.0.last());
        };
        before.1 + (after.1 - before.1) * (time - before.0) / (after.0 - before.0)
    }

    /// The least and the greatest rate over windows of this length whose ends are within a second: the API's dates are of whole
    /// seconds.
    pub(super) fn rates(&self, end: f64, window: f64) -> (f64, f64) {
        let ends = (0..=100).map(|step| end + f64::from(step) / 100.0);
        let last = self.0.last().expect("recorded").0;
        let rates = ends.filter(|end| *end < last).map(|end| (self.at(end) - self.at(end - window)) / window);
        range(rates)
    }

    /// The least and the greatest rate over all windows of this length.
    pub(super) fn all_rates(&self, window: f64) -> (f64, f64) {
        let first = self.0.first().expect("recorded").0;
        let ends = self.0.iter().map(|(at, _)| *at).skip(1).filter(|end| end - window > first);
        range(ends.map(|end| (self.at(end) - self.at(end - window)) / window))
    }
}

fn range(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    numbers.fold((f64::MAX, f64::MIN), |(least, most), number| (least.min(number), most.max(number)))
}

/// A date of the API, as seconds since 1970.
pub(super) fn seconds(date: &Value) -> f64 {
    let text = date.as_str().expect("a date");
    let output = Command::new("date").args(["--utc", "--date", text, "+%s"]).output().expect("date");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

/// A quantity of the API.
pub(super) fn quantity(value: &Value) -> f64 {
    podmeter::kube::quantity::parse(value.as_str().expect("a quantity")).expect("a quantity")
}

/// A length of time of the API.
pub(super) fn length(value: &Value) -> f64 {
    let text = value.as_str().expect("a length of time");
    let (minutes, seconds) = text.split_once('m').unwrap_or(("0", text));
    let number = |text: &str| text.trim_end_matches('s').parse::<f64>().expect("a number");
    number(minutes) * 60.0 + number(seconds)
}

/// Waits for a time to come: for a window of which everything is known.
pub(super) fn at_least(begin: Instant, seconds: u64) {
    let end = begin + Duration::from_secs(seconds);
    wait::until("time to pass", || (Instant::now() >= end).then_some(()));
}
