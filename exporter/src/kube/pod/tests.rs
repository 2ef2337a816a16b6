use serde_json::json;

use super::*;

fn pod(value: serde_json::Value) -> Pod {
    serde_json::from_value::<Manifest>(value).unwrap().into()
}

#[test]
fn every_kind_of_container_is_told_apart() {
    let id = |digit: &str| format!("containerd://{}", digit.repeat(64));
    let pod = pod(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1", "unknown": [1], "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {
            "initContainers": [{"name": "setup", "image": "a"}, {"name": "proxy", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "app:1", "resources": {
                "requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}}],
            "ephemeralContainers": [{"name": "debug"}]},
        "status": {
            "initContainerStatuses": [{"name": "setup", "containerID": id("1")}, {"name": "proxy", "containerID": id("2")}],
            "containerStatuses": [{"name": "app", "image": "registry/app:1", "containerID": id("4"),
                "lastState": {"terminated": {"containerID": id("3"), "exitCode": 1}}}],
            "ephemeralContainerStatuses": [{"name": "debug", "containerID": id("5"), "lastState": {}}]}
    }));
    let found = |digit: &str| pod.container(&digit.repeat(64)).map(|found| (found.name.as_str(), found.kind));
    assert_eq!(found("1"), Some(("setup", ContainerKind::Init)));
    assert_eq!(found("2"), Some(("proxy", ContainerKind::Sidecar)));
    assert_eq!(found("3"), Some(("app", ContainerKind::Regular)), "the run before");
    assert_eq!(found("4"), found("3"));
    assert_eq!(found("5"), Some(("debug", ContainerKind::Ephemeral)));
    assert_eq!(found("6"), None, "the pause container, as far as the API goes");
    let app = pod.container(&"4".repeat(64)).unwrap();
    assert_eq!(app.image, "registry/app:1", "as the runtime calls it");
    assert_eq!(app.requests, Resources { cpu: Some(0.25), memory: Some(67_108_864.0) });
    assert_eq!(app.limits, Resources { cpu: None, memory: Some(134_217_728.0) });
    assert_eq!((&*pod.cgroup_uid, &*pod.namespace, &*pod.name), ("u-1", "shop", "web-1"));
    assert_eq!(pod.created, Some(1_767_323_045));
}

#[test]
fn a_pod_that_does_not_run_yet_has_no_ids() {
    let pod = pod(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
        "status": {"containerStatuses": [{"name": "c", "image": "i", "state": {"waiting": {}}}]}
    }));
    assert_eq!(pod.containers[0].ids, Vec::<String>::new());
}

#[test]
fn a_static_pod_has_the_uid_of_its_configuration_in_its_paths() {
    let hash = "0123456789abcdef0123456789abcdef";
    let pod = pod(
        json!({"metadata": {"name": "etcd-node1", "namespace": "kube-system", "uid": "mirror", "creationTimestamp": null,
        "annotations": {"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash}}}),
    );
    assert_eq!((&*pod.uid, &*pod.cgroup_uid), ("mirror", hash));
}

#[test]
fn the_deployment_is_in_the_name_of_its_replica_set() {
    let owner = |kind: &str, name: &str, labels: serde_json::Value| {
        let owners =
            json!([{"kind": "Other", "name": "x"}, {"kind": kind, "name": name, "controller": true}]);
        pod(json!({"metadata": {"name": "p", "labels": labels, "ownerReferences": owners}})).owner
    };
    let pair = |kind: &str, name: &str| Some((kind.to_owned(), name.to_owned()));
    let hash = json!({"pod-template-hash": "5d4f8c7b9"});
    assert_eq!(owner("ReplicaSet", "web-5d4f8c7b9", hash.clone()), pair("Deployment", "web"));
    assert_eq!(owner("ReplicaSet", "web", json!({})), pair("ReplicaSet", "web"), "of its own");
    assert_eq!(owner("StatefulSet", "db", hash), pair("StatefulSet", "db"));
}
