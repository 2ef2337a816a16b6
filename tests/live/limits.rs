//! Limits of cgroup v2, as they are felt: a container that is held back by cpu.max or io.max shows it.

use podmeter_tests::{agent::Agent, cgroup::Cgroup, scrape::Scrape, support::has_v2, temp::TempDir, wait};

use super::block_io::Disk;

fn waiting(scrape: &Scrape, cgroup: &Cgroup, resource: &str) -> f64 {
    let name = format!("container_pressure_{resource}_waiting_seconds_total");
    scrape.value(&name, &[("id", cgroup.path())]).unwrap_or(0.0)
}

/// What the file says, seconds.
fn account(cgroup: &Cgroup, resource: &str) -> f64 {
    let text = cgroup.read("v2", &format!("{resource}.pressure"));
    let micros =
        text.lines().find_map(|line| line.strip_prefix("some")?.rsplit_once("total=")?.1.parse::<u64>().ok());
    micros.expect("a line of that kind") as f64 / 1e6
}

/// The scrape has what the file has, and it is more than nothing.
fn is_felt(agent: &Agent, cgroup: &Cgroup, resource: &str) -> Scrape {
    let mut last = None;
    let felt = wait::perhaps(|| {
        let (before, scrape, after) = (account(cgroup, resource), agent.scrape(), account(cgroup, resource));
        let own = waiting(&scrape, cgroup, resource);
        last = Some((own, after));
        (before == after && own == after && own > 0.0).then_some(scrape)
    });
    felt.unwrap_or_else(|| panic!("{resource}, ours and the file's: {last:?}"))
}

#[test]
fn a_limit_of_cpu_is_pressure_and_throttling() {
    if !has_v2("cpu") {
        return;
    }
    let cgroup = Cgroup::new("held");
    cgroup.write("cpu", "cpu.max", "20000 100000");
    let agent = Agent::start(&["--signals", "cpu,pressure"]);
    let mut spinner = cgroup.spawn(&["/bin/sh", "-c", "while :; do :; done"]);
    spinner.go();
    wait::until("throttling", || (cgroup.stat("cpu", "cpu.stat", "nr_throttled") >= 5).then_some(()));
    spinner.pause();
    let scrape = is_felt(&agent, &cgroup, "cpu");
    let throttled = scrape.value("container_cpu_cfs_throttled_periods_total", &[("id", cgroup.path())]);
    assert!(throttled >= Some(5.0), "{throttled:?}");
}

#[test]
fn a_limit_of_io_is_pressure() {
    if !has_v2("io") {
        return;
    }
    let directory = TempDir::on_disk("limit");
    let disk = Disk::of(&directory.path().display().to_string());
    let file = directory.path().join("file").display().to_string();
    let cgroup = Cgroup::new("slowed");
    cgroup.write("io", "io.max", &format!("{} wbps=1048576", disk.numbers));
    let agent = Agent::start(&["--signals", "block_io,pressure"]);
    let output = format!("of={file}");
    let mut writer =
        cgroup.spawn(&["dd", "if=/dev/zero", &output, "bs=64k", "count=32", "oflag=direct", "status=none"]);
    writer.go();
    writer.finish();
    let scrape = is_felt(&agent, &cgroup, "io");
    let written =
        scrape.value("container_fs_writes_bytes_total", &[("id", cgroup.path()), ("device", &disk.node)]);
    assert!(written >= Some((2 << 20) as f64), "{written:?}");
}
