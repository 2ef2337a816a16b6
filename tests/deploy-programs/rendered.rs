//! Helm's chart and kustomize's base say the same.

use std::fs;

use podmeter_tests::temp::TempDir;
use serde_json::{Value, json};

use crate::{
    objects::{Objects, differences, parse, without},
    path, program, succeeds,
};

/// What only one of the two puts on objects: the chart may be installed twice, and says what installed it.
const OF_HELM: [&str; 4] = [
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
];

pub(crate) fn helm(values: &[&str]) -> Objects {
    let mut command = program("PODMETER_HELM");
    command.args(["template", "podmeter", "deploy/helm/podmeter", "--namespace", "podmeter"]);
    for value in values {
        command.args(["--set", value]);
    }
    let mut objects = parse(&succeeds(&mut command));
    objects.values_mut().for_each(|object| without(object, &OF_HELM));
    objects
}

/// What kustomize makes of these components on the base.
pub(crate) fn kustomize(components: &[&str]) -> Objects {
    kustomize_with(&[], components)
}

/// The same, on the base and other resources.
fn kustomize_with(resources: &[&str], components: &[&str]) -> Objects {
    let directory = TempDir::new("kustomize");
    // It takes no absolute path.
    let up = "../".repeat(directory.path().components().count() - 1);
    let place = |name: &str| format!("{}{}", up, path(name).display().to_string().trim_start_matches('/'));
    let list = |names: &[&str]| names.iter().map(|name| format!("  - {}\n", place(name))).collect::<String>();
    let resources = [&["deploy/kustomize/base"], resources].concat();
    directory.file(
        "kustomization.yaml",
        format!("resources:\n{}components:\n{}", list(&resources), list(components)),
    );
    let text = succeeds(program("PODMETER_KUSTOMIZE").arg("build").arg(directory.path()));
    let mut objects = parse(&text);
    // Helm makes it itself: --create-namespace.
    assert!(objects.remove(&("Namespace".into(), "podmeter".into())).is_some());
    objects
}

fn assert_same(of_helm: &Objects, of_kustomize: &Objects) {
    let keys = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(of_helm), keys(of_kustomize));
    let mut found = Vec::new();
    for (key, object) in of_helm {
        differences(object, &of_kustomize[key], &format!("{} {}", key.0, key.1), &mut found);
    }
    assert!(found.is_empty(), "helm and kustomize differ:\n{}", found.join("\n"));
}

#[test]
fn the_base_is_the_chart_as_it_comes() {
    let (of_helm, of_kustomize) = (helm(&[]), kustomize(&[]));
    assert_eq!(of_helm.len(), 6, "{:?}", of_helm.keys());
    assert_same(&of_helm, &of_kustomize);
}

#[test]
fn the_components_are_the_charts_switches() {
    let all = ["serviceMonitor.enabled=true", "rules.enabled=true", "dashboards.enabled=true"];
    let components =
        ["deploy/kustomize/components/monitor", "deploy/kustomize/components/rules", "deploy/dashboards"];
    assert_same(&helm(&all), &kustomize(&components));
    let replace = [&all[..], &["serviceMonitor.cadvisor=replace"]].concat();
    let components = [&components[..], &["deploy/kustomize/components/replace-cadvisor"]].concat();
    assert_same(&helm(&replace), &kustomize(&components));
}

#[test]
fn tls_and_tokens_are_the_charts_switches_too() {
    let values = ["serviceMonitor.enabled=true", "tls.secretName=podmeter-tls", "auth=kubernetes"];
    let components = ["deploy/kustomize/components/monitor", "deploy/kustomize/components/secure-metrics"];
    assert_same(&helm(&values), &kustomize(&components));
}

#[test]
fn the_adapter_is_the_charts_too() {
    let adapter = ["deploy/kustomize/adapter"];
    assert_same(&helm(&["adapter.enabled=true"]), &kustomize_with(&adapter, &[]));
    let values = [
        "adapter.enabled=true",
        "adapter.source=prometheus=http://prometheus-k8s.monitoring.svc:9090",
        "adapter.env.PODMETER_ADAPTER_WINDOW=60",
    ];
    let component = ["deploy/kustomize/components/adapter-prometheus"];
    assert_same(&helm(&values), &kustomize_with(&adapter, &component));
    let values = [
        "adapter.enabled=true",
        "adapter.upstream.url=https://prometheus-adapter.monitoring.svc",
        "adapter.upstream.authority=podmeter-adapter-upstream",
    ];
    let component = ["deploy/kustomize/components/adapter-upstream"];
    assert_same(&helm(&values), &kustomize_with(&adapter, &component));
    let values = ["adapter.enabled=true", "adapter.keda.authority=podmeter-adapter-keda"];
    let component = ["deploy/kustomize/components/adapter-keda"];
    assert_same(&helm(&values), &kustomize_with(&adapter, &component));
}

