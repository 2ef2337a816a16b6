//! Many requests over many connections: what wrk, nginx and the agent count, and what the agent's memory does meanwhile.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{
    agent::{Agent, sum},
    container::Containers,
    machine::{self, pause},
    report::Report,
    traffic::{Requests, Traffic},
};

/// How many connections wrk has.
const CONNECTIONS: u32 = 1000;
/// How long wrk runs before the sum is looked at, seconds.
const LEG: u32 = 5;
/// How long the counts may take to agree after the end: a connection that is idle counts late.
const PATIENCE: Duration = Duration::from_secs(15);

/// What there is before the load and after, MiB.
struct Memory {
    agent: f64,
    maps: f64,
    slab: f64,
}

impl Memory {
    fn now(agent: &Agent) -> Result<Self> {
        Ok(Self { agent: agent.memory()?.rss, maps: agent.kernel_memory()?, slab: machine::slab()? })
    }
}

/// What was counted, of requests for `/`.
struct Counts {
    nginx: f64,
    server: f64,
    client: f64,
    unanswered: f64,
    lost: f64,
}

impl Counts {
    fn now(agent: &Agent, traffic: &Traffic) -> Result<(Self, String)> {
        let scrape = agent.text()?;
        let count = |side: &str, path: &str| {
            let id = format!("id=\"{path}\"");
            sum(&scrape, &format!("http_{side}_request_duration_seconds_count"), &[&id, "http_route=\"/\""])
        };
        let lost = |reason: &str| sum(&scrape, "podmeter_lost_total", &[reason]);
        let this = Self {
            nginx: traffic.served()?,
            server: count("server", &traffic.server.path),
            client: count("client", &traffic.client.path),
            unanswered: lost("reason=\"request_unanswered\""),
            // Cgroups come and go anywhere on the machine, and so do connections of other protocols.
            lost: lost("")
                - lost("reason=\"cgroup_")
                - lost("reason=\"connection_")
                - lost("reason=\"switch_"),
        };
        Ok((this, scrape))
    }

    /// Whether nobody has counted another number than the rest: each request that wrk gave up when it ended counts at the
    /// server, and is told of at the client.
    fn agree(&self, done: &Requests, legs: u32) -> bool {
        let most = done.total + f64::from(CONNECTIONS * legs);
        self.server == self.nginx
            && self.client + self.unanswered == self.server
            && self.lost == self.unanswered
            && (done.total..=most).contains(&self.client)
    }
}

/// Measures.
///
/// # Errors
/// When the counts differ, too.
pub(super) fn run(podmeter: &Path, requests: u64, report: &mut Report) -> Result<()> {
    let mut containers = Containers::new()?;
    let traffic = Traffic::start(&mut containers)?;
    let agent = Agent::start(podmeter)?;
    pause(Duration::from_millis(500))?;
    let before = Memory::now(&agent)?;
    let lost = Counts::now(&agent, &traffic)?.0.lost;
    if lost != 0.0 {
        bail!("{lost} requests were lost before the load began: there is other traffic on this machine");
    }
    let (mut done, mut legs) = (Requests { total: 0.0, per_second: 0.0 }, 0);
    while done.total < requests as f64 {
        let leg = traffic.load("/", LEG, CONNECTIONS)?;
        legs += 1;
        done = Requests { total: done.total + leg.total, per_second: leg.per_second };
        eprintln!("load: {:.0} of {requests} requests, {:.0} requests/s", done.total, done.per_second);
    }
    let ended = Instant::now();
    let (counts, scrape) = loop {
        let (counts, scrape) = Counts::now(&agent, &traffic)?;
        if counts.agree(&done, legs) || ended.elapsed() > PATIENCE {
            break (counts, scrape);
        }
        pause(Duration::from_millis(200))?;
    };
    let after = Memory::now(&agent)?;
    agent.stop()?;
    let number = |number: f64| format!("{number:.0}");
    report.row("requests that wrk completed", number(done.total), "", "");
    report.row("requests that nginx counted", number(counts.nginx), "", "");
    report.row("requests counted at the server", number(counts.server), "nginx's", "");
    report.row("requests counted at the client", number(counts.client), "wrk's, and what it gave up", "");
    for line in
        scrape.lines().filter(|line| line.starts_with("podmeter_lost_total{") && !line.ends_with(" 0"))
    {
        let (reason, lost) = line.rsplit_once(' ').unwrap_or_default();
        let reason = reason.split('"').nth(1).unwrap_or_default();
        report.row(format!("lost: {reason}"), lost.to_owned(), "", "");
    }
    let change = |before: f64, after: f64| format!("{before:.1} to {after:.1} MiB");
    report.row("memory of the agent", change(before.agent, after.agent), "", "");
    report.row("memory of its maps and programs in the kernel", change(before.maps, after.maps), "", "");
    report.row("slab of the kernel, all of it", change(before.slab, after.slab), "", "");
    report.note(format!(
        "Load: nginx with one worker, wrk with {CONNECTIONS} connections, {legs} times {LEG} s; the last {:.0} requests/s.",
        done.per_second
    ));
    if !counts.agree(&done, legs) {
        eprint!("{}", report.text());
        bail!("the counts differ");
    }
    Ok(())
}
