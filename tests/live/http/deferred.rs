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
