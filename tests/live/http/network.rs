//! A network that loses packets: two namespaces with a wire between them.

use std::time::Instant;

use podmeter_tests::{process::Gated, temp::TempDir, wait};

use super::lab::{CLIENT, Lab, PEER, SERVER, Talk};
use crate::wire::Wire;

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
