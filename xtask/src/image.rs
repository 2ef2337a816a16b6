//! `cargo xtask image`: the image of `deploy/Dockerfile`, without an engine.

mod archive;
mod binary;
mod dockerfile;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::command::root;
use dockerfile::Dockerfile;

/// Build the container image as a tarball, without an engine.
///
/// One static binary in one layer, with what the last stage of deploy/Dockerfile says of it. Both containerd (`ctr --namespace k8s.io
/// images import`) and Docker or Podman (`load --input`) take the tarball.
#[derive(Args)]
pub(crate) struct Options {
    /// The name that the image gets.
    #[arg(long, default_value = concat!("podmeter:", env!("CARGO_PKG_VERSION")))]
    tag: String,
    /// Where the tarball goes; below `target` if not given.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Only build the static binary, and print its path.
    #[arg(long)]
    binary: bool,
}

/// Builds the binary, packs it, and prints where it is.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = binary::build()?;
    if options.binary {
        println!("{}", binary.path.display());
        return Ok(());
    }
    let root = root()?;
    let text = fs::read_to_string(root.join("deploy/Dockerfile")).context("cannot read deploy/Dockerfile")?;
    let image = Dockerfile::parse(&text)?;
    let output = options.output.clone().unwrap_or_else(|| root.join("target/podmeter-image.tar"));
    let content = fs::read(&binary.path).with_context(|| format!("cannot read {}", binary.path.display()))?;
    let archive = archive::write(&image, &options.tag, binary.architecture, &content)?;
    fs::write(&output, &archive).with_context(|| format!("cannot write {}", output.display()))?;
    println!("{}: {} for {}, {} bytes", output.display(), options.tag, binary.architecture, archive.len());
    Ok(())
}
