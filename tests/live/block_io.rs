//! Block I/O: against what dd was told to do past the page cache, and against the blkio controller where it keeps count.

use std::{fs, os::linux::fs::MetadataExt as _, path::Path, process::Command, time::Instant};

use podmeter_tests::{agent::Agent, cgroup::Cgroup, scrape::Scrape, temp::TempDir, wait};

const BLOCK: u64 = 4096;
const COUNT: u64 = 500;

/// The whole disk that a file is on: its numbers, and its node by sysfs's own name for it.
struct Disk {
    numbers: String,
    node: String,
}

impl Disk {
    fn of(file: &str) -> Self {
        let device = fs::metadata(file).expect("the file").st_dev();
        // As glibc's gnu_dev_major() and gnu_dev_minor(), for numbers that are this small.
        let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
        let link = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"));
        let mut directory = link.unwrap_or_else(|_| panic!("{file} is on no block device: {major}:{minor}"));
        if directory.join("partition").exists() {
            directory.pop();
        }
        let name = directory.file_name().expect("a device").to_string_lossy().into_owned();
        let numbers = fs::read_to_string(directory.join("dev")).expect("its numbers").trim().to_owned();
        Self { numbers, node: format!("/dev/{name}") }
    }
}

/// Fills a file outside of the test's cgroup, with all that the filesystem does to make it, and to find it again.
fn prepare(path: &str) {
    let fill = [
        "if=/dev/urandom",
        &format!("of={path}"),
        "bs=4k",
        &format!("count={COUNT}"),
        "conv=fsync",
        "status=none",
    ];
    let filled = Command::new("dd").args(fill).status().expect("dd");
    assert!(filled.success(), "{filled}");
    let read = [&format!("if={path}"), "of=/dev/null", "iflag=direct", "bs=4k", "status=none"];
    let read = Command::new("dd").args(read).status().expect("dd");
    assert!(read.success(), "{path} cannot be read past the page cache: {read}");
}

/// Runs dd in the cgroup; how long it took, seconds.
fn dd(cgroup: &Cgroup, arguments: &[&str]) -> f64 {
    let sizes = ["bs=4k", &format!("count={COUNT}"), "status=none"];
    let mut dd = cgroup.spawn(&[&["dd"], arguments, &sizes].concat());
    let start = Instant::now();
    dd.go();
    dd.finish();
    start.elapsed().as_secs_f64()
}

/// What the blkio controller counted, where it does: only for a device that has a limit, and not before 6.10 or so.
fn controller(cgroup: &Cgroup, file: &str, disk: &Disk, what: &str) -> Option<u64> {
    let text = fs::read_to_string(cgroup.controller("io").join(file)).ok()?;
    let start = format!("{} {what} ", disk.numbers);
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

/// The cgroup's series of a disk.
struct Series<'a> {
    scrape: &'a Scrape,
    cgroup: &'a Cgroup,
    disk: &'a Disk,
}

impl Series<'_> {
    fn get(&self, name: &str, more: &[(&str, &str)]) -> Option<f64> {
        let labels = [&[("id", self.cgroup.path()), ("device", &self.disk.node)], more].concat();
        self.scrape.value(name, &labels)
    }

    /// Operations, bytes, observed latencies and their sum; `verb` is `read` or `write`.
    fn of(&self, verb: &str) -> Option<[f64; 4]> {
        let latency =
            |what: &str| self.get(&format!("container_fs_io_latency_seconds_{what}"), &[("operation", verb)]);
        Some([
            self.get(&format!("container_fs_{verb}s_total"), &[])?,
            self.get(&format!("container_fs_{verb}s_bytes_total"), &[])?,
            latency("count")?,
            latency("sum")?,
        ])
    }
}

#[test]
fn reads_and_writes_are_what_dd_did() {
    let directory = TempDir::on_disk("block");
    let file = directory.path().join("file").display().to_string();
    prepare(&file);
    let disk = Disk::of(&file);
    assert!(Path::new(&disk.node).exists(), "{} is a node", disk.node);
    let cgroup = Cgroup::new("dd");
    let agent = Agent::start(&["--signals", "cpu,block_io"]);
    let (input, output) = (format!("if={file}"), format!("of={file}"));
    let read = [&input, "of=/dev/null", "iflag=direct"];
    let write = ["if=/dev/zero", &output, "oflag=direct", "conv=notrunc"];
    let mut done = 0;
    for (verb, other, arguments) in [("read", "write", &read[..]), ("write", "read", &write[..])] {
        exactly(&agent, || {
            let before = agent.scrape();
            let before = Series { scrape: &before, cgroup: &cgroup, disk: &disk };
            let took = dd(&cgroup, arguments);
            done += u64::from(verb == "read") * COUNT;
            let after = agent.scrape();
            let after = Series { scrape: &after, cgroup: &cgroup, disk: &disk };
            assert_eq!(before.of(other), after.of(other), "a {verb} is no {other}");
            let (before, after) = (before.of(verb).unwrap_or_default(), after.of(verb).expect("the series"));
            let [ops, bytes, count, seconds] = std::array::from_fn(|at| after[at] - before[at]);
            assert_eq!(bytes, ops * BLOCK as f64, "of one size");
            assert_eq!(count, ops, "each has a latency");
            assert!(seconds > 0.0 && seconds < took, "{seconds} s one after the other in {took} s");
            (ops, COUNT as f64)
        });
    }
    for (name, expected) in [("io_serviced", done), ("io_service_bytes", done * BLOCK)] {
        if let Some(counted) = controller(&cgroup, &format!("blkio.throttle.{name}"), &disk, "Read") {
            assert_eq!(counted, expected, "the controller's {name}");
        }
    }
}

#[test]
fn a_sub_cgroups_io_is_its_containers() {
    let directory = TempDir::on_disk("block-sub");
    let file = directory.path().join("file").display().to_string();
    prepare(&file);
    let base = Cgroup::new("kubepods");
    let container = base.child(&format!("pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0/{}", "ab".repeat(32)));
    let agent = Agent::start(&["--signals", "cpu,block_io"]);
    let ops = || agent.scrape().value("container_fs_reads_total", &[("id", container.path())]);
    for _ in 0..3 {
        let sub = container.child("sub");
        exactly(&agent, || {
            let before = ops().unwrap_or(0.0);
            dd(&sub, &[&format!("if={file}"), "of=/dev/null", "iflag=direct"]);
            (ops().unwrap_or(0.0) - before, COUNT as f64)
        });
        let before = ops();
        sub.remove();
        for _ in 0..3 {
            assert_eq!(ops(), before, "after it is gone");
        }
    }
}

/// Measures in rounds, until one counts exactly what was done. One that counts less is an error unless the agent says, by
/// another probe, that the kernel withheld events: in the sandbox of this project it does so whenever a thread of
/// process 1 is on the CPU, be it for an interrupt that completes the I/O of others.
fn exactly(agent: &Agent, mut round: impl FnMut() -> (f64, f64)) {
    let withheld =
        || agent.scrape().value("podmeter_lost_total", &[("reason", "switch_missed")]).unwrap_or(0.0);
    wait::until("a round in which the kernel reported everything", || {
        let before = withheld();
        let (counted, done) = round();
        if counted == done {
            return Some(());
        }
        assert!(counted < done && counted > done * 0.9, "{counted} of {done}");
        wait::until("an event that was withheld", || (withheld() > before).then_some(()));
        None
    });
}
