//! What `kubectl apply -k deploy/kustomize/base` installs, on a whole control plane with a real kubelet, containerd and runc: the
//! controller makes the pod, from the image, with its account's token, its capabilities, its seccomp profile, its mounts, probes and
//! limits; and replaces it in a rolling update.
//!
//! Two things are not as shipped: there is no network for pods, so that it has the host's, and a port of its own there; and the
//! address of the API server, which a Service has elsewhere.

use std::{fs, process::Command};

use podmeter_tests::{
    agent::Agent,
    cluster::{
        Cluster,
        kubelet::{IMAGE, Kubelet},
    },
    machine::free_port,
    scrape::Scrape,
    wait,
};
use serde_json::{Value, json};

use super::{
    accepted::place,
    containers::{Load, NODE},
    server::status,
};
use crate::{rendered::kustomize, succeeds};

const PODS: &str = "/api/v1/namespaces/podmeter/pods";
const DAEMONSET: &str = "/apis/apps/v1/namespaces/podmeter/daemonsets/podmeter";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/shop/deployments";

/// Makes every object of the base.
fn install(cluster: &Cluster, port: u16) {
    cluster.create("/api/v1/namespaces", &json!({ "metadata": { "name": "podmeter" } }));
    for ((kind, _), mut object) in kustomize(&[]) {
        if kind == "DaemonSet" {
            fit(cluster, &mut object["spec"]["template"]["spec"], port);
        }
        cluster.create(&place(&object), &object);
    }
}

/// Has the pod on the host's network, at this port.
fn fit(cluster: &Cluster, spec: &mut Value, port: u16) {
    spec["hostNetwork"] = json!(true);
    let container = &mut spec["containers"][0];
    let variables = container["env"].as_array_mut().expect("variables");
    for variable in variables.iter_mut().filter(|variable| variable["name"] == "PODMETER_LISTEN") {
        variable["value"] = json!(format!("127.0.0.1:{port}"));
    }
    variables.push(json!({ "name": "KUBERNETES_SERVICE_HOST", "value": "127.0.0.1" }));
    variables.push(json!({ "name": "KUBERNETES_SERVICE_PORT", "value": cluster.port().to_string() }));
    variables.push(json!({ "name": "PODMETER_POD_OWNER", "value": "true" }));
    container["ports"][0]["containerPort"] = json!(port);
}

/// A Deployment of somebody's, which serves files.
fn web(port: u16) -> Value {
    let script = format!(
        "mkdir -p /www && echo hello > /www/index.html && exec busybox httpd -f -p 127.0.0.1:{port} -h /www"
    );
    let labels = json!({ "app": "web" });
    json!({ "metadata": { "name": "web" }, "spec": {
        "selector": { "matchLabels": labels },
        "template": { "metadata": { "labels": labels }, "spec": {
            "hostNetwork": true, "automountServiceAccountToken": false, "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 0, "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "httpd", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", script],
                "env": [{ "name": "PATH", "value": "/bin" }] }],
        } },
    } })
}

/// The agent's pod once it is ready, and not one of these.
fn ready(cluster: &Cluster, kubelet: &Kubelet, before: &str) -> String {
    let is_ready = |pod: &Value| {
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let name = pod["metadata"]["name"].as_str().expect("a name");
        let is_new = name != before && pod["metadata"]["deletionTimestamp"].is_null();
        (is_new && conditions.any(|one| one["type"] == "Ready" && one["status"] == "True"))
            .then(|| name.to_owned())
    };
    let found = wait::perhaps(|| cluster.get(PODS).1["items"].as_array()?.iter().find_map(is_ready));
    found.unwrap_or_else(|| {
        panic!("no pod is ready: {}\n{}\n{}", cluster.get(PODS).1, cluster.get(DAEMONSET).1, kubelet.log())
    })
}

/// The names of the pods of the Deployment that the agent has series of.
fn webs(scrape: &Scrape) -> Vec<String> {
    let labels =
        [("namespace", "shop"), ("container", "httpd"), ("owner_kind", "Deployment"), ("owner_name", "web")];
    scrape.label_values("container_memory_usage_bytes", "pod", &labels)
}

#[test]
fn what_is_installed_measures_the_node_under_a_real_kubelet() {
    let image = std::env::var("PODMETER_IMAGE")
        .expect("`cargo xtask test` builds the image and sets PODMETER_IMAGE to its path");
    let cluster = Cluster::start_whole();
    let kubelet = Kubelet::start(&cluster, NODE);
    let address = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }] } });
    cluster.patch(&format!("/api/v1/nodes/{NODE}/status"), &address);
    let mut import = Command::new("ctr");
    import.arg("--address").arg(kubelet.socket()).args(["--namespace", "k8s.io", "images", "import", &image]);
    succeeds(&mut import);
    let (port, web_port) = (free_port(), free_port());
    cluster.create(DEPLOYMENTS, &web(web_port));
    install(&cluster, port);
    let pod = ready(&cluster, &kubelet, "");
    let load = Load::start(&format!("127.0.0.1:{web_port}"), &["/index.html"]);
    let scrape = || Scrape(status(&format!("127.0.0.1:{port}"), "GET", "/metrics", "").1);
    let labels = [("namespace", "shop"), ("container", "httpd"), ("http_route", "/index.html")];
    let scraped = wait::until("requests to the pod, by its names", || {
        let scrape = scrape();
        (scrape.sum("http_server_request_duration_seconds_count", &labels) > 50.0).then_some(scrape)
    });
    assert_given(&scraped);
    // A rolling update of the Deployment: the old pod's series end, and the new one's begin.
    let old = webs(&scraped);
    assert_eq!(old.len(), 1, "{old:?}");
    drop(load);
    cluster.patch(&format!("{DEPLOYMENTS}/web"), &web(free_port()));
    wait::until("the new pod alone", || {
        let new = webs(&scrape());
        (new.len() == 1 && new != old).then_some(())
    });
    // And of the DaemonSet, as an upgrade is one.
    let change = json!({ "spec": { "template": { "metadata": { "annotations": { "upgraded": "yes" } } } } });
    cluster.patch(DAEMONSET, &change);
    ready(&cluster, &kubelet, &pod);
    wait::until("the pods' names in the next agent", || (webs(&scrape()).len() == 1).then_some(()));
}

/// It was given what it needs, and gave it up.
fn assert_given(scrape: &Scrape) {
    // As whoever has every right.
    let root = Agent::start(&[]);
    assert_eq!(scrape.probes(), root.scrape().probes());
    let web = [("namespace", "shop"), ("container", "httpd")];
    assert!(scrape.sum("container_cpu_usage_seconds_total", &web) > 0.0);
    // Itself too: what it takes is far below what it may.
    let own = [("namespace", "podmeter"), ("container", "podmeter")];
    let limit = scrape.sum("container_spec_memory_limit_bytes", &own);
    let highest = scrape.sum("container_memory_max_usage_bytes", &own);
    assert_eq!(limit, f64::from(128 << 20));
    assert!(highest > 0.0 && highest < limit / 2.0, "{highest} of {limit}");
    println!("the container's highest memory: {:.1} MiB", highest / f64::from(1 << 20));
    let status = fs::read_to_string(format!("/proc/{}/status", process(scrape))).expect("it runs");
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
        fs::read_to_string(format!("/proc/{}/mountinfo", process(scrape))).expect("it runs").lines().any(
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
