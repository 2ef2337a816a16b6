//! The static binary: Rust for musl, which links everything in.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{cargo, output, root, run, succeeds},
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
    let folder = env::var_os("CARGO_TARGET_DIR").map_or(root()?.join("target"), PathBuf::from).join("static");
    let mut build = if has_standard_library(target)? {
        cargo(["build"])?
    } else if succeeds(Command::new("rustup").args(["target", "add", target])) {
        println!("added {target} with rustup: for the static binary");
        cargo(["build"])?
    } else {
        from_source(&folder)?
    };
    build.args(["--release", "--locked", "--package=podmeter", "--bins", "--target", target]);
    build.env("CARGO_TARGET_DIR", &folder);
    run(&mut build).context("the static binary")?;
    let path = folder.join(target).join("release/podmeter");
    is_static(&path)?;
    Ok(Binary { path, architecture })
}

/// Whether the Rust in use comes with the standard library of this target.
fn has_standard_library(target: &str) -> Result<bool> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let folder = output(Command::new(rustc).args(["--print=target-libdir", "--target", target]))?;
    Ok(Path::new(folder.trim_end()).is_dir())
}

/// What builds the standard library too, where none can be had: Debian's Rust with its source, its musl, and an unwinder that asks only
/// for what musl has, which that of GCC 12 does not.
fn from_source(folder: &Path) -> Result<Command> {
    const PACKAGES: [&str; 5] = ["rustc-web", "rust-web-src", "cargo-web", "musl-tools", "libgcc-11-dev"];
    if !install::has_packages(&PACKAGES) {
        install::packages(&PACKAGES, "for the static binary, as rustup has no Rust for musl here")?;
    }
    // The name that Rust's standard library looks for.
    let unwinder = folder.join("unwind/libunwind.a");
    let found = format!("/usr/lib/gcc/{}-linux-gnu/11/libgcc_eh.a", env::consts::ARCH);
    fs::create_dir_all(folder.join("unwind"))?;
    fs::copy(&found, &unwinder).with_context(|| format!("cannot copy {found}"))?;
    let mut build = Command::new("/usr/bin/cargo");
    build.current_dir(root()?).args(["build", "-Zbuild-std=std,panic_unwind"]);
    build.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1").env_remove("LD_LIBRARY_PATH");
    // Debian's musl-gcc knows static programs and position-independent ones, but none that are both.
    let unwind = folder.join("unwind");
    let flags = format!(
        "-Clink-self-contained=no -Clinker=musl-gcc -Crelocation-model=static -Lnative={}",
        unwind.display()
    );
    build.env("RUSTFLAGS", flags);
    Ok(build)
}

/// An image from nothing has no loader: a binary that asks for one would not start.
fn is_static(path: &Path) -> Result<()> {
    let headers = output(Command::new("readelf").args(["--program-headers", "--wide"]).arg(path))?;
    if headers.contains("INTERP") {
        bail!("{} is not static: it asks for a loader", path.display());
    }
    Ok(())
}
