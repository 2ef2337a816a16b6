//! A network that loses packets: two namespaces with a wire between them.

use std::time::{Duration, Instant};

use podmeter_tests::{process::Gated, scrape::Scrape, temp::TempDir, wait};

use super::lab::{CLIENT, Lab, PEER, SERVER, Talk};
use crate::wire::Wire;

/// What [`streams`] ask for.
const ROUTES: [&str; 3] = ["/upload", "/body/{id}", "/hello"];

/// Clients that run at once, so many for each route, each with so many requests on a connection that is kept: a head is lost now
/// and then in its middle.
fn streams(lab: &Lab, wire: &Wire, address: &str, count: usize, each: usize) -> Streams {
    let directory = TempDir::new("network");
    let upload = format!("@{}", directory.file("body", vec![b'x'; 30_000]));
    let long = format!("X-Long: {}", "a".repeat(3000));
    let urls = [
        (&["--data-binary", &upload][..], format!("http://{address}/upload?[1-{each}]")),
        (&[], format!("http://{address}/body/30000?[1-{each}]")),
        (&["--header", &long], format!("http://{address}/hello?[1-{each}]")),
    ];
    let curl =
        ["curl", "-q", "-s", "--max-time", "120", "--output", "/dev/null", "--write-out", "%{http_code}\\n"];
    let streams = urls.iter().flat_map(|(flags, url)| {
        (0..count).map(|_| {
            let line = [&curl[..], flags, &["--header", "Expect:", url]].concat();
            let mut process = lab.client.spawn(&wire.within(1, &line));
            process.go();
            process
        })
    });
    Streams { processes: streams.collect(), each, _directory: directory }
}

/// Clients that run.
struct Streams {
    processes: Vec<Gated>,
    each: usize,
    _directory: TempDir,
}

impl Streams {
    /// Waits for their end: all was answered.
    fn end(self) {
        let each = self.each;
        for mut stream in self.processes {
            let said: Vec<_> = (0..each).map(|_| stream.line()).collect();
            assert_eq!(said, vec!["200"; each], "curl");
            stream.finish();
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
    let streams = streams(&lab, &wire, &address, STREAMS, EACH);
    // What is lost before a connection is one is another matter: see `wrk`.
    wait::until("connections", || (wire.connections() == streams.processes.len()).then_some(()));
    wire.lose();
    streams.end();
    let lost = wire.lost();
    println!("packets lost at server and client: {lost:?}");
    assert!(lost.iter().all(|lost| *lost > 0), "the wire loses packets: {lost:?}");
    let sent = (ROUTES.len() * STREAMS * EACH) as u64;
    let scrape = lab.settled(sent, sent);
    for route in ROUTES {
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

/// Packets are lost, overtaken and delivered twice, from the handshake to the end: each side has counted each request, or told
/// of its loss. Where a message ended may not be known, which is told of, and loses no request by itself.
#[test]
fn a_rough_wire_loses_no_request() {
    const STREAMS: usize = 6;
    const EACH: usize = 40;
    let seed = std::env::var("PODMETER_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    println!("PODMETER_SEED={seed}");
    let lab = Lab::alone(&[]);
    let mut wire = Wire::to_be_rough(seed);
    let mut server: Gated = lab.server.spawn(&wire.within(0, &[PEER, "serve", "10.99.0.1:0"]));
    let address = server.go().line();
    wire.roughen();
    streams(&lab, &wire, &address, STREAMS, EACH).end();
    let happened = wire.happened();
    println!("on the way to server and client: {happened:?}");
    for end in happened {
        let all = [Some(end.dropped), end.reordered, end.duplicated];
        assert!(all.iter().flatten().all(|count| *count > 0), "the wire is rough: {happened:?}");
    }
    let sent = (ROUTES.len() * STREAMS * EACH) as u64;
    let counted = |scrape: &Scrape| {
        let (server, client) = lab.counts(scrape, &[]);
        server + client
    };
    // What is lost for good does not come late, and idle connections are counted after two seconds.
    let ended = Instant::now();
    let scrape = lab.agent.scrape_until("every request is told of", |scrape| {
        counted(scrape) >= 2 * sent || ended.elapsed() > Duration::from_secs(6)
    });
    println!("{}", lab.story(&scrape));
    let missing = (2 * sent).saturating_sub(counted(&scrape));
    assert!(
        missing <= Lab::lost_in_all(&scrape),
        "{missing} requests of {sent} at each end are lost without a word"
    );
    let (server, client) = lab.counts(&scrape, &[]);
    assert!(server <= sent && client <= sent, "{server} and {client} of {sent}");
    for route in ROUTES {
        let most = (STREAMS * EACH) as u64;
        let (server, client) =
            lab.counts(&scrape, &[("http_route", route), ("http_response_status_code", "200")]);
        assert!(server <= most && client <= most, "{route}: {server} and {client} of {most}");
    }
}
