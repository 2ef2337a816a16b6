//! podmeter itself, as built for release: started, scraped and stopped.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    container::Containers,
    machine::{self, Memory, Process, pause},
    sys,
};
use crate::command::{cargo, output};

/// Builds podmeter for release; the path of the binary.
pub(super) fn build() -> Result<PathBuf> {
    eprintln!("building podmeter for release");
    let messages = output(&mut cargo([
        "build",
        "--release",
        "--package=podmeter",
        "--message-format=json-render-diagnostics",
    ])?)?;
    let path = messages
        .lines()
        .filter_map(|line| line.split("\"executable\":\"").nth(1)?.split('"').next())
        .next_back();
    path.map(PathBuf::from).context("cargo built no binary of podmeter")
}

/// A running agent, killed when dropped.
pub(super) struct Agent {
    process: Process,
    address: SocketAddr,
    /// Just before it was started.
    pub(super) started: Instant,
}

impl Agent {
    /// Starts it on a free port of loopback, and waits until it serves.
    pub(super) fn start(binary: &Path) -> Result<Self> {
        Self::spawn(Command::new(binary).arg("agent"), binary)
    }

    /// As [`Self::start`]; its machine is a cgroup, to which its packet programs are attached.
    pub(super) fn within(binary: &Path, cgroup: &Path) -> Result<Self> {
        Self::spawn(Command::new(binary).arg("agent").arg("--cgroupfs").arg(cgroup), binary)
    }

    fn spawn(command: &mut Command, binary: &Path) -> Result<Self> {
        command.args(["--listen=127.0.0.1:0", "--log-format=json", "--log-level=info"]);
        let started = Instant::now();
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut process = Process(child.with_context(|| format!("cannot start {}", binary.display()))?);
        let errors = process.0.stderr.take().context("a child without a standard error")?;
        let (sender, receiver) = mpsc::channel();
        // Reads on when nobody listens any more, so that the agent never waits for us.
        std::thread::spawn(move || {
            BufReader::new(errors).lines().map_while(Result::ok).for_each(|line| _ = sender.send(line));
        });
        let mut log = String::new();
        let deadline = started + Duration::from_secs(60);
        while let Ok(line) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            let address =
                line.split("\"address\":\"").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok());
            if let Some(address) = address {
                return Ok(Self { process, address, started });
            }
            log += &format!("{line}\n");
        }
        bail!("podmeter did not serve within a minute, or ended; it said\n{log}")
    }

    /// GETs /metrics: the body as it came.
    pub(super) fn scrape(&self, gzip: bool) -> Result<Vec<u8>> {
        let answer = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            let accept = if gzip { "Accept-Encoding: gzip\r\n" } else { "" };
            // To a client of 1.0 the metrics come as they are, and not in chunks.
            let head =
                format!("GET /metrics HTTP/1.0\r\nHost: podmeter\r\n{accept}Connection: close\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        let mut answer = answer().context("podmeter does not answer a scrape")?;
        let end =
            answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("an answer without a head")?;
        let body = answer.split_off(end + 4);
        let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        if !head.starts_with("http/1.0 200 ") || head.contains("content-encoding: gzip") != gzip {
            bail!("podmeter answers a scrape with {head}");
        }
        Ok(body)
    }

    /// A scrape, as text.
    pub(super) fn text(&self) -> Result<String> {
        String::from_utf8(self.scrape(false)?).context("a scrape that is no text")
    }

    /// The first scrape with CPU and memory of every container, and how long after the start it was there.
    pub(super) fn complete(&self, containers: &Containers) -> Result<(String, Duration)> {
        loop {
            let text = self.text()?;
            let taken = self.started.elapsed();
            let missing = containers.missing_in(&text);
            if missing == 0 {
                return Ok((text, taken));
            }
            if taken > Duration::from_secs(20) {
                let failed = text
                    .lines()
                    .filter(|line| line.starts_with("podmeter_collector_success") && line.ends_with(" 0"));
                let failed = failed.collect::<Vec<_>>().join(", ");
                bail!("{missing} containers are without CPU or memory in the scrape after 20 s; {failed}");
            }
            pause(Duration::from_millis(5))?;
        }
    }

    /// The CPU time that it used so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        sys::cpu_time(self.process.id())
    }

    /// The memory that it has now.
    pub(super) fn memory(&self) -> Result<Memory> {
        machine::memory(self.process.id())
    }

    /// The memory of the kernel's that its maps and programs have, MiB.
    pub(super) fn kernel_memory(&self) -> Result<f64> {
        let folder = format!("/proc/{}/fdinfo", self.process.id());
        let files = std::fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
        // By the number of map or program: several descriptors may be of one.
        let mut sizes = HashMap::new();
        for file in files.flatten() {
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            let value = |name: &str| {
                text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
            };
            let id = (value("map_id:"), value("prog_id:"));
            if let Some(size) = value("memlock:").filter(|_| id != (None, None)) {
                sizes.insert(id, size);
            }
        }
        Ok(sizes.values().sum::<u64>() as f64 / 1024.0 / 1024.0)
    }

    /// Stops it as an orchestrator would, and waits until it is gone.
    pub(super) fn stop(mut self) -> Result<()> {
        sys::terminate(self.process.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(status) = self.process.0.try_wait().context("cannot wait for podmeter")? {
                if !status.success() {
                    bail!("podmeter ended with {status} when told to stop");
                }
                return Ok(());
            }
            pause(Duration::from_millis(10))?;
        }
        bail!("podmeter is still running 10 seconds after it was told to stop")
    }
}

/// Which of podmeter's programs do not work on this machine.
pub(super) fn unattached(binary: &Path) -> Result<Vec<String>> {
    let agent = Agent::start(binary)?;
    let text = agent.text()?;
    agent.stop()?;
    let lines = text.lines().filter(|line| {
        line.starts_with("podmeter_probe_state{")
            && line.contains("state=\"attached\"")
            && line.ends_with(" 0")
    });
    let names = lines.filter_map(|line| line.split("program=\"").nth(1)?.split('"').next());
    Ok(names.map(str::to_owned).collect())
}

/// The sum over the series of a metric that have all these texts among their labels.
pub(super) fn sum(scrape: &str, metric: &str, labels: &[&str]) -> f64 {
    let lines = scrape.lines().filter_map(|line| line.strip_prefix(metric));
    let values = lines.filter_map(|rest| {
        let (own, value) = rest.rsplit_once(' ')?;
        let whole = own.is_empty() || own.starts_with('{');
        (whole && labels.iter().all(|label| own.contains(label))).then(|| value.parse::<f64>().ok())?
    });
    // Not sum(), which is -0 over nothing.
    values.fold(0.0, |total, value| total + value)
}

/// How many series a scrape has.
pub(super) fn series(scrape: &str) -> usize {
    scrape.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = "# TYPE a gauge\na{x=\"1\",y=\"2\"} 3\na{x=\"2\"} 4\nab 5\nc 6\n";

    #[test]
    fn sums_series() {
        assert_eq!(sum(SCRAPE, "a", &[]), 7.0);
        assert_eq!(sum(SCRAPE, "a", &["x=\"1\""]), 3.0);
        assert_eq!(sum(SCRAPE, "c", &[]), 6.0);
        assert_eq!(sum(SCRAPE, "d", &[]), 0.0);
        assert_eq!(series(SCRAPE), 4);
    }
}
