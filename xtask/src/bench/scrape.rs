//! What a scrape of 200 containers costs, and of 20,000 series; how soon the first one is complete; the agent's memory.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{
    CONTAINERS, Effort,
    agent::{Agent, series, sum},
    container::Containers,
    machine::pause,
    report::{Report, Samples},
};

/// How many scrapes a figure of CPU time is the mean of.
const SCRAPES: u32 = 50;
/// The series of a large node.
const MANY: usize = 20_000;
const MIB: f64 = 1024.0 * 1024.0;

/// Measures.
pub(super) fn run(podmeter: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    eprintln!("scrape: starting {CONTAINERS} containers");
    let mut containers = Containers::new()?;
    containers.fill(CONTAINERS)?;
    let mut found = Found::default();
    for round in 0..effort.rounds {
        eprintln!("scrape, round {} of {}", round + 1, effort.rounds);
        found.round(podmeter, &containers)?;
    }
    found.rows(report);
    many(podmeter, &mut containers, effort, report)?;
    report.note(format!(
        "Scrapes: {CONTAINERS} containers in pods of two, each with a process that ran and sleeps; CPU per scrape is the \
         mean of {SCRAPES} scrapes in a row, with the agent's log; medians of {} rounds (range), each with a fresh agent.",
        effort.rounds
    ));
    Ok(())
}

/// Scrapes in a row.
struct Cost {
    /// CPU time of the agent per scrape, ms.
    cpu: f64,
    /// The median time that a scrape took, ms.
    wall: f64,
    bytes: f64,
}

fn scrapes(agent: &Agent, gzip: bool) -> Result<Cost> {
    let mut wall = Samples::default();
    let (mut bytes, before) = (0, agent.cpu()?);
    for _ in 0..SCRAPES {
        let start = Instant::now();
        bytes = agent.scrape(gzip)?.len();
        wall.push(start.elapsed().as_secs_f64() * 1e3);
        pause(Duration::ZERO)?;
    }
    let cpu = (agent.cpu()? - before).as_secs_f64() * 1e3 / f64::from(SCRAPES);
    Ok(Cost { cpu, wall: wall.median().unwrap_or(f64::NAN), bytes: bytes as f64 })
}

/// Has every container run for a moment, so that it has all the series that a container can have without I/O and requests.
fn wake(containers: &Containers) -> Result<()> {
    containers.wake();
    pause(Duration::from_millis(500))
}

/// Figures over the rounds; a name says the unit unless it is ms or MiB.
#[derive(Default)]
struct Found {
    first: Samples,
    cpu: [Samples; 2],
    wall: [Samples; 2],
    kilobytes: [Samples; 2],
    series: Samples,
    asleep: Samples,
    rss_at_start: Samples,
    rss: Samples,
    peak: Samples,
    pss: Samples,
    kernel: Samples,
    both: Samples,
}

impl Found {
    fn round(&mut self, podmeter: &Path, containers: &Containers) -> Result<()> {
        let agent = Agent::start(podmeter)?;
        let at_start = agent.memory()?;
        let (asleep, first) = agent.complete(containers)?;
        self.asleep.push(series(&asleep) as f64);
        wake(containers)?;
        for (which, gzip) in [false, true].into_iter().enumerate() {
            let cost = scrapes(&agent, gzip)?;
            self.cpu[which].push(cost.cpu);
            self.wall[which].push(cost.wall);
            self.kilobytes[which].push(cost.bytes / 1e3);
        }
        let (text, memory) = (agent.text()?, agent.memory()?);
        let kernel = sum(&text, "podmeter_ebpf_memory_bytes", &[]) / MIB;
        self.first.push(first.as_secs_f64() * 1e3);
        self.series.push(series(&text) as f64);
        self.rss_at_start.push(at_start.rss);
        self.rss.push(memory.rss);
        self.peak.push(memory.peak);
        self.pss.push(memory.pss);
        self.kernel.push(kernel);
        self.both.push(memory.rss + kernel);
        agent.stop()
    }

