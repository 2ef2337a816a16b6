//! The live tests on this machine: what they take, and in which order they run.
//!
//! What measures exactly runs first, on a machine that does nothing else. What runs in a cluster waits most of the time, for
//! autoscalers and for windows: beside it is built what comes later (`cargo xtask programs`).

use anyhow::Result;

use super::{
    programs::{BUILT, Files, LAST, PROMETHEUS, VPA_FILES},
    report::Tally,
    steps::watched,
};
use crate::{
    command::{cargo, find, output, run},
    go::{self, Module},
    install, vm,
};

/// What the live tests run, and the Debian package that each comes from.
const TOOLS: [(&str, &str); 18] = [
    ("wrk", "wrk"),
    ("nginx", "nginx-light"),
    ("prometheus", "prometheus"),
    ("bpftool", "bpftool"),
    ("ip", "iproute2"),
    ("curl", "curl"),
    // The servers and clients whose requests are counted; what they are programmed in may be here already, from elsewhere.
    ("apache2", "apache2-bin"),
    ("haproxy", "haproxy"),
    ("gunicorn", "gunicorn"),
    ("uvicorn", "uvicorn"),
    ("node", "nodejs"),
    ("go", "golang-go"),
    ("javac", "default-jdk-headless"),
    ("python3", "python3"),
    ("openssl", "openssl"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
];

const TESTS: [&str; 4] = ["test", "--package=podmeter-tests", "--test=live", "--no-fail-fast"];

/// What follows "needed".
const WHY: &str = "by the live tests";

/// Those that run in a cluster, by how their names begin.
const CLUSTER: [&str; 2] = ["kube::", "adapter::"];

/// Those that take a program of their own, which is minutes to build.
const OF_THEIR_OWN: [&str; 2] = [
    "adapter::keda::keda_scales_by_what_the_api_says",
    "adapter::vpa::the_recommender_recommends_what_is_used",
];

/// Tests that take the same.
pub(super) struct Group {
    names: Vec<String>,
    /// By the variables that they find them by.
    programs: Vec<(&'static str, &'static Module)>,
    files: Option<Files>,
}

/// The tests of this machine, group by group.
pub(super) struct Groups {
    /// Those that measure exactly.
    pub(super) alone: Group,
    /// Those that run in a cluster.
    pub(super) cluster: Group,
    /// Those that wait for what is built beside the others.
    pub(super) last: Group,
}

impl Groups {
    /// Builds the tests, and divides those that have the filter in their names.
    pub(super) fn find(filter: Option<&str>) -> Result<Self> {
        run(&mut cargo(["build", "--package=podmeter", "--bins"])?)?;
        let absent = vm::left_out()?;
        let names = names(filter)?.into_iter().filter(|name| !absent.iter().any(|part| name.contains(part)));
        Ok(Self::divide(names))
    }

    fn divide(names: impl Iterator<Item = String>) -> Self {
        let (last, others): (Vec<_>, Vec<_>) = names.partition(|name| OF_THEIR_OWN.contains(&&**name));
        let in_cluster = |name: &String| CLUSTER.iter().any(|module| name.starts_with(module));
        let (cluster, alone) = others.into_iter().partition(in_cluster);
        let all = BUILT.iter().chain(&LAST).copied().collect();
        Self {
            alone: Group { names: alone, programs: vec![("PODMETER_PROMETHEUS", &PROMETHEUS)], files: None },
            cluster: Group { names: cluster, programs: BUILT.to_vec(), files: None },
            last: Group { names: last, programs: all, files: Some(VPA_FILES) },
        }
    }
}

impl Group {
    /// Builds what is missing of the programs, if there are tests.
    pub(super) fn ensure(&self) -> Result<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        self.programs.iter().try_for_each(|(_, module)| module.ensure(WHY).map(drop))
    }

    /// Runs them, one by one.
    pub(super) fn run(&self, tally: &mut Tally) -> Result<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        let mut command = cargo(TESTS)?;
        command.args(["--", "--exact", "--test-threads=1"]).args(&self.names);
        for (variable, module) in &self.programs {
            command.env(variable, module.ensure(WHY)?);
        }
        if let Some((variable, module, folder)) = self.files {
            command.env(variable, go::source(module, WHY)?.join(folder));
        }
        watched(&mut command, &TESTS, tally)
    }
}

/// Installs the tools that are missing.
pub(super) fn tools() -> Result<()> {
    let missing = TOOLS.iter().filter(|(program, _)| find(program).is_none());
    let packages: Vec<_> = missing.map(|&(_, package)| package).collect();
    if packages.is_empty() { Ok(()) } else { install::packages(&packages, WHY) }
}

/// The names of all tests that have the filter in theirs, those that are ignored among them.
fn names(filter: Option<&str>) -> Result<Vec<String>> {
    let list = output(cargo(TESTS)?.args(["--", "--list"]).args(filter))?;
    Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Says why none runs, and counts them.
pub(super) fn skip(why: &str, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let count = names(filter)?.len();
    println!("{count} LIVE TESTS SKIPPED, {why}");
    tally.skipped += u64::try_from(count)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::root;

    #[test]
    fn every_test_is_in_one_group() {
        let names = ["cpu::one", "kube::names::two", "adapter::lag::three"].into_iter().chain(OF_THEIR_OWN);
        let groups = Groups::divide(names.map(str::to_owned));
        assert_eq!(groups.alone.names, ["cpu::one"]);
        assert_eq!(groups.cluster.names, ["kube::names::two", "adapter::lag::three"]);
        assert_eq!(groups.last.names, OF_THEIR_OWN);
        assert_eq!(groups.last.programs.len(), BUILT.len() + LAST.len());
    }

    #[test]
    fn the_last_are_there() {
        for name in OF_THEIR_OWN {
            let (module, name) = name.trim_start_matches("adapter::").split_once("::").unwrap();
            let file = root().unwrap().join(format!("tests/live/adapter/{module}.rs"));
            assert!(std::fs::read_to_string(file).unwrap().contains(&format!("\nfn {name}(")), "{name}");
        }
    }
}
