//! CPU: against the cgroup's own cpu.stat and the scheduler's account of each process.

use std::{process::Command, thread, time::Duration};

use podmeter_tests::{
    agent::Agent,
    cgroup::Cgroup,
    machine::{assert_cpu_time, stolen, withheld},
    process::Gated,
    scrape::Scrape,
    support::Place,
    wait,
};

const SPIN: [&str; 3] = ["/bin/sh", "-c", "while :; do :; done"];
const USAGE: &str = "container_cpu_usage_seconds_total";
const WAIT_COUNT: &str = "container_cpu_run_queue_latency_seconds_count";
const WAIT_SUM: &str = "container_cpu_run_queue_latency_seconds_sum";

/// The kernel's own account of the cgroup, seconds.
fn account(cgroup: &Cgroup) -> f64 {
    cgroup.stat("v2", "cpu.stat", "usage_usec") as f64 / 1e6
}

fn usage(scrape: &Scrape, cgroup: &Cgroup) -> f64 {
    scrape.value(USAGE, &[("id", cgroup.path()), ("cpu", "total")]).expect("the cgroup's usage")
}

/// A scrape during which the file did not change, and what it said.
fn quiet<T: PartialEq>(agent: &Agent, read: impl Fn() -> T) -> (Scrape, T) {
    wait::until("a quiet cgroup", || {
        let (before, scrape, after) = (read(), agent.scrape(), read());
        (before == after).then_some((scrape, after))
    })
}

/// Puts a process on one CPU for good.
fn pin(process: &Gated) {
    let pinned =
        Command::new("taskset").args(["-pc", "0", &process.pid().to_string()]).output().expect("taskset");
    assert!(pinned.status.success(), "{pinned:?}");
}

/// How many switches the kernel has kept to itself so far: the task that it puts on the CPU is charged by the clock.
fn unseen(scrape: &Scrape) -> f64 {
    scrape.value("podmeter_lost_total", &[("reason", "switch_unseen")]).expect("the counter")
}

/// It is the kernel's own account, but for what a switch that was not seen has charged by the clock.
#[test]
fn usage_is_the_kernels_account() {
    let cgroup = Cgroup::new("busy");
    let agent = Agent::start(&["--signals", "cpu"]);
    wait::until("a round in which nothing was charged by the clock", || {
        let mut spinners: Vec<_> = (0..3).map(|_| cgroup.spawn(&SPIN)).collect();
        spinners.iter().for_each(|spinner| _ = spinner.asleep());
        let (first, before) = quiet(&agent, || account(&cgroup));
        let stolen_before = stolen();
        spinners.iter_mut().for_each(|spinner| _ = spinner.go());
        thread::sleep(Duration::from_millis(1500));
        spinners.iter().for_each(|spinner| _ = spinner.pause());
        let (last, after) = quiet(&agent, || account(&cgroup));
        let (own, kernel) = (usage(&last, &cgroup) - usage(&first, &cgroup), after - before);
        assert!(kernel > 0.0, "the spinners did not run");
        let is_same = (own - kernel).abs() <= kernel * 0.001;
        if !is_same {
            assert!(unseen(&last) > unseen(&first), "{own} s, and the kernel says {kernel} s");
            assert_cpu_time(own, kernel, kernel, stolen() - stolen_before);
        }
        is_same.then_some(())
    });
}

