//! A network that loses packets: two namespaces with a wire between them.

use std::{process::Command, time::Instant};

use podmeter_tests::{process::Gated, temp::TempDir, wait};

use super::lab::{CLIENT, Lab, PEER, SERVER, Talk};

/// Runs a command of iproute2; whether it went well, and what it said.
fn run(line: &str) -> (bool, String) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().expect("a program")).args(words).output().expect("iproute2");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn must(line: &str) -> String {
    let (is_ok, said) = run(line);
    assert!(is_ok, "{line}: {said}");
    said
}

/// Two network namespaces and the wire between them; gone, with the wire, when dropped.
struct Wire([String; 2]);

impl Wire {
    fn new() -> Self {
        let this = Self(["a", "b"].map(|end| format!("podmeter-{}-{end}", std::process::id())));
        let [a, b] = &this.0;
        must(&format!("ip netns add {a}"));
        must(&format!("ip netns add {b}"));
        must(&format!("ip -n {a} link add wire type veth peer name wire netns {b}"));
        for (end, other) in [(1, 2), (2, 1)] {
            let namespace = &this.0[end - 1];
            must(&format!("ip -n {namespace} address add 10.99.0.{end}/24 dev wire"));
            must(&format!("ip -n {namespace} link set wire address 02:00:00:00:00:0{end} up"));
            // Known for good: a packet that waits for its neighbour's address is not lost when the wire is cut.
            let neighbour = format!("10.99.0.{other} lladdr 02:00:00:00:00:0{other} nud permanent dev wire");
            must(&format!("ip -n {namespace} neighbour replace {neighbour}"));
        }
        this
    }

