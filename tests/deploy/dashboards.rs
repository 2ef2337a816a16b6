//! The dashboards, as far as Grafana takes anything: what it would show wrongly without a word is caught here.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{files, read, yaml};

const FOLDER: &str = "deploy/dashboards";

fn dashboards() -> Vec<(String, Value)> {
    let parse = |file: String| {
        let value = serde_json::from_str(&read(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        (file, value)
    };
    files(FOLDER, ".json").into_iter().map(parse).collect()
}

fn list<'a>(value: &'a Value, what: &str) -> &'a Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("no {what}"))
}

#[test]
fn variables_are_defined_before_they_are_used() {
    for (file, board) in dashboards() {
        let variables = list(&board["templating"]["list"], "variables");
        let mut known: BTreeSet<_> = ["__rate_interval", "__range", "__all"].into();
        let used = |text: &str| -> Vec<String> {
            let after = text.split('$').skip(1);
            let name = |text: &str| {
                let text = text.trim_start_matches('{');
                text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
                    .next()
                    .unwrap_or("")
                    .to_owned()
            };
            after.map(name).collect()
        };
        for variable in variables {
            for name in used(variable["query"]["query"].as_str().unwrap_or_default()) {
                assert!(known.contains(name.as_str()), "{file}: ${name} in a variable before it is one");
            }
            known.insert(variable["name"].as_str().expect("a name"));
        }
        for panel in list(&board["panels"], "panels") {
            for name in used(&panel.to_string()) {
                assert!(known.contains(name.as_str()), "{file}: ${name} in {}", panel["title"]);
            }
        }
    }
}

#[test]
fn panels_lie_side_by_side_and_say_what_they_show() {
    let mut identities = BTreeSet::new();
    for (file, board) in dashboards() {
        assert!(identities.insert(board["uid"].as_str().expect("an identity").to_owned()), "{file}: twice");
        assert_eq!(format!("{FOLDER}/{}.json", board["uid"].as_str().expect("text")), file);
        let (mut taken, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for panel in list(&board["panels"], "panels") {
            let title = panel["title"].as_str().expect("a title");
            assert!(numbers.insert(panel["id"].as_u64()), "{file}: {title} has the number of another");
            let at =
                |key: &str| panel["gridPos"][key].as_u64().unwrap_or_else(|| panic!("{title}: no {key}"));
            assert!(at("x") + at("w") <= 24, "{file}: {title} is out of the grid");
            for cell in
                (at("y")..at("y") + at("h")).flat_map(|y| (at("x")..at("x") + at("w")).map(move |x| (x, y)))
            {
                assert!(taken.insert(cell), "{file}: {title} lies on another");
            }
            if panel["type"] != "row" {
                assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{file}: {title} has no unit");
                let targets = list(&panel["targets"], "targets");
                assert!(!targets.is_empty(), "{file}: {title} shows nothing");
                let source = |value: &Value| value["datasource"]["uid"] == "${datasource}";
                assert!(
                    source(panel) && targets.iter().all(source),
                    "{file}: {title} has a data source of its own"
                );
            }
        }
    }
}

#[test]
fn every_dashboard_is_shipped() {
    let component = yaml("deploy/dashboards/kustomization.yaml").remove(0);
    let maps = list(&component["configMapGenerator"], "config maps");
    let shipped: BTreeSet<_> =
        maps.iter().map(|map| format!("{FOLDER}/{}", map["files"][0].as_str().expect("a file"))).collect();
    assert_eq!(shipped, files(FOLDER, ".json").into_iter().collect());
}
