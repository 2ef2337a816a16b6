//! The log has what the configurations of Fluent Bit and Fluentd look for.

use std::fs;

use podmeter_tests::agent::Agent;
use serde_json::Value;

use crate::path;

#[test]
fn each_line_of_the_log_has_the_keys_that_are_looked_for() {
    // Of the levels that are kept there is a line too: a signal is missing where nothing is that it could read.
    let agent = Agent::start(&["--signals", "cpu", "--cgroupfs", "/nonexistent"]);
    agent.scrape();
    let lines = agent.log();
    let text = |name: &str| fs::read_to_string(path("deploy/logs").join(name)).expect("ours");
    let (bit, fluentd) = (text("fluent-bit.yaml"), text("fluentd.conf"));
    assert!(bit.contains("time_key: timestamp\n") && fluentd.contains("time_key timestamp\n"));
    assert!(
        bit.contains("regex: level ^(error|warn)$\n")
            && fluentd.contains("key level\n    pattern /^(error|warn)$/\n")
    );
    let lines: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str(line).expect("a JSON object per line")).collect();
    for line in &lines {
        // As `%Y-%m-%dT%H:%M:%S.%LZ` reads it.
        let time = line["timestamp"].as_str().expect("a time");
        let shape: String = time.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect();
        assert!(shape.starts_with("0000-00-00T00:00:00.0") && shape.ends_with("0Z"), "{time}");
        assert!(line["message"].is_string(), "{line}");
    }
    let kept = lines.iter().filter(|line| line["level"] == "error" || line["level"] == "warn").count();
    assert!(kept > 0 && kept < lines.len(), "{lines:?}");
}
