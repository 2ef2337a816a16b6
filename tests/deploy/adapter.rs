//! The adapter's manifests and examples: they name what it has.

use std::{collections::BTreeSet, time::Duration};

use clap::CommandFactory as _;
use podmeter::{
    adapter::{ask::GROUPS, configured, metric::Metrics},
    config::Cli,
};
use serde_json::{Value, json};

use crate::{files, read, yaml};

const FOLDER: &str = "deploy/kustomize/adapter";

fn one(file: &str) -> Value {
    yaml(&format!("{FOLDER}/{file}")).remove(0)
}

#[test]
fn the_adapter_knows_each_variable_that_it_is_given_and_has_no_rights() {
    let cli = Cli::command();
    let adapter = cli.find_subcommand("adapter").expect("the adapter");
    let known = adapter.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
    let known: BTreeSet<_> = known.collect();
    let pod = one("deployment.yaml")["spec"]["template"]["spec"].clone();
    let container = &pod["containers"][0];
    for variable in container["env"].as_array().expect("variables") {
        let name = variable["name"].as_str().expect("a name");
        assert!(known.contains(name), "the adapter does not know {name}: {known:?}");
    }
    assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let kustomization = one("kustomization.yaml");
    assert_eq!(kustomization["images"][0]["newTag"], env!("CARGO_PKG_VERSION"));
    let resources = kustomization["resources"].as_array().expect("a list").iter();
    let listed: BTreeSet<_> = resources.map(|name| name.as_str().expect("a name").to_owned()).collect();
    let names =
        files(FOLDER, ".yaml").into_iter().filter_map(|name| Some(name.rsplit_once('/')?.1.to_owned()));
    let there: BTreeSet<_> = names.filter(|name| name != "kustomization.yaml").collect();
    assert_eq!(listed, there);
}

#[test]
fn each_version_of_each_group_is_registered_and_may_be_changed() {
    let served: BTreeSet<String> = GROUPS
        .iter()
        .flat_map(|(group, versions)| {
            versions.iter().map(|version| format!("{version}.{group}")).collect::<Vec<_>>()
        })
        .collect();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let services = yaml(&format!("{FOLDER}/apiservices.yaml"));
    assert_eq!(
        services.iter().map(|service| text(&service["metadata"]["name"])).collect::<BTreeSet<_>>(),
        served
    );
    for service in &services {
        let spec = &service["spec"];
        assert_eq!(
            text(&service["metadata"]["name"]),
            format!("{}.{}", text(&spec["version"]), text(&spec["group"]))
        );
        assert_eq!(spec["insecureSkipTLSVerify"], Value::Null, "the adapter says whom to trust");
    }
    // Of a group's versions the one that clients are to prefer comes first.
    let priority = |name: &str| {
        let found = services.iter().find(|service| service["metadata"]["name"] == name);
        found.and_then(|service| service["spec"]["versionPriority"].as_u64()).expect("a priority")
    };
    assert!(priority("v1beta2.custom.metrics.k8s.io") > priority("v1beta1.custom.metrics.k8s.io"));
    let rules = yaml(&format!("{FOLDER}/rbac.yaml")).remove(0)["rules"].clone();
    let rule =
        rules.as_array().expect("rules").iter().find(|rule| rule["resources"] == json!(["apiservices"]));
    let names = rule.expect("a rule")["resourceNames"].as_array().expect("names").iter().map(text);
    assert_eq!(names.collect::<BTreeSet<_>>(), served);
}

#[test]
fn the_examples_name_metrics_that_there_are_and_the_page_has_all() {
    const EXAMPLES: &str = "deploy/autoscaling/adapter";
    let metrics = Metrics::new(Duration::from_secs(15)).expect("metrics");
    let mut named = BTreeSet::new();
    for file in files(EXAMPLES, ".yaml") {
        let object = yaml(&file).remove(0);
        for metric in object["spec"]["metrics"].as_array().into_iter().flatten() {
            let kind = metric["type"].as_str().expect("a type").to_lowercase();
            if let Some(name) = metric[&kind]["metric"]["name"].as_str() {
                assert!(metrics.find(name).is_some(), "{file}: {name}");
                named.insert(name.to_owned());
            }
        }
    }
    assert!(named.len() >= 3, "{named:?}");
    let page = read(&format!("{EXAMPLES}/README.md"));
    for metric in metrics.all() {
        // Of the quantiles the page has one name, and how the others differ.
        let is_quantile =
            ["p90", "p99"].iter().any(|quantile| metric.name.contains(&format!("_{quantile}_")));
        assert!(is_quantile || page.contains(&format!("`{}`", metric.name)), "{}", metric.name);
    }
}

/// What the page and the component have as metrics of one's own.
#[test]
fn the_examples_of_queries_are_queries() {
    let page = read("deploy/autoscaling/adapter/README.md");
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    let of_page: Vec<_> = blocks.filter(|block| block.starts_with("metrics:")).map(str::to_owned).collect();
    assert_eq!(of_page.len(), 1, "the page has metrics");
    let component = read("deploy/kustomize/components/adapter-metrics/metrics.yaml");
    for text in of_page.iter().chain([&component]) {
        let mut metrics = Metrics::new(Duration::from_secs(15)).expect("metrics");
        let own = metrics.all().len();
        configured::add(text, &mut metrics).expect("metrics");
        assert!(metrics.all().len() > own, "there are some");
    }
    for series in podmeter::adapter::query::series::all() {
        assert!(page.contains(&format!("`{}`", series.name())), "the page has {}", series.name());
    }
}
