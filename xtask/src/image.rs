//! `cargo xtask image`: the image of `deploy/Dockerfile`, without an engine.

mod archive;
mod binary;
mod dockerfile;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{architecture::Architecture, command::root};
use dockerfile::Dockerfile;

/// What the manifests call it.
const TAG: &str = concat!("podmeter:", env!("CARGO_PKG_VERSION"));

/// Build the container image as a tarball, without an engine.
///
/// One static binary in one layer, with what the last stage of deploy/Dockerfile says of it. Both containerd (`ctr --namespace k8s.io
/// images import`) and Docker or Podman (`load --input`) take the tarball.
#[derive(Args)]
pub(crate) struct Options {
    /// The name that the image gets.
    #[arg(long, default_value = TAG)]
    tag: String,
    /// Where the tarball goes; below `target` if not given.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Whose image; this machine's if not given. That of the other takes a cross compiler, and is for 64-bit ARM only.
    #[arg(long, value_enum)]
    architecture: Option<Architecture>,
    /// Only build the static binary, and print its path.
    #[arg(long)]
    binary: bool,
}

/// Builds the binary, packs it, and prints where it is.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.binary {
        println!("{}", binary::build(options.architecture)?.path.display());
        return Ok(());
    }
    build(&options.tag, options.output.clone(), options.architecture).map(drop)
}

/// Builds the image as it comes; the tarball's path.
pub(crate) fn ensure() -> Result<PathBuf> {
    build(TAG, None, None)
}

fn build(tag: &str, output: Option<PathBuf>, architecture: Option<Architecture>) -> Result<PathBuf> {
    let binary = binary::build(architecture)?;
    let root = root()?;
    let text = fs::read_to_string(root.join("deploy/Dockerfile")).context("cannot read deploy/Dockerfile")?;
    let image = Dockerfile::parse(&text)?;
    let name = architecture.map_or(String::new(), |architecture| format!("-{}", architecture.name()));
    let output = output.unwrap_or_else(|| root.join(format!("target/podmeter-image{name}.tar")));
    let content = fs::read(&binary.path).with_context(|| format!("cannot read {}", binary.path.display()))?;
    let archive = archive::write(&image, tag, binary.architecture.name(), &content)?;
    fs::write(&output, &archive).with_context(|| format!("cannot write {}", output.display()))?;
    println!("{}: {tag} for {}, {} bytes", output.display(), binary.architecture.name(), archive.len());
    Ok(output)
}
