//! Exemplars: a request that was traced is found by its trace, at both ends, in the bucket of its latency.

use std::{collections::BTreeMap, process::Command};

use podmeter_tests::{loopback::in_order, scrape::Scrape};

use super::lab::{CLIENT, Lab, SERVER};

/// The field of a request that is of a trace.
pub(crate) fn field(trace: &str, flags: &str) -> String {
    format!("traceparent: 00-{trace}-b7ad6b7169203331-{flags}\\r\\n")
}

/// What only OpenMetrics has a place for.
struct Exemplar {
    trace: String,
    seconds: f64,
    at: f64,
    /// The bound of its bucket.
    bound: f64,
}

fn openmetrics(lab: &Lab) -> String {
    let url = format!("http://{}/metrics", lab.agent.address);
    let accept = "Accept: application/openmetrics-text;version=1.0.0";
    let output = Command::new("curl").args(["-q", "-sS", "--fail", "--header", accept, &url]).output();
    String::from_utf8(output.expect("curl").stdout).expect("text")
}

/// Those of one side, by route.
fn exemplars(text: &str, side: &str, id: &str) -> BTreeMap<String, Vec<Exemplar>> {
    let mut found: BTreeMap<String, Vec<Exemplar>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with(&format!("{side}_bucket{{"))) {
        let Some((sample, exemplar)) = line.split_once(" # ") else { continue };
        let label = |name: &str| {
            let start = format!("{name}=\"");
            sample.split(&start).nth(1).and_then(|rest| rest.split('"').next()).expect("a label").to_owned()
        };
        if label("id") != id {
            continue;
        }
        let rest = exemplar.strip_prefix("{trace_id=\"").expect("a trace");
        let (trace, numbers) = rest.split_once("\"} ").expect("the end of the labels");
        let (seconds, at) = numbers.split_once(' ').expect("a time");
        let number = |text: &str| text.parse().expect("a number");
        found.entry(label("http_route")).or_default().push(Exemplar {
            trace: trace.to_owned(),
            seconds: number(seconds),
            at: number(at),
            bound: number(&label("le")),
        });
    }
    found
}

/// A request in whatever segments it is written, on a connection of its own; and its answer.
fn ask(lab: &Lab, address: &str, segments: &[&str]) {
    let mut talk = lab.talk();
    talk.say(&format!("open {address}"));
    for segment in segments {
        talk.say(&format!("send {segment}"));
    }
    talk.say("answer");
}

fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_secs_f64()
}