/// What is moved while it runs, as runtimes do with what they start, ran for the one cgroup until then and for the other from then on.
/// The kernel tells of it when it has been done: in an emulated machine that may be a tick later.
#[test]
fn what_moves_has_run_where_it_was() {
    let late = if Place::here().is_guest() { 0.01 } else { 0.001 };
    let agent = Agent::start(&["--signals", "cpu"]);
    wait::until("a round in which nothing was charged by the clock", || {
        let before = unseen(&agent.scrape());
        let (from, to) = (Cgroup::new("from"), Cgroup::new("to"));
        let mut spinner = from.spawn(&SPIN);
        spinner.go();
        thread::sleep(Duration::from_millis(200));
        to.adopt(spinner.pid());
        thread::sleep(Duration::from_millis(100));
        spinner.pause();
        let (scrape, accounts) = quiet(&agent, || [account(&from), account(&to)]);
        let own = [usage(&scrape, &from), usage(&scrape, &to)];
        assert!(accounts.iter().all(|seconds| *seconds > 0.0), "it ran for both: {accounts:?}");
        let is_same = own.iter().zip(&accounts).all(|(own, kernel)| (own - kernel).abs() <= late);
        assert!(is_same || unseen(&scrape) > before, "{own:?} s, and the kernel says {accounts:?} s");
        is_same.then_some(())
    });
}

/// A task that is never switched out causes no event: what shows it is that each scrape settles it.
#[test]
fn usage_grows_while_the_process_runs() {
    let cgroup = Cgroup::new("running");
    let agent = Agent::start(&["--signals", "cpu"]);
    let mut spinner = cgroup.spawn(&SPIN);
    spinner.go();
    let scrape = || {
        let before = account(&cgroup);
        let own = usage(&agent.scrape(), &cgroup);
        (before, own, account(&cgroup))
    };
    let stolen_before = stolen();
    let first = scrape();
    thread::sleep(Duration::from_millis(1500));
    let second = scrape();
    let (own, least, most) = (second.1 - first.1, second.0 - first.2, second.2 - first.0);
    assert!(least > 0.0, "it runs");
    assert_cpu_time(own, least, most, stolen() - stolen_before);
}

#[test]
fn waits_are_the_schedulers_run_delay() {
    let (cgroup, idle) = (Cgroup::new("waiting"), Cgroup::new("idle"));
    let mut sleeper = idle.spawn(&["sleep", "1000"]);
    sleeper.go();
    let mut spinners: Vec<_> = (0..3).map(|_| cgroup.spawn(&SPIN)).collect();
    for spinner in &spinners {
        // On one CPU for good: a migration begins the wait anew, for us though not for the kernel.
        pin(spinner);
        spinner.asleep();
    }
    let agent = Agent::start(&["--signals", "cpu"]);
    spinners.iter_mut().for_each(|spinner| _ = spinner.go().pause());
    let mut before = Waits::read(&agent, &cgroup, &spinners);
    // Rounds, because the kernel may withhold the switch that ends a wait: see `withheld`.
    wait::until("a round in which every switch was reported", || {
        spinners.iter().for_each(|spinner| _ = spinner.resume());
        thread::sleep(Duration::from_millis(300));
        spinners.iter().for_each(|spinner| _ = spinner.pause());
        let after = Waits::read(&agent, &cgroup, &spinners);
        let (switches, count) = (after.switches - before.switches, after.count - before.count);
        let (kernel, own) = (after.kernel - before.kernel, after.own - before.own);
        let withheld = (after.withheld - before.withheld) as f64;
        before = after;
        assert!(count > 0.0 && kernel > 0.0, "three on one CPU wait for it: {count} waits, {kernel} s");
        assert!(own <= kernel * 1.01 + 0.01, "{own} s, and the kernel says {kernel} s");
        assert!(
            count <= switches && switches - count <= withheld,
            "{count} of {switches} switches, {withheld} withheld"
        );
        (count == switches).then(|| {
            assert!((own - kernel).abs() <= kernel * 0.01 + 0.01, "{own} s, and the kernel says {kernel} s");
        })
    });
    let scrape = agent.scrape();
    let count = scrape.value(WAIT_COUNT, &[("id", idle.path())]).unwrap_or(0.0);
    assert!(count <= 5.0, "a process that sleeps waits for no CPU: {count}");
}

/// Run-queue waits of processes that are stopped.
struct Waits {
    /// The kernel's account of each process: how often it was switched out, and what it waited, seconds.
    switches: f64,
    kernel: f64,
    /// The cgroup's histogram.
    count: f64,
    own: f64,
    withheld: u64,
}

