//! Every kind of container under its name, from its birth to after its death.

use podmeter_tests::{
    agent::Agent,
    cgroup::Cgroup,
    cluster::NAMESPACE,
    machine::{assert_cpu_time, stolen},
    scrape::Scrape,
    temp::TempDir,
    wait,
};
use serde_json::json;

use super::node::{NODE, Node, Pod, container_id, image, specs, status};

const USAGE: &str = "container_cpu_usage_seconds_total";
const MEMORY: &str = "container_memory_usage_bytes";
const SPIN: &str = "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; echo done; sleep 1000";

/// The labels of the only series of this name with this id.
fn labels<'a>(scrape: &'a Scrape, name: &str, id: &str) -> Option<&'a str> {
    let wanted = format!("id=\"{id}\"");
    let mut found = scrape.0.lines().filter_map(|line| {
        let labels = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?.0;
        labels.split(',').any(|label| label == wanted).then_some(labels)
    });
    let first = found.next();
    assert_eq!(found.next(), None, "one series of {name} for {id}");
    first
}

/// Waits until a container's series has exactly these labels.
fn named(agent: &Agent, pod: &str, container: &str, cgroup: &Cgroup, id: &str) -> Scrape {
    let path = cgroup.path();
    let image = image(container);
    let wanted = format!(
        "container=\"{container}\",id=\"{path}\",image=\"{image}\",name=\"{id}\",namespace=\"{NAMESPACE}\",node=\"{NODE}\",pod=\"{pod}\""
    );
    let scrape = agent.scrape_until(&wanted, |scrape| labels(scrape, MEMORY, path) == Some(&wanted));
    assert_eq!(labels(&scrape, USAGE, path), Some(&*format!("{wanted},cpu=\"total\"")));
    scrape
}

