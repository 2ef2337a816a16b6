//! `cargo xtask ebpf`: compiles the kernel half into the object that podmeter embeds.

mod build;
mod sources;
mod toolchain;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::command::root;

pub(crate) use build::Warnings;

/// Rebuild the kernel half's object, which is checked in.
///
/// Compiles exporter-ebpf for the BPF target into exporter/object/podmeter.bpf.o, and writes beside it the hash of
/// what it was built from. Run it after a change of the kernel half, and commit both files: with the object checked in,
/// building podmeter takes nothing but stable Rust.
///
/// The compiler, the LLVM libraries and bpf-linker are installed where they are missing: Debian's packages as root,
/// elsewhere a rustup nightly with rust-src that is already there.
#[derive(Args)]
pub(crate) struct Options {
    /// Build nothing: fail when the object was built from other sources than those here. Needs no LLVM.
    #[arg(long)]
    check: bool,
}

/// Rebuilds or checks.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.check { check() } else { rebuild(Warnings::Allow) }
}

/// Compiles the object and writes it, with the hash of its sources.
pub(crate) fn rebuild(warnings: Warnings) -> Result<()> {
    let bytes = build::object(warnings)?;
    let path = folder()?.join("podmeter.bpf.o");
    let old = fs::read(&path).ok();
    let what = match &old {
        Some(old) if *old == bytes => "rebuilt, byte for byte as it was",
        Some(_) => "rebuilt: it differs, so commit it",
        None => "built",
    };
    // Unchanged files keep their time, so that cargo has nothing to do.
    if old.is_none_or(|old| old != bytes) {
        fs::create_dir_all(folder()?).context("cannot create the object's folder")?;
        fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let line = format!("{}\n", sources::hash(&root()?)?);
    if recorded()? != Some(line.trim_end().to_owned()) {
        fs::write(hash_path()?, line).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{}: {} bytes, {what}", path.display(), bytes.len());
    Ok(())
}

/// Fails when the object is missing or was built from other sources.
pub(crate) fn check() -> Result<()> {
    const ADVICE: &str = "run `cargo xtask ebpf` and commit exporter/object";
    if !folder()?.join("podmeter.bpf.o").is_file() {
        bail!("the kernel object is missing: {ADVICE}");
    }
    let hash = sources::hash(&root()?)?;
    match recorded()? {
        None => bail!("the kernel object comes without the hash of its sources: {ADVICE}"),
        Some(recorded) if recorded != hash => {
            bail!(
                "the kernel object is stale: built from {recorded:.12}, the sources are {hash:.12}; {ADVICE}"
            )
        }
        Some(_) => println!("the kernel object is that of the sources {hash:.12}"),
    }
    Ok(())
}

fn folder() -> Result<PathBuf> {
    Ok(root()?.join("exporter/object"))
}

fn hash_path() -> Result<PathBuf> {
    Ok(folder()?.join("sources.sha256"))
}

/// The hash that stands beside the object, if there is one.
fn recorded() -> Result<Option<String>> {
    match fs::read_to_string(hash_path()?) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot read exporter/object/sources.sha256"),
    }
}
