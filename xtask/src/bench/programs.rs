//! Nanoseconds per run of each program that events run, under real load, net of an empty program at the same hook; those that
//! packets run are in [`super::packets`].
//!
//! The kernel measures each run with its scheduler clock while kernel.bpf_stats_enabled is 1. The reading of that clock, and
//! what the hook itself costs, is in the figure of the empty program, which ran at the same events.

use std::{collections::HashMap, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    Effort,
    agent::{Agent, sum},
    container::{Container, Containers},
    empty,
    load::{self, Blocks},
    machine::Setting,
    report::{Report, Samples},
    sys::Attached,
    traffic::Traffic,
};

/// A load, and what is measured under it.
struct Load {
    name: &'static str,
    /// A program, how its row is called, and the aim.
    programs: &'static [(&'static str, &'static str, &'static str)],
}

const SWITCHES: Load = Load {
    name: "two processes that pass a byte to each other",
    programs: &[("cpu_switch", "time per context switch", "60 ns")],
};
const BLOCKS: Load = Load {
    name: "dd, direct reads of 4 KiB",
    programs: &[("block_complete", "time per completion of a block request", "120 ns")],
};
const CLOSED: Load = Load {
    name: "wrk and nginx, a connection for each request",
    programs: &[("tcp_state", "time per change of a TCP socket's state", "")],
};
const LOADS: [Load; 3] = [SWITCHES, BLOCKS, CLOSED];

/// With fewer runs, a program was not under load.
const ENOUGH: f64 = 1000.0;

/// What a program ran so far: nanoseconds, and how often.
type Cost = (f64, f64);

/// What is there through all rounds.
struct Bench<'a> {
    podmeter: &'a Path,
    traffic: Traffic,
    blocks: Blocks,
    pair: [Container; 2],
    seconds: u32,
}

/// Measures.
pub(super) fn run(podmeter: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    let mut containers = Containers::new()?;
    let bench = Bench {
        podmeter,
        pair: [containers.add()?, containers.add()?],
        traffic: Traffic::start(&mut containers)?,
        blocks: Blocks::new(podmeter.parent().context("a binary without a folder")?)?,
        seconds: effort.seconds,
    };
    let _statistics = Setting::set("kernel/bpf_stats_enabled", "1")?;
    let mut found = LOADS.map(|load| load.programs.iter().map(|_| Figures::default()).collect::<Vec<_>>());
    for round in 0..effort.rounds {
        eprintln!("programs, round {} of {}", round + 1, effort.rounds);
        let (first, second) = (bench.half(true)?, bench.half(false)?);
        for ((figures, first), second) in found.iter_mut().zip(first).zip(second) {
            figures
                .iter_mut()
                .zip(first.iter().zip(second))
                .for_each(|(figures, (first, second))| figures.add(*first, second));
        }
    }
    for (load, found) in LOADS.iter().zip(&found) {
        for ((program, row, aim), figures) in load.programs.iter().zip(found) {
            report.row(format!("`{program}`: {row}"), figures.show(), aim, "");
        }
    }
    report.note(format!(
        "Programs: net of an empty program at the same hook at the same events, which runs after podmeter's in one half of \
         a round and before it in the other; medians of {} rounds of twice {} s per load (range).",
        effort.rounds, effort.seconds
    ));
    Ok(())
}

/// Half a round: by load and program.
type Half = [Vec<Option<Net>>; LOADS.len()];

/// Nanoseconds per run of podmeter's program without those of the empty one, and of the empty one.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Net {
    own: f64,
    empty: f64,
}

impl Bench<'_> {
    /// Runs all loads, with podmeter's programs or the empty ones first at each hook: who comes first finds less in the caches.
    fn half(&self, podmeter_first: bool) -> Result<Half> {
        let before = if podmeter_first { None } else { Some(empty::attach()?) };
        let agent = Agent::start(self.podmeter)?;
        let empties = before.map_or_else(empty::attach, Ok)?;
        let mut half = Half::default();
        let mut order = [0, 1, 2];
        if !podmeter_first {
            order.reverse();
        }
        for at in order {
            let before = costs(&agent, &empties)?;
            self.load(at)?;
            let after = costs(&agent, &empties)?;
            for (program, ..) in LOADS[at].programs {
                let runs = after[program][0].1 - before[program][0].1;
                let net = net(before[program], after[program]);
                half[at].push(net);
                let text = net.map_or("not under load".to_owned(), |net| {
                    format!("{:.1} + {:.1} ns", net.empty, net.own)
                });
                eprintln!("  {}: {program}: {runs:.0} runs, {text}", LOADS[at].name);
            }
        }
        agent.stop()?;
        Ok(half)
    }

    fn load(&self, at: usize) -> Result<()> {
        let duration = Duration::from_secs(self.seconds.into());
        match at {
            0 => load::switches(&self.pair, duration),
            1 => self.blocks.read(&self.pair[0], duration),
            _ => self.traffic.closing("/", self.seconds).map(drop),
        }
    }
}

/// From what podmeter's program and the empty one had run before and after; `None` if they were not under load.
fn net(before: [Cost; 2], after: [Cost; 2]) -> Option<Net> {
    let runs = [0, 1].map(|who| after[who].1 - before[who].1);
    let [own, empty] = [0, 1].map(|who| (after[who].0 - before[who].0) / runs[who]);
    (runs[0] >= ENOUGH && runs[1] >= ENOUGH).then_some(Net { own: own - empty, empty })
}

/// By program: podmeter's, and the empty one's.
fn costs<'a>(agent: &Agent, empties: &HashMap<&'a str, Attached>) -> Result<HashMap<&'a str, [Cost; 2]>> {
    let scrape = agent.text()?;
    let cost = |(&program, empty): (&&'a str, &Attached)| {
        let label = format!("program=\"{program}\"");
        let seconds = sum(&scrape, "podmeter_probe_run_seconds_total", &[&label]);
        let own = (seconds * 1e9, sum(&scrape, "podmeter_probe_runs_total", &[&label]));
        Ok((program, [own, empty.cost()?]))
    };
    empties.iter().map(cost).collect()
}

/// The figures of a program under a load.
#[derive(Default)]
struct Figures {
    own: Samples,
    empty: Samples,
}

impl Figures {
    /// Adds a round.
    fn add(&mut self, first: Option<Net>, second: Option<Net>) {
        if let (Some(first), Some(second)) = (first, second) {
            self.own.push((first.own + second.own) / 2.0);
            self.empty.push((first.empty + second.empty) / 2.0);
        }
    }

    fn show(&self) -> String {
        match self.empty.median() {
            Some(empty) => format!("{}; an empty one {empty:.0} ns", self.own.show(0, "ns")),
            None => "not measured: the load does not reach it here".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn net_is_per_run() {
        let net = net([(0.0, 0.0), (1000.0, 10.0)], [(400_000.0, 4000.0), (61_000.0, 2010.0)]);
        assert_eq!(net, Some(Net { own: 70.0, empty: 30.0 }));
        assert_eq!(super::net([(0.0, 0.0); 2], [(1.0, 1.0); 2]), None);
    }

    #[test]
    fn a_round_is_the_mean_of_its_halves() {
        let mut figures = Figures::default();
        figures.add(Some(Net { own: 70.0, empty: 30.0 }), Some(Net { own: 50.0, empty: 40.0 }));
        figures.add(Some(Net { own: 1.0, empty: 1.0 }), None);
        assert_eq!(figures.show(), "60 ns; an empty one 35 ns");
        assert!(Figures::default().show().starts_with("not measured"));
    }
}
