//! Requests per second of nginx, and its CPU time per request, with the agent against without.
//!
//! A round has a leg for each of [`Beside`], in an order that is another one each time; the agent is really started and
//! stopped. CPU per request is the steadier figure: the control shows by how much.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Effort,
    agent::{Agent, sum},
    beside::Beside,
    container::Containers,
    report::{Report, Samples},
    traffic::{Kind, Traffic},
};

/// What a leg gave.
#[derive(Clone, Copy, Debug, Default)]
struct Leg {
    requests_per_second: f64,
    /// CPU time of nginx, µs.
    cpu_per_request: f64,
    /// CPU time of the agent, of one core.
    agent: f64,
    /// Requests that the agent counted, of those that wrk did.
    counted: f64,
}

/// Measures, with requests that are all alike or all different.
pub(super) fn run(podmeter: &Path, effort: Effort, kind: Kind, report: &mut Report) -> Result<()> {
    let mut containers = Containers::new()?;
    let traffic = Traffic::start(&mut containers)?;
    // The first leg of all would pay for what the others find warm.
    traffic.small(kind, 1)?;
    let mut rounds = Vec::new();
    for round in 0..effort.rounds {
        let mut legs = [Leg::default(); Beside::COUNT];
        for beside in Beside::order(round) {
            let leg = measure(podmeter, &traffic, beside, kind, effort.seconds)?;
            eprintln!(
                "nginx, round {} of {}, {beside:?}: {:.0} requests/s, {:.2} µs CPU each",
                round + 1,
                effort.rounds,
                leg.requests_per_second,
                leg.cpu_per_request
            );
            legs[beside as usize] = leg;
        }
        rounds.push(legs);
    }
    rows(&rounds, kind, report);
    report.note(format!(
        "nginx: one worker, wrk with 32 connections kept, {}, a reply of 2 bytes, both CPUs full; with / without in the same \
         round, medians of {} rounds of {} s (range). At the server's end: the packet programs are at the server's cgroup \
         alone. nginx answers, and the agent counts, up to 32 requests that wrk does not wait for at the end.",
        kind.text(),
        effort.rounds,
        effort.seconds
    ));
    Ok(())
}

fn measure(podmeter: &Path, traffic: &Traffic, beside: Beside, kind: Kind, seconds: u32) -> Result<Leg> {
    let running = beside.start(podmeter, &traffic.server)?;
    let agent_cpu = || running.agent.as_ref().map_or(Ok(Duration::ZERO), Agent::cpu);
    let (start, nginx_before, agent_before) = (Instant::now(), traffic.cpu()?, agent_cpu()?);
    let requests = traffic.small(kind, seconds)?;
    let (nginx, own, elapsed) = (traffic.cpu()? - nginx_before, agent_cpu()? - agent_before, start.elapsed());
    let mut leg = Leg {
        requests_per_second: requests.per_second,
        cpu_per_request: nginx.as_secs_f64() * 1e6 / requests.total,
        agent: own.as_secs_f64() / elapsed.as_secs_f64(),
        counted: 0.0,
    };
    if let Some(agent) = &running.agent {
        // Where the agent sees the server alone, nobody else's requests are there.
        let id = format!("id=\"{}\"", traffic.server.path);
        let labels = if beside == Beside::ServerSide { &[][..] } else { &[id.as_str()] };
        leg.counted =
            sum(&agent.text()?, "http_server_request_duration_seconds_count", labels) / requests.total;
    }
    running.stop()?;
    Ok(leg)
}

fn rows(rounds: &[[Leg; Beside::COUNT]], kind: Kind, report: &mut Report) {
    let throughput: fn(&Leg) -> f64 = |leg| leg.requests_per_second;
    let cpu: fn(&Leg) -> f64 = |leg| leg.cpu_per_request;
    let each = |who: Beside, figure: fn(&Leg) -> f64| {
        rounds.iter().map(|legs| figure(&legs[who as usize])).collect::<Samples>()
    };
    for (who, aim, peers) in [
        (Beside::ServerSide, "0.98", ""),
        (Beside::BothEnds, "0.96", "coroot 0.323, rezolus 0.614, cAdvisor 0.832 (sees no requests)"),
        (Beside::Sleep, "1", ""),
    ] {
        let row = format!("nginx, {}: requests per second {} / without", kind.text(), who.text());
        report.row(row, who.ratio(rounds, throughput).show(3, ""), aim, peers);
    }
    for (who, aim, peers) in [
        (Beside::ServerSide, "1.03", ""),
        (Beside::BothEnds, "", "coroot 2.035, rezolus 1.529"),
        (Beside::Sleep, "1", ""),
    ] {
        let row = format!("nginx, {}: CPU per request {} / without", kind.text(), who.text());
        report.row(row, who.ratio(rounds, cpu).show(3, ""), aim, peers);
    }
    for who in [Beside::ServerSide, Beside::BothEnds] {
        report.row(
            format!("requests counted {}, of those that wrk completed", who.text()),
            each(who, |leg| 100.0 * leg.counted).show(3, "%"),
            "100 %",
            "coroot 96.8 %",
        );
    }
    report.row(
        "agent's CPU under that load, of one core",
        each(Beside::BothEnds, |leg| 100.0 * leg.agent).show(2, "%"),
        "",
        "coroot 46 %, rezolus 3.5 %",
    );
    let nothing = Beside::Nothing;
    report.row("nginx without the agent: requests per second", each(nothing, throughput).show(0, ""), "", "");
    report.row("nginx without the agent: CPU per request", each(nothing, cpu).show(2, "µs"), "", "");
}
