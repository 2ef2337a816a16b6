//! Nanoseconds per run of the packet programs at an HTTP server, beside the least that can know a request, and the least that can
//! time one: the same packets.
//!
//! All programs are at the server's cgroup alone, so that the directions are apart: small requests arrive and small replies are
//! sent, each packet with a head; then long replies are sent, and what arrives are their ACKs. Of a reply of 1 MiB two packets in
//! 18 have its head and its end, and what is sent is in the caches; of one of 64 MiB two in a thousand, and it is not, which only
//! costs whom looks at it. The kernel measures each run as `programs` says. Who comes first at a packet finds less in the caches:
//! each is first as often as the others.

use std::path::Path;

use anyhow::Result;

use super::{
    Effort,
    agent::{Agent, sum},
    container::Containers,
    machine::Setting,
    minimal,
    report::{Report, Samples},
    sys::Attached,
    traffic::{Kind, Traffic},
};

/// Whose programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Podmeter,
    Minimal,
    Timed,
    Empty,
}

/// How many they are.
const ALL: usize = 4;

/// Each is at every place once.
const ORDERS: [[Who; ALL]; ALL] = {
    use Who::{Empty, Minimal, Podmeter, Timed};
    [
        [Podmeter, Minimal, Empty, Timed],
        [Minimal, Empty, Timed, Podmeter],
        [Empty, Timed, Podmeter, Minimal],
        [Timed, Podmeter, Minimal, Empty],
    ]
};

/// What runs through the server.
const LOADS: usize = 4;
const ALIKE: usize = 0;
const DIFFERENT: usize = 1;
/// Replies of 1 MiB, whose heads and ends are a part of what they cost.
const BULK: usize = 2;
/// Replies so long that nearly all packets are within a body.
const LONG: usize = 3;

/// Directions.
const IN: usize = 0;
const OUT: usize = 1;

/// What programs ran so far, by whose they are and by direction: nanoseconds, and how often.
type Costs = [[(f64, f64); 2]; ALL];

/// Nanoseconds per run, by load, whose program, direction.
type Means = [[[f64; 2]; ALL]; LOADS];

/// What a round gave: nanoseconds per run, net of the empty program.
#[derive(Clone, Copy, Default)]
struct Round {
    /// The mean over all orders, by load, direction, and whose it is.
    net: [[[f64; ALL]; 2]; LOADS],
    /// Where each was the first.
    first: [[[f64; ALL]; 2]; LOADS],
    /// Of the packets that arrived during the long replies, the share without a request.
    acks: f64,
}

/// Measures.
pub(super) fn run(podmeter: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    let mut containers = Containers::new()?;
    let traffic = Traffic::start(&mut containers)?;
    traffic.small(Kind::Alike, 1)?;
    let _statistics = Setting::set("kernel/bpf_stats_enabled", "1")?;
    let mut rounds = Vec::new();
    for round in 0..effort.rounds {
        eprintln!("packets, round {} of {}", round + 1, effort.rounds);
        rounds.push(measure(podmeter, &traffic, effort.seconds)?);
    }
    rows(&rounds, report);
    report.note(format!(
        "Packets: at the server's cgroup, net of an empty program at the same packets; medians of {} rounds of four times \
         {} s per load, each program first once (range). The minimal program: socket storage, one load of 64 bytes, one \
         histogram add; no clock, no parsing. That with a clock: headers of the packet, sequence numbers, when a request arrives \
         and how long it took besides; what is longer than 2 KiB is a body. Requests that differ come from a pool of {}.",
        effort.rounds,
        effort.seconds,
        Kind::Different.pool(),
    ));
    Ok(())
}

fn measure(podmeter: &Path, traffic: &Traffic, seconds: u32) -> Result<Round> {
    let mut round = Round::default();
    let mut acks = Samples::default();
    let mut means = Vec::new();
    for order in ORDERS {
        let (mut agent, mut minimal, mut timed, mut empty) = (None, None, None, None);
        for who in order {
            match who {
                Who::Podmeter => agent = Some(Agent::within(podmeter, traffic.server.v2())?),
                Who::Minimal => minimal = Some(minimal::attach_minimal(traffic.server.v2())?),
                Who::Timed => timed = Some(minimal::attach_timed(traffic.server.v2())?),
                Who::Empty => empty = Some(minimal::attach_empty(traffic.server.v2())?),
            }
        }
        let (Some(agent), Some(minimal), Some(timed), Some(empty)) = (agent, minimal, timed, empty) else {
            unreachable!("an order has all of them")
        };
        let mut own = Means::default();
        for (load, own) in own.iter_mut().enumerate() {
            let before = costs(&agent, [&minimal, &timed, &empty])?;
            let requests = match load {
                ALIKE => traffic.small(Kind::Alike, seconds)?,
                DIFFERENT => traffic.small(Kind::Different, seconds)?,
                BULK => traffic.run("/bulk", seconds)?,
                _ => traffic.run("/long", seconds)?,
            };
            let after = costs(&agent, [&minimal, &timed, &empty])?;
            *own = per_run(&before, &after);
            if load == LONG {
                let arrived = after[0][IN].1 - before[0][IN].1;
                acks.push(1.0 - requests.total / arrived);
            }
        }
        agent.stop()?;
        eprintln!("  {order:?}: {own:.0?}");
        means.push(own);
    }
    for load in 0..LOADS {
        for direction in [IN, OUT] {
            for who in [Who::Podmeter, Who::Minimal, Who::Timed] {
                let mean = |who: Who| {
                    means.iter().map(|own| own[load][who as usize][direction]).sum::<f64>()
                        / means.len() as f64
                };
                let first = |who: Who| {
                    let at = ORDERS.iter().position(|order| order[0] == who).unwrap_or_default();
                    means[at][load][who as usize][direction]
                };
                round.net[load][direction][who as usize] = mean(who) - mean(Who::Empty);
                round.first[load][direction][who as usize] = first(who) - first(Who::Empty);
            }
        }
    }
    round.acks = acks.median().unwrap_or_default();
    Ok(round)
}

