//! Every method and status, on connections that are kept and that are not, over IPv4 and IPv6.

use podmeter_tests::loopback::in_order;

use super::lab::{CLIENT, Lab, SERVER};

/// How many of each.
const N: usize = 50;

/// What curl is told, and what the request is then: method, status, path, and the path's route.
const REQUESTS: [(&[&str], &str, &str, &str, &str); 9] = [
    (&[], "GET", "200", "/hello", "/hello"),
    (&["--data", "a=b"], "POST", "200", "/status/200", "/status/{id}"),
    (&["--head"], "HEAD", "200", "/status/200", "/status/{id}"),
    (&["--request", "PUT", "--data", "a=b"], "PUT", "204", "/status/204", "/status/{id}"),
    (&["--request", "DELETE"], "DELETE", "204", "/status/204", "/status/{id}"),
    (&["--request", "PATCH", "--data", "a=b"], "PATCH", "200", "/hello", "/hello"),
    (&[], "GET", "304", "/status/304", "/status/{id}"),
    (&[], "GET", "404", "/status/404", "/status/{id}"),
    (&[], "GET", "500", "/status/500", "/status/{id}"),
];

fn every_request_counts_once(address: &str, host: &str) {
    let lab = Lab::new(&[]);
    let server = lab.serve(address);
    for (flags, _, status, path, _) in REQUESTS {
        // curl has a place in the URL for what is to be repeated; the query is no part of the route.
        let url = format!("http://{host}:{}{path}?[1-{N}]", server.port);
        for connections in [&[][..], &["--header", "Connection: close"]] {
            let common = ["--output", "/dev/null", "--write-out", "%{http_code} %{num_connects}\\n", &url];
            let said = lab.curl(&[&common, flags, connections].concat());
            // A connection for each request, or one for all of them.
            let connects = |line: usize| u8::from(line == 0 || !connections.is_empty());
            let expected: Vec<_> = (0..N).map(|line| format!("{status} {}", connects(line))).collect();
            assert_eq!(said.lines().collect::<Vec<_>>(), expected, "curl {flags:?} {connections:?}");
        }
    }
    let total = (REQUESTS.len() * 2 * N) as u64;
    let scrape = lab.settled(total, total);
    for (_, method, status, _, route) in REQUESTS {
        let labels =
            [("http_request_method", method), ("http_response_status_code", status), ("http_route", route)];
        assert_eq!(lab.counts(&scrape, &labels), (2 * N as u64, 2 * N as u64), "{labels:?}");
    }
    // Nor is there a series with other labels: the ids tell the sides apart, and no request is in both families of one.
    for (family, id) in [(SERVER, &lab.client_id), (CLIENT, &lab.server_id)] {
        assert_eq!(scrape.sum(&format!("{family}_count"), &[("id", id)]), 0.0, "{family} of {id}");
    }
    let counted = lab.curl(&[&format!("http://{host}:{}/count", server.port)]);
    assert_eq!(counted, total.to_string(), "the server's own count");
}

#[test]
fn every_request_counts_once_over_ipv4() {
    in_order(|| {
        every_request_counts_once("127.0.0.1:0", "127.0.0.1");
    });
}

#[test]
fn every_request_counts_once_over_ipv6() {
    in_order(|| {
        every_request_counts_once("[::1]:0", "[::1]");
    });
}

/// Servers mostly listen like this: their sockets are of IPv6, the packets of IPv4.
#[test]
fn every_request_counts_once_at_a_server_for_both() {
    in_order(|| {
        every_request_counts_once("[::]:0", "127.0.0.1");
    });
}

#[test]
fn a_process_for_each_request() {
    in_order(|| {
        let lab = Lab::new(&[]);
        let server = lab.serve("127.0.0.1:0");
        let script = "for i in $(seq 50); do curl -q -s -o /dev/null -w '%{http_code}\\n' \"$1\"; done";
        let said = lab.run(&["/bin/sh", "-c", script, "sh", &server.url("/hello")]);
        assert_eq!(said, "200\n".repeat(50));
        lab.settled(50, 50);
    });
}

/// Its end is known only when the next request comes, the connection ends or it was idle for a while: here it stays idle.
#[test]
fn the_last_request_of_an_idle_connection_counts() {
    in_order(|| {
        let lab = Lab::new(&[]);
        let server = lab.serve("127.0.0.1:0");
        let mut talk = lab.talk();
        talk.say(&format!("open {}", server.v4()));
        for _ in 0..3 {
            talk.all(&["send GET /hello HTTP/1.1\\r\\n\\r\\n", "answer"]);
        }
        let scrape = lab.settled(3, 3);
        // The time while the connection was idle is no part of it.
        for (side, id) in [(SERVER, &lab.server_id), (CLIENT, &lab.client_id)] {
            assert!(scrape.sum(&format!("{side}_sum"), &[("id", id)]) < 1.9, "{}", lab.story(&scrape));
        }
        // It counts once, and the connection goes on.
        talk.all(&["send GET /hello HTTP/1.1\\r\\n\\r\\n", "answer", "close"]);
        lab.settled(4, 4);
    });
}
