//! Requests that wait: a number of this moment.

use podmeter_tests::scrape::Scrape;

use super::lab::Lab;

/// What server and client have; none before their first request.
fn active(lab: &Lab, scrape: &Scrape) -> [Option<f64>; 2] {
    let of = |side: &str, id: &str| scrape.value(&format!("http_{side}_active_requests"), &[("id", id)]);
    [of("server", &lab.server_id), of("client", &lab.client_id)]
}

#[test]
fn requests_that_wait_are_counted_until_their_answer() {
    let lab = Lab::new(&[]);
    let server = lab.serve("127.0.0.1:0");
    assert_eq!(active(&lab, &lab.agent.scrape()), [None, None]);
    // A body that has not come in full: the server reads on, and answers nothing until it is let go.
    let mut talks: Vec<_> = (0..7)
        .map(|_| {
            let mut talk = lab.talk();
            talk.say(&format!("open {}", server.v4()));
            talk.say("send POST /upload HTTP/1.1\\r\\nContent-Length: 4\\r\\n\\r\\nbo");
            talk
        })
        .collect();
    // Twice: a scrape counts anew.
    for _ in 0..2 {
        assert_eq!(active(&lab, &lab.agent.scrape()), [Some(7.0); 2]);
    }
    for talk in &mut talks[..4] {
        talk.all(&["send dy", "answer"]);
    }
    assert_eq!(active(&lab, &lab.agent.scrape()), [Some(3.0); 2]);
    // The next request of a connection.
    talks[0].say("send GET /delay/600000 HTTP/1.1\\r\\n\\r\\n");
    assert_eq!(active(&lab, &lab.agent.scrape()), [Some(4.0); 2]);
    // Who gives up waits no more; the server's end hears of it a moment later.
    drop(talks.split_off(4));
    lab.agent.scrape_until("one that waits", |scrape| active(&lab, scrape) == [Some(1.0); 2]);
    for talk in &mut talks[1..] {
        talk.say("close");
    }
    // None is 0, once there were some.
    talks.truncate(1);
    drop(talks);
    lab.agent.scrape_until("none that waits", |scrape| active(&lab, scrape)[1] == Some(0.0));
}
