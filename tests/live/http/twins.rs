//! Messages that are as long as one another and begin alike, and yet say different things: nothing of one is taken for the other's.

use podmeter_tests::loopback::in_order;

use super::lab::{CLIENT, Lab, PEER, SERVER, Talk};

/// More than anyone looks at to tell one message from another.
fn pad(bytes: usize) -> String {
    format!("X-Pad: {}\\r\\n", "p".repeat(bytes))
}

/// A client and a server, each of which says what it is told.
fn ends(lab: &Lab) -> (Talk, Talk) {
    let mut server = Talk::start(&lab.server, &[PEER, "talk"]);
    let address = server.say("listen 127.0.0.1:0");
    let mut client = lab.talk();
    client.say(&format!("open {address}"));
    server.say("accept");
    (client, server)
}

#[test]
fn requests_with_and_without_a_body_are_told_apart() {
    in_order(|| {
        for bytes in [0, 20, 60, 600, 3000] {
            let lab = Lab::alone(&[]);
            let server = lab.serve("127.0.0.1:0");
            let mut talk = lab.talk();
            talk.say(&format!("open {}", server.v4()));
            let head = |length: &str| {
                format!("send POST /upload HTTP/1.1\\r\\n{}Content-Length: {length}\\r\\n\\r\\n", pad(bytes))
            };
            for _ in 0..2 {
                talk.all(&[&head("00"), "answer", &head("00"), "answer"]);
                // The body comes by itself, as many clients write it.
                talk.all(&[&head("24"), "send GET /forged HTTP/1.1\\r\\n\\r\\n", "answer"]);
            }
            talk.all(&["send GET /hello HTTP/1.1\\r\\n\\r\\n", "answer", "close"]);
            let scrape = lab.settled(7, 7);
            let count = |route| lab.counts(&scrape, &[("http_route", route)]);
            assert_eq!((count("/upload"), count("/hello")), ((6, 6), (1, 1)), "{}", lab.story(&scrape));
            assert_eq!(Lab::lost_in_all(&scrape), 0, "{}", lab.story(&scrape));
        }
    });
}

/// What has no body has none the next time either, whatever length its head tells.
#[test]
fn an_answer_without_a_body_has_none_again() {
    in_order(|| {
        let lab = Lab::alone(&[]);
        let (mut client, mut server) = ends(&lab);
        let kinds = [("HEAD", "200 OK"), ("GET", "304 Not Modified"), ("HEAD", "200 OK")];
        for (method, status) in kinds {
            for _ in 0..3 {
                client.say(&format!("send {method} /a HTTP/1.1\\r\\n\\r\\n"));
                server.say("until \\r\\n\\r\\n");
                server.say(&format!("send HTTP/1.1 {status}\\r\\nContent-Length: 12\\r\\n\\r\\n"));
                client.say("until \\r\\n\\r\\n");
            }
        }
        let scrape = lab.settled(9, 9);
        for (status, count) in [("200", 6), ("304", 3)] {
            let labels = [("http_response_status_code", status)];
            assert_eq!(lab.counts(&scrape, &labels), (count, count), "{}", lab.story(&scrape));
        }
        assert_eq!(Lab::lost_in_all(&scrape), 0, "{}", lab.story(&scrape));
    });
}

#[test]
fn responses_with_and_without_a_body_are_told_apart() {
    in_order(|| {
        for bytes in [0, 20, 60, 600, 3000] {
            let lab = Lab::alone(&[]);
            let (mut client, mut server) = ends(&lab);
            let mut exchange = |says: &[&str]| {
                client.say("send GET /a HTTP/1.1\\r\\n\\r\\n");
                server.say("until \\r\\n\\r\\n");
                server.all(says);
                client.say("answer");
            };
            let head = |length: &str| {
                format!("send HTTP/1.1 200 OK\\r\\n{}Content-Length: {length}\\r\\n\\r\\n", pad(bytes))
            };
            for _ in 0..2 {
                exchange(&[&head("00")]);
                exchange(&[&head("00")]);
                exchange(&[&head("23"), "send HTTP/1.1 500 Forged\\r\\n\\r\\n"]);
            }
            client.say("close");
            server.say("close");
            let scrape = lab.settled(6, 6);
            let answered = lab.counts(&scrape, &[("http_response_status_code", "200")]);
            assert_eq!(answered, (6, 6), "{}", lab.story(&scrape));
            assert_eq!(Lab::lost_in_all(&scrape), 0, "{}", lab.story(&scrape));
        }
    });
}

