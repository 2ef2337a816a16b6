//! Bodies of every framing, and answers in several parts: one request each.

use podmeter_tests::{loopback::in_order, scrape::Scrape, temp::TempDir};

use super::lab::{Lab, Server, Talk};

const MEGABYTE: usize = 1_000_000;

/// One request by curl, which counts the bytes of its own; all of them have status 200.
fn transfer(lab: &Lab, arguments: &[&str]) -> (usize, usize) {
    let common = ["--output", "/dev/null", "--write-out", "%{http_code} %{size_upload} %{size_download}\\n"];
    let said = lab.curl(&[&common, arguments].concat());
    let words: Vec<usize> = said.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    assert_eq!((words.len(), words[0]), (3, 200), "{arguments:?}: {said}");
    (words[1], words[2])
}

#[test]
fn a_long_body_is_part_of_its_request() {
    in_order(|| {
        let lab = Lab::new(&[]);
        let server = lab.serve("127.0.0.1:0");
        let directory = TempDir::new("bodies");
        let file = directory.file("body", vec![b'x'; MEGABYTE]);
        let (body, upload) = (server.url(&format!("/body/{MEGABYTE}")), server.url("/upload"));
        assert_eq!(transfer(&lab, &[&body]).1, MEGABYTE);
        let data = format!("@{file}");
        assert_eq!(transfer(&lab, &["--data-binary", &data, &upload]).0, MEGABYTE);
        assert_eq!(
            transfer(&lab, &["--data-binary", &data, "--header", "Expect: 100-continue", &upload]).0,
            MEGABYTE
        );
        assert_eq!(transfer(&lab, &["--data-binary", &data, "--header", "Expect:", &upload]).0, MEGABYTE);
        assert_eq!(transfer(&lab, &["--upload-file", &file, &upload]).0, MEGABYTE);
        let chunked = ["--upload-file", &file, "--header", "Transfer-Encoding: chunked", &upload];
        assert!(transfer(&lab, &chunked).0 >= MEGABYTE);
        transfer(&lab, &[&server.url("/chunked/100")]);
        assert_eq!(transfer(&lab, &[&server.url("/close")]).1, 100_000, "until the connection closes");
        let scrape = lab.settled(8, 8);
        let count = |method, route| {
            let labels = [
                ("http_request_method", method),
                ("http_route", route),
                ("http_response_status_code", "200"),
            ];
            lab.counts(&scrape, &labels)
        };
        assert_eq!(count("GET", "/body/{id}"), (1, 1));
        assert_eq!(count("POST", "/upload"), (3, 3));
        assert_eq!(count("PUT", "/upload"), (2, 2));
        assert_eq!(count("GET", "/chunked/{id}"), (1, 1));
        assert_eq!(count("GET", "/close"), (1, 1));
    });
}

/// Over IPv6 a packet can be larger than 65,535 bytes, with a header of its own for that (5.19+): all of them are seen.
#[test]
fn long_bodies_over_ipv6_are_seen_to_the_last_byte() {
    in_order(|| {
        const LONG: usize = 40 * MEGABYTE;
        let lab = Lab::new(&[]);
        let server = lab.serve("[::1]:0");
        let url = |path: &str| format!("http://[::1]:{}{path}", server.port);
        let directory = TempDir::new("bodies");
        let file = directory.file("body", vec![b'x'; LONG]);
        let chunked = ["--upload-file", &file, "--header", "Transfer-Encoding: chunked", &url("/upload")];
        let (body, times) = (url(&format!("/body/{LONG}")), 3);
        for _ in 0..times {
            transfer(&lab, &chunked);
            assert_eq!(transfer(&lab, &[&body]).1, LONG);
        }
        let scrape = lab.settled(2 * times, 2 * times);
        assert_eq!(Lab::lost_in_all(&scrape), 0, "{}", lab.story(&scrape));
        for (side, id) in [("server", &lab.server_id), ("client", &lab.client_id)] {
            let id = ("id", id.as_str());
            let moved = (LONG as u64 * times) as f64;
            for (which, route) in [("request", "/upload"), ("response", "/body/{id}")] {
                let name = format!("http_{side}_{which}_body_size_bytes_sum");
                assert_eq!(scrape.sum(&name, &[id, ("http_route", route)]), moved, "{name}");
            }
            let [seen, parsed] = ["seen", "parsed"]
                .map(|which| scrape.sum(&format!("podmeter_http_coverage_{which}_bytes_total"), &[id]));
            assert!(
                seen > 2.0 * moved && seen < 2.1 * moved && seen == parsed,
                "{side}: {seen} {parsed} {moved}"
            );
        }
    });
}

fn open(lab: &Lab, server: &Server) -> Talk {
    let mut talk = lab.talk();
    talk.say(&format!("open {}", server.v4()));
    talk
}

#[test]
fn a_body_that_looks_like_a_request_is_none() {
    in_order(|| {
        let lab = Lab::new(&[]);
        let server = lab.serve("127.0.0.1:0");
        let mut talk = open(&lab, &server);
        // In the segment of its head, in one of its own, and in many.
        talk.all(&[
            "send POST /a HTTP/1.1\\r\\nContent-Length: 19\\r\\n\\r\\nGET /x HTTP/1.1\\r\\n\\r\\n",
            "answer",
        ]);
        talk.all(&[
            "send POST /a HTTP/1.1\\r\\nContent-Length: 19\\r\\n\\r\\n",
            "send GET /x HTTP/1.1\\r\\n\\r\\n",
            "answer",
        ]);
        talk.say("send POST /a HTTP/1.1\\r\\nContent-Length: 9500\\r\\n\\r\\n");
        talk.all(&["repeat 500 GET /x HTTP/1.1\\r\\n\\r\\n", "answer", "close"]);
        let scrape = lab.settled(3, 3);
        let posts = [("http_request_method", "POST"), ("http_route", "/a")];
        assert_eq!(lab.counts(&scrape, &posts), (3, 3), "{}", lab.story(&scrape));
    });
}

