//! Which names podmeter shares with the kubelet's cAdvisor, written once for each place that needs them: as one regular expression.

use std::collections::BTreeSet;

use podmeter::collector::cadvisor::{DIFFERENCES, MISSING};

use crate::{documented, read, yaml};

/// What cAdvisor 0.5x exports by the kubelet, of what podmeter could: the names of its documentation.
const CADVISOR: &str = include_str!("cadvisor.txt");

/// Where the expression stands.
const PLACES: [(&str, usize); 5] = [
    ("deploy/kustomize/components/monitor/servicemonitor.yaml", 1),
    ("deploy/kustomize/components/replace-cadvisor/kustomization.yaml", 2),
    ("deploy/helm/podmeter/templates/_helpers.tpl", 1),
    ("deploy/kube-prometheus/kubelet.patch.json", 1),
    ("deploy/kube-prometheus/values.yaml", 1),
];

fn expression() -> String {
    let monitor = yaml(PLACES[0].0).remove(0);
    let regex = &monitor["spec"]["endpoints"][0]["metricRelabelings"][0]["regex"];
    regex.as_str().expect("a regular expression").to_owned()
}

/// The names that an expression of names, groups, alternatives and `?` stands for.
fn expand(expression: &str) -> BTreeSet<String> {
    fn alternatives(rest: &mut &str) -> BTreeSet<String> {
        let (mut all, mut current) = (BTreeSet::new(), BTreeSet::from([String::new()]));
        while let Some(char) = rest.chars().next().filter(|char| *char != ')') {
            *rest = &rest[1..];
            match char {
                '|' => all.append(&mut std::mem::replace(&mut current, BTreeSet::from([String::new()]))),
                '(' => {
                    let mut group = alternatives(rest);
                    *rest = rest.strip_prefix(')').expect("the end of a group");
                    if let Some(after) = rest.strip_prefix('?') {
                        *rest = after;
                        group.insert(String::new());
                    }
                    current =
                        current.iter().flat_map(|a| group.iter().map(move |b| format!("{a}{b}"))).collect();
                }
                _ => current = current.iter().map(|name| format!("{name}{char}")).collect(),
            }
        }
        all.append(&mut current);
        all
    }
    alternatives(&mut &expression[..])
}

#[test]
fn the_expression_is_the_same_everywhere() {
    let expression = expression();
    for (file, times) in PLACES {
        assert_eq!(read(file).matches(&expression).count(), times, "{file}");
    }
}

/// Every metric that both have, and no other: one too few counts twice, one too many is nowhere.
#[test]
fn the_expression_has_the_names_that_both_have() {
    let cadvisor: BTreeSet<_> = CADVISOR.lines().map(str::to_owned).collect();
    let ours: BTreeSet<_> = documented::metrics().into_keys().collect();
    let both: BTreeSet<_> = ours.intersection(&cadvisor).cloned().collect();
    assert_eq!(expand(&expression()), both);
}

#[test]
fn an_expression_stands_for_its_names() {
    let names = |expression: &str| expand(expression).into_iter().collect::<Vec<_>>();
    assert_eq!(names("a_(b(_c)?|d)_e"), ["a_b_c_e", "a_b_e", "a_d_e"]);
    assert_eq!(names("a|b"), ["a", "b"]);
}

/// Nobody who replaces cAdvisor should have to guess: the page tells of each of its metrics, and of ours.
#[test]
fn the_page_says_of_each_metric_whose_it_is() {
    let page = read("deploy/README.md");
    let part = |from: &str, to: &str| -> BTreeSet<String> {
        let part = page.split_once(from).and_then(|(_, rest)| rest.split_once(to)).expect(from).0;
        // The first column: the second says what there is instead.
        let first = part
            .lines()
            .map(|line| line.strip_prefix("| ").map_or(line, |row| row.split(" | ").next().unwrap_or(row)));
        let first = first.collect::<Vec<_>>().join(" ");
        let names = first.split('`').skip(1).step_by(2).filter(|name| name.starts_with("container_"));
        names.map(str::to_owned).collect()
    };
    let cadvisor: BTreeSet<_> = CADVISOR.lines().map(str::to_owned).collect();
    let ours: BTreeSet<_> =
        documented::metrics().into_keys().filter(|name| name.starts_with("container_")).collect();
    let of = |set: &mut dyn Iterator<Item = &String>| set.cloned().collect::<BTreeSet<_>>();
    assert_eq!(
        part("\nWhat is taken over", "\nWhat podmeter does not"),
        of(&mut ours.intersection(&cadvisor))
    );
    assert_eq!(part("\nWhat podmeter does not", "\nWhat only podmeter"), of(&mut cadvisor.difference(&ours)));
    assert_eq!(part("\nWhat only podmeter", "\n## Rules"), of(&mut ours.difference(&cadvisor)));
}

/// And METRICS.md says why, of each that only cAdvisor has.
#[test]
fn the_metrics_that_only_cadvisor_has_are_listed_with_reasons() {
    let cadvisor: BTreeSet<_> = CADVISOR.lines().collect();
    let ours = documented::metrics();
    let lacking: BTreeSet<_> = cadvisor.into_iter().filter(|name| !ours.contains_key(*name)).collect();
    let listed = MISSING.iter().flat_map(|(names, _)| *names).copied();
    assert_eq!(listed.clone().collect::<BTreeSet<_>>(), lacking);
    assert_eq!(listed.count(), lacking.len(), "each once");
    for difference in DIFFERENCES {
        assert!(difference.metrics.iter().all(|name| ours.contains_key(*name)), "{difference:?}");
    }
}
