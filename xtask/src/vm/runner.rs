//! The runner that cargo hands test binaries to: runs one in a guest, as if it ran here.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Options, Parts, board::Board, machine::Machine};
use crate::command::{find, run};

/// Variables that say where the tests are, for a test to know.
pub(super) const KERNEL: &str = "PODMETER_VM_KERNEL";
pub(super) const LEG: &str = "PODMETER_VM_LEG";
/// And those that say how large guests are.
pub(super) const CPUS: &str = "PODMETER_VM_CPUS";
pub(super) const SECONDS: &str = "PODMETER_VM_SECONDS";
/// The file that takes what the tests told.
pub(super) const TOLD: &str = "PODMETER_VM_TOLD";
/// Where a test tells the host something.
const TELL: &str = "PODMETER_VM_TELL";

/// Runs the binary in a guest; its exit code.
pub(super) fn execute(options: &Options, binary: &Path, arguments: &[String]) -> Result<u8> {
    let parts = Parts::fetch(false)?;
    let kernel = parts.kernel(&options.kernel)?;
    let settings = options.settings();
    let directory = parts.directory.join(format!("run-{}", std::process::id()));
    let guest = parts.guest_of(&settings.leg, kernel.architecture)?;
    let machine = Machine { guest: &guest, kernel: &kernel, settings: &settings, directory };
    let binary = fs::canonicalize(binary).with_context(|| binary.display().to_string())?;
    let files = beside(&binary, Board(kernel.architecture), &machine.directory)?;
    let mut script = format!(
        "export RUST_BACKTRACE=1 {KERNEL}={} {LEG}={} {TELL}=/dev/ttyS1\n",
        kernel.name, settings.leg
    );
    script += &format!("cd {}\nexec {}", quote("/vm"), quote(&binary.display().to_string()));
    arguments.iter().for_each(|argument| script += &format!(" {}", quote(argument)));
    script.push('\n');
    let mut outcome = machine.run(&script, &files)?;
    if !outcome.is_up {
        eprintln!("WARNING: the guest of kernel {} ended before its command began: once more", kernel.name);
        outcome = machine.run(&script, &files)?;
    }
    if let Ok(path) = env::var(TOLD) {
        fs::write(&path, outcome.told.join("\n")).with_context(|| path)?;
    }
    for complaint in &outcome.complaints {
        eprintln!("kernel {}: {complaint}", kernel.name);
    }
    match outcome.code {
        Some(0) if !outcome.complaints.is_empty() => {
            bail!("the kernel {} complained, see above", kernel.name)
        }
        Some(code) => Ok(code),
        None => bail!(
            "the guest of kernel {} ended without a result: it crashed, or took more than {} s",
            kernel.name,
            settings.seconds
        ),
    }
}

/// The binary and those that cargo puts beside it, without what only a debugger reads: each with its path in the guest.
fn beside(binary: &Path, board: Board, scratch: &Path) -> Result<Vec<(String, PathBuf)>> {
    let folder = binary.ancestors().nth(2).context("a test binary is in a folder of cargo's")?;
    let siblings = ["podmeter", "http-peer"].map(|name| folder.join(name));
    let siblings = siblings.into_iter().filter(|path| path.is_file());
    fs::create_dir_all(scratch)?;
    let mut files = Vec::new();
    for (number, path) in [binary.to_owned()].into_iter().chain(siblings).enumerate() {
        let mut copy = path.clone();
        if let Some(strip) = find(board.strip()) {
            copy = scratch.join(format!("file{number}"));
            run(Command::new(strip).arg("--strip-debug").arg("-o").args([&copy, &path]))?;
        }
        files.push((path.display().to_string(), copy));
    }
    Ok(files)
}

/// A word for the shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
