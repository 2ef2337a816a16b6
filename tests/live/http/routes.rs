//! Routes: few, whatever the clients ask for, and no request is lost for that.

use std::fs;

use aya::programs::loaded_programs;
use podmeter_tests::{agent::Agent, scrape::Scrape, temp::TempDir};

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

/// The user's patterns: from the flag and from a file, beyond the budget, and before what the normaliser would say.
#[test]
fn patterns_are_routes() {
    let directory = TempDir::new("routes");
    let file = directory.file("routes", "# ours\n/v1/12345/health\n\n/files/{path...}\n");
    let lab = Lab::new(&["--route", "/s/{word},/item/{id}", "--route-file", &file, "--max-routes", "1"]);
    let server = lab.serve("127.0.0.1:0");
    fetch(&lab, &server.url("/s/w[a-t][a-y]"), 500);
    fetch(&lab, &server.url("/v1/1234[4-6]/health"), 3);
    fetch(&lab, &server.url("/files/[a-z]/bob/[1-4]?q=/s/a"), 104);
    // Longer than the kernel looks, and what follows cannot matter.
    fetch(&lab, &server.url(&format!("/files/a/{}", "b/".repeat(60))), 1);
    // The one that the budget has room for is taken, so these are not.
    fetch(&lab, &server.url("/[a-e]"), 5);
    // A pattern and a route of the normaliser that are the same text are one.
    fetch(&lab, &server.url("/item/[1-9]"), 9);
    fetch(&lab, &server.url("/item/bob"), 1);
    let scrape = lab.settled(623, 623);
    for (route, count) in [
        ("/s/{word}", 500),
        ("/v1/12345/health", 1),
        ("/v1/{id}/health", 2),
        ("/files/{path...}", 105),
        ("other", 5),
        ("/item/{id}", 10),
    ] {
        assert_eq!(lab.counts(&scrape, &[("http_route", route)]), (count, count), "{route}");
    }
    assert_eq!(routes(&lab, &scrape, SERVER).len(), 6, "{}", lab.story(&scrape));
}

/// Of a container that is there when the agent starts, and of one that is made then.
#[test]
fn a_pattern_can_be_one_containers() {
    let id = format!("{:0>64}", "c0ffee");
    let lab = Lab::new(&["--route", &format!("*/server: /s/{{ours}},{id}: /s/{{its}},/any/{{x}}")]);
    let server = lab.serve("127.0.0.1:0");
    fetch(&lab, &server.url("/s/bob"), 1);
    fetch(&lab, &server.url("/any/bob"), 1);
    let container = lab.server.child(&format!("docker-{id}.scope"));
    let sub = container.child("worker");
    // A scrape has heard of every cgroup that was made before it.
    lab.agent.scrape();
    let mut process = sub.spawn(&[PEER, "serve", "127.0.0.1:0"]);
    let address = process.go().line();
    fetch(&lab, &format!("http://{address}/s/bob"), 1);
    let labels = [("id", container.path()), ("http_route", "/s/{its}")];
    let count = |scrape: &Scrape| scrape.sum(&format!("{SERVER}_count"), &labels);
    let scrape = lab.agent.scrape_until("the container's request", |scrape| count(scrape) == 1.0);
    assert_eq!(routes(&lab, &scrape, SERVER), ["/any/{x}", "/s/{ours}"]);
    assert_eq!(routes(&lab, &scrape, CLIENT), ["/any/{x}", "/s/bob"], "the client is another container");
}

/// What the agent holds: the kernel's memory for its maps and programs, and its own, in KiB.
fn memory(agent: &Agent) -> (u64, u64) {
    let process = format!("/proc/{}", agent.child.id());
    let field = |text: &str, name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let descriptors = fs::read_dir(format!("{process}/fdinfo")).expect("it runs").flatten();
    let texts = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let kernel = texts.filter_map(|text| field(&text, "memlock:")).sum();
    let own = fs::read_to_string(format!("{process}/status")).expect("it runs");
    (kernel, field(&own, "VmRSS:").expect("its memory"))
}

/// 105,456 URLs that all look like words: nothing grows, and a route that was there before counts on, exactly.
#[test]
fn a_flood_of_urls_leaves_memory_flat() {
    let lab = Lab::alone(&["--max-routes", "50", "--route", "/named/{x}"]);
    let server = lab.serve("127.0.0.1:0");
    let established = |count| {
        fetch(&lab, &server.url(&format!("/established?[1-{count}]")), count);
        fetch(&lab, &server.url(&format!("/named/[1-{count}]")), count);
    };
    // What a scrape needs is taken once, and kept.
    let warm = |so_far| (0..20).map(|_| lab.settled(so_far, so_far)).next_back().expect("one");
    established(10);
    fetch(&lab, &server.url("/s/w[a-z][a-z]"), 676);
    let before = warm(696);
    let (kernel, own) = memory(&lab.agent);
    for (round, part) in (1..).zip(["a", "b", "c", "d", "e", "f"]) {
        fetch(&lab, &server.url(&format!("/{part}/w[a-z][a-z][a-z]")), 17_576);
        established(10);
        let so_far = 696 + round * (17_576 + 20);
        let scrape = lab.settled(so_far, so_far);
        for route in ["/established", "/named/{x}"] {
            let counts = lab.counts(&scrape, &[("http_route", route)]);
            assert_eq!(counts, (10 + round * 10, 10 + round * 10), "{route}");
        }
        assert_eq!(Lab::lost(&scrape, "series_full"), Lab::lost(&before, "series_full") + 2 * round * 17_576);
    }
    let after = warm(696 + 6 * 17_596);
    let series = |scrape: &Scrape| scrape.matching(&format!("{SERVER}_count"), &[]).count();
    assert_eq!(series(&after), series(&before), "no series more");
    let (kernel_after, own_after) = memory(&lab.agent);
    println!("kernel {kernel} -> {kernel_after} bytes, agent {own} -> {own_after} KiB");
    assert_eq!(kernel_after, kernel, "bytes of the kernel");
    assert!(own_after <= own + own / 20, "KiB of the agent: {own} -> {own_after}");
}

/// The kernel's verifier gives up at a million instructions; what patterns add to that does not depend on how many there are.
#[test]
fn patterns_cost_the_verifier_little() {
    let verified = |flags: &[&str]| {
        let lab = Lab::new(flags);
        let held = lab.agent.held("prog");
        let mut found: Vec<_> = loaded_programs()
            .flatten()
            .filter(|program| held.contains(&program.id()))
            .filter(|program| {
                program.name_as_str().is_some_and(|name| ["http_ingress", "http_egress"].contains(&name))
            })
            .map(|program| (program.name_as_str().map(str::to_owned), program.verified_instruction_count()))
            .collect();
        found.sort();
        found.into_iter().map(|(_, count)| count.expect("5.16 or later")).collect::<Vec<_>>()
    };
    let many: Vec<_> = (0..256).map(|n| format!("/a{n}/{{x}}/b{n}/c/d/e{n}/f/*")).collect();
    let (none, one, many) =
        (verified(&[]), verified(&["--route", "/users/{id}"]), verified(&["--route", &many.join(",")]));
    println!("egress and ingress: {none:?} without, {one:?} with one pattern, {many:?} with 256");
    for ((none, one), many) in none.iter().zip(&one).zip(&many) {
        assert!(*one < none + 50_000 && many.abs_diff(*one) < 2_000, "{none} {one} {many}");
    }
}
