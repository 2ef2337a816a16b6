//! The static binary: Rust for musl, which links everything in.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    architecture::Architecture,
    command::{cargo, find, output, root, run},
    install,
};

/// As Rust calls an architecture with musl.
fn target(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "x86_64-unknown-linux-musl",
        Architecture::Arm64 => "aarch64-unknown-linux-musl",
    }
}

/// What was built.
pub(super) struct Binary {
    pub(super) path: PathBuf,
    pub(super) architecture: Architecture,
}

/// What compiles C for 64-bit ARM on another machine, and what links.
const CROSS: [&str; 2] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

/// Builds it, for this machine's architecture if for none.
pub(super) fn build(architecture: Option<Architecture>) -> Result<Binary> {
    let here = Architecture::here()?;
    let architecture = architecture.unwrap_or(here);
    let target = target(architecture);
    if !has_standard_library(target)? {
        println!("adding the Rust target {target}: for the static binary");
        run(Command::new("rustup").args(["target", "add", target]))
            .with_context(|| format!("a static binary takes Rust for {target}"))?;
    }
    let folder = env::var_os("CARGO_TARGET_DIR").map_or(root()?.join("target"), PathBuf::from).join("static");
    let mut build =
        cargo(["build", "--release", "--locked", "--package=podmeter", "--bins", "--target", target])?;
    // Names of functions stay, for what the agent says when it panics; lines, which are most of the file, do not.
    let mut strip = "strip";
    if architecture == here {
        // What is C in the dependencies is compiled for musl too.
        if find("musl-gcc").is_none() {
            install::packages(&["musl-tools"], "for the static binary")?;
        }
    } else if architecture == Architecture::Arm64 {
        if !install::has_packages(&CROSS) {
            install::packages(&CROSS, "to compile for 64-bit ARM")?;
        }
        // What of it is C asks nothing of a C library; Rust brings musl, and links it itself.
        build.env("CC_aarch64_unknown_linux_musl", "aarch64-linux-gnu-gcc");
        build.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
        strip = "aarch64-linux-gnu-strip";
    } else {
        bail!("an image for {} is built on such a machine", architecture.name());
    }
    run(build.env("CARGO_TARGET_DIR", &folder)).context("the static binary")?;
    let path = folder.join(format!("podmeter-{}", architecture.name()));
    let built = folder.join(target).join("release/podmeter");
    run(Command::new(strip).arg("--strip-debug").arg("-o").arg(&path).arg(&built))?;
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
