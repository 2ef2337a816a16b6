//! `podmeter doctor`: it says of this machine what the agent would find, and of a container why it has no requests.

use std::process::{Command, Output};

use exporter_ebpf::{SIGNALS, Signal};
use podmeter_tests::{
    agent::{Agent, binary},
    cgroup::Cgroup,
    support::{Place, tell},
    temp::TempDir,
};
use serde_json::Value;

fn doctor(arguments: &[&str]) -> Output {
    Command::new(binary()).arg("doctor").args(arguments).output().expect("the binary")
}

/// What it printed as JSON, and its exit code.
fn asked(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = doctor(&[&["--json"], arguments].concat());
    let said = serde_json::from_slice(&output.stdout);
    (said.unwrap_or_else(|error| panic!("{error}: {output:?}")), output.status.code())
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// How a signal has to be, if its probes are as they are said to be, and as the table has them.
fn expected(place: &Place, signal: &Signal, said: &[Value]) -> &'static str {
    let is_missing = |program: &str| {
        let said = said.iter().find(|probe| probe["program"] == program);
        let (state, reason) = said.map_or(("attached", ""), |it| (text(it, "state"), text(it, "reason")));
        let expectation = place.expectation(program);
        assert!(expectation.is_met_by(state, reason), "{program}: {said:?}, expected {expectation:?}");
        said.is_some()
    };
    let mut missing = signal.probes.iter().filter(|probe| is_missing(probe.program)).peekable();
    match (missing.peek().is_some(), missing.any(|probe| probe.required)) {
        (false, _) => "works",
        (_, true) => "cannot",
        _ => "degraded",
    }
}

#[test]
fn every_signal_is_judged_as_the_table_has_it() {
    let place = Place::here();
    let (said, code) = asked(&[]);
    let judgements = said["signals"].as_array().expect("signals");
    assert_eq!(judgements.len(), SIGNALS.len());
    let mut healths = Vec::new();
    for (signal, judgement) in SIGNALS.iter().zip(judgements) {
        let health = text(judgement, "health");
        let probes = judgement["probes"].as_array().expect("probes");
        let reasons: Vec<_> = probes.iter().map(|probe| text(probe, "reason")).collect();
        tell(&format!("signal\t{}\t{health}\t{}", signal.name, reasons.join(" | ")));
        assert_eq!(
            (text(judgement, "signal"), health),
            (signal.name, expected(&place, signal, probes)),
            "{judgement}"
        );
        assert!(probes.iter().all(|probe| !text(probe, "reason").is_empty()), "{judgement}");
        healths.push(health);
    }
    let wanted = [("cannot", 4), ("degraded", 3), ("works", 0)];
    let wanted = wanted.iter().find(|(health, _)| healths.contains(health)).map(|(_, code)| *code);
    assert_eq!(code, wanted, "{healths:?}");
    let output = doctor(&[]);
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), code, "{table}");
    for (signal, health) in SIGNALS.iter().zip(healths) {
        let row = table.lines().find(|line| line.split_whitespace().next() == Some(signal.name));
        assert!(row.is_some_and(|row| row.contains(health)), "{}: {table}", signal.name);
    }
}

#[test]
fn without_btf_it_names_the_remedy() {
    let sysfs = TempDir::new("doctor");
    let (said, code) = asked(&["--sysfs", &sysfs.path().display().to_string()]);
    assert_eq!(code, Some(4));
    assert!(text(&said["machine"], "btf_error").contains("kernel/btf/vmlinux"));
    let judgements = said["signals"].as_array().expect("signals");
    let of =
        |name: &str| judgements.iter().find(|judgement| judgement["signal"] == name).expect("the signal");
    assert_eq!((text(of("cpu"), "health"), text(of("memory"), "health")), ("cannot", "degraded"));
    let probe = &of("cpu")["probes"][0];
    assert!(
        text(probe, "reason").contains("BTF") && text(probe, "remedy").contains("CONFIG_DEBUG_INFO_BTF"),
        "{probe}"
    );
}

#[test]
fn without_privileges_it_names_them() {
    let directory = TempDir::new("doctor-nobody");
    let copy = directory.path().join("podmeter");
    std::fs::copy(binary(), &copy).expect("a copy of the binary");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&copy)
        .args(["doctor", "--json"])
        .output()
        .expect("setpriv");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let missing: Vec<_> =
        said["machine"]["missing_capabilities"].as_array().expect("a list").iter().collect();
    assert_eq!(missing, ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
    assert!(said.to_string().contains("root, or also CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"), "{said}");
}

/// The kinds of reasons that it gives for a container.
fn kinds(agent: &Agent, name: &str) -> (Vec<String>, Option<i32>) {
    let (said, code) = asked(&["--listen", &agent.address.to_string(), "--container", name]);
    let reasons = said["reasons"].as_array().expect("reasons");
    (reasons.iter().map(|reason| text(reason, "kind").to_owned()).collect(), code)
}

#[test]
fn a_container_without_requests_is_explained() {
    let agent = Agent::start(&["--signals", "cpu,http,tcp"]);
    let (quiet, local, datagrams) = (Cgroup::new("quiet"), Cgroup::new("local"), Cgroup::new("datagrams"));
    let script = "use Socket; $| = 1; socketpair(A, B, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; print qq(up\\n); sleep 1000";
    let udp = "use Socket; $| = 1; socket(A, PF_INET, SOCK_DGRAM, 0) or die; \
               bind(A, sockaddr_in(0, INADDR_LOOPBACK)) or die; print qq(up\\n); sleep 1000";
    let mut sleeper = quiet.spawn(&["sleep", "1000"]);
    sleeper.go();
    let mut others = [(&local, script), (&datagrams, udp)].map(|(cgroup, script)| {
        let mut process = cgroup.spawn(&["perl", "-e", script]);
        assert_eq!(process.go().line(), "up");
        process
    });
    for (cgroup, kind) in [(&quiet, "no_traffic"), (&local, "unix_socket"), (&datagrams, "udp")] {
        let (kinds, code) = kinds(&agent, cgroup.path());
        assert_eq!(code, Some(5), "{kinds:?}");
        assert!(kinds.iter().any(|known| known == kind), "{}: {kinds:?}", cgroup.path());
        let has_sockets = kind != "no_traffic";
        assert_eq!(kinds.iter().any(|kind| kind == "unix_socket" || kind == "udp"), has_sockets, "{kinds:?}");
    }
    others.iter_mut().for_each(|process| _ = process.asleep());
    let output = doctor(&["--listen", &agent.address.to_string(), "--container", "no-such-container"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("knows no container no-such-container"),
        "{output:?}"
    );
}

#[test]
fn without_an_agent_it_says_so() {
    let output = doctor(&["--listen", "127.0.0.1:1", "--container", "any"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("no agent answers at 127.0.0.1:1"),
        "{output:?}"
    );
}
