//! The whole scrape, of a node that is a checked-in folder of files: cgroup v2 with a container of Kubernetes, one of Docker
//! and a service of systemd, and a kernel without BTF. `UPDATE_GOLDEN=1` writes it anew.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use podmeter::{
    agent,
    config::{self, Command as Subcommand},
    encode::Exposition,
    format::Format,
};

/// What depends on the machine that runs this, or on who does.
const OF_THE_MACHINE: [&str; 8] = [
    "podmeter_build_info",
    "podmeter_collector_duration_seconds",
    "podmeter_ebpf_memory_bytes",
    "podmeter_lost_total",
    "podmeter_map_",
    "podmeter_probe_run",
    "podmeter_process_",
    "podmeter_events_",
];

fn own(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// A scrape of the folder.
fn scrape() -> String {
    let directory = |flag: &str, name: &str| format!("--{flag}={}", own("fixtures").join(name).display());
    let arguments = [directory("procfs", "proc"), directory("sysfs", "sys"), directory("cgroupfs", "cgroup")];
    let line = ["podmeter", "agent"].map(str::to_owned).into_iter().chain(arguments);
    let Subcommand::Agent(config) = config::parse(line.map(Into::into)).expect("flags").command else {
        panic!("not what was asked for");
    };
    let exposition = Exposition::new(agent::build(&config).gather(), Format::Text);
    String::from_utf8(exposition.flatten().collect()).expect("text")
}

/// Without what depends on the machine; the series of each family in order, since folders have none.
fn normal(text: &str) -> String {
    let mut families: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        if line.starts_with("# HELP ") {
            families.push(Vec::new());
        }
        families.last_mut().expect("each family has a help").push(line);
    }
    for family in &mut families {
        family[2..].sort_unstable();
    }
    let of_the_machine = |family: &Vec<&str>| {
        let name = family[0].trim_start_matches("# HELP ");
        OF_THE_MACHINE.iter().any(|start| name.starts_with(start))
    };
    families.retain(|family| !of_the_machine(family));
    families.concat().iter().flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn a_scrape_is_as_it_was() {
    let found = normal(&scrape());
    let file = own("metrics.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &found).expect("written");
    }
    let expected = fs::read_to_string(&file).expect("the golden file: make it with UPDATE_GOLDEN=1");
    let differing: Vec<_> = [("-", &expected, &found), ("+", &found, &expected)]
        .into_iter()
        .flat_map(|(sign, these, those)| {
            let missing = these.lines().filter(|line| !those.lines().any(|other| other == *line));
            missing.map(move |line| format!("{sign}{line}"))
        })
        .collect();
    let differing = differing.join("\n");
    assert!(
        found == expected,
        "if this is meant, run with UPDATE_GOLDEN=1 and look at the diff:\n{differing}"
    );
}

/// Prometheus's own linter, on the whole of it.
#[test]
fn promtool_has_nothing_to_say() {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("SKIPPED: promtool is not installed (Debian: prometheus)");
        return;
    };
    child.stdin.take().expect("piped").write_all(scrape().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("promtool");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}
