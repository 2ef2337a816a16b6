//! A little fuzzing: long enough to find what a change has broken, on top of what is known to be worth trying.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{
    command::{find, root, run},
    install::{self, Tool},
};

const CARGO_FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2" };

/// For how long each target runs, seconds.
const SECONDS: u32 = 6;

/// Every target in fuzz/, each from its seeds.
const TARGETS: [&str; 11] = [
    "normaliser",
    "patterns",
    "head",
    "framing",
    "cgroup_path",
    "btf",
    "cgroup_files",
    "adapter_request",
    "stream_update",
    "adapter_metrics",
    "keda_trigger",
];

/// Runs them one after the other; an input that fails is in target/fuzz/artifacts, and what printed it says how to try it again.
pub(super) fn targets() -> Result<()> {
    if find("c++").is_none() {
        install::packages(&["g++"], "to compile libFuzzer")?;
    }
    let fuzz = CARGO_FUZZ.ensure("to fuzz what reads bytes from outside", |_| ())?;
    let root = root()?;
    let built = root.join("target/fuzz");
    for target in TARGETS {
        let (own, artifacts) = (built.join("corpus").join(target), built.join("artifacts").join(target));
        for folder in [&own, &artifacts] {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let mut command = Command::new(&fuzz);
        command.current_dir(&root).args(["fuzz", "run", "--fuzz-dir=fuzz", "--target-dir"]).arg(&built);
        // What it finds goes to the first folder; the seeds are only read.
        // By default it is one, and podmeter takes minutes on one CPU.
        command.arg("--codegen-units=16");
        command.arg(target).arg(&own).arg(root.join("fuzz/seeds").join(target));
        command.args(["--", "-print_final_stats=1", "-verbosity=0", "-timeout=10"]);
        command.args([
            format!("-max_total_time={SECONDS}"),
            format!("-artifact_prefix={}/", artifacts.display()),
        ]);
        // The address sanitizer is there on every channel, and its flag on none but nightly.
        run(command.env("RUSTC_BOOTSTRAP", "1")).with_context(|| format!("fuzzing {target}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_target_runs_and_has_seeds() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let names = |folder: &str| -> BTreeSet<String> {
            let entries = fs::read_dir(fuzz.join(folder)).unwrap().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().replace(".rs", "")).collect()
        };
        let run: BTreeSet<_> = TARGETS.map(str::to_owned).into();
        assert_eq!((names("targets"), names("seeds")), (run.clone(), run));
    }
}
