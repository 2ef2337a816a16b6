//! The live tests on every kernel and leg, and what became of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Limits, Parts, kernel::Kernel, runner};
use crate::{
    architecture::Architecture,
    command::{cargo, root, run, watch},
    cross,
    test::Tally,
};

/// What does not run in guests, and which legs there are: `tests/vm/support.toml`, whose rows of probes are the tests' own.
#[derive(Debug, Deserialize)]
pub(super) struct Support {
    leg: Vec<Leg>,
    #[serde(default)]
    test: Vec<Absent>,
    #[serde(default)]
    probe: Vec<Exception>,
}

/// Probes that a kernel does not support, as far as a person wants to know.
#[derive(Debug, Deserialize)]
struct Exception {
    #[serde(default)]
    kernels: Vec<String>,
    #[serde(default)]
    legs: Vec<String>,
    note: String,
}

impl Support {
    pub(super) fn read() -> Result<Self> {
        let path = "tests/vm/support.toml";
        let text = fs::read_to_string(root()?.join(path)).context(path)?;
        toml::from_str(&text).context(path)
    }

    /// The live tests that do not run in a place, by a part of their names; says so.
    pub(super) fn left_out(&self, kernel: &str, leg: &str) -> Vec<String> {
        let absent = self.test.iter().filter(|row| row.is_of(kernel, leg));
        let told = absent.inspect(|row| println!("NOT RUN here: {}: {}", row.names.join(", "), row.reason));
        told.flat_map(|row| row.names.iter().cloned()).collect()
    }

    /// What people should know of these kernels: which of them, and what.
    pub(super) fn notes(&self, kernels: &BTreeSet<&str>) -> Vec<(String, &str)> {
        let rows = self.probe.iter().filter(|row| row.legs.is_empty());
        let rows = rows.filter(|row| row.kernels.iter().any(|kernel| kernels.contains(&**kernel)));
        rows.map(|row| (row.kernels.join(", "), &*row.note)).collect()
    }
}

#[derive(Debug, Deserialize)]
struct Leg {
    name: String,
    kernels: Vec<String>,
    /// The tests that run in it, by a part of their names; without any, all.
    #[serde(default)]
    tests: Vec<String>,
}

/// Tests that do not run.
#[derive(Debug, Deserialize)]
struct Absent {
    names: Vec<String>,
    #[serde(default)]
    kernels: Vec<String>,
    #[serde(default)]
    legs: Vec<String>,
    reason: String,
}

/// What was found in one place.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Found {
    /// The kernel's series, and its package.
    pub(super) kernel: String,
    pub(super) package: String,
    pub(super) leg: String,
    /// By signal, then by program: the state of the probe, and why.
    pub(super) probes: BTreeMap<String, BTreeMap<String, (String, String)>>,
    /// What `podmeter doctor` says of each signal, in its order.
    pub(super) signals: Vec<Signal>,
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) seconds: f64,
}

/// A signal, as `podmeter doctor` judges it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Signal {
    pub(super) name: String,
    pub(super) health: String,
    pub(super) reasons: String,
}

/// Which of them.
pub(super) struct Choice<'a> {
    pub(super) kernels: &'a [String],
    pub(super) legs: &'a [String],
    pub(super) filters: &'a [String],
}

/// What the table calls the machine that the guests are on, among legs and among kernels.
pub(super) const HOST: &str = "host";

/// Where the results of the last run are.
pub(super) const RESULTS: &str = "target/vm/results.json";

