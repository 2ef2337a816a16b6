//! What is no request, or one that cannot be measured: no series, and a count by reason.
//!
//! A connection over loopback has two sockets here, one in each cgroup, so most of it counts twice.

use podmeter_tests::random::Random;

use super::lab::{Lab, Server, Talk};

/// The machine is the two cgroups, so that counts are exact; the server is the tests' own, which takes what it does not know
/// without a word.
fn lab() -> (Lab, Server, Talk) {
    let lab = Lab::alone(&[]);
    let server = lab.serve("127.0.0.1:0");
    let mut talk = lab.talk();
    talk.say(&format!("open {}", server.v4()));
    (lab, server, talk)
}

/// Waits for a loss to have happened, and checks that it is the only one; how many requests there are at server and client.
fn only_lost(lab: &Lab, reason: &str, times: u64) -> (u64, u64) {
    let scrape = lab.agent.scrape_until(reason, |scrape| Lab::lost(scrape, reason) >= times);
    let lost = Lab::lost_in_all(&scrape);
    assert_eq!((Lab::lost(&scrape, reason), lost), (times, times), "{}", lab.story(&scrape));
    lab.counts(&scrape, &[])
}

#[test]
fn a_client_that_gives_up_is_told_of() {
    let (lab, _server, mut talk) = lab();
    talk.all(&["send GET /delay/400 HTTP/1.1\\r\\n\\r\\n", "close"]);
    assert_eq!(only_lost(&lab, "request_unanswered", 1).1, 0, "no sample at the client");
    // The server does answer, and does not know that nobody reads it.
    lab.settled(1, 0);
}

#[test]
fn a_client_that_resets_is_told_of() {
    let (lab, _server, mut talk) = lab();
    // To close with unread bytes is to reset; the hints are no answer.
    talk.all(&["send GET /hang HTTP/1.1\\r\\n\\r\\n", "peek", "close"]);
    assert_eq!(only_lost(&lab, "request_unanswered", 2), (0, 0));
}

#[test]
fn tls_is_told_of() {
    let (lab, server, mut talk) = lab();
    // A real handshake, to a server that does not answer it.
    let script = "timeout 2 curl -q -s -k -m 1 \"https://$1/\"; exit 0";
    lab.run(&["/bin/sh", "-c", script, "sh", &server.v4()]);
    talk.all(&["send \\x16\\x03\\x01\\x02\\x00\\x01", "send GET /x HTTP/1.1\\r\\n\\r\\n", "half", "eof"]);
    assert_eq!(only_lost(&lab, "connection_tls", 4), (0, 0));
}

#[test]
fn http2_is_told_of() {
    let (lab, _server, mut talk) = lab();
    talk.all(&[
        "send PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n",
        "send GET /x HTTP/1.1\\r\\n\\r\\n",
        "half",
        "eof",
    ]);
    assert_eq!(only_lost(&lab, "connection_http2", 2), (0, 0));
}

#[test]
fn what_is_unknown_is_told_of() {
    let (lab, server, mut talk) = lab();
    let mut random = Random::new(7);
    for _ in 0..10 {
        talk.say(&format!("open {}", server.v4()));
        for _ in 0..6 {
            let bytes: String = (0..64).map(|_| format!("\\x{:02x}", random.word() as u8 | 0x80)).collect();
            talk.say(&format!("send {bytes}"));
        }
        talk.all(&["half", "eof"]);
    }
    // The server said nothing, so that it might still have been the body of a request from before the agent, up to the end.
    talk.say("close");
    assert_eq!(only_lost(&lab, "connection_unknown", 20), (0, 0));
}

#[test]
fn an_upgrade_is_told_of() {
    let (lab, _server, mut talk) = lab();
    talk.all(&["send GET /status/101 HTTP/1.1\\r\\nUpgrade: x\\r\\n\\r\\n", "answer"]);
    talk.all(&["send GET /x HTTP/1.1\\r\\n\\r\\n", "half", "eof"]);
    // The request that asked for it counts; what follows is something else.
    assert_eq!(only_lost(&lab, "connection_upgraded", 2), (1, 1));
}

/// More requests than are kept of a connection that waits for its first answer.
#[test]
fn a_pipeline_that_is_too_long_is_told_of() {
    let (lab, _server, mut talk) = lab();
    let requests = "GET /b HTTP/1.1\\r\\n\\r\\n".repeat(40);
    talk.all(&[&format!("send GET /delay/200 HTTP/1.1\\r\\n\\r\\n{requests}"), "answer"]);
    assert_eq!(only_lost(&lab, "request_pipelined", 2), (0, 0));
}

/// A connection that is older than the agent: from its next request on.
#[test]
fn a_connection_from_before_counts_from_its_next_request() {
    let (mut lab, _server, mut talk) = lab();
    // Its body comes when the agent watches.
    talk.say("send POST /before HTTP/1.1\\r\\nContent-Length: 4\\r\\n\\r\\n");
    lab.restart();
    talk.all(&["send body", "answer", "send GET /hello HTTP/1.1\\r\\n\\r\\n", "answer", "close"]);
    let scrape = lab.settled(1, 1);
    assert_eq!(lab.counts(&scrape, &[("http_route", "/hello")]), (1, 1));
    assert_eq!(Lab::lost(&scrape, "response_unmatched"), 2, "{}", lab.story(&scrape));
}
