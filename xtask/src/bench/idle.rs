//! The agent's CPU time while nobody scrapes, with 200 containers that sleep.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    CONTAINERS, Effort,
    agent::Agent,
    container::Containers,
    machine::pause,
    report::{Report, Samples},
};

/// Measures.
pub(super) fn run(podmeter: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    eprintln!("idle: starting {CONTAINERS} containers");
    let mut containers = Containers::new()?;
    containers.fill(CONTAINERS)?;
    let agent = Agent::start(podmeter)?;
    // After a scrape, as it is in use, and when what that started has ended.
    agent.complete(&containers)?;
    pause(Duration::from_secs(2))?;
    let (mut share, mut per_minute) = (Samples::default(), Samples::default());
    for round in 0..effort.rounds {
        let (start, before) = (Instant::now(), agent.cpu()?);
        pause(Duration::from_secs(effort.seconds.into()))?;
        let of_one = (agent.cpu()? - before).as_secs_f64() / start.elapsed().as_secs_f64();
        eprintln!("idle, round {} of {}: {:.4} % of a core", round + 1, effort.rounds, of_one * 100.0);
        share.push(of_one * 100.0);
        per_minute.push(of_one * 60.0);
    }
    report.row(
        "idle with 200 containers: CPU, of one core",
        share.show(3, "%"),
        "< 0.33 %",
        "cAdvisor 3.0 %, rezolus 3.8 %, coroot 2.5 %",
    );
    report.row(
        "the same, per minute",
        per_minute.show(4, "s"),
        "< 0.2 s",
        "cAdvisor 1.82 s, rezolus 2.28 s, coroot 1.48 s",
    );
    report.note(format!(
        "Idle: no scrapes; medians of {} windows of {} s (range).",
        effort.rounds, effort.seconds
    ));
    agent.stop()
}
