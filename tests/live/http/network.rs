//! A network that loses packets: two namespaces with a wire between them.

use std::process::Command;

use podmeter_tests::{process::Gated, temp::TempDir};

use super::lab::{Lab, PEER};

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
        for (end, namespace) in this.0.iter().enumerate() {
            must(&format!("ip -n {namespace} address add 10.99.0.{}/24 dev wire", end + 1));
            must(&format!("ip -n {namespace} link set wire up"));
        }
        this
    }

    /// Makes both ends lose packets. Where this kernel has no netem, by a queue that is too short for what is sent.
    fn lose(&self) {
        for namespace in &self.0 {
            let netem = run(&format!("tc -n {namespace} qdisc add dev wire root netem loss 2% limit 10000"));
            if !netem.0 {
                println!("no netem here ({}): a short queue loses packets instead", netem.1.trim());
                must(&format!("tc -n {namespace} qdisc add dev wire root tbf rate 80mbit burst 6kb limit 20kb"));
            }
        }
    }

    /// How many packets each end has lost so far.
    fn lost(&self) -> [u64; 2] {
        [&self.0[0], &self.0[1]].map(|namespace| {
            let said = must(&format!("tc -n {namespace} -s qdisc show dev wire"));
            let dropped = said.split("dropped ").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
            dropped.unwrap_or_else(|| panic!("{said}"))
        })
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
    let within = |end: usize| ["ip", "netns", "exec", wire.0[end].as_str()];
    let mut server: Gated = lab.server.spawn(&[&within(0)[..], &[PEER, "serve", "10.99.0.1:0"]].concat());
    let address = server.go().line();
    wire.lose();
    let directory = TempDir::new("network");
    let upload = format!("@{}", directory.file("body", vec![b'x'; 30_000]));
    // Connections are kept, so that a head is lost now and then in their middle; all streams run at once.
    let long = format!("X-Long: {}", "a".repeat(3000));
    let urls = [
        (&["--data-binary", &upload][..], format!("http://{address}/upload?[1-{EACH}]")),
        (&[], format!("http://{address}/body/30000?[1-{EACH}]")),
        (&["--header", &long], format!("http://{address}/hello?[1-{EACH}]")),
    ];
    let curl = ["curl", "-q", "-s", "--max-time", "120", "--output", "/dev/null", "--write-out", "%{http_code}\\n"];
    let streams = urls.iter().flat_map(|(flags, url)| {
        (0..STREAMS).map(|_| {
            let line = [&within(1)[..], &curl, flags, &["--header", "Expect:", url]].concat();
            let mut process = lab.client.spawn(&line);
            process.go();
            process
        })
    });
    for mut stream in streams.collect::<Vec<_>>() {
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
        assert_eq!(lab.counts(&scrape, &[("http_route", route)]), (expected, expected), "{}", lab.story(&scrape));
    }
}
