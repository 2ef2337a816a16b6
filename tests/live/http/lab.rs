//! A server and a client in cgroups of their own, and the agent that watches them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use podmeter_tests::{agent::Agent, cgroup::Cgroup, process::Gated, scrape::Scrape};

/// What the tests' own server and client are.
pub(crate) const PEER: &str = env!("CARGO_BIN_EXE_http-peer");

/// The names of the two histograms, without what follows.
pub(crate) const SERVER: &str = "http_server_request_duration_seconds";
pub(crate) const CLIENT: &str = "http_client_request_duration_seconds";

/// After how long what is missing is taken for lost: idle connections count after two seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The cgroups, and the agent. Fields are dropped in this order.
pub(crate) struct Lab {
    pub(crate) agent: Agent,
    pub(crate) server: Cgroup,
    pub(crate) client: Cgroup,
    /// The cgroups' paths as the agent sees them: in the label `id`.
    pub(crate) server_id: String,
    pub(crate) client_id: String,
    flags: Vec<String>,
    _root: Cgroup,
}

impl Lab {
    /// With an agent that watches the whole machine, as it does in earnest.
    pub(crate) fn new(flags: &[&str]) -> Self {
        Self::with("/", &[&["--signals", "http"], flags].concat())
    }

    /// With an agent that measures everything.
    pub(crate) fn whole(flags: &[&str]) -> Self {
        Self::with("/", flags)
    }

    /// With an agent whose machine is these two cgroups, so that what it counts without a label is theirs alone.
    pub(crate) fn alone(flags: &[&str]) -> Self {
        Self::with("", &[&["--signals", "http"], flags].concat())
    }

    fn with(machine: &str, flags: &[&str]) -> Self {
        let root = Cgroup::new("http");
        let (server, client) = (root.child("server"), root.child("client"));
        let directory = root.v2().display().to_string();
        let alone = ["--cgroupfs", &directory];
        let (prefix, place) = if machine == "/" { (root.path(), &[][..]) } else { ("", &alone[..]) };
        let flags: Vec<_> = [place, flags].concat().into_iter().map(str::to_owned).collect();
        let (server_id, client_id) = (format!("{prefix}/server"), format!("{prefix}/client"));
        Self { agent: start(&flags), server, client, server_id, client_id, flags, _root: root }
    }

    /// Starts another agent in the place of the one that was, which has seen nothing of what was before.
    pub(crate) fn restart(&mut self) {
        self.agent = start(&self.flags);
    }

    /// Starts the tests' own server; with the address that it listens on.
    pub(crate) fn serve(&self, address: &str) -> Server {
        let mut process = self.server.spawn(&[PEER, "serve", address]);
        let address = process.go().line();
        Server { port: address.rsplit(':').next().expect("an address").to_owned(), _process: process }
    }

    /// Runs a client to its end; what it printed.
    pub(crate) fn run(&self, program: &[&str]) -> String {
        run(&self.client, program)
    }

    /// Runs curl, silent and without its configuration; what it printed.
    pub(crate) fn curl(&self, arguments: &[&str]) -> String {
        self.run(&[&["curl", "--disable", "--no-progress-meter", "--max-time", "60"], arguments].concat())
    }

    /// A client that does what it is told.
    pub(crate) fn talk(&self) -> Talk {
        Talk::start(&self.client, &[PEER, "talk"])
    }

    /// How many requests there are, at one side, of those that have the labels.
    pub(crate) fn count(&self, scrape: &Scrape, side: &str, labels: &[(&str, &str)]) -> u64 {
        let id = if side == SERVER { &self.server_id } else { &self.client_id };
        let labels = [&[("id", id.as_str())], labels].concat();
        scrape.sum(&format!("{side}_count"), &labels) as u64
    }

    /// The counts of server and client.
    pub(crate) fn counts(&self, scrape: &Scrape, labels: &[(&str, &str)]) -> (u64, u64) {
        (self.count(scrape, SERVER, labels), self.count(scrape, CLIENT, labels))
    }

    /// Scrapes until each side has as many requests as it should, which ends of connections and idle ones bring about; more
    /// are one too many.
    pub(crate) fn settled(&self, server: u64, client: u64) -> Scrape {
        let started = Instant::now();
        let scrape = self.agent.scrape_until("requests", |scrape| {
            let (of_server, of_client) = self.counts(scrape, &[]);
            of_server >= server && of_client >= client || started.elapsed() > PATIENCE
        });
        assert_eq!(
            self.counts(&scrape, &[]),
            (server, client),
            "at server and client:\n{}",
            self.story(&scrape)
        );
        scrape
    }

    /// How much was lost for a reason.
    pub(crate) fn lost(scrape: &Scrape, reason: &str) -> u64 {
        scrape.value("podmeter_lost_total", &[("reason", reason)]).expect("a counter for each reason") as u64
    }

    /// How much was lost for any reason but the cgroups' own: those may come from anywhere on the machine, always.
    pub(crate) fn lost_in_all(scrape: &Scrape) -> u64 {
        let reasons = scrape.label_values("podmeter_lost_total", "reason", &[]);
        let reasons = reasons.iter().filter(|reason| !reason.starts_with("cgroup_"));
        reasons.map(|reason| Self::lost(scrape, reason)).sum()
    }

    /// The lines of a scrape that tell of these requests, for whoever reads why a test failed.
    pub(crate) fn story(&self, scrape: &Scrape) -> String {
        let ids = [&self.server_id, &self.client_id].map(|id| format!("id=\"{id}\""));
        let tells = |line: &&str| {
            let of_ours = line.contains("_count{") && ids.iter().any(|id| line.contains(id));
            of_ours || line.starts_with("podmeter_lost_total") && !line.ends_with(" 0")
        };
        scrape.0.lines().filter(tells).collect::<Vec<_>>().join("\n")
    }
}

fn start(flags: &[String]) -> Agent {
    Agent::start(&flags.iter().map(String::as_str).collect::<Vec<_>>())
}

/// GETs a path from here, which is neither cgroup; the body.
pub(crate) fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    // Of 1.0, whose answers have no chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(" 200 "), "{path}: {text}");
    body.to_owned()
}

/// Runs a program in a cgroup to its end; what it printed.
pub(crate) fn run(cgroup: &Cgroup, program: &[&str]) -> String {
    let mut process = cgroup.spawn(program);
    process.go();
    let mut said = String::new();
    process.child.stdout.as_mut().expect("piped").read_to_string(&mut said).expect("text");
    let status = process.end();
    assert!(status.success(), "{program:?}: {status}\n{said}");
    said
}

/// A server that runs.
pub(crate) struct Server {
    pub(crate) port: String,
    _process: Gated,
}

impl Server {
    /// A URL of a path, at IPv4's loopback.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.v4())
    }

    /// Its address on IPv4.
    pub(crate) fn v4(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// See `tests/src/bin/http-peer/talk.rs`.
pub(crate) struct Talk(Gated);

impl Talk {
    /// Starts it by a command.
    pub(crate) fn start(cgroup: &Cgroup, command: &[&str]) -> Self {
        let mut process = cgroup.spawn(command);
        process.go();
        Self(process)
    }

    /// Says a line; what was answered.
    pub(crate) fn say(&mut self, line: &str) -> String {
        writeln!(self.0.child.stdin.as_mut().expect("piped"), "{line}").expect("it listens");
        let said = self.0.line();
        assert!(!said.is_empty(), "{line}: it ended");
        said
    }

    /// Says several lines.
    pub(crate) fn all(&mut self, lines: &[&str]) {
        for line in lines {
            self.say(line);
        }
    }
}
