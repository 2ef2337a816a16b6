//! Requests that do not wait for the answers before theirs: each counts, with its own route, status and time.

use podmeter_tests::loopback::in_order;

use super::lab::{CLIENT, Lab, SERVER, Talk};

/// A connection, in cgroups that are the whole machine.
fn talk(lab: &Lab, address: &str) -> Talk {
    let mut talk = lab.talk();
    talk.say(&format!("open {address}"));
    talk
}

#[test]
fn requests_in_segments_of_their_own() {
    in_order(|| {
        let lab = Lab::alone(&[]);
        let server = lab.serve("127.0.0.1:0");
        let mut talk = talk(&lab, &server.v4());
        talk.all(&[
            "send GET /delay/300 HTTP/1.1\\r\\n\\r\\n",
            "send GET /b HTTP/1.1\\r\\n\\r\\n",
            "answer",
            "answer",
        ]);
        // Without a close, a next request, or idling: an answer that is whole counts.
        let scrape = lab.settled(2, 2);
        for (side, id) in [(SERVER, &lab.server_id), (CLIENT, &lab.client_id)] {
            for route in ["/delay/{id}", "/b"] {
                let labels = [("id", id.as_str()), ("http_route", route)];
                let time = scrape.sum(&format!("{side}_sum"), &labels);
                assert!(time > 0.2, "{side} {route}: the second waits for the first: {time}");
            }
        }
        assert_eq!(Lab::lost_in_all(&scrape), 0, "{}", lab.story(&scrape));
    });
}

#[test]
fn requests_in_one_segment() {
    in_order(|| {
        let lab = Lab::alone(&[]);
        let server = lab.serve("127.0.0.1:0");
        let mut talk = talk(&lab, &server.v4());
        // Every third has a body, with a request in it; every fifth answer has none, whatever its head says.
        let mut segment = String::new();
        for number in 0..15 {
            segment += &match number % 5 {
            0 => "HEAD /head HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n".to_owned(),
            1 => "POST /body HTTP/1.1\\r\\nContent-Length: 17\\r\\n\\r\\nGET /c HTTP/1.1\\r\\n".to_owned(),
            2 => "PUT /chunked HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n5\\r\\nhello\\r\\n0\\r\\n\\r\\n".to_owned(),
            3 => "GET /status/304 HTTP/1.1\\r\\n\\r\\n".to_owned(),
            _ => format!("GET /chunked/{number} HTTP/1.1\\r\\n\\r\\n"),
        };
        }
        for _ in 0..3 {
            talk.say(&format!("send {segment}"));
            for number in 0..15 {
                talk.say(match number % 5 {
                    0 => "until \\r\\n\\r\\n",
                    4 => "until 0\\r\\n\\r\\n",
                    _ => "answer",
                });
            }
        }
        let scrape = lab.settled(45, 45);
        for (method, status, route) in [
            ("HEAD", "200", "/head"),
            ("POST", "200", "/body"),
            ("PUT", "200", "/chunked"),
            ("GET", "304", "/status/{id}"),
            ("GET", "200", "/chunked/{id}"),
        ] {
            let labels = [
                ("http_request_method", method),
                ("http_response_status_code", status),
                ("http_route", route),
            ];
            assert_eq!(lab.counts(&scrape, &labels), (9, 9), "{labels:?}\n{}", lab.story(&scrape));
        }
        for (side, id) in [("server", &lab.server_id), ("client", &lab.client_id)] {
            let bytes = |what: &str, route: &str| {
                let name = format!("http_{side}_{what}_body_size_bytes_sum");
                scrape.sum(&name, &[("id", id), ("http_route", route)]) as u64
            };
            assert_eq!((bytes("request", "/body"), bytes("request", "/chunked")), (9 * 17, 9 * 5), "{side}");
            // In chunks of 28 bytes; of 4, 9 and 14 chunks, three times.
            assert_eq!(bytes("response", "/chunked/{id}"), 28 * 3 * (4 + 9 + 14), "{side}");
            assert_eq!(bytes("response", "/head"), 0, "{side}");
        }
        assert_eq!(Lab::lost_in_all(&scrape), 0, "{}", lab.story(&scrape));
    });
}