#[test]
fn a_traced_request_is_found_by_its_trace() {
    in_order(|| {
        let lab = Lab::alone(&[]);
        let server = lab.serve("127.0.0.1:0");
        let address = server.v4();
        let traces: Vec<_> = (1..=9).map(|number| format!("{number:032x}")).collect();
        let recorded = |number: usize| field(&traces[number], "01");
        let before = now();
        let long = format!("X-Long: {}\\r\\n", "x".repeat(300));
        ask(
            &lab,
            &address,
            &[&format!("GET /delay/fast/30 HTTP/1.1\\r\\nHost: a\\r\\n{}\\r\\n", recorded(0))],
        );
        ask(&lab, &address, &[&format!("GET /delay/slow/700 HTTP/1.1\\r\\n{}\\r\\n", recorded(1))]);
        // Beyond what is compared of a head, in a segment of its own, and before a body.
        ask(&lab, &address, &[&format!("GET /behind HTTP/1.1\\r\\n{long}{}\\r\\n", recorded(2))]);
        ask(&lab, &address, &["GET /split HTTP/1.1\\r\\n", &format!("{}\\r\\n", recorded(3))]);
        let loud = recorded(4).replace("traceparent", "TRACEPARENT");
        let post = format!("POST /body HTTP/1.1\\r\\n{loud}Content-Length: 5\\r\\n\\r\\nhello");
        ask(&lab, &address, &[&post]);
        // Nobody has recorded this one, this one is of no trace, and of this one we have not seen all.
        ask(&lab, &address, &[&format!("GET /unrecorded HTTP/1.1\\r\\n{}\\r\\n", field(&traces[5], "00"))]);
        ask(&lab, &address, &["GET /untraced HTTP/1.1\\r\\n\\r\\n"]);
        let torn = recorded(6);
        let (first, rest) = torn.split_at(40);
        ask(&lab, &address, &[&format!("GET /torn HTTP/1.1\\r\\n{first}"), &format!("{rest}\\r\\n")]);
        // Of two that wait for their answers at once, the one that came first is followed.
        let mut talk = lab.talk();
        talk.say(&format!("open {address}"));
        let two = [("first", 7), ("second", 8)]
            .map(|(route, number)| format!("GET /{route} HTTP/1.1\\r\\n{}\\r\\n", recorded(number)));
        talk.all(&[&format!("send {}", two.concat()), "answer", "answer"]);
        let scrape = lab.settled(10, 10);
        assert_eq!(Lab::lost_in_all(&scrape), 0, "{}", lab.story(&scrape));

        let text = openmetrics(&lab);
        let wanted = [
            ("/behind", &traces[2]),
            ("/body", &traces[4]),
            ("/delay/fast/{id}", &traces[0]),
            ("/delay/slow/{id}", &traces[1]),
            ("/first", &traces[7]),
            ("/split", &traces[3]),
        ];
        for (side, id) in [(SERVER, &lab.server_id), (CLIENT, &lab.client_id)] {
            let found = exemplars(&text, side, id);
            let of = found.iter().map(|(route, of)| {
                assert_eq!(of.len(), 1, "{side} {route}");
                (route.clone(), &of[0].trace)
            });
            let wanted: Vec<_> = wanted.iter().map(|(route, trace)| ((*route).to_owned(), *trace)).collect();
            assert_eq!(of.collect::<Vec<_>>(), wanted, "{side}");
            for (route, of) in &found {
                let Exemplar { seconds, at, bound, .. } = &of[0];
                assert!(seconds <= bound && (before..=now()).contains(at), "{side} {route}: {seconds} {at}");
                // It is the only one of its series: its latency is the series' sum.
                let sum = scrape.sum(&format!("{side}_sum"), &[("id", id), ("http_route", route)]);
                assert!((sum - seconds).abs() < 1e-9, "{side} {route}: {seconds}, and the sum is {sum}");
            }
        }
        // The text format has no place for them.
        assert!(!lab.agent.scrape().0.contains("trace_id"));
    });
}

/// However many there are, a series has few: and the slow one is among them.
#[test]
fn the_many_do_not_drive_out_the_slow_one() {
    in_order(|| {
        let lab = Lab::alone(&[]);
        let server = lab.serve("127.0.0.1:0");
        let address = server.v4();
        let request = |trace: &str, millis: u32| {
            format!("GET /delay/{millis} HTTP/1.1\\r\\n{}\\r\\n", field(trace, "01"))
        };
        let slow = "f".repeat(32);
        ask(&lab, &address, &[&request(&slow, 600)]);
        for number in 1..=40 {
            ask(&lab, &address, &[&request(&format!("{number:032x}"), 0)]);
        }
        let scrape: Scrape = lab.settled(41, 41);
        assert_eq!(Lab::lost(&scrape, "exemplars_full"), 0);
        let text = openmetrics(&lab);
        for (side, id) in [(SERVER, &lab.server_id), (CLIENT, &lab.client_id)] {
            let found = exemplars(&text, side, id);
            let of = &found["/delay/{id}"];
            assert!(of.iter().any(|exemplar| exemplar.trace == slow && exemplar.seconds >= 0.6), "{side}");
            assert!((2..=4).contains(&of.len()), "{side}: {}", of.len());
        }
    });
}
