//! Requests per second of nginx, and its CPU time per request, with the agent against without.
//!
//! A round has a leg with nothing, one with a process that does nothing, and one with the agent, which is really started and
//! stopped; its order is another one each time. CPU per request is the steadier figure: the control shows by how much.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Effort,
    agent::{Agent, sum},
    container::Containers,
    machine::{Process, pause},
    report::{Report, Samples},
    traffic::Traffic,
};

/// What runs beside nginx.
#[derive(Clone, Copy, Debug)]
enum Beside {
    Nothing,
    Sleep,
    Agent,
}

/// Every order of the three: with six rounds each of them is first, second and last as often as the others.
const ORDERS: [[Beside; 3]; 6] = {
    use Beside::{Agent, Nothing, Sleep};
    [
        [Nothing, Agent, Sleep],
        [Sleep, Agent, Nothing],
        [Agent, Nothing, Sleep],
        [Sleep, Nothing, Agent],
        [Nothing, Sleep, Agent],
        [Agent, Sleep, Nothing],
    ]
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

/// Measures.
pub(super) fn run(podmeter: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    let mut containers = Containers::new()?;
    let traffic = Traffic::start(&mut containers)?;
    // The first leg of all would pay for what the others find warm.
    traffic.run("/", 1)?;
    let mut rounds = Vec::new();
    for round in 0..effort.rounds {
        let mut legs = [Leg::default(); 3];
        for beside in ORDERS[round as usize % ORDERS.len()] {
            let leg = measure(podmeter, &traffic, beside, effort.seconds)?;
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
    rows(&rounds, report);
    report.note(format!(
        "nginx: one worker, wrk with 32 connections kept, a reply of 2 bytes, both CPUs full; with / without in the same \
         round, medians of {} rounds of {} s (range). nginx \
         answers, and the agent counts, up to 32 requests that wrk does not wait for at the end.",
        effort.rounds, effort.seconds
    ));
    Ok(())
}

fn measure(podmeter: &Path, traffic: &Traffic, beside: Beside, seconds: u32) -> Result<Leg> {
    let (mut agent, mut sleep) = (None, None);
    match beside {
        Beside::Nothing => {}
        Beside::Sleep => {
            let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn();
            sleep = Some(Process(child.context("cannot start sleep")?));
        }
        Beside::Agent => agent = Some(Agent::start(podmeter)?),
    }
    pause(Duration::from_millis(500))?;
    let agent_cpu = || agent.as_ref().map_or(Ok(Duration::ZERO), Agent::cpu);
    let (start, nginx_before, agent_before) = (Instant::now(), traffic.cpu()?, agent_cpu()?);
    let requests = traffic.run("/", seconds)?;
    let (nginx, own, elapsed) = (traffic.cpu()? - nginx_before, agent_cpu()? - agent_before, start.elapsed());
    let mut leg = Leg {
        requests_per_second: requests.per_second,
        cpu_per_request: nginx.as_secs_f64() * 1e6 / requests.total,
        agent: own.as_secs_f64() / elapsed.as_secs_f64(),
        counted: 0.0,
    };
    if let Some(agent) = agent {
        let id = format!("id=\"{}\"", traffic.server.path);
        let counted = sum(&agent.text()?, "http_server_request_duration_seconds_count", &[&id]);
        leg.counted = counted / requests.total;
        agent.stop()?;
    }
    drop(sleep);
    Ok(leg)
}

fn rows(rounds: &[[Leg; 3]], report: &mut Report) {
    let each = |who: usize, figure: fn(&Leg) -> f64| {
        rounds.iter().map(|legs| figure(&legs[who])).collect::<Samples>()
    };
    let [nothing, sleep, agent] =
        [Beside::Nothing, Beside::Sleep, Beside::Agent].map(|beside| beside as usize);
    let ratio = |who: usize, figure: fn(&Leg) -> f64| {
        rounds.iter().map(|legs| figure(&legs[who]) / figure(&legs[nothing])).collect::<Samples>()
    };
    let throughput: fn(&Leg) -> f64 = |leg| leg.requests_per_second;
    let cpu: fn(&Leg) -> f64 = |leg| leg.cpu_per_request;
    report.row(
        "nginx: requests per second, with / without",
        ratio(agent, throughput).show(3, ""),
        "0.98",
        "coroot 0.323, rezolus 0.614, cAdvisor 0.832 (sees no requests)",
    );
    report.row(
        "nginx: requests per second, with `sleep` for an agent / without",
        ratio(sleep, throughput).show(3, ""),
        "1",
        "",
    );
    report.row(
        "nginx: CPU per request, with / without",
        ratio(agent, cpu).show(3, ""),
        "",
        "coroot 2.035, rezolus 1.529",
    );
    report.row(
        "nginx: CPU per request, with `sleep` for an agent / without",
        ratio(sleep, cpu).show(3, ""),
        "1",
        "",
    );
    report.row(
        "agent's CPU under that load, of one core",
        each(agent, |leg| 100.0 * leg.agent).show(2, "%"),
        "",
        "coroot 46 %, rezolus 3.5 %",
    );
    report.row(
        "requests counted at the server, of those that wrk completed",
        each(agent, |leg| 100.0 * leg.counted).show(3, "%"),
        "100 %",
        "coroot 96.8 %",
    );
    report.row(
        "nginx without the agent: requests per second",
        each(nothing, |leg| leg.requests_per_second).show(0, ""),
        "",
        "",
    );
    report.row(
        "nginx without the agent: CPU per request",
        each(nothing, |leg| leg.cpu_per_request).show(2, "µs"),
        "",
        "",
    );
}
