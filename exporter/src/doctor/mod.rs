//! `podmeter doctor`: what this kernel and these privileges allow, signal by signal, found by doing what the agent does.

pub mod container;
pub mod machine;
pub mod report;
pub mod signal;
pub mod sockets;

use std::process::ExitCode;

use serde_json::json;

use self::{
    container::Explanation,
    machine::Machine,
    signal::{Health, Judgement},
};
use crate::{agent, config::Doctor};

/// What a script learns from the exit code. 1 and 2 are the doctor's own failure and a mistake on the command line, as of the
/// other commands.
mod code {
    /// Every signal that is wanted works, or the container has request data.
    pub(super) const WELL: u8 = 0;
    /// The doctor could not find out.
    pub(super) const FAILURE: u8 = 1;
    /// At least one signal is degraded, none is missing.
    pub(super) const DEGRADED: u8 = 3;
    /// At least one signal cannot be had.
    pub(super) const CANNOT: u8 = 4;
    /// The container has no request data.
    pub(super) const NO_REQUESTS: u8 = 5;
}

/// What `podmeter doctor --help` says of the exit codes.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  every wanted signal works; with --container: it has request data
  1  the doctor itself failed, for instance because no agent answers for --container
  2  a mistake on the command line
  3  at least one signal is degraded, and none is missing
  4  at least one signal cannot be had
  5  with --container: it has no request data, and the reasons are given";

/// Runs it, and prints what it finds.
pub fn run(config: &Doctor) -> ExitCode {
    let result = match &config.container {
        Some(name) => explain(config, name),
        None => Ok(examine(config)),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(code::FAILURE)
        }
    }
}

/// The machine and every signal. What it attaches is detached again when this returns.
fn examine(config: &Doctor) -> u8 {
    let machine = Machine::read(&config.agent);
    let mut registry = agent::build(&config.agent);
    // What attaches may still turn out not to do what it should when it is first read.
    drop(registry.gather());
    let judgements = signal::judge(&registry, &machine);
    drop(registry);
    if config.json {
        let signals: Vec<_> = judgements.iter().map(Judgement::json).collect();
        println!("{:#}", json!({ "machine": machine.json(), "signals": signals }));
    } else {
        print!("{}", report::machine(&machine) + "\n" + &report::signals(&judgements));
    }
    exit_code(&judgements)
}

fn exit_code(judgements: &[Judgement]) -> u8 {
    let has = |health| judgements.iter().any(|judgement| judgement.health == health);
    match (has(Health::Cannot), has(Health::Degraded)) {
        (true, _) => code::CANNOT,
        (_, true) => code::DEGRADED,
        _ => code::WELL,
    }
}

/// Why a container has no request data, by what the running agent says and the container's sockets.
fn explain(config: &Doctor, name: &str) -> anyhow::Result<u8> {
    let scrape = container::scrape(config.agent.listen)?;
    let explanation = Explanation::of(name, &scrape, &config.agent)?;
    if config.json {
        println!("{:#}", explanation.json());
    } else {
        print!("{}", report::container(&explanation));
    }
    Ok(if explanation.has_requests() { code::WELL } else { code::NO_REQUESTS })
}
