//! Births and deaths of cgroups, by event.

use std::{fs, thread, time::Duration};

use podmeter_tests::{
    agent::Agent,
    cgroup::Cgroup,
    machine::{assert_cpu_time, stolen},
    scrape::Scrape,
    wait,
};

use super::{Many, alone, assert_sound};

const USAGE: &str = "container_cpu_usage_seconds_total";
const WAITS: &str = "container_cpu_run_queue_latency_seconds_count";
const SPIN: [&str; 3] = ["/bin/sh", "-c", "while :; do :; done"];

fn walks(scrape: &Scrape) -> f64 {
    scrape.value("podmeter_cgroup_walks_total", &[]).expect("walks")
}

fn lost(scrape: &Scrape, reason: &str) -> f64 {
    scrape.value("podmeter_lost_total", &[("reason", reason)]).expect("losses")
}

/// The lines about a cgroup, but for the pressure, which is in its files and goes with them.
fn about(scrape: &Scrape, path: &str) -> Vec<String> {
    let id = format!("id=\"{path}\"");
    let lines = scrape.0.lines().filter(|line| line.contains(&id) && !line.starts_with("container_pressure"));
    lines.map(str::to_owned).collect()
}

#[test]
fn a_cgroup_is_followed_by_events_from_birth_to_death() {
    let _alone = alone();
    let agent = Agent::start(&["--signals", "cpu,memory"]);
    assert_eq!(walks(&agent.scrape()), 1.0);
    let cgroup = Cgroup::new("mortal");
    let path = cgroup.path().to_owned();
    assert_eq!(
        agent.scrape().value(USAGE, &[("id", &path)]),
        Some(0.0),
        "in the next scrape, before it did anything"
    );
    let mut process = cgroup.spawn(&["/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]);
    process.go();
    process.finish();
    // Its last process may still be on its way off the CPU.
    wait::until("a quiet cgroup", || {
        let (before, after) = (about(&agent.scrape(), &path), about(&agent.scrape(), &path));
        (before == after).then_some(())
    });
    // What the agent shows once more is what its last scrape said: memory can still be given back between two.
    let scrape = agent.scrape();
    assert!(scrape.value(USAGE, &[("id", &path)]) > Some(0.0));
    let last = about(&scrape, &path);
    assert!(last.iter().any(|line| line.starts_with("container_memory_usage_bytes")));
    cgroup.remove();
    assert_eq!(about(&agent.scrape(), &path), last, "its last values, once more");
    for _ in 0..2 {
        assert_eq!(about(&agent.scrape(), &path), Vec::<String>::new(), "no more");
    }
    let scrape = agent.scrape();
    assert_eq!(
        (walks(&scrape), lost(&scrape, "cgroup_events_full")),
        (1.0, 0.0),
        "the tree was walked at the start only"
    );
    assert_sound(&agent);
}

/// With room for few more than there are, many live one after the other.
#[test]
fn what_the_dead_had_is_given_back() {
    const ROOM: u64 = 64;
    let taken =
        |agent: &Agent, map| agent.scrape().value("podmeter_map_entries", &[("map", map)]).expect("entries");
    let sizes = {
        let agent = Agent::start(&["--signals", "cpu"]);
        ["SLOTS", "ROWS"].map(|map| taken(&agent, map) as u64 + ROOM)
    };
    let [cgroups, histograms] = sizes.map(|size| size.to_string());
    let agent =
        Agent::start(&["--signals", "cpu", "--max-cgroups", &cgroups, "--max-histograms", &histograms]);
    for number in 0..2 * ROOM {
        let cgroup = Cgroup::new("brief");
        let mut process = cgroup.spawn(&["true"]);
        process.go();
        process.finish();
        let scrape = agent.scrape();
        assert!(scrape.value(USAGE, &[("id", cgroup.path())]) > Some(0.0), "number {number} is charged");
        assert!(scrape.value(WAITS, &[("id", cgroup.path())]) > Some(0.0), "number {number} has a histogram");
        let path = cgroup.path().to_owned();
        cgroup.remove();
        agent.scrape();
        assert_eq!(about(&agent.scrape(), &path), Vec::<String>::new());
    }
    let scrape = agent.scrape();
    assert_eq!((lost(&scrape, "cgroup_slots_full"), lost(&scrape, "series_full")), (0.0, 0.0));
    for (map, size) in ["SLOTS", "ROWS"].into_iter().zip(sizes) {
        assert!(taken(&agent, map) < size as f64, "{map} are given back");
    }
    // A slot that a cgroup got after its end would stay so for good.
    agent.scrape_until("slots that all have a known cgroup", |scrape| {
        scrape.value("podmeter_cgroups_unresolved", &[]) == Some(0.0)
    });
    assert_sound(&agent);
}

#[test]
fn a_sub_cgroup_is_its_containers() {
    const POD: &str = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
    let container_id = "5a".repeat(32);
    let container = Cgroup::new(&format!("kubepods/burstable/pod{POD}/{container_id}"));
    let agent = Agent::start(&["--signals", "cpu"]);
    let value =
        |scrape: &Scrape, name| scrape.value(name, &[("id", container.path()), ("name", &container_id)]);
    let kernel = || container.stat("v2", "cpu.stat", "usage_usec") as f64 / 1e6;
    for _ in 0..3 {
        let sub = container.child("sub");
        let mut spinner = sub.spawn(&SPIN);
        spinner.asleep();
        let (before, start) = wait::until("a quiet container", || {
            let (before, scrape, after) = (kernel(), agent.scrape(), kernel());
            (before == after).then_some((scrape, after))
        });
        let stolen_before = stolen();
        let [usage, waits] = [USAGE, WAITS].map(|name| value(&before, name).expect("the container's series"));
        spinner.go();
        thread::sleep(Duration::from_millis(300));
        drop(spinner);
        let path = sub.path().to_owned();
        // Gone before a scrape saw it at work.
        sub.remove();
        let (mut last, mut waited) = (usage, waits);
        for _ in 0..4 {
            let scrape = agent.scrape();
            let now = [USAGE, WAITS].map(|name| value(&scrape, name).expect("the container's series"));
            assert!(now[0] >= last && now[1] >= waited, "{now:?} after {last} s and {waited} waits");
            [last, waited] = now;
            assert_eq!(about(&scrape, &path), Vec::<String>::new(), "it has no series of its own");
        }
        let (own, kernel) = (last - usage, kernel() - start);
        assert!(kernel > 0.0 && waited > waits, "it ran");
        assert_cpu_time(own, kernel, kernel, stolen() - stolen_before);
    }
    let labels = [("id", container.path()), ("container_id", &container_id), ("pod_uid", POD)];
    assert_eq!(agent.scrape().value("podmeter_container_info", &labels), Some(1.0));
    assert_sound(&agent);
}

#[test]
fn ten_thousand_cgroups_come_and_go() {
    const MANY: usize = 10_000;
    let _alone = alone();
    let base = Cgroup::new("many");
    let agent = Agent::start(&[]);
    let known = |scrape: &Scrape| {
        let ids = scrape.label_values(USAGE, "id", &[]);
        ids.iter().filter(|id| id.starts_with(&format!("{}/", base.path()))).count()
    };
    let mut many = Many(Vec::new());
    for number in 0..MANY {
        let directory = base.v2().join(number.to_string());
        fs::create_dir(&directory).expect("cgroup.max.descendants allows it");
        many.0.push(directory);
    }
    let scrape = agent.scrape();
    assert_eq!(known(&scrape), MANY);
    let accounted = |scrape: &Scrape| {
        let (lost, walks) = (lost(scrape, "cgroup_events_full"), walks(scrape));
        assert!(if lost > 0.0 { walks > 1.0 } else { walks == 1.0 }, "{lost} events lost, {walks} walks");
    };
    accounted(&scrape);
    drop(many);
    assert_eq!(known(&agent.scrape()), MANY, "their last values, once more");
    let scrape = agent.scrape();
    assert_eq!(known(&scrape), 0);
    accounted(&scrape);
    assert_eq!(agent.get("/livez").0, 200);
    assert_sound(&agent);
}