/// Runs them one after the other: an emulated machine takes two CPUs. What fails does not keep the others from running.
pub(super) fn execute(
    parts: &Parts,
    choice: &Choice<'_>,
    limits: &Limits,
    tally: &mut Tally,
) -> Result<Vec<Found>> {
    let support = Support::read()?;
    run(&mut cargo(["build", "--package=podmeter", "--bins"])?)?;
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    let chosen = |among: &[String], name: &String| among.is_empty() || among.contains(name);
    for leg in support.leg.iter().filter(|leg| chosen(choice.legs, &leg.name)) {
        for name in leg.kernels.iter().filter(|kernel| chosen(choice.kernels, kernel)) {
            let kernel = parts.lock.kernel(name)?;
            if !is_ready(parts, kernel)? {
                tally.skipped += 1;
                continue;
            }
            println!("\n--> kernel {name}, {}", leg.name);
            if kernel.architecture == Architecture::Arm64 {
                cross::run(&cross::Options {})?;
            }
            let mut one = Found::new(name, &kernel.title(), &leg.name);
            if !place(&support, leg, kernel.architecture, &mut one, choice.filters, limits, tally)? {
                failed.push(format!("{name} ({})", leg.name));
            }
            found.push(one);
        }
    }
    keep(&found, choice)?;
    if !failed.is_empty() {
        bail!("kernels with failures: {}", failed.join(", "));
    }
    Ok(found)
}

/// Whether there is all that running a kernel takes; where there need not be, what is not there is said.
fn is_ready(parts: &Parts, kernel: &Kernel) -> Result<bool> {
    if kernel.architecture == Architecture::Arm64 {
        if !cross::is_possible() {
            println!(
                "SKIPPED: kernel {}: its tests take Debian's rustc-web (`cargo xtask ebpf`)",
                kernel.name
            );
            return Ok(false);
        }
        if let Err(error) = parts.archive(kernel.architecture).ensure_lists() {
            println!("SKIPPED: kernel {}: this mirror may have no packages for it: {error:#}", kernel.name);
            return Ok(false);
        }
    }
    if parts.unpacked(kernel)?.is_none() {
        return Ok(false);
    }
    parts.guest(kernel.architecture, false)?;
    Ok(true)
}

/// Writes down what was found; of places that were not chosen, what was known stays.
fn keep(found: &[Found], choice: &Choice<'_>) -> Result<()> {
    let path = root()?.join(RESULTS);
    fs::create_dir_all(path.parent().context("a folder")?)?;
    let is_part = !choice.kernels.is_empty() || !choice.legs.is_empty();
    let old = fs::read_to_string(&path).ok().filter(|_| is_part);
    let mut all: Vec<Found> = old.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    all.retain(|old| !found.iter().any(|new| (&new.kernel, &new.leg) == (&old.kernel, &old.leg)));
    all.extend(found.iter().cloned());
    let place =
        |one: &Found| (one.leg.clone(), one.kernel.split('.').filter_map(|part| part.parse().ok()).collect());
    all.sort_by_cached_key(|one| -> (String, Vec<u32>) { place(one) });
    fs::write(&path, serde_json::to_string_pretty(&all)?).with_context(|| path.display().to_string())
}

/// Runs the tests in one place; whether they passed.
fn place(
    support: &Support,
    leg: &Leg,
    architecture: Architecture,
    found: &mut Found,
    filters: &[String],
    limits: &Limits,
    tally: &mut Tally,
) -> Result<bool> {
    let told = root()?.join(RESULTS).with_file_name(format!("told-{}", std::process::id()));
    fs::create_dir_all(told.parent().context("a folder")?)?;
    let (mut command, runner) = match architecture {
        Architecture::Amd64 => (cargo(["test"])?, "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER"),
        Architecture::Arm64 => (cross::cargo("test")?, "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER"),
    };
    command.args(["--package=podmeter-tests", "--test=live", "--no-fail-fast", "--"]);
    command.args(if filters.is_empty() { &leg.tests } else { filters });
    command.arg("--test-threads=1");
    for name in support.left_out(&found.kernel, &found.leg) {
        command.args(["--skip", &name]);
    }
    let myself = env::current_exe().context("our own path")?;
    command.env(runner, format!("{} vm runner", myself.display()));
    command.env(runner::KERNEL, &found.kernel).env(runner::LEG, &found.leg).env(runner::TOLD, &told);
    command.env(runner::SECONDS, limits.seconds.to_string()).env(runner::CPUS, limits.cpus.to_string());
    let (start, before) = (Instant::now(), (tally.passed, tally.failed));
    let passed = watch(&mut command, |line| tally.add(line))?;
    found.seconds = start.elapsed().as_secs_f64();
    (found.passed, found.failed) = (tally.passed - before.0, tally.failed - before.1);
    if !passed && found.failed == 0 {
        tally.failed += 1;
        found.failed = 1;
    }
    found.read(&told)?;
    println!(
        "<-- kernel {}, {}: {} passed, {} failed in {:.0} s",
        found.kernel, found.leg, found.passed, found.failed, found.seconds
    );
    Ok(passed)
}

