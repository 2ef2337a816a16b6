//! The files as the programs that they are for check them.

use podmeter_tests::temp::TempDir;

use crate::{output, path, program, said, succeeds};

const RULES: &str = "deploy/prometheus/rules.yaml";

#[test]
fn promtool_takes_the_rules_and_their_tests_pass() {
    succeeds(program("PODMETER_PROMTOOL").args(["check", "rules", "--lint=all", "--lint-fatal", RULES]));
    succeeds(program("PODMETER_PROMTOOL").args(["test", "rules", "deploy/prometheus/rules_test.yaml"]));
}

/// A test that passes whatever the rules say would be none.
#[test]
fn the_tests_of_the_rules_notice_each_other_threshold() {
    let text = |name: &str| std::fs::read_to_string(path(name)).expect("ours");
    let rules = text(RULES);
    let tests = text("deploy/prometheus/rules_test.yaml");
    // 0.5 becomes 1000.5, and nothing is above that; 5m becomes 995m, and nothing lasts as long.
    let changes = [("> ", "> 100"), ("for: ", "for: 99")];
    let mut places = Vec::new();
    for (old, new) in changes {
        let places_of = rules
            .match_indices(old)
            .filter(|(at, _)| rules[at + old.len()..].starts_with(|char: char| char.is_ascii_digit()));
        places.extend(places_of.map(|(at, _)| (at, old, new)));
    }
    let mut noticed = 0;
    for (at, old, new) in places {
        let line = rules[..at].lines().last().unwrap_or_default();
        // A filter on what may be 0, and not a threshold.
        if line.contains("container_spec_memory_limit_bytes")
            || line.contains("or (container_oom_events_total")
        {
            continue;
        }
        let directory = TempDir::new("rules");
        directory.file("rules.yaml", format!("{}{new}{}", &rules[..at], &rules[at + old.len()..]));
        let file = directory.file("rules_test.yaml", &tests);
        let output = output(program("PODMETER_PROMTOOL").args(["test", "rules", &file]));
        assert!(!output.status.success(), "nobody notices {new} in: {line}");
        noticed += 1;
    }
    assert!(noticed > 20, "{noticed}");
}

#[test]
fn promtool_takes_the_configuration() {
    succeeds(program("PODMETER_PROMTOOL").args(["check", "config", "deploy/prometheus/prometheus.yml"]));
}

#[test]
fn amtool_takes_the_example_and_routes_each_alert() {
    const CONFIG: &str = "deploy/prometheus/alertmanager.yml";
    succeeds(program("PODMETER_AMTOOL").args(["check-config", CONFIG]));
    for (alert, receiver) in
        [("PodmeterSlowEndpoint", "team"), ("PodmeterOomKilled", "team"), ("PodmeterDown", "platform")]
    {
        let alert = format!("alertname={alert}");
        let arguments = ["config", "routes", "test", "--config.file", CONFIG, &alert];
        assert_eq!(succeeds(program("PODMETER_AMTOOL").args(arguments)).trim(), receiver, "{alert}");
    }
}

#[test]
fn helm_finds_nothing_wrong_with_the_chart() {
    succeeds(program("PODMETER_HELM").args(["lint", "--strict", "deploy/helm/podmeter"]));
}

/// What is mistyped is said, and not installed.
#[test]
fn helm_refuses_values_that_mean_nothing() {
    for (value, complaint) in [
        ("podSource=docker", "podSource"),
        ("port=70000", "port"),
        ("serviceMonitor.cadvisor=both", "cadvisor"),
        ("image.repository=", "repository"),
        ("env.MAX_CGROUPS=1", "MAX_CGROUPS"),
        ("resouces.limits.cpu=1", "resouces"),
    ] {
        let arguments = ["template", "podmeter", "deploy/helm/podmeter", "--set", value];
        let output = output(program("PODMETER_HELM").args(arguments));
        assert!(!output.status.success() && said(&output).contains(complaint), "{value}: {}", said(&output));
    }
}

/// A chart that is packed has what its links lead to.
#[test]
fn a_packed_chart_renders_as_its_folder_does() {
    let directory = TempDir::new("chart");
    let folder = directory.path().display().to_string();
    succeeds(program("PODMETER_HELM").args(["package", "deploy/helm/podmeter", "--destination", &folder]));
    let packed = format!("{folder}/podmeter-{}.tgz", env!("CARGO_PKG_VERSION"));
    let everything = "serviceMonitor.enabled=true,rules.enabled=true,dashboards.enabled=true";
    let render = |chart: &str| {
        succeeds(program("PODMETER_HELM").args(["template", "podmeter", chart, "--set", everything]))
    };
    let text = render(&packed);
    assert_eq!(text, render("deploy/helm/podmeter"));
    assert!(text.contains("PodmeterSlowEndpoint") && text.contains("podmeter-node.json"), "{text}");
}
