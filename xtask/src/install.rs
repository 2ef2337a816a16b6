//! Installs what a command needs and the machine lacks, and says what and why before it does.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, cargo_home, find, is_root, run, succeeds};

/// A program that cargo builds from its published source.
pub(crate) struct Tool {
    /// The name of the package and of its program.
    pub(crate) name: &'static str,
    /// The version, exactly: a newer one may not compile on our Rust, or not say the same.
    pub(crate) version: &'static str,
}

/// Whether all of these Debian packages are installed.
pub(crate) fn has_packages(packages: &[&str]) -> bool {
    packages.iter().all(|package| {
        let mut query = Command::new("dpkg-query");
        query.args(["--show", "--showformat=${db:Status-Status}", package]).stderr(Stdio::null());
        query.output().is_ok_and(|output| output.status.success() && output.stdout == b"installed")
    })
}

/// Installs Debian packages; `why` follows "needed" in what is printed.
pub(crate) fn packages(packages: &[&str], why: &str) -> Result<()> {
    let list = packages.join(" ");
    if find("apt-get").is_none() {
        bail!("needed {why}, and there is no apt-get here: install what Debian calls {list}");
    }
    if !is_root() {
        bail!("needed {why}: run `sudo apt-get install --no-install-recommends {list}`, then try again");
    }
    println!("installing the Debian packages {list}: needed {why}");
    let _no_services = NoServices::new()?;
    if run(apt_get("install").args(packages)).is_err() {
        println!("trying again with fresh package lists");
        run(&mut apt_get("update"))?;
        run(apt_get("install").args(packages)).with_context(|| format!("needed {why}: {list}"))?;
    }
    Ok(())
}

fn apt_get(action: &str) -> Command {
    let mut command = Command::new("apt-get");
    command.args([action, "--quiet", "--yes", "--option=Dpkg::Use-Pty=0"]);
    if action == "install" {
        command.arg("--no-install-recommends");
    }
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

impl Tool {
    /// The program's path, after installing it if there is none of this version. `adjust` completes the `cargo install`
    /// and `why` follows "needed" in what is printed.
    pub(crate) fn ensure(&self, why: &str, adjust: impl FnOnce(&mut Command)) -> Result<PathBuf> {
        if let Some(path) = find(self.name).filter(|path| self.is_this_version(path)) {
            return Ok(path);
        }
        println!(
            "installing {} {} with cargo, which takes a few minutes: needed {why}",
            self.name, self.version
        );
        // They run for seconds: to optimise them takes longer than it gains.
        let mut install = cargo(["install", self.name, "--version", self.version, "--locked", "--debug"])?;
        adjust(&mut install);
        run(&mut install)
            .with_context(|| format!("cannot install {} {}, needed {why}", self.name, self.version))?;
        let path = cargo_home()?.join("bin").join(self.name);
        if !self.is_this_version(&path) {
            bail!("{} is not {} {}: take it away, and try again", path.display(), self.name, self.version);
        }
        Ok(path)
    }

    fn is_this_version(&self, path: &Path) -> bool {
        let output = Command::new(path).arg("--version").stderr(Stdio::null()).output();
        output.is_ok_and(|output| {
            output.stdout.trim_ascii() == format!("{} {}", self.name, self.version).as_bytes()
        })
    }
}

/// Keeps Debian from starting the services that it installs, as long as this lives.
struct NoServices {
    /// The policy that we wrote, unless the machine has one of its own, which stays.
    written: Option<PathBuf>,
}

impl NoServices {
    fn new() -> Result<Self> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self { written: None });
        }
        fs::write(&path, "#!/bin/sh\nexit 101\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
        let policy = Self { written: Some(path.clone()) };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .context("cannot make the policy executable")?;
        Ok(policy)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.written
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("remove {} by hand, or no package will start its services: {error}", path.display());
        }
    }
}

/// Whether a package of this name can be installed, after a look at fresh lists where the old ones lack it.
pub(crate) fn is_offered(package: &str) -> bool {
    let known = || succeeds(Command::new("apt-cache").args(["show", package]));
    find("apt-get").is_some() && (known() || is_root() && run(&mut apt_get("update")).is_ok() && known())
}
