//! Routes: few, whatever the clients ask for, and no request is lost for that.

use podmeter_tests::scrape::Scrape;

use super::lab::{CLIENT, Lab, PEER, SERVER};

fn routes(lab: &Lab, scrape: &Scrape, side: &str) -> Vec<String> {
    let id = if side == SERVER { &lab.server_id } else { &lab.client_id };
    scrape.label_values(&format!("{side}_count"), "http_route", &[("id", id)])
}

fn fetch(lab: &Lab, url: &str, count: usize) {
    let said = lab.curl(&["--output", "/dev/null", "--write-out", "%{http_code}\\n", url]);
    assert_eq!(said, "200\n".repeat(count));
}

#[test]
fn numbers_are_one_route() {
    let lab = Lab::new(&[]);
    let server = lab.serve("127.0.0.1:0");
    fetch(&lab, &server.url("/item/[1-1000]"), 1000);
    fetch(&lab, &server.url("/item/[1-100]/parts/0b3f[1000-1009]-9d2e-4c1a-8f00-0123456789ab?q=[1-2]"), 2000);
    let scrape = lab.settled(3000, 3000);
    for side in [SERVER, CLIENT] {
        assert_eq!(routes(&lab, &scrape, side), ["/item/{id}", "/item/{id}/parts/{id}"], "{side}");
    }
    assert_eq!(lab.counts(&scrape, &[("http_route", "/item/{id}")]), (1000, 1000));
}

#[test]
fn words_beyond_the_budget_are_other() {
    let lab = Lab::new(&["--max-routes", "20"]);
    let server = lab.serve("127.0.0.1:0");
    fetch(&lab, &server.url("/s/w[a-t][a-y]"), 500);
    // Once more: what is known stays, what was `other` stays that.
    fetch(&lab, &server.url("/s/w[a-t][a-y]"), 500);
    let scrape = lab.settled(1000, 1000);
    for side in [SERVER, CLIENT] {
        let routes = routes(&lab, &scrape, side);
        assert!(routes.contains(&"other".to_owned()), "{routes:?}");
        let named = routes.iter().filter(|route| *route != "other").count();
        assert_eq!(named, 20, "{side}: {routes:?}");
    }
    assert_eq!(lab.counts(&scrape, &[("http_route", "other")]), (960, 960));
    // Whose count is exact as well, and no route is in the other's place.
    assert_eq!(lab.counts(&scrape, &[("http_route", "/s/waa")]), (2, 2));
}

/// The budget is each container's own.
#[test]
fn a_budget_is_not_shared() {
    let lab = Lab::new(&["--max-routes", "3"]);
    let (one, two) = (lab.serve("127.0.0.1:0"), lab.serve("127.0.0.1:0"));
    fetch(&lab, &one.url("/s/w[a-c]"), 3);
    fetch(&lab, &two.url("/s/w[a-c]"), 3);
    let scrape = lab.settled(6, 6);
    assert_eq!(lab.counts(&scrape, &[("http_route", "other")]), (0, 0), "{}", lab.story(&scrape));
}

/// A container's sub-cgroup served requests and is gone: the container keeps their count, and their route.
#[test]
fn a_route_outlives_the_sub_cgroup_that_had_it() {
    let lab = Lab::new(&[]);
    let container = lab.server.child(&format!("docker-{:0>64}.scope", "c0ffee"));
    let sub = container.child("worker");
    let mut server = sub.spawn(&[PEER, "serve", "127.0.0.1:0"]);
    let address = server.go().line();
    fetch(&lab, &format!("http://{address}/only/there/[1-3]"), 3);
    let labels = [("id", container.path()), ("http_route", "/only/there/{id}")];
    let count = |scrape: &Scrape| scrape.sum(&format!("{SERVER}_count"), &labels);
    lab.agent.scrape_until("the requests", |scrape| count(scrape) == 3.0);
    drop(server);
    sub.remove();
    // One scrape shows the sub-cgroup once more, the next one has nothing left of it.
    for _ in 0..4 {
        let scrape = lab.agent.scrape();
        assert_eq!(count(&scrape), 3.0, "{}", lab.story(&scrape));
    }
}
