//! What this kernel supports is what the table of `tests/vm/support.toml` says.

use std::collections::HashMap;

use exporter_ebpf::SIGNALS;
use podmeter_tests::{
    agent::Agent,
    support::{Place, tell},
};

/// Why each program is not attached, from the agent's log.
fn reasons(agent: &Agent) -> HashMap<String, String> {
    let lines = agent.log();
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let field = |line: &serde_json::Value, name: &str| Some(line.get(name)?.as_str()?.to_owned());
    lines.filter_map(|line| Some((field(&line, "program")?, field(&line, "reason")?))).collect()
}

#[test]
fn every_probe_is_in_the_state_that_the_table_has() {
    let place = Place::here();
    let agent = Agent::start(&[]);
    // A probe may turn out not to do what it should when it is first read.
    agent.scrape();
    let (scrape, reasons) = (agent.scrape(), reasons(&agent));
    let mut wrong = Vec::new();
    for signal in SIGNALS {
        for probe in signal.probes {
            let states = scrape.label_values("podmeter_probe_state", "state", &[("program", probe.program)]);
            let is = |state: &&String| {
                let labels = [("program", probe.program), ("state", state)];
                scrape.value("podmeter_probe_state", &labels) == Some(1.0)
            };
            let state = states.iter().find(is).map_or("none", |state| state);
            let reason = reasons.get(probe.program).map_or("", |reason| reason);
            tell(&format!("probe\t{}\t{}\t{state}\t{reason}", signal.name, probe.program));
            let exception = place.exception(probe.program);
            let wanted = exception.as_ref().map_or("attached", |row| &row.state);
            let because = exception.as_ref().map_or("", |row| &row.reason);
            if state != wanted || !reason.contains(because) {
                wrong.push(format!("{}: {state} ({reason}), expected {wanted} ({because})", probe.program));
            }
        }
    }
    assert!(wrong.is_empty(), "{place:?}:\n{}", wrong.join("\n"));
}
