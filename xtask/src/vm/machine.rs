//! A guest, from its start to its end: what it prints, and what it says on the second serial port.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{board::Board, cpio::Cpio, guest::Guest, kernel::Unpacked};
use crate::command::{root, watch};

/// How the guest is started.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Which leg: what the guest's machine lacks or has otherwise.
    pub(super) leg: String,
    /// How many CPUs it has.
    pub(super) cpus: u32,
    /// After how many seconds it is ended, whatever it does.
    pub(super) seconds: u64,
}

/// A guest that is to be started.
pub(super) struct Machine<'a> {
    pub(super) guest: &'a Guest,
    pub(super) kernel: &'a Unpacked,
    pub(super) settings: &'a Settings,
    /// Where its files are for as long as it runs.
    pub(super) directory: PathBuf,
}

/// How it ended.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Whether it came as far as to start the command.
    pub(super) is_up: bool,
    /// The exit code of the command; none when the guest did not come that far.
    pub(super) code: Option<u8>,
    /// What the tests told the host, line by line.
    pub(super) told: Vec<String>,
    /// What the kernel complained of.
    pub(super) complaints: Vec<String>,
}

/// Words with which the kernel tells of its own faults.
const COMPLAINTS: [&str; 5] = ["BUG: ", "Oops", "WARNING: ", "Kernel panic", "general protection fault"];

/// Parameters of every guest's kernel. An oops ends it, rather than leave it hanging.
const PARAMETERS: &str = "console=ttyS0 rdinit=/init panic=-1 oops=panic quiet loglevel=4 random.trust_cpu=on \
                          mitigations=off nokaslr tsc=reliable";

impl Machine<'_> {
    /// Runs a command in the guest, and shows what it prints. `files` go to the same path as here, or to another.
    pub(super) fn run(&self, script: &str, files: &[(String, PathBuf)]) -> Result<Outcome> {
        let results = self.prepare(script, files)?;
        let emulator = self.command();
        // By a program of its own, which ends the guest also when nobody is left to wait for it.
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", &self.settings.seconds.to_string()]);
        command.arg(emulator.get_program()).args(emulator.get_args());
        self.board().serial(&mut command, &["stdio", &format!("file,path={}", results.display())]);
        command.stdin(Stdio::null());
        let mut outcome = Outcome::default();
        let complains = |text: &str| COMPLAINTS.iter().any(|word| text.contains(word));
        watch(&mut command, |text| {
            if complains(text) {
                outcome.complaints.push(text.to_owned());
            }
        })?;
        for said in fs::read_to_string(&results).unwrap_or_default().lines() {
            match said.strip_prefix("rc=") {
                Some(code) => outcome.code = code.parse().ok(),
                None if said == "up" => outcome.is_up = true,
                None => outcome.told.push(said.to_owned()),
            }
        }
        Ok(outcome)
    }

    /// A guest with a shell for a person.
    pub(super) fn shell(&self, files: &[(String, PathBuf)]) -> Result<()> {
        let results =
            self.prepare("exec setsid --ctty /bin/bash --login </dev/ttyS0 >/dev/ttyS0 2>&1", files)?;
        let mut command = self.command();
        let ends = ["stdio,mux=on,signal=off", &format!("file,path={}", results.display())];
        self.board().serial(&mut command, &ends);
        command.args(["-mon", "chardev=serial0"]);
        let status = command.status().context("cannot start the emulator")?;
        if !status.success() {
            bail!("the emulator failed ({status})");
        }
        Ok(())
    }

    /// Writes the initial file system; where the second serial port goes.
    fn prepare(&self, script: &str, files: &[(String, PathBuf)]) -> Result<PathBuf> {
        let sources = root()?.join("tests/vm");
        let mut cpio = Cpio::default();
        cpio.copy("/bin/busybox", &self.guest.busybox)?;
        cpio.file("/init", 0o755, &fs::read(sources.join("init"))?);
        for name in ["start", "systemd", "podmeter-test.service"] {
            cpio.file(&format!("/host/vm/{name}"), 0o644, &fs::read(sources.join(name))?);
        }
        cpio.file("/host/vm/command", 0o644, script.as_bytes());
        for (to, from) in files {
            cpio.copy(&format!("/host{to}"), from)?;
        }
        let mut initial = fs::read(&self.kernel.modules)?;
        initial.extend(cpio.finish());
        fs::create_dir_all(&self.directory)?;
        fs::write(self.initial(), initial)?;
        let results = self.directory.join("results");
        fs::write(&results, "")?;
        Ok(results)
    }

    fn board(&self) -> Board {
        Board(self.kernel.architecture)
    }

    fn initial(&self) -> PathBuf {
        self.directory.join("initial.cpio")
    }

    fn command(&self) -> Command {
        let mut command = self.guest.emulate(self.board());
        let Settings { leg, cpus, .. } = self.settings;
        command.args(self.board().arguments());
        command.args(["-accel", "tcg,thread=multi", "-m", "1536", "-no-reboot"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-smp", &cpus.to_string(), "-append", &format!("{PARAMETERS} podmeter.leg={leg}")]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initial());
        let disk = |path: &Path| format!("file={},if=none,format=raw,snapshot=on,id=disk", path.display());
        command.args(["-drive", &disk(&self.guest.disk), "-device", "virtio-blk-pci,drive=disk"]);
        command
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.directory);
    }
}
