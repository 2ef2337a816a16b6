//! What is built beside tests that mostly wait, so that it is there when tests want it.

use std::{
    env,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::command::root;

/// `cargo xtask programs`, with what it prints in a file. Ends when this is dropped.
pub(super) struct Beside {
    child: Child,
    log: PathBuf,
}

impl Beside {
    /// Begins to build.
    pub(super) fn start() -> Result<Self> {
        let folder = root()?.join("target");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let log = folder.join("programs.log");
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // In a session of its own, which the scheduler can put behind all others.
        let mut command = Command::new("setsid");
        command.args(["nice", "-n", "19"]).arg(env::current_exe().context("our own path")?);
        command.args(["programs", "--beside"]).stdin(Stdio::piped());
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("cannot start `setsid`")?;
        println!(
            "\nbuilding beside the tests what later ones take; what that prints is in {}",
            log.display()
        );
        Ok(Self { child, log })
    }

    /// Waits for its end. What it could not build is built when it is wanted, and says there why it cannot be.
    pub(super) fn wait(mut self) -> Result<()> {
        // Kept open until then: `Child::wait` would close it.
        let input = self.child.stdin.take();
        let status = self.child.wait().context("cannot wait for it")?;
        drop(input);
        if !status.success() {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<_> = said.lines().collect();
            println!(
                "not everything could be built ({status}): {}",
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        _ = self.child.wait();
    }
}
