//! The steps of `cargo xtask test`, in their order.

use std::{env, process::Command};

use anyhow::{Result, bail};

use super::{
    Options, deploy, fuzz, replicas,
    report::{Report, Tally},
    slow,
};
use crate::{
    command::{cargo, find, is_root, output, root, run as run_command, succeeds, watch},
    cross, doc,
    ebpf::{self, Warnings},
    go::Module,
    install::{self, Tool},
    vm,
};

/// Checks licences, sources and duplicates of the dependencies.
const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

/// What the live tests run, and the Debian package that each comes from.
const LIVE_TOOLS: [(&str, &str); 18] = [
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

/// Debian's is too old for native histograms as they are now. Without the tags it wants modules that are not to be had.
pub(super) const PROMETHEUS: Module = Module {
    name: "prometheus",
    package: "github.com/prometheus/prometheus/cmd/prometheus",
    version: "v0.316.0",
    tags: "remove_all_sd,enable_kubernetes_sd",
    list: None,
    copies: None,
    link: "",
};

/// The API server that names come from.
const API_SERVER: Module = kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver");

/// Runs pods on this machine.
const KUBELET: Module = kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet");

/// Makes pods of DaemonSets and Deployments.
const CONTROLLERS: Module =
    kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager");

/// Finds nodes for them.
const SCHEDULER: Module = kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler");

/// Shows what pods and nodes use.
const KUBECTL: Module = kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl");

/// The last, as it is being given up.
const PROMETHEUS_ADAPTER: Module = Module {
    name: "prometheus-adapter",
    package: "sigs.k8s.io/prometheus-adapter/cmd/adapter",
    version: "v0.12.0",
    tags: "",
    // Its path in the proxy cannot be asked for what versions there are, as `go install` would.
    list: Some("tests/kubernetes/prometheus-adapter"),
    copies: None,
    link: "-s -w",
};

/// A program of Kubernetes. The tags are those of its makers; without the flags it is of no version.
pub(super) const fn kubernetes(name: &'static str, package: &'static str) -> Module {
    Module {
        name,
        package,
        version: "v1.37.2",
        tags: "selinux,notest,grpcnotrace",
        list: Some("tests/kubernetes"),
        copies: None,
        link: "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 \
           -X k8s.io/component-base/version.gitMinor=37 -X k8s.io/client-go/pkg/version.gitVersion=v1.37.2",
    }
}

/// Where the API server keeps what it knows.
const ETCD: Module = Module {
    name: "etcd",
    package: "go.etcd.io/etcd/server/v3",
    version: "v3.7.3",
    tags: "",
    list: Some("tests/kubernetes/etcd"),
    copies: None,
    link: "-s -w",
};

/// What the live tests find by a variable.
pub(crate) const BUILT: [(&str, &Module); 8] = [
    ("PODMETER_PROMETHEUS", &PROMETHEUS),
    ("PODMETER_PROMETHEUS_ADAPTER", &PROMETHEUS_ADAPTER),
    ("PODMETER_ETCD", &ETCD),
    ("PODMETER_KUBE_APISERVER", &API_SERVER),
    ("PODMETER_KUBELET", &KUBELET),
    ("PODMETER_KUBE_CONTROLLER_MANAGER", &CONTROLLERS),
    ("PODMETER_KUBE_SCHEDULER", &SCHEDULER),
    ("PODMETER_KUBECTL", &KUBECTL),
];

/// Where the live tests are.
pub(super) const LIVE: [&str; 4] = ["test", "--package=podmeter-tests", "--test=live", "--no-fail-fast"];

/// Runs them up to the first that fails.
pub(super) fn run(report: &mut Report, options: &Options) -> Result<()> {
    let filter = options.filter.as_deref();
    let live = !options.no_live && is_root();
    if live {
        report.step("tools of the live tests", |_| live_tools())?;
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
        let agent = ["build", "--package=podmeter", "--bins"];
        report.step("the agent that the live tests start", |_| run_command(&mut cargo(agent)?))?;
        // Of these, what Kubernetes is made of takes a quarter of an hour on a new machine with two CPUs.
        report.step("programs of the live tests", |_| {
            BUILT.iter().try_for_each(|(_, module)| module.ensure("by the live tests").map(drop))
        })?;
        report.step("live tests", |tally| live_tests(filter, tally))?;
        if options.slow {
            report.step("slow live tests", |tally| slow::tests(filter, tally))?;
        }
    } else {
        report.step("live tests: SKIPPED", |tally| skip_live(options, tally))?;
    }
    if live && !options.no_vm && filter.is_none() {
        report.step("live tests on other kernels", vm::test)?;
    } else {
        println!(
            "\nTHE LIVE TESTS ON OTHER KERNELS ARE SKIPPED: they come with the live tests, without --no-vm or a filter"
        );
        report.tally.skipped += 1;
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

fn live_tools() -> Result<()> {
    let missing = LIVE_TOOLS.iter().filter(|(program, _)| find(program).is_none());
    let packages: Vec<_> = missing.map(|&(_, package)| package).collect();
    if packages.is_empty() { Ok(()) } else { install::packages(&packages, "by the live tests") }
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

/// One by one, with the programs that they find by their variables.
fn live_tests(filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let mut command = cargo(LIVE)?;
    command.arg("--").args(filter).arg("--test-threads=1");
    vm::leave_out(&mut command)?;
    for (variable, module) in BUILT {
        command.env(variable, module.ensure("by the live tests")?);
    }
    watched(&mut command, &LIVE, tally)
}

pub(super) fn watched(command: &mut Command, arguments: &[&str], tally: &mut Tally) -> Result<()> {
    if !watch(command, |line| tally.add(line))? {
        bail!("`cargo {}` failed; what it printed is above", arguments.join(" "));
    }
    Ok(())
}

/// Says why, and counts what was not run.
fn skip_live(options: &Options, tally: &mut Tally) -> Result<()> {
    let why = if options.no_live {
        "as --no-live asks"
    } else {
        "they need root: run this as root for the whole truth"
    };
    let list = output(cargo(LIVE)?.args(["--", "--list"]).args(&options.filter))?;
    let count = list.lines().filter(|line| line.ends_with(": test")).count();
    println!("{count} LIVE TESTS SKIPPED, {why}");
    tally.skipped += u64::try_from(count)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_lists_of_modules_have_the_versions_that_are_built() {
        BUILT.iter().chain(&slow::PROGRAMS).for_each(|(_, module)| is_listed(module));
    }

    fn is_listed(module: &Module) {
        let Some(list) = module.list else { return };
        let list = fs::read_to_string(root().unwrap().join(list).join("go.mod")).unwrap();
        let named = list.lines().filter_map(|line| line.trim().split_once(' '));
        let package = module.copies.as_ref().map_or(module.package, |copies| copies.module);
        let mut named = named.filter(|(name, _)| package.starts_with(name));
        assert!(
            named.any(|(_, version)| version.split(' ').next() == Some(module.version)),
            "{}",
            module.name
        );
    }
}
