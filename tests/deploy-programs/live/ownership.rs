//! The chart does not take an API from another server, unless it is told to: Helm itself asks a real API server.

use std::process::Output;

use podmeter_tests::cluster::Cluster;
use serde_json::json;

use crate::{output, program, said};

fn install(cluster: &Cluster, more: &[&str]) -> Output {
    let mut command = program("PODMETER_HELM");
    command.args([
        "install",
        "podmeter",
        "deploy/helm/podmeter",
        "--namespace",
        "podmeter",
        "--dry-run=server",
    ]);
    command.args(["--set", "adapter.enabled=true", "--kube-token", cluster.administrator()]);
    command.args(["--kube-apiserver", &format!("https://127.0.0.1:{}", cluster.port()), "--kube-ca-file"]);
    // Not what the user of this machine has.
    command.arg(cluster.authority()).env("KUBECONFIG", "/dev/null");
    output(command.args(more))
}

#[test]
fn the_chart_takes_no_api_from_another_server() {
    let cluster = Cluster::start();
    cluster.create("/api/v1/namespaces", &json!({ "metadata": { "name": "podmeter" } }));
    let free = install(&cluster, &[]);
    assert!(free.status.success(), "{}", said(&free));

    let service = |namespace: &str, name: &str| {
        json!({"metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": {"namespace": namespace, "name": name}}})
    };
    const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
    cluster.create(SERVICES, &service("kube-system", "metrics-server"));
    let refused = install(&cluster, &[]);
    let words =
        "v1beta1.metrics.k8s.io is served by another in this cluster: the Service kube-system/metrics-server";
    assert!(!refused.status.success() && said(&refused).contains(words), "{}", said(&refused));
    let told = install(&cluster, &["--set", "adapter.takeOver=true", "--take-ownership"]);
    assert!(told.status.success(), "{}", said(&told));

    // Its own, as of an installation before, is nobody else's.
    cluster.delete(&format!("{SERVICES}/v1beta1.metrics.k8s.io"));
    cluster.create(SERVICES, &service("podmeter", "podmeter-adapter"));
    let own = install(&cluster, &["--take-ownership"]);
    assert!(own.status.success(), "{}", said(&own));
}
