//! The steps of `cargo xtask test`, in their order.

use std::{env, process::Command};

use anyhow::{Result, bail};

use super::{
    Options,
    beside::Beside,
    deploy, fuzz,
    live::{self, Groups},
    replicas,
    report::{Report, Tally},
};
use crate::{
    command::{cargo, is_root, root, run as run_command, succeeds, watch},
    cross, doc,
    ebpf::{self, Warnings},
    install::Tool,
    vm,
};

/// Checks licences, sources and duplicates of the dependencies.
const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

/// Runs them up to the first that fails.
pub(super) fn run(report: &mut Report, options: &Options) -> Result<()> {
    let filter = options.filter.as_deref();
    let live = !options.no_live && is_root();
    if live {
        report.step("tools of the live tests", |_| live::tools())?;
    }
    if filter.is_none() {
        report.step("the checked-in object is current", |_| current_object())?;
    }
    let warnings = if filter.is_none() { Warnings::Deny } else { Warnings::Allow };
    report.step("rebuild the object", |_| ebpf::rebuild(warnings))?;
    if filter.is_none() {
        report.step("format", |_| {
            run_command(&mut cargo(["fmt", "--all", "--check"])?)?;
            run_command(&mut cargo(["fmt", "--check", "--manifest-path=fuzz/Cargo.toml"])?)
        })?;
        let clippy = ["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"];
        let fuzz = ["clippy", "--manifest-path=fuzz/Cargo.toml", "--target-dir=target", "--", "-Dwarnings"];
        report.step("lints", |_| {
            run_command(&mut cargo(clippy)?)?;
            // Fuzzing comes late, and not with a filter: what no longer fits podmeter is told here.
            run_command(&mut cargo(fuzz)?)
        })?;
        report.step("dependencies", |_| dependencies())?;
        if cross::is_possible() {
            report.step("podmeter for 64-bit ARM", |_| cross::run(&cross::Options {}))?;
        } else {
            report.step("podmeter for 64-bit ARM: SKIPPED", cross::skip)?;
        }
        report.step("METRICS.md is current", |_| doc::run(&doc::Options { check: true }))?;
    }
    report.step("tests", |tally| tests(&["test", "--workspace", "--no-fail-fast"], filter, tally))?;
    if filter.is_none() {
        report.step("fuzzing", |_| fuzz::targets())?;
    }
    if live {
        live_tests(report, filter, !options.no_vm)?;
    } else {
        let root = "they need root: run this as root for the whole truth";
        let why = if options.no_live { "as --no-live asks" } else { root };
        report.step("live tests: SKIPPED", |tally| live::skip(why, filter, tally))?;
    }
    report.step("the program with the autoscaler's own code", |_| replicas::program().map(drop))?;
    report.step("replicas by the autoscaler's own code", |tally| replicas::tests(filter, tally))?;
    report.step("programs for the files of deploy/", |_| deploy::programs())?;
    report.step("deploy/ as real programs take it", |tally| deploy::tests(filter, live, tally))?;
    if let Some(filter) = filter
        && report.tally == Tally::default()
    {
        bail!("no test has {filter} in its name");
    }
    Ok(())
}

fn live_tests(report: &mut Report, filter: Option<&str>, vm: bool) -> Result<()> {
    let groups = report.step("the live tests, and the agent that they start", |_| Groups::find(filter))?;
    // Of these, what Kubernetes is made of takes eleven minutes on a new machine with two CPUs.
    report.step("programs of the live tests", |_| {
        groups.alone.ensure()?;
        groups.cluster.ensure()
    })?;
    report.step("live tests", |tally| groups.alone.run(tally))?;
    let beside = filter.is_none().then(Beside::start).transpose()?;
    report.step("live tests in a cluster", |tally| groups.cluster.run(tally))?;
    if vm && filter.is_none() {
        report.step("live tests on other kernels", vm::test)?;
    } else {
        println!(
            "\nTHE LIVE TESTS ON OTHER KERNELS ARE SKIPPED: they come with the live tests, without --no-vm or a filter"
        );
        report.tally.skipped += 1;
    }
    if let Some(beside) = beside {
        report.step("programs that were built beside the live tests", |_| beside.wait())?;
    }
    report.step("programs of the last live tests", |_| groups.last.ensure())?;
    report.step("last live tests", |tally| groups.last.run(tally))
}

/// A stale object is a person's next commit, but in CI it is what would have been shipped.
fn current_object() -> Result<()> {
    match ebpf::check() {
        Err(error) if env::var_os("CI").is_none() => {
            println!("NOT CURRENT, to be rebuilt: {error:#}");
            Ok(())
        }
        result => result,
    }
}

/// cargo-deny, with as much as can be had: the advisories are in a database that it fetches from the network.
fn dependencies() -> Result<()> {
    let deny = DENY.ensure("to check the dependencies", |_| ())?;
    let deny = |arguments: &[&str]| -> Result<Command> {
        let mut command = Command::new(&deny);
        command.current_dir(root()?).args(arguments);
        Ok(command)
    };
    let advisories = succeeds(&mut deny(&["fetch", "db"])?);
    if !advisories {
        println!(
            "ADVISORIES SKIPPED: their database cannot be fetched here; bans, licences and sources are checked"
        );
    }
    let checks: &[_] = if advisories { &["all"] } else { &["bans", "licenses", "sources"] };
    run_command(deny(&["--workspace", "check", "--hide-inclusion-graph"])?.args(checks))
}

fn tests(arguments: &[&str], filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let mut command = cargo(arguments)?;
    command.arg("--").args(filter);
    watched(&mut command, arguments, tally)
}

pub(super) fn watched(command: &mut Command, arguments: &[&str], tally: &mut Tally) -> Result<()> {
    if !watch(command, |line| tally.add(line))? {
        bail!("`cargo {}` failed; what it printed is above", arguments.join(" "));
    }
    Ok(())
}
