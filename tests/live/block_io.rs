//! Block I/O: against what dd was told to do past the page cache, and against the blkio controller where it keeps count.

use std::{fs, os::linux::fs::MetadataExt as _, path::Path, process::Command, time::Instant};

use podmeter_tests::{
    agent::Agent, cgroup::Cgroup, machine::withheld, scrape::Scrape, support::has_v2, temp::TempDir, wait,
};

const BLOCK: u64 = 4096;
const COUNT: u64 = 500;

/// The whole disk that a file is on: its numbers, and its node by sysfs's own name for it.
pub(super) struct Disk {
    pub(super) numbers: String,
    pub(super) node: String,
}

impl Disk {
    pub(super) fn of(file: &str) -> Self {
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

/// What dd did in the cgroup.
struct Done {
    /// Bytes read and written, by the kernel's own account of the process: those of the filesystem's making among them.
    bytes: [u64; 2],
    /// How long it took.
    seconds: f64,
}

fn dd(cgroup: &Cgroup, arguments: &[&str]) -> Done {
    let sizes = ["bs=4k", &format!("count={COUNT}"), "status=none"];
    let mut dd = cgroup.spawn(&[&["dd"], arguments, &sizes].concat());
    let (before, start) = (dd.asleep().io(), Instant::now());
    dd.go().ended();
    let (after, seconds) = (dd.io(), start.elapsed().as_secs_f64());
    dd.finish();
    Done { bytes: std::array::from_fn(|at| after[at] - before[at]), seconds }
}

/// What the blkio controller counted, where it does: only for a device that has a limit, and not before 6.10 or so.
fn controller(cgroup: &Cgroup, file: &str, disk: &Disk, what: &str) -> Option<u64> {
    let text = fs::read_to_string(cgroup.controller("io").join(file)).ok()?;
    let start = format!("{} {what} ", disk.numbers);
    // Where it does not count it may list the device all the same, with 0 (6.1).
    text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).filter(|count| *count > 0)
}

/// What io.stat has of a disk, for reads, then for writes: operations and bytes, since the cgroup was made.
fn io_stat(cgroup: &Cgroup, disk: &Disk) -> [[f64; 2]; 2] {
    let text = cgroup.read("io", "io.stat");
    let line = text.lines().find_map(|line| line.strip_prefix(&disk.numbers)).unwrap_or_default();
    let get = |name: &str| {
        let value = line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    };
    ["r", "w"].map(|verb| [get(&format!("{verb}ios")), get(&format!("{verb}bytes"))])
}

/// The cgroup's series of a disk: operations, bytes, observed latencies and their sum; of reads, then of writes.
fn series(scrape: &Scrape, cgroup: &Cgroup, disk: &Disk) -> [[f64; 4]; 2] {
    ["read", "write"].map(|verb| {
        let get = |name: &str, more: &[(&str, &str)]| {
            let labels = [&[("id", cgroup.path()), ("device", &disk.node)], more].concat();
            scrape.value(name, &labels).unwrap_or(0.0)
        };
        let latency =
            |what: &str| get(&format!("container_fs_io_latency_seconds_{what}"), &[("operation", verb)]);
        let total = |what: &str| get(&format!("container_fs_{verb}s{what}_total"), &[]);
        [total(""), total("_bytes"), latency("count"), latency("sum")]
    })
}

#[test]
fn reads_and_writes_are_what_dd_did() {
    let directory = TempDir::on_disk("block");
    let file = directory.path().join("file").display().to_string();
    prepare(&file);
    let disk = Disk::of(&file);
    assert!(Path::new(&disk.node).exists(), "{} is a node", disk.node);
    let cgroup = Cgroup::new("dd");
    let agent = Agent::start(&["--signals", "block_io"]);
    let (input, output) = (format!("if={file}"), format!("of={file}"));
    let read = [&input, "of=/dev/null", "iflag=direct"];
    let write = ["if=/dev/zero", &output, "oflag=direct", "conv=notrunc"];
    let mut all = [0; 2];
    for (at, arguments) in [(0, &read[..]), (1, &write[..]), (0, &read[..])] {
        exactly(|| {
            let before = series(&agent.scrape(), &cgroup, &disk);
            let done = dd(&cgroup, arguments);
            let after = series(&agent.scrape(), &cgroup, &disk);
            let delta = |at: usize| std::array::from_fn(|which| after[at][which] - before[at][which]);
            let [ops, bytes, count, seconds] = delta(at);
            assert!(done.bytes[at] >= BLOCK * COUNT, "dd did it past the page cache: {:?}", done.bytes);
            if bytes == (BLOCK * COUNT) as f64 {
                assert_eq!(ops, COUNT as f64, "one operation for each block");
            }
            assert_eq!(count, ops, "each has a latency");
            assert!(
                seconds > 0.0 && seconds < done.seconds,
                "one after the other: {seconds} s in {} s",
                done.seconds
            );
            all = std::array::from_fn(|at| all[at] + done.bytes[at]);
            ([delta(0)[1], delta(1)[1]], done.bytes)
        });
    }
    if has_v2("io") {
        let series = series(&agent.scrape(), &cgroup, &disk).map(|[ops, bytes, ..]| [ops, bytes]);
        assert_eq!(series, io_stat(&cgroup, &disk), "the controller's account, since both began");
    }
    for (what, bytes) in [("Read", all[0]), ("Write", all[1])] {
        if let Some(counted) = controller(&cgroup, "blkio.throttle.io_service_bytes", &disk, what) {
            assert_eq!(counted, bytes, "the controller's account");
        }
    }
}

/// The kernel writes later, in a thread of its own: the controller knows for whom, and so does the probe.
#[test]
fn written_back_pages_are_their_writers() {
    if !has_v2("io") {
        return;
    }
    let directory = TempDir::on_disk("writeback");
    let disk = Disk::of(&directory.path().display().to_string());
    // A new file: the kernel writes one that exists on behalf of who wrote it before.
    let file = directory.path().join("file").display().to_string();
    let cgroup = Cgroup::new("writer");
    let agent = Agent::start(&["--signals", "block_io"]);
    let mut writer = cgroup.spawn(&[
        "dd",
        "if=/dev/zero",
        &format!("of={file}"),
        "bs=1M",
        "count=8",
        "conv=fsync",
        "status=none",
    ]);
    writer.go();
    writer.finish();
    let mut last = None;
    let agree = wait::perhaps(|| {
        let (before, scrape, after) = (io_stat(&cgroup, &disk), agent.scrape(), io_stat(&cgroup, &disk));
        let own = series(&scrape, &cgroup, &disk).map(|[ops, bytes, ..]| [ops, bytes]);
        last = Some((own, after));
        (before == after && own[0][1] == after[0][1] && own[1][1] == after[1][1]).then_some(own)
    });
    let [[reads, _], [writes, written]] = agree.unwrap_or_else(|| panic!("ours and io.stat: {last:?}"));
    let [[rios, _], [wios, _]] = io_stat(&cgroup, &disk);
    assert!(
        reads <= rios && writes <= wios,
        "pages merge into fewer operations: {reads} {rios} {writes} {wios}"
    );
    assert!(written >= (8 << 20) as f64, "all of it: {written}");
}

#[test]
fn a_sub_cgroups_io_is_its_containers() {
    let directory = TempDir::on_disk("block-sub");
    let file = directory.path().join("file").display().to_string();
    prepare(&file);
    let disk = Disk::of(&file);
    let base = Cgroup::new("kubepods");
    let container = base.child(&format!("pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0/{}", "ab".repeat(32)));
    let agent = Agent::start(&["--signals", "block_io"]);
    let now = || series(&agent.scrape(), &container, &disk);
    for _ in 0..3 {
        let sub = container.child("sub");
        exactly(|| {
            let before = now();
            let done = dd(&sub, &[&format!("if={file}"), "of=/dev/null", "iflag=direct"]);
            let after = now();
            (std::array::from_fn(|at| after[at][1] - before[at][1]), done.bytes)
        });
        let before = now();
        sub.remove();
        for _ in 0..3 {
            assert_eq!(now(), before, "after it is gone");
        }
    }
}

/// Measures in rounds, until one counts exactly the bytes that were read and written. One that counts less is an error
/// unless the kernel may have withheld events.
fn exactly(mut round: impl FnMut() -> ([f64; 2], [u64; 2])) {
    wait::until("a round in which the kernel reported everything", || {
        let before = withheld();
        let (counted, done) = round();
        let done = done.map(|bytes| bytes as f64);
        if counted == done {
            return Some(());
        }
        assert!(counted[0] <= done[0] && counted[1] <= done[1], "{counted:?} of {done:?}");
        wait::until("an event that may have been withheld", || (withheld() > before).then_some(()));
        None
    });
}
