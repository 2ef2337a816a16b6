//! The static binary: Rust for musl, which links everything in.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{cargo, find, output, root, run},
    install,
};

/// What was built.
pub(super) struct Binary {
    pub(super) path: PathBuf,
    /// As images call it.
    pub(super) architecture: &'static str,
}

/// Builds it for this machine's architecture.
pub(super) fn build() -> Result<Binary> {
    let (architecture, target) = match env::consts::ARCH {
        "x86_64" => ("amd64", "x86_64-unknown-linux-musl"),
        "aarch64" => ("arm64", "aarch64-unknown-linux-musl"),
        other => bail!("there is no image for {other}"),
    };
    if !has_standard_library(target)? {
        println!("adding the Rust target {target}: for the static binary");
        run(Command::new("rustup").args(["target", "add", target]))
            .with_context(|| format!("a static binary takes Rust for {target}"))?;
    }
    // What is C in the dependencies is compiled for musl too.
    if find("musl-gcc").is_none() {
        install::packages(&["musl-tools"], "for the static binary")?;
    }
    let folder = env::var_os("CARGO_TARGET_DIR").map_or(root()?.join("target"), PathBuf::from).join("static");
    let mut build =
        cargo(["build", "--release", "--locked", "--package=podmeter", "--bins", "--target", target])?;
    run(build.env("CARGO_TARGET_DIR", &folder)).context("the static binary")?;
    let path = folder.join("podmeter");
    // Names of functions stay, for what the agent says when it panics; lines, which are most of the file, do not.
    let built = folder.join(target).join("release/podmeter");
    run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&path).arg(&built))?;
    is_static(&path)?;
    Ok(Binary { path, architecture })
}

/// Whether the Rust in use comes with the standard library of this target.
fn has_standard_library(target: &str) -> Result<bool> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let folder = output(Command::new(rustc).args(["--print=target-libdir", "--target", target]))?;
    Ok(Path::new(folder.trim_end()).is_dir())
}

/// An image from nothing has no loader: a binary that asks for one would not start.
fn is_static(path: &Path) -> Result<()> {
    let headers = output(Command::new("readelf").args(["--program-headers", "--wide"]).arg(path))?;
    if headers.contains("INTERP") {
        bail!("{} is not static: it asks for a loader", path.display());
    }
    Ok(())
}