    fn rows(&self, report: &mut Report) {
        let mut row = |measure: &str, samples: &Samples, digits, unit, aim, peers| {
            report.row(measure, samples.show(digits, unit), aim, peers);
        };
        let [text, gzip] = [0, 1];
        row(
            "scrape of 200 containers: CPU",
            &self.cpu[text],
            2,
            "ms",
            "< 25 ms",
            "cAdvisor 305 ms, coroot 255 ms",
        );
        row("scrape, gzip: CPU", &self.cpu[gzip], 2, "ms", "", "");
        row("scrape: time, median", &self.wall[text], 1, "ms", "", "cAdvisor 252 ms, coroot 191 ms");
        row("scrape, gzip: time, median", &self.wall[gzip], 1, "ms", "", "");
        row("scrape: size", &self.kilobytes[text], 0, "kB", "", "cAdvisor 2610 kB, coroot 530 kB");
        row("scrape, gzip: size", &self.kilobytes[gzip], 0, "kB", "", "");
        row("scrape: series", &self.series, 0, "", "", "cAdvisor 15575, coroot 2852");
        row("series before the containers ran again", &self.asleep, 0, "", "< 3000", "");
        row(
            "start to the first complete scrape",
            &self.first,
            0,
            "ms",
            "< 1 s",
            "cAdvisor 5.7 s, coroot 11.2 s",
        );
        row("RSS after the start", &self.rss_at_start, 1, "MiB", "", "cAdvisor 41.8 MiB, coroot 92.6 MiB");
        row(
            "RSS after 100 scrapes",
            &self.rss,
            1,
            "MiB",
            "",
            "cAdvisor 50 MiB, coroot 108 MiB, rezolus 121 MiB",
        );
        row("peak RSS", &self.peak, 1, "MiB", "", "cAdvisor 53 MiB, coroot 110 MiB");
        row("Pss", &self.pss, 1, "MiB", "", "cAdvisor 49 MiB, coroot 107 MiB");
        row(
            "kernel memory of maps and programs",
            &self.kernel,
            1,
            "MiB",
            "",
            "ebpf_exporter 9.8 MiB, coroot 242 MiB, rezolus 333 MiB",
        );
        row(
            "RSS and kernel memory together (mapped arrays count twice)",
            &self.both,
            1,
            "MiB",
            "< 40 MiB",
            "cAdvisor 50 MiB, coroot 350 MiB",
        );
    }
}

/// Adds containers until there are enough series.
fn many(podmeter: &Path, containers: &mut Containers, effort: Effort, report: &mut Report) -> Result<()> {
    let mut count = CONTAINERS;
    let text = loop {
        let agent = Agent::start(podmeter)?;
        agent.complete(containers)?;
        wake(containers)?;
        let text = agent.text()?;
        agent.stop()?;
        if series(&text) >= MANY {
            break text;
        }
        // As many as the series that there are call for, and a few more.
        count = (count * MANY / series(&text) + 10).max(count + 10);
        if count > 5000 {
            bail!(
                "5000 containers have fewer than {MANY} series: raise the limit here if that is as it should be"
            );
        }
        eprintln!("scrape: starting {count} containers for {MANY} series");
        containers.fill(count)?;
    };
    let (mut cpu, mut wall, mut per_series) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..effort.rounds {
        eprintln!("scrape of {} series, round {} of {}", series(&text), round + 1, effort.rounds);
        let agent = Agent::start(podmeter)?;
        agent.complete(containers)?;
        wake(containers)?;
        let cost = scrapes(&agent, false)?;
        let count = series(&agent.text()?);
        cpu.push(cost.cpu);
        wall.push(cost.wall);
        per_series.push(cost.cpu * 1e3 / count as f64);
        agent.stop()?;
    }
    let what = format!("scrape of {} series ({count} containers)", series(&text));
    report.row(format!("{what}: CPU"), cpu.show(1, "ms"), "", "");
    report.row(
        format!("{what}: CPU per series"),
        per_series.show(2, "µs"),
        "",
        "cAdvisor 20 µs, coroot 89 µs",
    );
    report.row(format!("{what}: time, median"), wall.show(1, "ms"), "", "");
    Ok(())
}
