//! What an adapter costs in a large cluster: simulated agents that speak the real protocol over loopback, and a real adapter.
//!
//!     ulimit -n 65536
//!     cargo build --release --package podmeter --bin podmeter
//!     cargo build --release --package podmeter-tests --example simulated_agents
//!     target/release/examples/simulated_agents --agents 5000 --adapter target/release/podmeter
//!
//! Of each node's pods two thirds change in every tick, as they use CPU, and a fifth serves HTTP on three routes; the rest are
//! idle, and told once. Prints the adapter's CPU and memory, the bytes of the streams, and how long answers take. What of it each
//! part takes is what is less without: `--pods 0`, `--idle`, `--no-http`.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Parser;
use podmeter::stream::{
    frame::{Described, Frame},
    message::{Container, Histogram, Http, Pod, Route, Usage},
};
use podmeter_tests::simulated::Agents;

/// Simulate agents, and measure an adapter that listens to them.
#[derive(Parser)]
struct Options {
    /// How many agents.
    #[arg(long, default_value_t = 5000)]
    agents: u16,
    /// How many pods each has.
    #[arg(long, default_value_t = 30)]
    pods: u32,
    /// Of pods nothing changes after they were told of.
    #[arg(long)]
    idle: bool,
    /// No pod serves HTTP.
    #[arg(long)]
    no_http: bool,
    /// How often they tell what changed, milliseconds.
    #[arg(long, default_value_t = 1000)]
    interval: u64,
    /// For how long to measure.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The podmeter to measure.
    #[arg(long)]
    adapter: PathBuf,
}

/// What pods do.
#[derive(Clone, Copy)]
struct Load {
    pods: u32,
    is_idle: bool,
    has_http: bool,
}

/// The counters of a node after so many ticks, and so much time.
fn frame(agent: u16, load: Load, tick: u64, elapsed: Duration) -> Frame {
    let pods = load.pods;
    let mut this = Frame {
        instance: 7,
        // No clock is at zero.
        nanos: 1 + elapsed.as_nanos() as u64,
        node: format!("node-{agent}"),
        host: Usage { cpu: Some(tick * 500_000_000), memory: Some(8 << 30), ..Usage::default() },
        ..Frame::default()
    };
    for pod in 0..pods {
        let (uid, id) =
            (format!("{agent:08x}-{pod:04x}-0000-0000-000000000000"), format!("{agent:032x}{pod:032x}"));
        let container = Container {
            name: "app".to_owned(),
            id: id.clone(),
            requested_cores: Some(0.1),
            ..Container::default()
        };
        let app = format!("app-{}", (u32::from(agent) * pods + pod) % 1000);
        let described = Pod {
            uid: uid.clone(),
            namespace: format!("team-{}", pod % 10),
            name: format!("{app}-{agent:x}-{pod:x}"),
            labels: BTreeMap::from([
                ("app".to_owned(), app.clone()),
                ("pod-template-hash".to_owned(), "5d4f8c7b9".to_owned()),
            ]),
            owner_kind: "Deployment".to_owned(),
            owner_name: app,
            containers: vec![container],
            ..Pod::default()
        };
        this.pods.insert(uid, Described(described));
        let ticks = if load.is_idle || pod % 3 == 0 { 0 } else { tick };
        let mut usage = Usage {
            cpu: Some(ticks * 20_000_000),
            memory: Some((64 << 20) + (ticks % 16) * 4096),
            queued: Some(ticks * 1_000_000),
            cpu_pressure: Some(ticks * 500_000),
            memory_pressure: Some(0),
            io_pressure: Some(0),
            http: Some(Http::default()),
            ..Usage::default()
        };
        if load.has_http && pod % 5 == 1 {
            let route = |at: u64| {
                let buckets = (60..80).collect::<Vec<u32>>();
                let counts = buckets.iter().map(|bucket| ticks * u64::from(*bucket)).collect();
                let duration = Some(Histogram { buckets, counts });
                Route {
                    route: format!("/route/{at}/{{id}}"),
                    requests: ticks * 1400,
                    errors: ticks,
                    duration,
                }
            };
            usage.http = Some(Http { routes: (0..3).map(route).collect(), active: Some(2), unparsed: 0 });
        }
        this.usages.insert(id, usage);
    }
    this
}

/// The adapter; killed when dropped.
struct Adapter(Child, SocketAddr);

