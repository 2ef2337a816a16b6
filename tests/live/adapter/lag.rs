//! How long after a step of the load the metrics API says so and the real autoscaler decides: podmeter, by its agents and by a
//! Prometheus that scrapes them every 15 s, and metrics-server, of the same pod of a real kubelet at the same time.
//!
//! By hand, with `cargo xtask lag`: it takes about a minute for each step.

mod plane;
mod step;
mod waiting;

use std::{env, fs, path::Path, time::Instant};

use podmeter_tests::{cluster::kubelet::Kubelet, random::Random, temp::TempDir, wait};
use serde_json::json;

use self::{
    plane::{Plane, Source},
    step::{Level, Seen, table},
};
use super::lab::at_least;
use crate::{
    kube::{
        kubelet::{container, pod},
        node::{NODE, Node},
    },
    prometheus::{Prometheus, current},
};

/// Works while there is a file, up to its limit; and looks whether there is one four times a second otherwise.
const WORK: &str = "while :; do if [ -e /load/on ]; then i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; \
                    else /bin/busybox sleep 0.25; fi; done";

/// The limit, cores: little, so that it has it beside everything else here.
const LIMIT: f64 = 0.15;

/// The pod that works, in the cluster that has the kubelet; the id of its container.
fn begin(node: &Node, load: &Path) -> String {
    let mut app = container("app", WORK);
    app["resources"] = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "150m", "memory": "64Mi"}});
    app["volumeMounts"] = json!([{"name": "load", "mountPath": "/load"}]);
    let mut spec = pod(&json!([app]), &json!([]));
    spec["volumes"] = json!([{"name": "load", "hostPath": {"path": load}}]);
    let object = json!({"metadata": {"name": plane::POD, "labels": plane::labels()}, "spec": spec});
    node.cluster.create(super::workload::PODS, &object);
    // The kubelet asks an operator for its addresses, and metrics-server looks for it there.
    let address = json!([{"type": "InternalIP", "address": "127.0.0.1"}]);
    let path = format!("/api/v1/nodes/{NODE}");
    node.cluster.patch(&format!("{path}/status"), &json!({"status": {"addresses": address}}));
    let id = wait::until("the pod", || {
        let pod = node.cluster.get(&format!("{}/{}", super::workload::PODS, plane::POD)).1;
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str()?.to_owned();
        (pod["status"]["phase"] == "Running").then_some(id)
    });
    id.trim_start_matches("containerd://").to_owned()
}

#[test]
#[ignore = "by hand, `cargo xtask lag`: half an hour"]
fn of_a_step_of_the_load() {
    let steps: usize = env::var("PODMETER_STEPS").map_or(30, |steps| steps.parse().expect("a number"));
    let real = Node::start();
    real.grant();
    let kubelet = Kubelet::start(&real.cluster, NODE);
    let files = TempDir::new("load");
    let id = begin(&real, files.path());
    let agent = real.agent(&["--signals", "cpu,memory"]);
    let prometheus = Prometheus::start_every(15, &current(), &agent, "");
    let planes = [
        Plane::of_podmeter(&Source::Agent(agent.address), &id),
        Plane::of_podmeter(&Source::Prometheus(&prometheus.address), &id),
        Plane::of_metrics_server(real),
    ];
    let mut random = Random::new(7);
    let switch = files.path().join("on");
    let mut seen: [Vec<Seen>; 3] = Default::default();
    for step in 0..=steps {
        // The sources and the autoscalers look every 15 s, each at moments of its own: the step comes at any time between.
        at_least(Instant::now(), 1 + random.below(15) as u64);
        let level = if step % 2 == 0 { Level::up(LIMIT) } else { Level::down(LIMIT) };
        let begin = Instant::now();
        if step % 2 == 0 {
            fs::write(&switch, "").expect("our own directory")
        } else {
            fs::remove_file(&switch).expect("there")
        }
        let found: Vec<_> = level.wait(begin, &planes);
        for ((plane, seen), found) in planes.iter().zip(&mut seen).zip(found) {
            println!("step {step} {level:?}: {}: {found:?}", plane.name);
            // The first is when nobody has known anything before.
            if step > 0 {
                seen.push(found);
            }
        }
    }
    drop(kubelet);
    print!("{}", table(&planes.each_ref().map(|plane| plane.name), &seen));
}