impl Absent {
    /// Whether it does not run there. What is true of every guest is not for that true of the machine that the guests are on.
    fn is_of(&self, kernel: &str, leg: &str) -> bool {
        let named = |among: &[String], own: &str| among.iter().any(|name| name == own);
        let is = |among: &[String], own: &str| among.is_empty() || named(among, own);
        is(&self.kernels, kernel) && if leg == HOST { named(&self.legs, leg) } else { is(&self.legs, leg) }
    }
}

impl Found {
    /// A place that nothing is known of yet.
    pub(super) fn new(kernel: &str, package: &str, leg: &str) -> Self {
        let [kernel, package, leg] = [kernel, package, leg].map(str::to_owned);
        let (probes, signals) = (BTreeMap::new(), Vec::new());
        Self { kernel, package, leg, probes, signals, passed: 0, failed: 0, seconds: 0.0 }
    }

    /// Takes over what the tests told.
    fn read(&mut self, told: &Path) -> Result<()> {
        for line in fs::read_to_string(told).unwrap_or_default().lines() {
            let parts: Vec<_> = line.split('\t').collect();
            if let ["probe", signal, program, state, reason] = parts[..] {
                let programs = self.probes.entry(signal.to_owned()).or_default();
                programs.insert(program.to_owned(), (state.to_owned(), reason.to_owned()));
            }
            if let ["signal", name, health, reasons] = parts[..] {
                let [name, health, reasons] = [name, health, reasons].map(str::to_owned);
                self.signals.push(Signal { name, health, reasons });
            }
        }
        _ = fs::remove_file(told);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_run_in_their_leg_alone() {
        let support = Support::read().unwrap();
        assert_eq!(support.left_out("", HOST), ["containerd::"], "what no guest has the machine may have");
        for leg in &support.leg {
            let is_left_out = support.left_out("6.12", &leg.name).contains(&"containerd::".to_owned());
            assert_eq!(is_left_out, leg.name != "systemd", "{}", leg.name);
        }
    }

    #[test]
    fn what_the_tests_tell_is_taken_over() {
        let told = std::env::temp_dir().join(format!("podmeter-told-{}", std::process::id()));
        fs::write(&told, "probe\tcpu\tcpu_switch\tattached\t\nsignal\tcpu\tworks\t\nother\n").unwrap();
        let mut found = Found::new("6.12", "linux-image", "plain");
        found.read(&told).unwrap();
        assert_eq!(found.probes["cpu"]["cpu_switch"].0, "attached");
        assert_eq!((&*found.signals[0].name, &*found.signals[0].health), ("cpu", "works"));
        assert!(!told.exists());
    }

    #[test]
    fn the_table_of_support_names_kernels_that_are_locked() {
        let support = Support::read().unwrap();
        let lock = super::super::Lock::read(&root().unwrap().join(super::super::LOCK)).unwrap();
        let legs: BTreeSet<_> = support.leg.iter().map(|leg| &leg.name).collect();
        let rows = support.probe.iter().map(|row| (&row.kernels, &row.legs));
        let rows = rows.chain(support.test.iter().map(|row| (&row.kernels, &row.legs)));
        for (kernels, of) in rows {
            assert!(of.iter().all(|leg| *leg == HOST || legs.contains(leg)), "{of:?}");
            assert!(
                kernels.iter().all(|kernel| kernel == HOST || lock.kernel(kernel).is_ok()),
                "{kernels:?}"
            );
        }
        for leg in &support.leg {
            assert!(leg.kernels.iter().all(|kernel| lock.kernel(kernel).is_ok()), "{leg:?}");
        }
    }
}