impl Drop for Adapter {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Adapter {
    fn start(options: &Options, agents: &Agents) -> anyhow::Result<Self> {
        let urls: Vec<_> = (0..options.agents).map(|agent| agents.url(agent)).collect();
        let mut command = Command::new(&options.adapter);
        command.args([
            "adapter",
            "--listen",
            "127.0.0.1:0",
            "--auth",
            "none",
            "--log-format",
            "json",
            "--log-level",
            "warn,podmeter::adapter=info",
        ]);
        // An argument has an end: 128 KiB.
        for urls in urls.chunks(1000) {
            command.arg("--agent").arg(urls.join(","));
        }
        command.args([
            "--interval",
            &options.interval.to_string(),
            "--max-age",
            &(10 + options.interval / 500).to_string(),
        ]);
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("piped")?).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split("\"address\":\"").nth(1)?.split('"').next()?.parse().ok());
        let address = address.context("the adapter does not serve")?;
        // Of each agent it says a line; what else it says is for whoever watches.
        thread::spawn(move || {
            let lines =
                lines.map_while(Result::ok).filter(|line| !line.contains("an agent tells of its node"));
            lines.take(20).for_each(|line| eprintln!("{line}"));
        });
        Ok(Self(child, address))
    }

    /// The length of an answer, and how long it took.
    fn get(&self, path: &str) -> anyhow::Result<(Vec<u8>, Duration)> {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(self.1)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: adapter\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok((answer, begin.elapsed()))
    }

    fn nodes(&self) -> anyhow::Result<usize> {
        let (answer, _) = self.get("/apis/metrics.k8s.io/v1beta1/nodes")?;
        Ok(answer.windows(9).filter(|window| window == b"\"window\":").count())
    }

    /// CPU time in seconds; resident memory, and the most that it ever was, in MiB.
    fn used(&self) -> anyhow::Result<(f64, [f64; 2])> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields: Vec<_> = stat.rsplit_once(") ").context("a name")?.1.split(' ').collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let memory = |name: &str| {
            let kib = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
            Ok::<_, anyhow::Error>(kib.context("a size")?.trim().parse::<f64>()? / 1024.0)
        };
        Ok((ticks / 100.0, [memory("VmRSS:")?, memory("VmHWM:")?]))
    }
}

/// Bytes that came in over loopback.
fn received() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("loopback")?;
    Ok(line.split_whitespace().next().context("a number")?.parse()?)
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let interval = Duration::from_millis(options.interval);
    let load = Load { pods: options.pods, is_idle: options.idle, has_http: !options.no_http };
    let agents = Agents::start(interval, move |agent| {
        let begin = Instant::now();
        move || {
            let elapsed = begin.elapsed();
            frame(agent, load, (elapsed.as_millis() / interval.as_millis()) as u64, elapsed)
        }
    })?;
    let adapter = Adapter::start(&options, &agents)?;
    let begin = Instant::now();
    while adapter.nodes()? < usize::from(options.agents) {
        ensure!(begin.elapsed() < Duration::from_secs(120), "{} nodes have reported", adapter.nodes()?);
        thread::sleep(Duration::from_millis(500));
    }
    println!(
        "{} agents of {} pods: all nodes known after {:.1} s",
        options.agents,
        options.pods,
        begin.elapsed().as_secs_f64()
    );
    // Until windows are full.
    thread::sleep(Duration::from_secs(20));
    let (start, before, bytes) = (Instant::now(), adapter.used()?, received()?);
    thread::sleep(Duration::from_secs(options.seconds));
    let (after, seconds) = (adapter.used()?, start.elapsed().as_secs_f64());
    println!(
        "ticks of {} ms: {:.3} cores, {:.0} MiB resident (at most {:.0}), {:.0} kB/s",
        options.interval,
        (after.0 - before.0) / seconds,
        after.1[0],
        after.1[1],
        (received()? - bytes) / seconds / 1e3
    );
    for path in [
        "/apis/metrics.k8s.io/v1beta1/pods",
        "/apis/metrics.k8s.io/v1beta1/nodes",
        "/apis/metrics.k8s.io/v1beta1/namespaces/team-1/pods?labelSelector=app%3Dapp-1",
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/team-1/pods/*/http_requests_per_second?labelSelector=app%3Dapp-1",
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/team-1/deployments.apps/app-1/http_request_duration_p99_seconds",
    ] {
        let mut times = Vec::new();
        let mut length = 0;
        for _ in 0..10 {
            let (answer, took) = adapter.get(path)?;
            // Where there are no pods or no requests, there is no metric of them.
            let is_whole = options.pods > 0 && !options.no_http && !options.idle;
            ensure!(
                answer.starts_with(b"HTTP/1.1 200") || !is_whole,
                "{path}: {}",
                String::from_utf8_lossy(&answer[..answer.len().min(400)])
            );
            times.push(took.as_secs_f64() * 1e3);
            length = answer.len();
        }
        times.sort_by(f64::total_cmp);
        println!("{path}: {:.1} ms (median of 10; {:.1} at most), {length} bytes", times[5], times[9]);
    }
    let [resident, most] = adapter.used()?.1;
    println!("{resident:.0} MiB resident after that (at most {most:.0})");
    Ok(())
}