/// The metrics of a component are the chart's values; where a name ends with a checksum, the other has that as an annotation.
#[test]
fn metrics_of_ones_own_are_the_charts_too() {
    const COMPONENT: &str = "deploy/kustomize/components/adapter-metrics";
    let text = fs::read_to_string(path(COMPONENT).join("metrics.yaml")).expect("metrics");
    let metrics: Value = serde_yaml_ng::from_str(&text).expect("YAML");
    let values = json!({"adapter": {"enabled": true, "metrics": metrics["metrics"]}});
    let directory = TempDir::new("values");
    directory.file("values.yaml", values.to_string());
    let mut command = program("PODMETER_HELM");
    command.args(["template", "podmeter", "deploy/helm/podmeter", "--namespace", "podmeter", "--values"]);
    let mut of_helm = parse(&succeeds(command.arg(directory.path().join("values.yaml"))));
    of_helm.values_mut().for_each(|object| without(object, &OF_HELM));
    let mut of_kustomize = kustomize_with(&["deploy/kustomize/adapter"], &[COMPONENT]);

    let deployment = ("Deployment".to_owned(), "podmeter-adapter".to_owned());
    let template =
        |objects: &mut Objects| objects.get_mut(&deployment).expect("it")["spec"]["template"].take();
    let (mut one, mut other) = (template(&mut of_helm), template(&mut of_kustomize));
    let checksum = one["metadata"]["annotations"].take();
    assert!(checksum["checksum/metrics"].is_string(), "{checksum}");
    let volume = other["spec"]["volumes"][0]["configMap"]["name"].take();
    let name = volume.as_str().expect("a name").to_owned();
    assert_eq!(name.rsplit_once('-').map(|(before, _)| before), Some("podmeter-adapter-metrics"));
    let own = one["spec"]["volumes"][0]["configMap"]["name"].take();
    assert_eq!(own, "podmeter-adapter-metrics");
    let mut found = Vec::new();
    differences(&one, &other, "Deployment.spec.template", &mut found);
    assert!(found.is_empty(), "{found:?}");

    let map = |objects: &mut Objects, name: &str| {
        let mut map = objects.remove(&("ConfigMap".to_owned(), name.to_owned())).expect("it");
        let text = map["data"]["metrics.yaml"].take();
        let told: Value = serde_yaml_ng::from_str(text.as_str().expect("text")).expect("YAML");
        assert_eq!(told, metrics);
        map["metadata"]["name"].take();
        map
    };
    assert_eq!(map(&mut of_helm, "podmeter-adapter-metrics"), map(&mut of_kustomize, &name));
    assert_same(&of_helm, &of_kustomize);
}

/// Whatever is put together: a workload's pods are those that it selects, and of the two no other's.
#[test]
fn everything_together_selects_its_own() {
    let components = [
        "monitor",
        "rules",
        "replace-cadvisor",
        "secure-metrics",
        "adapter-prometheus",
        "adapter-upstream",
        "adapter-metrics",
        "adapter-keda",
    ];
    let components = components.map(|name| format!("deploy/kustomize/components/{name}"));
    let components: Vec<_> = components.iter().map(String::as_str).collect();
    let objects = kustomize_with(&["deploy/kustomize/adapter"], &components);
    for (kind, name) in [("DaemonSet", "podmeter"), ("Deployment", "podmeter-adapter")] {
        let object = &objects[&(kind.to_owned(), name.to_owned())];
        let key = "app.kubernetes.io/name";
        assert_eq!(object["spec"]["selector"]["matchLabels"][key], name);
        assert_eq!(object["spec"]["template"]["metadata"]["labels"][key], name);
        assert_eq!(object["metadata"]["labels"][key], name);
        let volumes = object["spec"]["template"]["spec"]["volumes"].as_array().expect("a list");
        let has = |wanted: &str| volumes.iter().any(|volume| volume["name"] == wanted);
        assert!(
            name == "podmeter" || ["upstream", "metrics", "keda"].iter().all(|wanted| has(wanted)),
            "{volumes:?}"
        );
        let service = &objects[&("Service".to_owned(), name.to_owned())];
        assert_eq!(service["spec"]["selector"][key], name);
    }
}

/// Another source of pods' names takes another right, or none.
#[test]
fn the_rights_are_those_of_the_pod_source() {
    let role = |source: &str| {
        let objects = helm(&[&format!("podSource={source}")]);
        objects.get(&("ClusterRole".to_owned(), "podmeter".to_owned())).map(|role| role["rules"][0].clone())
    };
    assert_eq!(role("api").map(|rule| rule["resources"][0].clone()), Some("pods".into()));
    assert_eq!(role("kubelet").map(|rule| rule["resources"][0].clone()), Some("nodes/pods".into()));
    assert_eq!((role("cri"), role("none")), (None, None));
}

/// A second release beside the first selects only its own pods.
#[test]
fn another_release_selects_its_own() {
    let mut command = program("PODMETER_HELM");
    command.args(["template", "canary", "deploy/helm/podmeter", "--set", "serviceMonitor.enabled=true"]);
    let objects = parse(&succeeds(&mut command));
    let of = |kind: &str| &objects[&(kind.to_owned(), "canary-podmeter".to_owned())];
    let instance = |value: &serde_json::Value| assert_eq!(value["app.kubernetes.io/instance"], "canary");
    instance(&of("DaemonSet")["spec"]["selector"]["matchLabels"]);
    instance(&of("DaemonSet")["spec"]["template"]["metadata"]["labels"]);
    instance(&of("Service")["spec"]["selector"]);
    instance(&of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]);
    instance(&of("ServiceMonitor")["spec"]["selector"]["matchLabels"]);
    assert_eq!(of("ClusterRoleBinding")["subjects"][0]["name"], "canary-podmeter");
}

#[test]
fn the_examples_build() {
    let text =
        succeeds(program("PODMETER_KUSTOMIZE").args(["build", "deploy/kustomize/examples/kube-prometheus"]));
    let objects = parse(&text);
    for (kind, name) in
        [("DaemonSet", "podmeter"), ("ServiceMonitor", "podmeter"), ("Role", "prometheus-k8s")]
    {
        assert!(objects.contains_key(&(kind.to_owned(), name.to_owned())), "{kind} {name}");
    }
}
