//! TCP: bytes, connections, failures, retransmits and round-trip times, against curl, `ss` and the kernel's own counters.

use podmeter_tests::{agent::Agent, cgroup::Cgroup, process::Gated, scrape::Scrape, temp::TempDir, wait};

use crate::{
    http::lab::{PEER, Talk, run},
    wire::{Wire, must},
};

/// A server's and a client's cgroup.
struct Ends {
    server: Cgroup,
    client: Cgroup,
    _root: Cgroup,
}

impl Ends {
    fn new() -> Self {
        let root = Cgroup::new("tcp");
        Self { server: root.child("server"), client: root.child("client"), _root: root }
    }

    /// Starts the tests' own server: it, and its address.
    fn serve(&self) -> (Gated, String) {
        let mut server = self.server.spawn(&[PEER, "serve", "127.0.0.1:0"]);
        let address = server.go().line();
        (server, address)
    }
}

fn agent() -> Agent {
    Agent::start(&["--signals", "tcp"])
}

/// The value of a counter that has no labels of its own; 0 before the cgroup did anything.
fn count(scrape: &Scrape, cgroup: &Cgroup, what: &str) -> u64 {
    scrape.sum(&format!("container_tcp_{what}"), &[("id", cgroup.path())]) as u64
}

/// The connections that a cgroup tried to open in vain.
fn failed(scrape: &Scrape, cgroup: &Cgroup, reason: &str) -> f64 {
    scrape.sum("container_tcp_failed_connections_total", &[("id", cgroup.path()), ("reason", reason)])
}

/// Received, sent, accepted and opened.
fn account(scrape: &Scrape, cgroup: &Cgroup) -> [u64; 4] {
    ["received_bytes_total", "sent_bytes_total", "accepted_connections_total", "opened_connections_total"]
        .map(|what| count(scrape, cgroup, what))
}

/// Scrapes until the account is as it should be, for the other end's FIN takes a moment; with what it is, if it never is.
#[track_caller]
fn settled(agent: &Agent, cgroup: &Cgroup, expected: [u64; 4]) -> Scrape {
    let mut last = None;
    let scrape = wait::perhaps(|| {
        let scrape = agent.scrape();
        last = Some(account(&scrape, cgroup));
        (last == Some(expected)).then_some(scrape)
    });
    scrape.unwrap_or_else(|| panic!("{}: {last:?}, not {expected:?}", cgroup.path()))
}

/// Bytes are curl's own count, to the byte, and so are connections: kept ones, closed ones, uploads and downloads.
#[test]
fn bytes_and_connections_are_what_curl_says() {
    let ends = Ends::new();
    let (_server, address) = ends.serve();
    let agent = agent();
    let directory = TempDir::new("tcp");
    let upload = format!("@{}", directory.file("body", vec![b'x'; 300_000]));
    let told = "%{size_request} %{size_upload} %{size_header} %{size_download} %{num_connects}\\n";
    let curl = ["curl", "-q", "-s", "--max-time", "60", "--output", "/dev/null", "--write-out", told];
    let lines: [&[&str]; 4] = [
        &[&format!("http://{address}/hello?[1-50]")],
        &[&format!("http://{address}/body/5000000?[1-3]")],
        &["--header", "Expect:", "--data-binary", &upload, &format!("http://{address}/upload?[1-3]")],
        &[&format!("http://{address}/close")],
    ];
    let mut expected = [0; 4];
    for line in lines {
        for said in run(&ends.client, &[&curl[..], line].concat()).lines() {
            let numbers: Vec<u64> = said.split(' ').map(|word| word.parse().expect("a number")).collect();
            let [request, upload, header, download, connects] = numbers[..] else { panic!("{said}") };
            expected[0] += header + download;
            expected[1] += request + upload;
            expected[3] += connects;
        }
    }
    assert_eq!(expected[3], 4, "a connection for each curl");
    settled(&agent, &ends.client, expected);
    let [received, sent, _, opened] = expected;
    let scrape = settled(&agent, &ends.server, [sent, received, opened, 0]);
    for cgroup in [&ends.server, &ends.client] {
        let observed = count(&scrape, cgroup, "rtt_seconds_count");
        assert!(observed >= opened, "an observation for each connection that ended: {observed}");
        assert_eq!(count(&scrape, cgroup, "failed_connections_total"), 0);
    }
}