fn costs(agent: &Agent, others: [&[Attached; 2]; ALL - 1]) -> Result<Costs> {
    let scrape = agent.text()?;
    let podmeter = ["http_ingress", "http_egress"].map(|program| {
        let label = format!("program=\"{program}\"");
        let seconds = sum(&scrape, "podmeter_probe_run_seconds_total", &[&label]);
        (seconds * 1e9, sum(&scrape, "podmeter_probe_runs_total", &[&label]))
    });
    let ours =
        |programs: &[Attached; 2]| Ok::<_, anyhow::Error>([programs[IN].cost()?, programs[OUT].cost()?]);
    let [minimal, timed, empty] = others;
    Ok([podmeter, ours(minimal)?, ours(timed)?, ours(empty)?])
}

fn per_run(before: &Costs, after: &Costs) -> [[f64; 2]; ALL] {
    [0, 1, 2, 3].map(|who| {
        [IN, OUT].map(|direction| {
            let ((from, runs), (to, all)) = (before[who][direction], after[who][direction]);
            (to - from) / (all - runs)
        })
    })
}

fn rows(rounds: &[Round], report: &mut Report) {
    const PODMETER: usize = Who::Podmeter as usize;
    const MINIMAL: usize = Who::Minimal as usize;
    const TIMED: usize = Who::Timed as usize;
    let of = |figure: &dyn Fn(&Round) -> f64| rounds.iter().map(figure).collect::<Samples>();
    let names = [
        (ALIKE, IN, "small request, all alike, that arrives"),
        (ALIKE, OUT, "small reply, all alike, that is sent"),
        (DIFFERENT, IN, "small request, each different, that arrives"),
        (DIFFERENT, OUT, "small reply to it, that is sent"),
        (BULK, OUT, "packet of a 1 MiB reply, that is sent"),
        (LONG, OUT, "packet of a 64 MiB reply, that is sent"),
        (LONG, IN, "ACK of a 64 MiB reply, that arrives"),
    ];
    for (load, direction, name) in names {
        let [own, least, timed] =
            [PODMETER, MINIMAL, TIMED].map(|who| of(&|round| round.net[load][direction][who]).show(0, "ns"));
        let figure = format!("{own}; the minimal program {least}, with a clock {timed}");
        report.row(format!("time per {name}"), figure, "", "");
    }
    // Of both directions together; and of those runs where each found what the other one leaves in the caches not yet there.
    let both = |net: &[[f64; ALL]; 2], who: usize| net[IN][who] + net[OUT][who];
    for (load, name) in [(ALIKE, "all alike"), (DIFFERENT, "each different")] {
        let ratio = of(&|round| both(&round.net[load], PODMETER) / both(&round.net[load], MINIMAL));
        let first = of(&|round| both(&round.first[load], PODMETER) / both(&round.first[load], MINIMAL));
        let figure = format!("{}; as the first {}", ratio.show(2, ""), first.show(2, ""));
        report.row(format!("packets with a head, {name}: podmeter / minimal"), figure, "1.3", "");
        let ratio = of(&|round| both(&round.net[load], TIMED) / both(&round.net[load], MINIMAL));
        report.row(format!("packets with a head, {name}: with a clock / minimal"), ratio.show(2, ""), "", "");
    }
    for (load, name, aim) in [
        (BULK, "packets of a 1 MiB reply, its head and its end among them", ""),
        (LONG, "packets of a body", "0.6"),
    ] {
        let ratio = of(&|round| round.net[load][OUT][PODMETER] / round.net[load][OUT][MINIMAL]);
        let first = of(&|round| round.first[load][OUT][PODMETER] / round.first[load][OUT][MINIMAL]);
        let figure = format!("{}; as the first {}", ratio.show(2, ""), first.show(2, ""));
        report.row(format!("{name}: podmeter / minimal"), figure, aim, "");
        let ratio = of(&|round| round.net[load][OUT][TIMED] / round.net[load][OUT][MINIMAL]);
        report.row(format!("{name}: with a clock / minimal"), ratio.show(2, ""), "", "");
    }
    let ratio = of(&|round| round.net[LONG][IN][PODMETER] * 2.0 / both(&round.net[ALIKE], MINIMAL));
    report.row("ACKs: podmeter / minimal at packets with a head", ratio.show(2, ""), "0.6", "");
    let ratio = of(&|round| round.net[LONG][IN][TIMED] * 2.0 / both(&round.net[ALIKE], MINIMAL));
    report.row("ACKs: with a clock / minimal at packets with a head", ratio.show(2, ""), "", "");
    report.row("ACKs among what arrives then", of(&|round| 100.0 * round.acks).show(1, "%"), "", "");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_per_run() {
        let before = [[(0.0, 0.0), (100.0, 10.0)]; ALL];
        let after = [[(50.0, 5.0), (400.0, 20.0)]; ALL];
        assert_eq!(per_run(&before, &after), [[10.0, 30.0]; ALL]);
    }

    #[test]
    fn each_is_first_once() {
        let firsts = ORDERS.map(|order| order[0] as usize);
        assert_eq!(firsts, [0, 1, 3, 2]);
    }
}
