//! A machine that lacks something: privileges, BTF, cgroup v2. The agent says so and does what is left.

use std::{fs, process::Command};

use exporter_ebpf::SIGNALS;
use podmeter_tests::{
    agent::{Agent, binary},
    cgroup::Cgroup,
    scrape::Scrape,
    support::Place,
    temp::TempDir,
    wait,
};

use super::assert_sound;

const MEMORY: &str = "container_memory_usage_bytes";

fn state(scrape: &Scrape, program: &str, state: &str) -> f64 {
    scrape
        .value("podmeter_probe_state", &[("program", program), ("state", state)])
        .expect("the probe's state")
}

/// A scrape has the memory of a cgroup as its file says.
fn memory_is_read(agent: &Agent, cgroup: &Cgroup) -> Scrape {
    wait::until("the memory of a quiet cgroup", || {
        let usage = || cgroup.memory_usage() as f64;
        let (before, scrape, after) = (usage(), agent.scrape(), usage());
        assert!(before > 0.0, "a process holds some");
        (before == after && scrape.value(MEMORY, &[("id", cgroup.path())]) == Some(before)).then_some(scrape)
    })
}

/// The log has a line with all of this.
fn logged(agent: &Agent, parts: &[&str]) -> bool {
    agent.log().iter().any(|line| parts.iter().all(|part| line.contains(part)))
}

#[test]
fn without_root_it_says_what_it_needs_and_reads_files() {
    let cgroup = Cgroup::new("readable");
    let mut process = cgroup.spawn(&["sleep", "1000"]);
    process.go();
    // Where nobody may read it: the target directory can be below root's home.
    let directory = TempDir::new("nobody");
    let copy = directory.path().join("podmeter");
    fs::copy(binary(), &copy).expect("a copy of the binary");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&copy);
    let agent = Agent::start_by(&mut command, &[]);
    assert!(logged(&agent, &["cpu_switch", "failed", "CAP_BPF"]), "{:#?}", agent.log());
    let scrape = memory_is_read(&agent, &cgroup);
    assert_eq!(state(&scrape, "cpu_switch", "failed"), 1.0);
    assert_eq!(scrape.value("podmeter_memory_source", &[("source", "files")]), Some(1.0));
    let (status, reasons) = agent.get("/readyz");
    assert_eq!(status, 503, "{reasons}");
    assert!(reasons.contains("cpu_switch: ") && reasons.contains("CAP_BPF"), "{reasons}");
    assert_eq!(agent.get("/livez").0, 200);
    assert_sound(&agent);
}

/// What deploy/podmeter.service gives it: no CAP_SYS_ADMIN, and none of the others that root has.
#[test]
fn with_three_capabilities_everything_attaches() {
    let cgroup = Cgroup::new("capable");
    let mut process = cgroup.spawn(&["sleep", "1000"]);
    process.go();
    let mut command = Command::new("setpriv");
    let kept = "-all,+bpf,+perfmon,+net_admin,+dac_read_search";
    command.args(["--bounding-set", kept, "--inh-caps", kept, "--"]).arg(binary());
    let agent = Agent::start_by(&mut command, &[]);
    assert_eq!(agent.capabilities("CapBnd"), 1 << 39 | 1 << 38 | 1 << 12 | 1 << 2, "no more than these");
    assert_reads_only(&agent);
    let scrape = memory_is_read(&agent, &cgroup);
    let place = Place::here();
    for probe in SIGNALS.iter().flat_map(|signal| signal.probes) {
        let (state, reason) = agent.verdict(&scrape, probe.program);
        let expectation = place.expectation(probe.program);
        assert!(expectation.is_met_by(&state, &reason), "{}: {state}: {reason}", probe.program);
    }
    assert_sound(&agent);
}

