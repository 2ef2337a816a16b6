//! What goes to Kubernetes: the agent's rights, flags and versions.

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use podmeter::config::Cli;
use serde_json::{Value, json};

use crate::{read, yaml};

fn daemonset() -> Value {
    yaml("deploy/kustomize/base/daemonset.yaml").remove(0)
}

fn container() -> Value {
    daemonset()["spec"]["template"]["spec"]["containers"][0].clone()
}

/// The environment variables that the agent reads.
fn variables() -> BTreeSet<String> {
    let cli = Cli::command();
    let agent = cli.find_subcommand("agent").expect("the agent");
    let named = agent.get_arguments().filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()));
    named.collect()
}

#[test]
fn the_agent_knows_each_variable_that_it_is_given() {
    let known = variables();
    for variable in container()["env"].as_array().expect("variables") {
        let name = variable["name"].as_str().expect("a name");
        assert!(known.contains(name), "the agent does not know {name}: {known:?}");
    }
}

/// The unit of systemd and the DaemonSet name the same rights, but for one: see deploy/README.md.
#[test]
fn the_agent_has_the_rights_that_it_needs_and_no_other() {
    let context = &container()["securityContext"];
    assert_eq!(context["capabilities"], json!({ "drop": ["ALL"], "add": ["BPF", "PERFMON", "NET_ADMIN"] }));
    let unit = read("deploy/podmeter.service");
    let line =
        unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a bounding set");
    let of_unit: Vec<_> = line.split(' ').map(|name| name.trim_start_matches("CAP_")).collect();
    assert_eq!(of_unit, ["BPF", "PERFMON", "NET_ADMIN", "DAC_READ_SEARCH"]);
    assert_eq!(
        (&context["privileged"], &context["allowPrivilegeEscalation"], &context["readOnlyRootFilesystem"]),
        (&json!(false), &json!(false), &json!(true))
    );
    let pod = daemonset()["spec"]["template"]["spec"].clone();
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["hostPID"], true, "or connections from before the agent are not found");
    for namespace in ["hostNetwork", "hostIPC"] {
        assert_eq!(pod[namespace], Value::Null, "{namespace}");
    }
    let mounts = container()["volumeMounts"].as_array().expect("mounts").clone();
    assert!(mounts.iter().all(|mount| mount["readOnly"] == true), "{mounts:?}");
    assert_eq!(mounts.len(), pod["volumes"].as_array().expect("volumes").len());
}

#[test]
fn the_version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = yaml("deploy/helm/podmeter/Chart.yaml").remove(0);
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(version), &json!(version)));
    let base = yaml("deploy/kustomize/base/kustomization.yaml").remove(0);
    assert_eq!(base["images"][0]["newTag"], version);
}

/// A value without a word in the schema would be refused, one without a default would be found by nobody.
#[test]
fn the_charts_schema_has_the_values_and_no_others() {
    fn same(values: &Value, schema: &Value, at: &str) {
        let (Some(values), Some(properties)) = (values.as_object(), schema["properties"].as_object()) else {
            return;
        };
        let known: BTreeSet<_> = properties.keys().filter(|key| *key != "global").collect();
        let own: BTreeSet<_> = values.keys().collect();
        // Options that are off by default.
        if own.is_empty() {
            return;
        }
        // What is passed on as it is has a schema of Kubernetes' own.
        if schema["additionalProperties"] == false {
            assert_eq!(own, known, "{at}");
        }
        for (key, value) in values {
            same(value, properties.get(key).unwrap_or(&Value::Null), &format!("{at}.{key}"));
        }
    }
    let values = yaml("deploy/helm/podmeter/values.yaml").remove(0);
    let schema: Value =
        serde_json::from_str(&read("deploy/helm/podmeter/values.schema.json")).expect("a schema");
    same(&values, &schema, "");
}