    /// The command that runs another at one end.
    fn within<'a>(&'a self, end: usize, command: &[&'a str]) -> Vec<&'a str> {
        [&["ip", "netns", "exec", &self.0[end]], command].concat()
    }

    /// Makes the wire slow, without a loss: what is begun takes a while.
    fn slow(&self) {
        for namespace in &self.0 {
            must(&format!(
                "tc -n {namespace} qdisc replace dev wire root tbf rate 80mbit burst 6kb limit 4mb"
            ));
        }
    }

    /// Makes both ends lose packets. Where this kernel has no netem, by a queue that is too short for what is sent.
    fn lose(&self) {
        for namespace in &self.0 {
            let netem =
                run(&format!("tc -n {namespace} qdisc replace dev wire root netem loss 2% limit 10000"));
            if !netem.0 {
                println!("no netem here ({}): a short queue loses packets instead", netem.1.trim());
                must(&format!(
                    "tc -n {namespace} qdisc replace dev wire root tbf rate 80mbit burst 6kb limit 20kb"
                ));
            }
        }
    }

    /// How many connections the first end has.
    fn connections(&self) -> usize {
        must(&format!("ip netns exec {} ss -Htn state established", self.0[0])).lines().count()
    }

    /// How many packets each end has lost so far.
    fn lost(&self) -> [u64; 2] {
        [&self.0[0], &self.0[1]].map(|namespace| {
            let said = must(&format!("tc -n {namespace} -s qdisc show dev wire"));
            let dropped = said.split("dropped ").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
            dropped.unwrap_or_else(|| panic!("{said}"))
        })
    }

    /// Cuts the wire at its first end, or joins it again: what is sent meanwhile is lost.
    fn cut(&self, is_cut: bool) {
        must(&format!("ip -n {} link set wire {}", self.0[0], if is_cut { "down" } else { "up" }));
        let carrier = if is_cut { "NO-CARRIER" } else { "LOWER_UP" };
        wait::until(carrier, || {
            must(&format!("ip -n {} link show wire", self.0[1])).contains(carrier).then_some(())
        });
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for namespace in &self.0 {
            run(&format!("ip netns delete {namespace}"));
        }
    }
}

/// What was counted, plus what was counted as lost, is what was sent: at each side, whichever packets come twice, late or in
/// another order.
#[test]
fn lost_packets_lose_no_request() {
    const STREAMS: usize = 8;
    const EACH: usize = 60;
    let lab = Lab::alone(&[]);
    let wire = Wire::new();
    let mut server: Gated = lab.server.spawn(&wire.within(0, &[PEER, "serve", "10.99.0.1:0"]));
    let address = server.go().line();
    wire.slow();
    let directory = TempDir::new("network");
    let upload = format!("@{}", directory.file("body", vec![b'x'; 30_000]));
    // Connections are kept, so that a head is lost now and then in their middle; all streams run at once.
    let long = format!("X-Long: {}", "a".repeat(3000));
    let urls = [
        (&["--data-binary", &upload][..], format!("http://{address}/upload?[1-{EACH}]")),
        (&[], format!("http://{address}/body/30000?[1-{EACH}]")),
        (&["--header", &long], format!("http://{address}/hello?[1-{EACH}]")),
    ];
    let curl =
        ["curl", "-q", "-s", "--max-time", "120", "--output", "/dev/null", "--write-out", "%{http_code}\\n"];
    let streams = urls.iter().flat_map(|(flags, url)| {
        (0..STREAMS).map(|_| {
            let line = [&curl[..], flags, &["--header", "Expect:", url]].concat();
            let mut process = lab.client.spawn(&wire.within(1, &line));
            process.go();
            process
        })
    });
    let streams: Vec<_> = streams.collect();
    // What is lost before a connection is one is another matter: see `wrk`.
    wait::until("connections", || (wire.connections() == streams.len()).then_some(()));
    wire.lose();
    for mut stream in streams {
        let said: Vec<_> = (0..EACH).map(|_| stream.line()).collect();
        assert_eq!(said, vec!["200"; EACH], "curl");
        stream.finish();
    }
    let lost = wire.lost();
    println!("packets lost at server and client: {lost:?}");
    assert!(lost.iter().all(|lost| *lost > 0), "the wire loses packets: {lost:?}");
    let sent = (urls.len() * STREAMS * EACH) as u64;
    let scrape = lab.settled(sent, sent);
    for route in ["/upload", "/body/{id}", "/hello"] {
        let expected = (STREAMS * EACH) as u64;
        assert_eq!(
            lab.counts(&scrape, &[("http_route", route)]),
            (expected, expected),
            "{}",
            lab.story(&scrape)
        );
    }
}

/// A head that was lost comes a second time, after the body that it announces.
#[test]
fn a_body_may_come_before_its_head() {
    const ROUNDS: u64 = 10;
    let lab = Lab::alone(&[]);
    let wire = Wire::new();
    let mut server: Gated = lab.server.spawn(&wire.within(0, &[PEER, "serve", "10.99.0.1:0"]));
    let address = server.go().line();
    let mut talk = Talk::start(&lab.client, &wire.within(1, &[PEER, "talk"]));
    talk.say(&format!("open {address}"));
    talk.all(&["send GET /first HTTP/1.1\\r\\n\\r\\n", "answer"]);
    let mut took = 0.0;
    for _ in 0..ROUNDS {
        wire.cut(true);
        let started = Instant::now();
        talk.say("send POST /upload HTTP/1.1\\r\\nContent-Length: 4\\r\\n\\r\\n");
        wire.cut(false);
        talk.all(&["send body", "answer"]);
        took += started.elapsed().as_secs_f64();
    }
    talk.say("close");
    let scrape = lab.settled(ROUNDS + 1, ROUNDS + 1);
    assert_eq!(lab.counts(&scrape, &[("http_route", "/upload")]), (ROUNDS, ROUNDS), "{}", lab.story(&scrape));
    for (side, id) in [(SERVER, &lab.server_id), (CLIENT, &lab.client_id)] {
        let sum = |route| scrape.sum(&format!("{side}_sum"), &[("id", id), ("http_route", route)]);
        assert!(sum("/upload") <= took, "{side}: {} s, not {took} s", sum("/upload"));
        // The one before them ended when its answer did.
        assert!(sum("/first") < 0.2, "{side}: {} s", sum("/first"));
    }
}