/// What was needed to attach is given up, by every thread, and cannot be had again. bpf(2) itself takes CAP_BPF on older kernels.
fn assert_reads_only(agent: &Agent) {
    let allowed = 1 << 2 | if kernel() < (5, 19) { 1 << 39 } else { 0 };
    for thread in fs::read_dir(format!("/proc/{}/task", agent.child.id())).expect("it runs").flatten() {
        let status = fs::read_to_string(thread.path().join("status")).expect("it runs");
        let of = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim().to_owned()
        };
        for name in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
            let mask = u64::from_str_radix(&of(name), 16).expect("a mask");
            assert_eq!(mask & !allowed, 0, "{name} of {}", of("Name:"));
        }
        assert_eq!(of("NoNewPrivs:"), "1");
    }
}

/// The kernel's version.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
    let mut parts = release.split(['.', '-']).map_while(|part| part.parse().ok());
    (parts.next().expect("a number"), parts.next().expect("a number"))
}

/// Root has all of them, and needs none to go on: see the other tests, whose agents are all started so.
#[test]
fn what_attaching_took_is_given_up() {
    let agent = Agent::start(&[]);
    agent.scrape();
    assert_reads_only(&agent);
    assert_eq!(agent.get("/readyz").0, 200);
}

#[test]
fn without_usable_btf_probes_are_unsupported() {
    let cgroup = Cgroup::new("plain");
    let mut process = cgroup.spawn(&["sleep", "1000"]);
    process.go();
    let real = fs::read("/sys/kernel/btf/vmlinux").expect("the kernel's BTF");
    let mut header = real.clone();
    // The types' offset and length, out of all bounds.
    header[8..16].fill(0xff);
    let broken: [(&str, Option<&[u8]>); 5] = [
        ("a directory", None),
        ("empty", Some(&[])),
        ("garbage", Some(b"this is no BTF at all, though it is longer than a header of it")),
        ("half", Some(&real[..real.len() / 2])),
        ("a header that lies", Some(&header)),
    ];
    for (what, bytes) in broken {
        let sysfs = TempDir::new("sysfs");
        let btf = sysfs.path().join("kernel/btf/vmlinux");
        fs::create_dir_all(if bytes.is_some() { btf.parent().expect("kernel/btf") } else { &btf })
            .expect("made");
        bytes.iter().for_each(|bytes| fs::write(&btf, bytes).expect("written"));
        let agent = Agent::start(&["--sysfs", &sysfs.path().display().to_string()]);
        assert!(
            logged(&agent, &["cpu_switch", "unsupported", "reason", "BTF"]),
            "{what}: {:#?}",
            agent.log()
        );
        let scrape = memory_is_read(&agent, &cgroup);
        for program in ["cgroup_mkdir", "cpu_switch", "memory_read", "block_complete"] {
            assert_eq!(state(&scrape, program, "unsupported"), 1.0, "{what}: {program}");
        }
        assert_eq!(agent.get("/livez").0, 200, "{what}");
        assert_sound(&agent);
    }
}

/// As in a pod without `hostPID`: it would find its own files, and take them for all.
#[test]
fn in_a_pid_namespace_of_its_own_it_does_not_claim_to_see_all_files() {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).arg(binary());
    let agent = Agent::start_by(&mut command, &[]);
    let scrape = agent.scrape();
    let (state, reason) = agent.verdict(&scrape, exporter_ebpf::tcp::ADOPT);
    assert_eq!(state, "degraded", "{reason}");
    assert!(reason.contains("hostPID"), "{reason}");
    assert_sound(&agent);
}

#[test]
fn without_cgroups_it_warns_and_goes_on() {
    let empty = TempDir::new("cgroupfs");
    let agent = Agent::start(&["--cgroupfs", &empty.path().display().to_string()]);
    assert!(logged(&agent, &["\"level\":\"warn\"", "no cgroup v2", "--cgroupfs"]), "{:#?}", agent.log());
    let scrape = agent.scrape();
    assert_eq!(scrape.value("podmeter_cgroups", &[]), Some(0.0));
    assert_eq!(scrape.value("podmeter_collector_success", &[("collector", "memory")]), Some(1.0));
    assert_eq!(state(&scrape, "cpu_switch", "attached"), 1.0);
    assert_eq!((agent.get("/livez").0, agent.get("/readyz").0), (200, 200));
    assert_sound(&agent);
}