impl Waits {
    fn read(agent: &Agent, cgroup: &Cgroup, processes: &[Gated]) -> Self {
        let accounts =
            || processes.iter().map(|process| (process.switches(), process.run_delay())).collect::<Vec<_>>();
        let (scrape, accounts) = quiet(agent, accounts);
        let of = |name| scrape.value(name, &[("id", cgroup.path())]).unwrap_or(0.0);
        Self {
            switches: accounts.iter().map(|account| account.0 as f64).sum(),
            kernel: accounts.iter().map(|account| account.1 as f64 / 1e9).sum(),
            count: of(WAIT_COUNT),
            own: of(WAIT_SUM),
            withheld: withheld(),
        }
    }
}

#[test]
fn throttling_is_what_the_cpu_controller_counts() {
    let (limited, free) = (Cgroup::new("limited"), Cgroup::new("free"));
    let is_v2 = limited.is_on_v2("cpu");
    if is_v2 {
        limited.write("cpu", "cpu.max", "20000 100000");
    } else {
        limited.write("cpu", "cpu.cfs_period_us", "100000");
        limited.write("cpu", "cpu.cfs_quota_us", "20000");
    }
    let agent = Agent::start(&["--signals", "cpu"]);
    let mut spinners = [limited.spawn(&SPIN), free.spawn(&SPIN)];
    spinners.iter_mut().for_each(|spinner| _ = spinner.go());
    wait::until("throttling", || (limited.stat("cpu", "cpu.stat", "nr_throttled") >= 5).then_some(()));
    spinners.iter().for_each(|spinner| _ = spinner.pause());
    let (scrape, stat) = quiet(&agent, || limited.read("cpu", "cpu.stat"));
    let kernel = |name| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} in {stat}"))
    };
    // The files' unit: v2 rounds what the kernel has down to microseconds.
    let (throttled, unit) = if is_v2 { ("throttled_usec", 1e6) } else { ("throttled_time", 1e9) };
    let expected = [
        ("container_cpu_cfs_periods_total", 1.0, kernel("nr_periods")),
        ("container_cpu_cfs_throttled_periods_total", 1.0, kernel("nr_throttled")),
        ("container_cpu_cfs_throttled_seconds_total", unit, kernel(throttled)),
        ("container_spec_cpu_period", 1.0, 100_000.0),
        ("container_spec_cpu_quota", 1.0, 20_000.0),
    ];
    for (name, unit, value) in expected {
        let own = scrape.value(name, &[("id", limited.path())]).unwrap_or_else(|| panic!("no {name}"));
        // Seconds are not exact in binary: by less than a thousandth of a unit.
        assert_eq!((own * unit + 1e-3).floor(), value, "{name}: {own}");
        assert_eq!(scrape.value(name, &[("id", free.path())]), None, "{name} without a quota");
    }
    assert!(usage(&scrape, &free) > 0.0);
    if is_v2 {
        limited.write("cpu", "cpu.max", "max");
    } else {
        limited.write("cpu", "cpu.cfs_quota_us", "-1");
    }
    let scrape = agent.scrape();
    assert_eq!(scrape.value(expected[0].0, &[("id", limited.path())]), None, "the quota is gone");
}

#[test]
fn usage_starts_from_the_kernels_account() {
    let cgroup = Cgroup::new("older");
    let mut process = cgroup.spawn(&[
        "/bin/sh",
        "-c",
        "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; exec sleep 1000",
    ]);
    process.go();
    assert_eq!(process.line(), "done");
    process.asleep();
    let before = account(&cgroup);
    let agent = Agent::start(&["--signals", "cpu"]);
    let first = usage(&agent.scrape(), &cgroup);
    assert!(before > 0.0, "it ran");
    assert_eq!(account(&cgroup), before, "it sleeps");
    assert!((first - before).abs() < 1e-6, "{first} s, and the kernel says {before} s");
}