/// Scrapes in between change nothing, and what a connection moved before the agent came is not counted.
#[test]
fn a_connection_from_before_counts_from_now_on() {
    let ends = Ends::new();
    let (_server, address) = ends.serve();
    let mut talk = Talk::start(&ends.client, &[PEER, "talk"]);
    talk.all(&[&format!("open {address}"), "send GET /body/70000 HTTP/1.1\\r\\n\\r\\n", "answer"]);
    let agent = agent();
    let mut expected = [0, 0, 0, 0];
    assert_eq!(account(&agent.scrape(), &ends.client), expected);
    let (request, answer) =
        ("GET /body/1000 HTTP/1.1\\r\\n\\r\\n", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    for _ in 0..5 {
        talk.all(&[&format!("send {request}"), "answer"]);
        expected[0] += answer.len() as u64 + 1000;
        expected[1] += request.replace("\\r", "\r").replace("\\n", "\n").len() as u64;
        settled(&agent, &ends.client, expected);
        settled(&agent, &ends.server, [expected[1], expected[0], 0, 0]);
    }
    // The end of it moves nothing more.
    talk.say("close");
    settled(&agent, &ends.server, [expected[1], expected[0], 0, 0]);
    let scrape = settled(&agent, &ends.client, expected);
    assert_eq!(scrape.value("podmeter_lost_total", &[("reason", "cgroup_gone")]), Some(0.0));
}

/// The smoothed round-trip time is the kernel's own, which `ss` shows in milliseconds with three digits.
#[test]
fn the_round_trip_time_is_what_ss_says() {
    let ends = Ends::new();
    let (_server, address) = ends.serve();
    let agent = agent();
    let mut talk = Talk::start(&ends.client, &[PEER, "talk"]);
    talk.all(&[&format!("open {address}"), "send GET /body/2000000 HTTP/1.1\\r\\n\\r\\n", "answer"]);
    let ss = must(&format!("ss -Htin state established dst {address}"));
    let field = |name: &str| {
        let rest = ss.split_whitespace().find_map(|word| word.strip_prefix(name));
        rest.unwrap_or_else(|| panic!("{name} is not in {ss}")).to_owned()
    };
    let rtt: f64 = field("rtt:").split('/').next().expect("a time").parse().expect("a number");
    let received: u64 = field("bytes_received:").parse().expect("a number");
    let scrape = agent.scrape();
    assert_eq!(count(&scrape, &ends.client, "received_bytes_total"), received);
    let labels = [("id", ends.client.path())];
    let sum = scrape.value("container_tcp_rtt_seconds_sum", &labels).expect("a histogram");
    assert_eq!(count(&scrape, &ends.client, "rtt_seconds_count"), 1);
    assert!((sum * 1e3 - rtt).abs() < 1e-6, "{sum} s, not {rtt} ms");
    // An idle connection is not observed again.
    assert_eq!(count(&agent.scrape(), &ends.client, "rtt_seconds_count"), 1);
}

/// Each segment that the kernel counts as sent again, in whichever network namespace, is somebody's.
#[test]
fn retransmits_are_the_kernels() {
    let ends = Ends::new();
    let agent = agent();
    let wire = Wire::new();
    let mut server = ends.server.spawn(&wire.within(0, &[PEER, "serve", "10.99.0.1:0"]));
    let address = server.go().line();
    wire.slow();
    let url = format!("http://{address}/body/300000?[1-20]");
    let curl = [
        "curl",
        "-q",
        "-s",
        "--max-time",
        "60",
        "--output",
        "/dev/null",
        "--no-progress-meter",
        "--parallel",
        &url,
    ];
    let mut client = ends.client.spawn(&wire.within(1, &curl));
    client.go();
    wait::until("a connection", || (wire.connections() > 0).then_some(()));
    wire.lose();
    client.finish();
    drop(server);
    // Segments that are still on their way are sent again, some a few times, until their connections are given up or done.
    let mut last = (0, 0);
    wait::until("the kernel's own count", || {
        let kernel: u64 = (0..2).map(|end| wire.retransmits(end)).sum();
        let scrape = agent.scrape();
        let ours: u64 =
            [&ends.server, &ends.client].map(|end| count(&scrape, end, "retransmits_total")).iter().sum();
        let is_still = last == (kernel, ours);
        last = (kernel, ours);
        (kernel > 0 && kernel == ours && is_still).then_some(())
    });
    println!("segments sent again: {last:?}");
}

/// Why a connection could not be opened; and resets, where there is a socket to receive one.
#[test]
fn failures_have_reasons() {
    let ends = Ends::new();
    let agent = agent();
    let wire = Wire::new();
    // It gives up after 3 seconds instead of two minutes.
    must(&wire.within(1, &["sysctl", "-qw", "net.ipv4.tcp_syn_retries=1"]).join(" "));
    // Nobody has this address, but the neighbour is known: what is sent there is lost in silence.
    wire.within_ip(1, "neighbour add 10.99.0.3 lladdr 02:00:00:00:00:03 nud permanent dev wire");
    let connect = |flags: &[&str], url: &str| {
        let line = [&["curl", "-q", "-s", "--max-time", "60"], flags, &[url]].concat();
        let mut process = ends.client.spawn(&wire.within(1, &line));
        process.go();
        process
    };
    // Nobody listens here.
    let refused = connect(&[], "http://10.99.0.1:9/");
    let aborted = connect(&["--connect-timeout", "0.3"], "http://10.99.0.3:9/");
    let timeout = connect(&[], "http://10.99.0.3:9/");
    // The way there is lost while the kernel tries.
    wire.within_ip(1, "route add 10.98.0.0/24 via 10.99.0.3");
    let unreachable = connect(&[], "http://10.98.0.1:9/");
    let trying = wire.within(1, &["ss", "-Htn", "state", "syn-sent", "dst", "10.98.0.1"]).join(" ");
    wait::until("an attempt", || (!must(&trying).is_empty()).then_some(()));
    wire.within_ip(1, "route replace unreachable 10.98.0.0/24");
    for process in [refused, aborted, timeout, unreachable] {
        assert!(!process.end().success());
    }
    let scrape = agent.scrape_until("failures", |scrape| failed(scrape, &ends.client, "unreachable") == 1.0);
    for (reason, expected) in [("refused", 1.0), ("aborted", 1.0), ("timeout", 1.0), ("other", 0.0)] {
        assert_eq!(failed(&scrape, &ends.client, reason), expected, "{reason}");
    }
    let labels = [("id", ends.client.path()), ("direction", "received")];
    assert_eq!(scrape.sum("container_tcp_resets_total", &labels), 1.0, "the refusal");
    assert_eq!(account(&scrape, &ends.client), [0; 4]);
}
