//! Recording rules and alerts.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::{
    documented::{base, mentioned, metrics},
    files, path, read, yaml,
};

const RULES: &str = "deploy/prometheus/rules.yaml";
const OBJECT: &str = "deploy/kustomize/components/rules/prometheusrule.yaml";

/// Every rule.
fn rules() -> Vec<Value> {
    let groups = yaml(RULES).remove(0)["groups"].as_array().expect("groups").clone();
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

fn text<'a>(rule: &'a Value, key: &str) -> &'a str {
    rule[key].as_str().unwrap_or_else(|| panic!("no {key} in {rule}"))
}

#[test]
fn what_is_asked_for_exists() {
    let metrics = metrics();
    let mut asked = 0;
    let folders =
        [("deploy/prometheus", ".yaml"), ("deploy/dashboards", ".json"), ("deploy/autoscaling", ".yaml")];
    for file in folders.iter().flat_map(|(folder, ending)| files(folder, ending)) {
        for word in read(&file).lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(mentioned)
        {
            assert!(base(word, &metrics).is_some(), "{file} asks for {word}, which METRICS.md does not have");
            asked += 1;
        }
    }
    assert!(asked > 200, "{asked}");
}

#[test]
fn recorded_names_are_those_that_are_asked_for() {
    let rules = rules();
    let recorded: BTreeSet<_> = rules.iter().filter_map(|rule| rule["record"].as_str()).collect();
    let expressions = rules.iter().map(|rule| text(rule, "expr")).collect::<Vec<_>>().join("\n");
    let words = expressions.split(|char: char| !char.is_ascii_alphanumeric() && !"_:".contains(char));
    let asked: BTreeSet<_> = words.filter(|word| word.contains(':')).collect();
    assert!(asked.is_subset(&recorded), "{asked:?} {recorded:?}");
}

#[test]
fn each_alert_says_what_is_wrong_and_has_a_test_that_it_fires() {
    let tests = yaml("deploy/prometheus/rules_test.yaml").remove(0);
    let cases = tests["tests"].as_array().expect("tests").iter();
    let cases = cases.flat_map(|test| test["alert_rule_test"].as_array().cloned().unwrap_or_default());
    let fired: BTreeSet<_> = cases
        .filter(|case| case["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty()))
        .map(|case| text(&case, "alertname").to_owned())
        .collect();
    let alerts: Vec<_> = rules().into_iter().filter(|rule| rule["alert"].is_string()).collect();
    for alert in &alerts {
        let name = text(alert, "alert");
        assert!(fired.contains(name), "no test fires {name}");
        assert!(matches!(text(&alert["labels"], "severity"), "warning" | "critical"), "{name}");
        assert!(!text(&alert["annotations"], "summary").is_empty(), "{name}");
        assert!(!text(&alert["annotations"], "description").is_empty(), "{name}");
    }
    assert_eq!(alerts.len(), fired.len());
}

/// Alertmanager's routes and inhibitions name alerts by regular expressions that no program resolves.
#[test]
fn alertmanager_names_alerts_that_exist() {
    let rules = rules();
    let alerts: BTreeSet<_> = rules.iter().filter_map(|rule| rule["alert"].as_str()).collect();
    let config = read("deploy/prometheus/alertmanager.yml");
    let quoted = config.lines().filter_map(|line| line.split_once("alertname =")?.1.split('"').nth(1));
    let mut named = 0;
    for name in quoted {
        let names: Vec<_> = match name.strip_prefix("Podmeter(").and_then(|rest| rest.strip_suffix(')')) {
            Some(names) => names.split('|').map(|name| format!("Podmeter{name}")).collect(),
            None => vec![name.to_owned()],
        };
        for name in names {
            assert!(alerts.contains(name.as_str()), "{name}");
            named += 1;
        }
    }
    assert!(named > 10, "{named}");
}

/// kubectl wants the rules in an object; they are written once. `UPDATE_GOLDEN=1` makes the object anew.
#[test]
fn the_operators_object_has_the_rules() {
    let old = read(OBJECT);
    let (head, _) = old.split_once("\nspec:\n").expect("a spec");
    let body = read(RULES);
    let body: String = body
        .lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") })
        .collect();
    let new = format!("{head}\nspec:\n{body}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path(OBJECT), &new).expect("written");
    }
    assert!(
        read(OBJECT) == new,
        "{OBJECT} is stale: UPDATE_GOLDEN=1 cargo test -p podmeter-tests --test deploy"
    );
}
