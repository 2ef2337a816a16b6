//! The DaemonSet's pod, from the image, under a real kubelet with containerd and runc: with its capabilities, its seccomp profile, its
//! mounts, probes and limits.
//!
//! What a whole cluster would add is added here: the mount of the account's token, which an admission plugin makes, and the address of
//! the API server. The pod has the host's network, as there is no other.

use std::{fs, net::TcpListener, process::Command};

use podmeter_tests::{
    cluster::{
        Cluster,
        kubelet::{IMAGE, Kubelet},
    },
    scrape::Scrape,
    wait,
};
use serde_json::{Value, json};

use super::{
    accepted::place,
    containers::{Load, NODE},
    server::status,
};
use crate::{objects::Objects, rendered::kustomize, succeeds};

const PODS: &str = "/api/v1/namespaces/podmeter/pods";

/// What is shipped, on a cluster: account, rights, and what every namespace has of its own accord.
fn install(cluster: &Cluster) -> Objects {
    let objects = kustomize(&[]);
    cluster.create("/api/v1/namespaces", &json!({ "metadata": { "name": "podmeter" } }));
    for ((kind, _), object) in &objects {
        if matches!(kind.as_str(), "ServiceAccount" | "ClusterRole" | "ClusterRoleBinding") {
            cluster.create(&place(object), object);
        }
    }
    let authority = fs::read_to_string(cluster.authority()).expect("a certificate");
    let data = json!({ "metadata": { "name": "kube-root-ca.crt" }, "data": { "ca.crt": authority } });
    cluster.create("/api/v1/namespaces/podmeter/configmaps", &data);
    objects
}

/// The pod that the DaemonSet would make for the node, on a port of its own.
fn pod(cluster: &Cluster, objects: &Objects, port: u16) -> Value {
    let template = &objects[&("DaemonSet".to_owned(), "podmeter".to_owned())]["spec"]["template"];
    let (mut metadata, mut spec) = (template["metadata"].clone(), template["spec"].clone());
    metadata["name"] = json!("podmeter-x7k2p");
    spec["nodeName"] = json!(NODE);
    spec["hostNetwork"] = json!(true);
    let container = &mut spec["containers"][0];
    let variables = container["env"].as_array_mut().expect("variables");
    for variable in variables.iter_mut().filter(|variable| variable["name"] == "PODMETER_LISTEN") {
        variable["value"] = json!(format!("127.0.0.1:{port}"));
    }
    variables.push(json!({ "name": "KUBERNETES_SERVICE_HOST", "value": "127.0.0.1" }));
    variables.push(json!({ "name": "KUBERNETES_SERVICE_PORT", "value": cluster.port().to_string() }));
    container["ports"][0]["containerPort"] = json!(port);
    let account = json!({ "name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true });
    container["volumeMounts"].as_array_mut().expect("mounts").push(account);
    spec["volumes"].as_array_mut().expect("volumes").push(json!({ "name": "token", "projected": { "sources": [
        { "serviceAccountToken": { "path": "token", "expirationSeconds": 3607 } },
        { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
        { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "fieldPath": "metadata.namespace" } }] } },
    ] } }));
    json!({ "metadata": metadata, "spec": spec })
}

/// A pod of somebody's, which serves files.
fn web(port: u16) -> Value {
    let script = format!(
        "mkdir -p /www && echo hello > /www/index.html && exec busybox httpd -f -p 127.0.0.1:{port} -h /www"
    );
    json!({ "metadata": { "name": "web" }, "spec": {
        "nodeName": NODE, "hostNetwork": true, "automountServiceAccountToken": false, "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 0, "tolerations": [{ "operator": "Exists" }],
        "containers": [{ "name": "httpd", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", script],
            "env": [{ "name": "PATH", "value": "/bin" }] }],
    } })
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port()
}

/// Whether the kubelet has found it ready, by its probe.
fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.clone().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

#[test]
fn the_daemonsets_pod_measures_the_node_under_a_real_kubelet() {
    let image = std::env::var("PODMETER_IMAGE")
        .expect("`cargo xtask test` builds the image and sets PODMETER_IMAGE to its path");
    let cluster = Cluster::start();
    let kubelet = Kubelet::start(&cluster, NODE);
    let address = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }] } });
    cluster.patch(&format!("/api/v1/nodes/{NODE}/status"), &address);
    let mut import = Command::new("ctr");
    import.arg("--address").arg(kubelet.socket()).args(["--namespace", "k8s.io", "images", "import", &image]);
    succeeds(&mut import);
    let objects = install(&cluster);
    let (port, web_port) = (free_port(), free_port());
    cluster.create("/api/v1/namespaces/shop/pods", &web(web_port));
    cluster.create(PODS, &pod(&cluster, &objects, port));
    let of_pod = format!("{PODS}/podmeter-x7k2p");
    let found = wait::perhaps(|| Some(cluster.get(&of_pod).1).filter(ready));
    let last = || format!("{}\n{}", cluster.get(&of_pod).1["status"], kubelet.log());
    assert!(found.is_some(), "the pod is not ready: {}", last());
    let _load = Load::start(&format!("127.0.0.1:{web_port}"), &["/index.html"]);
    let scrape = || Scrape(status(&format!("127.0.0.1:{port}"), "GET", "/metrics", "").1);
    let labels =
        [("namespace", "shop"), ("pod", "web"), ("container", "httpd"), ("http_route", "/index.html")];
    let scrape = wait::until("requests to the pod, by its names", || {
        let scrape = scrape();
        (scrape.sum("http_server_request_duration_seconds_count", &labels) > 50.0).then_some(scrape)
    });
    for state in ["failed", "degraded", "unsupported"] {
        assert_eq!(scrape.sum("podmeter_probe_state", &[("state", state)]), 0.0, "{state}");
    }
    assert!(scrape.sum("container_cpu_usage_seconds_total", &labels[..3]) > 0.0);
    // Itself too: what it takes is far below what it may.
    let own = [("namespace", "podmeter"), ("container", "podmeter")];
    let limit = scrape.sum("container_spec_memory_limit_bytes", &own);
    let highest = scrape.sum("container_memory_max_usage_bytes", &own);
    assert_eq!(limit, f64::from(128 << 20));
    assert!(highest > 0.0 && highest < limit / 2.0, "{highest} of {limit}");
    println!("the container's highest memory: {:.1} MiB", highest / f64::from(1 << 20));
    let status = fs::read_to_string(format!("/proc/{}/status", process(&scrape))).expect("it runs");
    // It was given three, and has given them up; nothing can be gained, and system calls are filtered.
    for wanted in [
        "CapBnd:\t000000c000001000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(wanted), "{wanted}:\n{status}");
    }
    assert!(
        fs::read_to_string(format!("/proc/{}/mountinfo", process(&scrape))).expect("it runs").lines().any(
            |line| {
                let fields: Vec<_> = line.split(' ').collect();
                fields[4] == "/" && fields[5].starts_with("ro")
            }
        )
    );
}

/// The agent's process on the host.
fn process(scrape: &Scrape) -> u32 {
    let labels = [("namespace", "podmeter"), ("container", "podmeter")];
    let id = &scrape.label_values("container_spec_memory_limit_bytes", "id", &labels)[0];
    let processes = fs::read_dir("/proc").expect("procfs").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let inside = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(id.as_str()))
    };
    pids.into_iter().find(inside).expect("a process in the container's cgroup")
}
