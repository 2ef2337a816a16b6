//! A real API server takes every object, field by field: as `kubectl apply --dry-run=server --validate=strict` asks it.

use std::fs;

use podmeter_tests::cluster::Cluster;
use serde_json::{Value, json};

use crate::{
    objects::parse,
    path, program,
    rendered::{helm, kustomize},
    succeeds,
};

/// Where objects of a kind are made.
pub(crate) fn place(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let group = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let plural = match kind.to_lowercase() {
        kind if kind.ends_with("policy") => kind.replace("policy", "policies"),
        kind => format!("{kind}s"),
    };
    match text(&object["metadata"]["namespace"]) {
        namespace if namespace.is_empty() => format!("{group}/{plural}"),
        namespace => format!("{group}/namespaces/{namespace}/{plural}"),
    }
}

/// A cluster with the definitions of what the operator of Prometheus, KEDA and the Vertical Pod Autoscaler add.
fn cluster() -> Cluster {
    let cluster = Cluster::start();
    cluster.create("/api/v1/namespaces", &json!({ "metadata": { "name": "podmeter" } }));
    let files = std::env::var("PODMETER_CRDS")
        .expect("`cargo xtask test` fetches definitions and sets PODMETER_CRDS to their paths");
    for file in files.split(':') {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        for object in parse(&text).values() {
            cluster.create(&place(object), object);
            let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
            let established = || {
                let (_, definition) = cluster.get(&format!("{}/{name}", place(object)));
                let conditions = definition["status"]["conditions"].as_array()?.clone();
                conditions
                    .iter()
                    .any(|one| one["type"] == "Established" && one["status"] == "True")
                    .then_some(())
            };
            podmeter_tests::wait::until(&name, established);
        }
    }
    cluster
}

/// What it says to an object that it is not to keep.
fn refusal(cluster: &Cluster, object: &Value) -> Option<String> {
    let path = format!("{}?dryRun=All&fieldValidation=Strict", place(object));
    // What is served a moment after its definition is established is asked for again.
    let (code, answer) = podmeter_tests::wait::until(&path, || {
        Some(cluster.ask("POST", &path, "application/json", Some(object))).filter(|(code, _)| *code != 404)
    });
    (code != 201)
        .then(|| format!("{} {}: {code} {}", object["kind"], object["metadata"]["name"], answer["message"]))
}

#[test]
fn the_api_server_takes_every_object() {
    let cluster = cluster();
    let everything = ["serviceMonitor.enabled=true", "rules.enabled=true", "dashboards.enabled=true"];
    let with = |more: &[&str]| helm(&[&everything[..], more].concat());
    let example =
        program("PODMETER_KUSTOMIZE").args(["build", "deploy/kustomize/examples/kube-prometheus"]).output();
    let example = parse(&String::from_utf8(example.expect("kustomize").stdout).expect("text"));
    let mut sets = vec![
        ("the base", kustomize(&[])),
        ("the example", example),
        ("the chart", with(&[])),
        ("TLS", with(&["tls.secretName=podmeter-tls", "auth=kubernetes", "serviceMonitor.cadvisor=replace"])),
        ("the kubelet", with(&["podSource=kubelet", "seLinuxOptions.type=spc_t"])),
        ("CRI", with(&["podSource=cri", "env.PODMETER_MAX_CGROUPS=8192", "imagePullSecrets[0].name=pull"])),
    ];
    let adapter = [
        "adapter.enabled=true",
        "adapter.source=prometheus=https://thanos.monitoring.svc",
        "adapter.keda.authority=keda",
    ];
    sets.push(("the adapter", with(&adapter)));
    let examples = fs::read_dir(path("deploy/autoscaling/adapter")).expect("ours").flatten();
    let mut examples: Vec<_> = examples.map(|file| file.path().display().to_string()).collect();
    examples.retain(|file| file.ends_with(".yaml"));
    assert!(examples.iter().any(|file| file.ends_with("/vpa.yaml")), "{examples:?}");
    for file in ["hpa", "keda-scaledobject"] {
        examples.push(path(&format!("deploy/autoscaling/{file}.yaml")).display().to_string());
    }
    for file in &examples {
        sets.push((file.as_str(), parse(&fs::read_to_string(file).expect("ours"))));
    }
    let refused: Vec<_> = sets
        .iter()
        .flat_map(|(set, objects)| objects.values().map(move |object| (set, object)))
        // It is there.
        .filter(|(_, object)| object["kind"] != "Namespace")
        .filter_map(|(set, object)| Some(format!("{set}: {}", refusal(&cluster, object)?)))
        .collect();
    assert_eq!(refused, Vec::<String>::new());
    // And it looks at what it is given.
    let mut wrong = kustomize(&[])[&("DaemonSet".to_owned(), "podmeter".to_owned())].clone();
    wrong["spec"]["template"]["spec"]["containers"][0]["resource"] = json!({});
    assert!(refusal(&cluster, &wrong).is_some_and(|said| said.contains("unknown field")));
}

/// kubectl itself, where there is one, on the example as a whole.
#[test]
fn kubectl_builds_the_example_as_kustomize_does() {
    let Ok(kubectl) = std::process::Command::new("kubectl")
        .current_dir(path(""))
        .args(["kustomize", "deploy/kustomize/examples/kube-prometheus"])
        .output()
    else {
        println!("SKIPPED: there is no kubectl here");
        return;
    };
    let of_kustomize =
        succeeds(program("PODMETER_KUSTOMIZE").args(["build", "deploy/kustomize/examples/kube-prometheus"]));
    assert_eq!(parse(&String::from_utf8(kubectl.stdout).expect("text")), parse(&of_kustomize));
}