#[test]
fn a_head_in_pieces_is_one_request() {
    in_order(|| {
        let lab = Lab::alone(&[]);
        let server = lab.serve("127.0.0.1:0");
        let mut talk = open(&lab, &server);
        // The request line is whole; its fields come later, and one of them looks like a request line.
        talk.all(&[
            "send GET /a HTTP/1.1\\r\\n",
            "send Host: peer\\r\\nX: ",
            "send GETX /b\\r\\n",
            "send \\r\\n",
            "answer",
        ]);
        // The target goes on in the second segment, the method in a third.
        talk.all(&["send GET /lo", "send ng HTTP/1.1\\r\\n\\r\\n", "answer"]);
        talk.all(&[
            "send G",
            "send ET",
            "send  /me",
            "send thod H",
            "send TTP/1.1\\r\\n\\r\\n",
            "answer",
            "close",
        ]);
        let scrape = lab.settled(3, 3);
        for route in ["/a", "/long", "/method"] {
            assert_eq!(
                lab.counts(&scrape, &[("http_route", route)]),
                (1, 1),
                "{route}: {}",
                lab.story(&scrape)
            );
        }
        assert_eq!(Lab::lost_in_all(&scrape), 0, "{}", lab.story(&scrape));
    });
}

/// The first segment of a connection has not even a method.
#[test]
fn a_first_segment_may_be_a_byte() {
    in_order(|| {
        let lab = Lab::alone(&[]);
        let server = lab.serve("127.0.0.1:0");
        let mut talk = open(&lab, &server);
        talk.all(&["send G", "send ET", "send  /a HTTP/1.1\\r\\n\\r\\n", "answer"]);
        talk.all(&["send GET /a HTTP/1.1\\r\\n\\r\\n", "answer", "close"]);
        let scrape = lab.settled(2, 2);
        assert_eq!(lab.counts(&scrape, &[("http_route", "/a")]), (2, 2), "{}", lab.story(&scrape));
    });
}

/// Twice each on one connection: the second shows what the first left behind.
fn interim(path: &str, expect: &str) {
    let lab = Lab::alone(&[]);
    let server = lab.serve("127.0.0.1:0");
    let mut talk = open(&lab, &server);
    let body = if expect.is_empty() { "" } else { "Content-Length: 4\\r\\n" };
    for _ in 0..2 {
        talk.say(&format!("send POST {path} HTTP/1.1\\r\\n{expect}{body}\\r\\n"));
        if !expect.is_empty() {
            talk.all(&["until 100 Continue\\r\\n\\r\\n", "send body"]);
        }
        talk.say("until Content-Length: 0\\r\\n\\r\\n");
    }
    talk.say("close");
    let scrape = lab.settled(2, 2);
    assert_eq!(
        lab.counts(&scrape, &[("http_response_status_code", "200")]),
        (2, 2),
        "{}",
        lab.story(&scrape)
    );
    assert_eq!(Lab::lost(&scrape, "request_pipelined"), 0, "{}", lab.story(&scrape));
}

#[test]
fn continue_is_no_answer() {
    in_order(|| {
        interim("/early/empty", "Expect: 100-continue\\r\\n");
    });
}

#[test]
fn continue_in_the_segment_of_the_answer_is_no_answer() {
    in_order(|| {
        interim("/early/continue", "");
    });
}

#[test]
fn early_hints_are_no_answer() {
    in_order(|| {
        interim("/early/apart", "");
    });
}

/// They are too long to look behind them: such a request may be lost, but then it is told of, and it is no part of another.
#[test]
fn early_hints_in_the_segment_of_the_answer_spoil_no_other_request() {
    in_order(|| {
        for method in ["GET", "POST"] {
            let lab = Lab::alone(&[]);
            let server = lab.serve("127.0.0.1:0");
            let mut talk = open(&lab, &server);
            for path in ["/early/joined", "/delay/300", "/early/joined", "/hello"] {
                talk.say(&format!("send {method} {path} HTTP/1.1\\r\\n\\r\\n"));
                talk.all(&[if path == "/early/joined" { "until Length: 0\\r\\n\\r\\n" } else { "answer" }]);
            }
            talk.say("close");
            let told = |scrape: &Scrape| {
                let (server, client) = lab.counts(scrape, &[]);
                server + client + Lab::lost_in_all(scrape)
            };
            let scrape = lab.agent.scrape_until("every request is told of", |scrape| told(scrape) >= 8);
            assert_eq!(told(&scrape), 8, "{method}: {}", lab.story(&scrape));
            // The two that are plain count, and only the slow one is slow.
            for route in ["/delay/{id}", "/hello"] {
                let labels = [("http_route", route), ("http_response_status_code", "200")];
                assert_eq!(lab.counts(&scrape, &labels), (1, 1), "{method}: {}", lab.story(&scrape));
            }
        }
    });
}

#[test]
fn a_status_line_of_its_own_is_an_answer() {
    in_order(|| {
        let lab = Lab::alone(&[]);
        let server = lab.serve("127.0.0.1:0");
        let mut talk = open(&lab, &server);
        // Without a reason, as RFC 9112 allows, and as long as it must be.
        for _ in 0..2 {
            talk.all(&["send GET /pieces HTTP/1.1\\r\\n\\r\\n", "until Length: 0\\r\\n\\r\\n"]);
        }
        talk.say("close");
        let scrape = lab.settled(2, 2);
        assert_eq!(Lab::lost_in_all(&scrape), 0, "{}", lab.story(&scrape));
    });
}
