//! The real HorizontalPodAutoscaler holds a target of requests that wait, and of latency, whatever is restarted meanwhile.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::TcpStream,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use podmeter_tests::wait;
use serde_json::{Value, json};

use super::{
    lab::{Lab, quantity},
    requests::{PEER, answered},
    workload::{self, DEPLOYMENTS, Kubelet, SCALERS, condition, deployment, scaler},
};

/// So many requests wait or are worked on at any time, and each pod does one at a time.
const CLIENTS: usize = 12;
const REQUEST: &[u8] = b"GET /turn/80 HTTP/1.1\r\nHost: test\r\n\r\n";
/// How many pods hold the targets: four requests each, or four times 80 ms: on a busy machine a turn takes longer by tens.
const PODS: u64 = 3;
/// For how long they are watched.
const WATCHED: Duration = Duration::from_secs(5);

/// Clients that have a request each under way all the time, spread over the servers there are.
struct Clients {
    servers: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Clients {
    fn start(servers: Vec<String>) -> Self {
        let this = Self { servers: Arc::new(Mutex::new(servers)), stop: Arc::default() };
        for client in 0..CLIENTS {
            let (servers, stop) = (this.servers.clone(), this.stop.clone());
            thread::spawn(move || {
                let mut open: Option<(String, TcpStream)> = None;
                while !stop.load(Ordering::Relaxed) {
                    let server = {
                        let servers = servers.lock().unwrap_or_else(PoisonError::into_inner);
                        servers[client % servers.len()].clone()
                    };
                    let known = open.take().filter(|(known, _)| *known == server).map(|(_, stream)| stream);
                    // A server may have ended before the list says so.
                    let Some(mut stream) = known.or_else(|| TcpStream::connect(&server).ok()) else {
                        continue;
                    };
                    if stream.write_all(REQUEST).and_then(|()| answered(&mut stream)).is_ok() {
                        open = Some((server, stream));
                    }
                }
            });
        }
        this
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The cluster and its load.
struct Scene<'a> {
    lab: Lab,
    kubelet: Kubelet<'a>,
    /// Where each pod's server listens.
    servers: BTreeMap<String, String>,
    clients: Option<Clients>,
}

impl Scene<'_> {
    /// Does what a kubelet and a Service would; how many pods are wanted.
    fn tend(&mut self) -> u64 {
        self.kubelet.tend(&self.lab);
        self.servers.retain(|name, _| self.kubelet.pods.contains_key(name));
        for (name, (process, ..)) in &mut self.kubelet.pods {
            self.servers.entry(name.clone()).or_insert_with(|| process.line());
        }
        let servers: Vec<_> = self.servers.values().cloned().collect();
        match &self.clients {
            None if servers.is_empty() => {}
            None => self.clients = Some(Clients::start(servers)),
            // Between the end of one and the beginning of another.
            Some(_) if servers.is_empty() => {}
            Some(clients) => *clients.servers.lock().unwrap_or_else(PoisonError::into_inner) = servers,
        }
        self.lab.get(&format!("{DEPLOYMENTS}/burn")).1["spec"]["replicas"].as_u64().unwrap_or_default()
    }

    fn scaler(&self) -> Value {
        self.lab.get(&format!("{SCALERS}/burn")).1
    }

    /// Waits for as many pods as hold the target.
    fn reach(&mut self, what: &str) {
        let begin = Instant::now();
        while self.tend() != PODS || self.kubelet.pods.len() as u64 != PODS {
            assert!(begin.elapsed().as_secs() < 90, "{what}: {}", self.scaler());
        }
        println!("{what}: {:.1} s", begin.elapsed().as_secs_f64());
    }

    /// Sees to it that as many are wanted all the time, until `is_over`.
    fn stay(&mut self, what: &str, is_over: impl Fn(&Lab) -> bool) {
        let begin = Instant::now();
        while !is_over(&self.lab) {
            let wanted = self.tend();
            assert_eq!(wanted, PODS, "{what}: {}", self.scaler());
            assert!(begin.elapsed().as_secs() < 90, "{what}: {}", self.scaler());
        }
        println!("{what}: {:.1} s", begin.elapsed().as_secs_f64());
    }

    fn watch(&mut self, what: &str) {
        let begin = Instant::now();
        self.stay(what, |_| begin.elapsed() >= WATCHED);
    }
}

fn knows(lab: &Lab) -> bool {
    condition(lab, "ScalingActive").as_deref() == Some("True")
}

/// Of two pods too few and one too many there is no doubt: 12, 6, 4 and 3 requests each, or 960, 480, 320 and 240 ms.
#[test]
fn targets_hold_whatever_is_restarted() {
    let adapter = ["--window", "5", "--max-age", "3"];
    let mut lab = Lab::start(&adapter);
    lab.node.cluster.start_controllers();
    lab.node.cluster.create(DEPLOYMENTS, &deployment("100m"));
    let active = json!({"type": "Pods", "pods": {
        "metric": {"name": "http_active_requests"}, "target": {"type": "AverageValue", "averageValue": "4"}}});
    lab.node.cluster.create(SCALERS, &scaler(&active));
    let kubelet = Kubelet::new(&[PEER, "serve", "127.0.0.1:0"]);
    let mut scene = Scene { lab, kubelet, servers: BTreeMap::new(), clients: None };
    scene.reach("three pods by requests that wait");
    scene.watch("the target is held");

    // Nobody knows anything, so nothing is scaled.
    scene.lab.kill_agent();
    scene.stay("the agent is gone, and its pods with it", |lab| !knows(lab));
    scene.lab.start_agent();
    scene.stay("another agent tells", knows);
    scene.watch("the target is held by what it tells");
    scene.lab.restart(&adapter);
    scene.stay("another adapter tells", knows);
    scene.watch("the target is held by what it tells");
    // A Deployment is rolled out pod by pod.
    let first = scene.kubelet.pods.keys().next().expect("three").clone();
    scene.lab.node.delete(&first);
    scene.stay("a pod took the place of another", |lab| {
        let pods = lab.get(workload::PODS).1;
        let names = pods["items"].as_array().into_iter().flatten();
        names.clone().count() as u64 == PODS && names.into_iter().all(|pod| pod["metadata"]["name"] != *first)
    });
    scene.watch("the target is held by both");

    // Latency is that of the last seconds, and so of the time with fewer pods: who scales up by it waits until it is of now.
    let latency = json!({"type": "Object", "object": {
        "describedObject": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "burn"},
        "metric": {"name": "http_request_duration_p99_seconds"}, "target": {"type": "Value", "value": "400m"}}});
    let cluster = &scene.lab.node.cluster;
    // It remembers what it would have done.
    cluster.delete(&format!("{SCALERS}/burn"));
    cluster.patch(&format!("{DEPLOYMENTS}/burn"), &json!({"spec": {"replicas": 1}}));
    wait::until("one pod", || (scene.tend() == 1 && scene.kubelet.pods.len() == 1).then_some(()));
    let mut scaler = scaler(&latency);
    scaler["spec"]["behavior"]["scaleUp"] = json!({"stabilizationWindowSeconds": 15});
    scene.lab.node.cluster.create(SCALERS, &scaler);
    scene.reach("three pods by latency");
    scene.stay("latency is that of three", |lab| {
        let scaler = lab.get(&format!("{SCALERS}/burn")).1;
        let current = &scaler["status"]["currentMetrics"][0]["object"]["current"]["value"];
        current.is_string().then(|| quantity(current)).is_some_and(|seconds| seconds < 0.44)
    });
    scene.watch("the target is held");
    println!("the autoscaler's own words: {}", scene.scaler()["status"]["currentMetrics"]);
}
