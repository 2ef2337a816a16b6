//! Requests that come before their connection has a socket of its own.

use super::{
    lab::{Lab, SERVER},
    wrk::Nginx,
};

/// `TCP_DEFER_ACCEPT`: the server hears of a connection with its first request, whose packet is the listener's. Apache does so
/// unless told otherwise.
#[test]
fn the_first_request_of_a_deferred_connection_counts() {
    let lab = Lab::alone(&[]);
    let nginx = Nginx::start(&lab, " deferred");
    let url = format!("http://{}/hello", nginx.address);
    let quiet = ["--output", "/dev/null", "--write-out", "%{http_code}\\n"];
    for _ in 0..20 {
        assert_eq!(lab.curl(&[&quiet[..], &[&url]].concat()), "200\n");
    }
    // Kept connections, many at once, and bodies that come with their heads.
    let many = format!("{url}/[1-40]");
    let parallel = ["--no-progress-meter", "--parallel", "--parallel-immediate", "--parallel-max", "10"];
    assert_eq!(lab.curl(&[&quiet[..], &parallel, &[&many]].concat()), "200\n".repeat(40));
    assert_eq!(lab.curl(&[&quiet[..], &["--data", "body", &url]].concat()), "200\n");
    let scrape = lab.settled(61, 61);
    assert_eq!(lab.count(&scrape, SERVER, &[("http_route", "/hello/{id}")]), 40);
    assert_eq!(Lab::lost_in_all(&scrape), 0, "{}", lab.story(&scrape));
}

/// Several requests in the first segment of such a connection are too many to follow: the server's end tells of its losses, and the
/// client's has counted them.
#[test]
fn a_pipeline_before_the_connection_is_accepted_is_a_loss_at_the_server() {
    let lab = Lab::alone(&[]);
    let nginx = Nginx::start(&lab, " deferred");
    let request = "GET /hello HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n";
    let mut talk = lab.talk();
    talk.all(&[&format!("open {}", nginx.address), &format!("send {request}{request}"), "answer", "answer"]);
    talk.say("close");
    let scrape = lab.settled(0, 2);
    let lost = |reason| Lab::lost(&scrape, reason);
    assert_eq!((lost("request_pipelined"), lost("request_unanswered")), (1, 1), "{}", lab.story(&scrape));
    assert_eq!(Lab::lost_in_all(&scrape), 2, "{}", lab.story(&scrape));
}