#[test]
fn every_kind_of_container_has_its_name() {
    let node = Node::start();
    node.grant();
    let agent = node.agent(&["--signals", "cpu,memory,pressure"]);
    // The machine may have containers of its own, which this API server has never heard of.
    let unnamed = |scrape: &Scrape| scrape.value("podmeter_kube_unnamed_containers", &[]);
    let foreign = unnamed(&agent.scrape()).expect("the API server names pods");
    let kinds = json!({
        "nodeName": NODE,
        "initContainers": [
            {"name": "setup", "image": image("setup")},
            {"name": "proxy", "image": image("proxy"), "restartPolicy": "Always"}],
        "containers": specs(&["app"]),
    });
    let pod = node.pod_of("web", &kinds, &json!({}));
    let [sandbox, setup, proxy, app, debug] = [(); 5].map(|()| container_id());
    let [pause, first, side, main, late] =
        [&sandbox, &setup, &proxy, &app, &debug].map(|id| pod.cgroup.child(id));
    node.tell(
        &pod,
        &json!({
            "initContainerStatuses": [status("setup", &setup, None), status("proxy", &proxy, None)],
            "containerStatuses": [status("app", &app, None)],
        }),
    );
    named(&agent, "web", "setup", &first, &setup);
    named(&agent, "web", "proxy", &side, &proxy);
    named(&agent, "web", "app", &main, &app);

    // Added to the pod while it runs.
    let added = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": image("debug")}]}});
    let path = "/api/v1/namespaces/shop/pods/web/ephemeralcontainers";
    let (code, answer) =
        node.cluster.ask("PATCH", path, "application/strategic-merge-patch+json", Some(&added));
    assert_eq!(code, 200, "{answer}");
    node.tell(&pod, &json!({"ephemeralContainerStatuses": [status("debug", &debug, None)]}));
    named(&agent, "web", "debug", &late, &debug);

    // Made from a file by the kubelet: the API has another uid for it.
    let hash = "0123456789abcdef0123456789abcdef";
    let annotations = json!({"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash, "kubernetes.io/config.source": "file"});
    let spec = json!({"nodeName": NODE, "containers": specs(&["etcd"])});
    let static_pod = node.pod_of("etcd-node-1", &spec, &annotations);
    let etcd = container_id();
    let etcd_cgroup = static_pod.cgroup.child(&etcd);
    node.tell(&static_pod, &json!({"containerStatuses": [status("etcd", &etcd, None)]}));
    named(&agent, "etcd-node-1", "etcd", &etcd_cgroup, &etcd);

    // Another node's pods are not ours to know.
    let spec = json!({"nodeName": "node-2", "containers": specs(&["app"])});
    node.pod_of("elsewhere", &spec, &json!({}));
    let last = node.pod("last", &["app"]);
    let id = container_id();
    let cgroup = last.cgroup.child(&id);
    node.tell(&last, &json!({"containerStatuses": [status("app", &id, None)]}));
    let scrape = named(&agent, "last", "app", &cgroup, &id);
    assert_eq!(scrape.value("podmeter_kube_pods", &[]), Some(3.0));
    assert_eq!(scrape.value("podmeter_kube_synced", &[]), Some(1.0));
    assert_eq!(scrape.value("podmeter_kube_stale_seconds", &[]), Some(0.0));

    // The pause container is in its pod's series, and has none of its own.
    let mut process = pause.spawn(&["/bin/sh", "-c", SPIN]);
    process.go();
    assert_eq!(process.line(), "done");
    process.asleep();
    let mut process = main.spawn(&["/bin/sh", "-c", SPIN]);
    let stolen_before = stolen();
    process.go();
    assert_eq!(process.line(), "done");
    process.asleep();
    let kernel = || kernel(&pod);
    let (scrape, kernel) = wait::until("a quiet pod", || {
        let (before, scrape, after) = (kernel(), agent.scrape(), kernel());
        (before == after).then_some((scrape, after))
    });
    let wanted =
        format!("id=\"{}\",namespace=\"{NAMESPACE}\",node=\"{NODE}\",pod=\"web\"", pod.cgroup.path());
    assert_eq!(labels(&scrape, MEMORY, pod.cgroup.path()), Some(&*wanted));
    let usage = scrape.value(USAGE, &[("id", pod.cgroup.path())]).expect("the pod's series");
    assert_cpu_time(usage, kernel, kernel, stolen() - stolen_before);
    let inside = scrape.value(USAGE, &[("id", main.path())]).expect("the container's series");
    assert!(inside > 0.0 && inside < usage, "{inside} s of {usage} s: the rest is the pause container's");
    let pods_memory = pod.cgroup.number("memory", "memory.usage_in_bytes") as f64;
    assert_eq!(agent.scrape().value(MEMORY, &[("id", pod.cgroup.path())]), Some(pods_memory));
    assert!(!scrape.0.contains(&sandbox.to_string()), "the pause container is nowhere");
    // A pause container may still get a name, until its time is up.
    let ours = unnamed(&scrape).expect("as before") - foreign;
    assert!((0.0..=1.0).contains(&ours), "{ours} of ours have no name; {foreign} are not ours");
    // Then what is counted of it beside is the pod's as well, whose CPU time is what it was.
    let waits = [("id", pod.cgroup.path())];
    let (scrape, kernel) = wait::until("the pause container's waits for a CPU", || {
        let (scrape, after) = (agent.scrape(), self::kernel(&pod));
        (scrape.value("container_cpu_run_queue_latency_seconds_count", &waits) > Some(0.0))
            .then_some((scrape, after))
    });
    let later = scrape.value(USAGE, &[("id", pod.cgroup.path())]).expect("the pod's series");
    assert!(
        later >= usage && (later - kernel).abs() < 1e-3,
        "{later} s after {usage}, and the kernel has {kernel}"
    );
    assert!(!scrape.0.contains(&sandbox.to_string()), "it is nowhere still");
}

/// What the kernel charged a pod with.
fn kernel(pod: &Pod) -> f64 {
    pod.cgroup.stat("v2", "cpu.stat", "usage_usec") as f64 / 1e6
}

/// A process of its own takes more than it may; how often that happened to the container so far is the kernel's word.
fn kill(cgroup: &Cgroup) {
    cgroup.write("memory", "memory.limit_in_bytes", &(16 << 20).to_string());
    let mut process = cgroup.spawn(&["perl", "-e", "$x = 'x' x (64 << 20); sleep 1000"]);
    process.go();
    process.end();
    assert_eq!(cgroup.stat("memory", "memory.oom_control", "oom_kill"), 1);
}

#[test]
fn a_container_that_restarts_has_one_series_and_keeps_its_oom_kills() {
    let node = Node::start();
    node.grant();
    let agent = node.agent(&["--signals", "cpu,memory"]);
    let pod = node.pod("crash", &["app"]);
    let mut before: Option<String> = None;
    for run in 1..=3 {
        let id = container_id();
        let cgroup = pod.cgroup.child(&id);
        node.tell(&pod, &json!({"containerStatuses": [status("app", &id, before.as_deref())]}));
        let scrape = named(&agent, "crash", "app", &cgroup, &id);
        let of = [("pod", "crash"), ("container", "app")];
        assert_eq!(scrape.value(MEMORY, &of).map(|_| ()), Some(()), "one, and not that of the run before");
        assert_eq!(scrape.value("container_oom_events_total", &of), Some(f64::from(run - 1)));
        kill(&cgroup);
        agent.scrape_until("the kill", |scrape| {
            scrape.value("container_oom_events_total", &of) == Some(f64::from(run))
        });
        cgroup.remove();
        for _ in 0..3 {
            let scrape = agent.scrape();
            assert_eq!(
                scrape.value("container_oom_events_total", &of),
                Some(f64::from(run)),
                "between two runs"
            );
        }
        assert_eq!(agent.scrape().value(MEMORY, &of), None, "it does not run");
        before = Some(id);
    }
    // The pod is gone for good; what became of it is known for a while.
    node.delete("crash");
    drop(pod);
    agent.scrape_until("the end of the pod", |scrape| scrape.value("podmeter_kube_pods", &[]) == Some(0.0));
    let of = [("pod", "crash"), ("container", "app"), ("namespace", NAMESPACE)];
    assert_eq!(agent.scrape().value("container_oom_events_total", &of), Some(3.0));
}

#[test]
fn a_pod_has_what_the_disks_did_for_its_containers_and_for_those_that_are_gone() {
    const WRITTEN: &str = "container_fs_writes_bytes_total";
    let node = Node::start();
    node.grant();
    let agent = node.agent(&["--signals", "block_io"]);
    let (pod, directory) = (node.pod("web", &["app"]), TempDir::on_disk("pod"));
    let of_pod = [("id", pod.cgroup.path())];
    let mut before = 0.0;
    for run in 0..2 {
        let id = container_id();
        let cgroup = pod.cgroup.child(&id);
        node.tell(&pod, &json!({"containerStatuses": [status("app", &id, None)]}));
        let to = format!("of={}/{run}", directory.path().display());
        let mut dd =
            cgroup.spawn(&["dd", "if=/dev/zero", &to, "oflag=direct", "bs=64k", "count=16", "status=none"]);
        dd.go().ended();
        dd.finish();
        let path = cgroup.path().to_owned();
        let of_container = [("pod", "web"), ("container", "app"), ("id", &*path)];
        let scrape =
            agent.scrape_until("the writes", |scrape| scrape.sum(WRITTEN, &of_container) >= 1_048_576.0);
        let (whole, own) = (scrape.sum(WRITTEN, &of_pod), scrape.sum(WRITTEN, &of_container));
        assert_eq!(whole, before + own, "run {run}");
        cgroup.remove();
        let scrape = agent.scrape_until("its end", |scrape| scrape.sum(WRITTEN, &of_container) == 0.0);
        assert_eq!(scrape.sum(WRITTEN, &of_pod), whole, "after run {run}");
        before = whole;
    }
}

#[test]
fn a_rolling_update_ends_one_pods_series_and_begins_the_others() {
    let node = Node::start();
    node.grant();
    // The first is there before the agent.
    let old = node.pod("web-1", &["app"]);
    let old_id = container_id();
    let old_cgroup = old.cgroup.child(&old_id);
    node.tell(&old, &json!({"containerStatuses": [status("app", &old_id, None)]}));
    let agent = node.agent(&["--signals", "cpu,memory"]);
    named(&agent, "web-1", "app", &old_cgroup, &old_id);
    let new = node.pod("web-2", &["app"]);
    let new_id = container_id();
    let new_cgroup = new.cgroup.child(&new_id);
    node.tell(&new, &json!({"containerStatuses": [status("app", &new_id, None)]}));
    named(&agent, "web-2", "app", &new_cgroup, &new_id);
    // Forgotten by the API before it has ended: it is still what it was.
    node.delete("web-1");
    agent.scrape_until("its end in the API", |scrape| scrape.value("podmeter_kube_pods", &[]) == Some(1.0));
    named(&agent, "web-1", "app", &old_cgroup, &old_id);
    old_cgroup.remove();
    drop(old);
    agent.scrape_until("its end", |scrape| {
        scrape.sum(USAGE, &[("pod", "web-1")]) == 0.0 && !scrape.0.contains("web-1")
    });
    named(&agent, "web-2", "app", &new_cgroup, &new_id);
}

#[test]
fn labels_of_the_pod_its_maker_and_its_resources_can_be_had() {
    let node = Node::start();
    node.grant();
    let flags = [
        "--signals",
        "cpu,memory",
        "--pod-labels",
        "app,team.example/name",
        "--pod-owner",
        "--pod-resources",
    ];
    let agent = node.agent(&flags);
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8c7b9", "uid": "u", "controller": true});
    let labels =
        json!({"app": "web", "team.example/name": "a", "other": "b", "pod-template-hash": "5d4f8c7b9"});
    let metadata = json!({"name": "web-1", "labels": labels, "ownerReferences": [owner]});
    let mut container = specs(&["app"]);
    container[0]["resources"] =
        json!({"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}});
    let pod = node.pod_with(&metadata, &json!({"nodeName": NODE, "containers": container}));
    let id = container_id();
    let cgroup = pod.cgroup.child(&id);
    node.tell(&pod, &json!({"containerStatuses": [status("app", &id, None)]}));
    let of = [
        ("container", "app"),
        ("label_app", "web"),
        ("label_team_example_name", "a"),
        ("owner_kind", "Deployment"),
        ("owner_name", "web"),
        ("id", cgroup.path()),
    ];
    let scrape = agent.scrape_until("labels", |scrape| scrape.value(MEMORY, &of).is_some());
    assert!(!scrape.0.contains("label_other"));
    let amount = |name: &str, resource: &str, unit: &str| {
        let labels =
            [("pod", "web-1"), ("container", "app"), ("node", NODE), ("resource", resource), ("unit", unit)];
        scrape.value(&format!("kube_pod_container_resource_{name}"), &labels)
    };
    assert_eq!(amount("requests", "cpu", "core"), Some(0.25));
    assert_eq!(amount("requests", "memory", "byte"), Some(67_108_864.0));
    assert_eq!(amount("limits", "memory", "byte"), Some(134_217_728.0));
    assert_eq!(amount("limits", "cpu", "core"), None);
}
