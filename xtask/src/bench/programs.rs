//! Nanoseconds per run of each program that events run, under real load, net of an empty program at the same hook.
//!
//! The kernel measures each run with its scheduler clock while kernel.bpf_stats_enabled is 1. The reading of that clock, and
//! what the hook itself costs, is in the figure of the empty program, which ran at the same events.

use std::{collections::HashMap, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    Effort,
    agent::{Agent, sum},
    container::Containers,
    empty,
    load::{self, Blocks},
    machine::Setting,
    report::{Report, Samples},
    sys::Empty,
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
const SMALL: Load = Load {
    name: "wrk and nginx, small replies",
    programs: &[
        ("http_ingress", "time per packet that arrives, small HTTP replies", ""),
        ("http_egress", "time per packet that is sent, small HTTP replies", ""),
    ],
};
const BULK: Load = Load {
    name: "wrk and nginx, replies of 1 MiB",
    programs: &[
        ("http_ingress", "time per packet that arrives, 1 MiB HTTP replies", ""),
        ("http_egress", "time per packet that is sent, 1 MiB HTTP replies", ""),
    ],
};
const LOADS: [Load; 4] = [SWITCHES, BLOCKS, SMALL, BULK];

/// With fewer runs in a round, a program was not under load.
const ENOUGH: f64 = 1000.0;

/// What a program ran so far: nanoseconds, and how often.
type Cost = (f64, f64);

/// Measures.
pub(super) fn run(podmeter: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    let mut containers = Containers::new()?;
    let container = containers.add()?;
    let traffic = Traffic::start(&mut containers)?;
    let blocks = Blocks::new(podmeter.parent().context("a binary without a folder")?)?;
    let _statistics = Setting::set("kernel/bpf_stats_enabled", "1")?;
    let agent = Agent::start(podmeter)?;
    let empties = empty::attach(containers.root())?;
    let duration = Duration::from_secs(effort.seconds.into());
    let mut found: Vec<Vec<Figures>> =
        LOADS.iter().map(|load| load.programs.iter().map(|_| Figures::default()).collect()).collect();
    let mut per_request = Samples::default();
    for round in 0..effort.rounds {
        // Every other round backwards.
        let mut order = [0, 1, 2, 3];
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let before = costs(&agent, &empties)?;
            let requests = match at {
                0 => load::switches(&container, duration).map(|()| None),
                1 => blocks.read(&container, duration).map(|_| None),
                2 => traffic.run("/", effort.seconds).map(Some),
                _ => traffic.run("/bulk", effort.seconds).map(|_| None),
            }?;
            let after = costs(&agent, &empties)?;
            eprintln!("programs, round {} of {}: {}", round + 1, effort.rounds, LOADS[at].name);
            let mut both = 0.0;
            for ((program, ..), figures) in LOADS[at].programs.iter().zip(&mut found[at]) {
                both += figures.add(program, before[program], after[program]);
            }
            if let Some(requests) = requests {
                per_request.push(both / requests.total);
            }
        }
    }
    for (load, found) in LOADS.iter().zip(found) {
        for ((program, row, aim), figures) in load.programs.iter().zip(found) {
            report.row(format!("`{program}`: {row}"), figures.show(), aim, "");
        }
    }
    report.row(
        "HTTP programs: time per small request, at server and client together",
        per_request.show(0, "ns"),
        "",
        "",
    );
    report.note(format!(
        "Programs: net of an empty program at the same hook at the same time; medians of {} rounds of {} s per load \
         (range).",
        effort.rounds, effort.seconds
    ));
    agent.stop()
}

/// By program: podmeter's, and the empty one's.
fn costs<'a>(agent: &Agent, empties: &HashMap<&'a str, Empty>) -> Result<HashMap<&'a str, [Cost; 2]>> {
    let scrape = agent.text()?;
    let cost = |(&program, empty): (&&'a str, &Empty)| {
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
    net: Samples,
    empty: Samples,
}

impl Figures {
    /// Adds a round; the net nanoseconds in all.
    fn add(&mut self, program: &str, before: [Cost; 2], after: [Cost; 2]) -> f64 {
        let runs = [0, 1].map(|who| after[who].1 - before[who].1);
        let [own, empty] = [0, 1].map(|who| (after[who].0 - before[who].0) / runs[who]);
        eprintln!(
            "  {program}: {:.0} runs of {own:.1} ns; empty: {:.0} runs of {empty:.1} ns",
            runs[0], runs[1]
        );
        if runs[0] < ENOUGH || runs[1] < ENOUGH {
            return 0.0;
        }
        self.net.push(own - empty);
        self.empty.push(empty);
        (own - empty) * runs[0]
    }

    fn show(&self) -> String {
        match self.empty.median() {
            Some(empty) => format!("{}; an empty one {empty:.0} ns", self.net.show(0, "ns")),
            None => "not measured: the load does not reach it here".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn net_is_per_run() {
        let mut figures = Figures::default();
        let total = figures.add("p", [(0.0, 0.0), (1000.0, 10.0)], [(400_000.0, 4000.0), (61_000.0, 2010.0)]);
        assert_eq!(total, 70.0 * 4000.0);
        assert_eq!(figures.show(), "70 ns; an empty one 30 ns");
        assert_eq!(Figures::default().add("p", [(0.0, 0.0); 2], [(1.0, 1.0); 2]), 0.0);
        assert!(Figures::default().show().starts_with("not measured"));
    }
}
