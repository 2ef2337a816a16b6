//! `cargo xtask bench`: what podmeter costs on this machine, beside what it aims at and what its peers cost.
//!
//! Method: each figure is the median over rounds, with the lowest and the highest. Rounds interleave what they compare, in
//! an order that changes, because a machine drifts; where podmeter is compared with nothing, a process that does nothing is
//! compared as well, to show what the noise is. Everything is on loopback, bounded in time, and removed in the end.
//!
//! This depends on no package of ours, so that `cargo xtask ebpf` compiles when podmeter does not.

mod agent;
mod beside;
mod container;
mod empty;
mod idle;
mod load;
mod machine;
mod minimal;
mod nginx;
mod packets;
mod programs;
mod report;
mod requests;
mod scrape;
mod sys;
mod traffic;
mod transfer;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    command::{find, is_root},
    install,
};
use report::Report;
use traffic::Kind;

/// Measure what podmeter costs here: run time of its programs, throughput of nginx, scrapes, idling.
///
/// Needs root and two CPUs. Builds podmeter for release, and starts and stops it as it measures. Meanwhile other work on
/// the machine is noise in the figures: the background load is measured first, and printed with them.
#[derive(Args)]
pub(crate) struct Options {
    /// What to measure.
    #[arg(value_enum, default_value_t = What::All)]
    what: What,
    /// How many rounds; figures are medians over them [default: programs 5, packets 5, nginx 8, transfer 4,
    /// scrape 5, idle 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How long each load runs in a round, in seconds [default: programs 2, packets 1, nginx 4, transfer 10, idle
    /// 20].
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// How many requests the load has, at least.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    requests: u64,
    /// What the requests are whose throughput `nginx` measures.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Kind::Alike)]
    kind: Kind,
    /// Print the table for the README.
    #[arg(long)]
    markdown: bool,
    /// Measure this binary, such as that of another version, instead of building one.
    #[arg(long, value_name = "PATH")]
    podmeter: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Nanoseconds per run of each program, net of an empty one at the same hook.
    Programs,
    /// Nanoseconds per packet of an HTTP server, beside the least that can know a request.
    Packets,
    /// nginx: requests per second and CPU per request, with the agent and without.
    Nginx,
    /// Bytes per second through one connection, with the agent and without.
    Transfer,
    /// CPU, time and bytes of a scrape of 200 containers, and memory.
    Scrape,
    /// CPU of the agent while nobody scrapes.
    Idle,
    /// Requests over 1,000 connections until there are enough: fails when the counts differ.
    Load,
    /// All of these but the load.
    All,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: u32,
    seconds: u32,
}

/// What the loads need, and the Debian package that each comes from.
const TOOLS: [(&str, &str); 5] = [
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("iperf3", "iperf3"),
    ("taskset", "util-linux"),
    ("dd", "coreutils"),
];

/// How many containers there are while scraping and idling, as in the comparison with the peers.
const CONTAINERS: usize = 200;

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !is_root() {
        bail!(
            "this loads programs into the kernel and makes cgroups: run it as root, `sudo cargo xtask bench`"
        );
    }
    let cpus = machine::cpus()?;
    if cpus < 2 {
        bail!("there is one CPU here: server and client need one each, so take a machine with two or more");
    }
    let missing = TOOLS.iter().filter(|(program, _)| find(program).is_none());
    let missing: Vec<_> = missing.map(|&(_, package)| package).collect();
    if !missing.is_empty() {
        install::packages(&missing, "by the benchmark")?;
    }
    sys::catch_signals();
    let podmeter = match &options.podmeter {
        Some(path) => path.canonicalize().with_context(|| format!("there is no {}", path.display()))?,
        None => agent::build()?,
    };
    let mut report = Report::new(machine::describe(cpus)?);
    let unattached = agent::unattached(&podmeter)?;
    if !unattached.is_empty() {
        let text = format!("NOT ATTACHED on this machine, and so in no figure: {}.", unattached.join(", "));
        eprintln!("{text}");
        report.note(text);
    }
    let effort = |rounds, seconds| Effort {
        rounds: options.rounds.unwrap_or(rounds),
        seconds: options.seconds.unwrap_or(seconds),
    };
    let wants = |what| options.what == what || options.what == What::All;
    if wants(What::Programs) {
        programs::run(&podmeter, effort(5, 2), &mut report)?;
    }
    if wants(What::Packets) {
        packets::run(&podmeter, effort(5, 1), &mut report)?;
    }
    if wants(What::Nginx) {
        nginx::run(&podmeter, effort(8, 4), options.kind, &mut report)?;
    }
    if wants(What::Transfer) {
        transfer::run(&podmeter, effort(4, 10), &mut report)?;
    }
    if wants(What::Scrape) {
        scrape::run(&podmeter, effort(5, 0), &mut report)?;
    }
    if wants(What::Idle) {
        idle::run(&podmeter, effort(3, 20), &mut report)?;
    }
    if options.what == What::Load {
        requests::run(&podmeter, options.requests, &mut report)?;
    }
    print!("{}", if options.markdown { report.markdown() } else { report.text() });
    Ok(())
}
