//! What this kernel supports is what the table of `tests/vm/support.toml` says.

use exporter_ebpf::SIGNALS;
use podmeter_tests::{
    agent::Agent,
    support::{Place, tell},
};

#[test]
fn every_probe_is_in_the_state_that_the_table_has() {
    let place = Place::here();
    let agent = Agent::start(&[]);
    // A probe may turn out not to do what it should when it is first read.
    agent.scrape();
    let scrape = agent.scrape();
    let mut wrong = Vec::new();
    for signal in SIGNALS {
        for probe in signal.probes {
            let (state, reason) = agent.verdict(&scrape, probe.program);
            tell(&format!("probe\t{}\t{}\t{state}\t{reason}", signal.name, probe.program));
            let expectation = place.expectation(probe.program);
            if !expectation.is_met_by(&state, &reason) {
                wrong.push(format!("{}: {state} ({reason}), expected {expectation:?}", probe.program));
            }
        }
    }
    assert!(wrong.is_empty(), "{place:?}:\n{}", wrong.join("\n"));
}