/// Where head and body are one segment, one can be longer by what the other is shorter.
#[test]
fn bodies_of_messages_of_one_length_have_their_own_sizes() {
    in_order(|| {
        let lab = Lab::alone(&[]);
        let (mut client, mut server) = ends(&lab);
        let mut sizes = 0;
        for body in ["ab", "ab", "abcd", "ab", "abcd"] {
            let head = |first: &str| {
                let pad = pad(70 - body.len());
                format!("send {first}\\r\\n{pad}Content-Length: {}\\r\\n\\r\\n{body}", body.len())
            };
            client.say(&head("POST /a HTTP/1.1"));
            server.say(&format!("until {body}"));
            server.say(&head("HTTP/1.1 200 OK"));
            client.say("answer");
            sizes += body.len();
        }
        client.say("close");
        server.say("close");
        let scrape = lab.settled(5, 5);
        for (side, id) in [(SERVER, &lab.server_id), (CLIENT, &lab.client_id)] {
            let side = side.trim_end_matches("_request_duration_seconds");
            for which in ["request", "response"] {
                let name = format!("{side}_{which}_body_size_bytes");
                let of = |what: &str| scrape.sum(&format!("{name}_{what}"), &[("id", id)]);
                assert_eq!((of("count"), of("sum")), (5.0, sizes as f64), "{name}");
            }
        }
    });
}

/// Whether a request has a body is said behind what many requests begin with.
#[test]
fn requests_of_methods_without_a_body_may_have_one() {
    in_order(|| {
        let lab = Lab::alone(&[]);
        let server = lab.serve("127.0.0.1:0");
        let mut talk = lab.talk();
        talk.say(&format!("open {}", server.v4()));
        let head = |field: &str| format!("send GET /a HTTP/1.1\\r\\n{}{field}: 24\\r\\n\\r\\n", pad(70));
        for _ in 0..2 {
            talk.all(&[&head("X-Longer-Named"), "answer", &head("X-Longer-Named"), "answer"]);
            talk.all(&[&head("Content-Length"), "send GET /forged HTTP/1.1\\r\\n\\r\\n", "answer"]);
        }
        talk.all(&["send GET /hello HTTP/1.1\\r\\n\\r\\n", "answer", "close"]);
        let scrape = lab.settled(7, 7);
        let count = |route| lab.counts(&scrape, &[("http_route", route)]);
        assert_eq!((count("/a"), count("/hello")), ((6, 6), (1, 1)), "{}", lab.story(&scrape));
    });
}

/// A segment may be as long as a message before it, and only the beginning of one.
#[test]
fn heads_that_go_on_are_told_from_those_that_do_not() {
    in_order(|| {
        let lab = Lab::alone(&[]);
        let (mut client, mut server) = ends(&lab);
        let field = "Content-Length: 0\\r\\n";
        let whole = |first: &str, field: &str| format!("send {first}\\r\\n{field}{}\\r\\n", pad(100));
        // As long: the pad goes on for what is missing of the two line ends, and further.
        let begun = |first: &str, field: &str| format!("send {first}\\r\\n{field}X-Pad: {}", "p".repeat(104));
        let rest = "send GET /forged HTTP/1.1\\r\\n\\r\\n";
        for (asks, answers) in
            [(false, false), (false, false), (true, false), (false, true), (true, true), (false, false)]
        {
            let request = "GET /a HTTP/1.1";
            if asks {
                client.all(&[&begun(request, ""), rest]);
            } else {
                client.say(&whole(request, ""));
            }
            server.say("until \\r\\n\\r\\n");
            let response = "HTTP/1.1 200 OK";
            if answers {
                server.all(&[&begun(response, field), rest]);
            } else {
                server.say(&whole(response, field));
            }
            client.say("answer");
        }
        client.say("close");
        server.say("close");
        let scrape = lab.settled(6, 6);
        assert_eq!(lab.counts(&scrape, &[("http_route", "/a")]), (6, 6), "{}", lab.story(&scrape));
    });
}
