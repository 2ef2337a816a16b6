//! `cargo xtask cross`: podmeter for 64-bit ARM, compiled here.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    archive::{Archive, Suite, unpack},
    cache::cache,
    command::{output, root, run as run_command},
    install,
    test::Tally,
};

/// Compile podmeter for aarch64-unknown-linux-gnu.
///
/// With Debian's compiler, the one that compiles the kernel half: Debian has its standard library for other architectures. The
/// kernel half is the same for all.
#[derive(Args)]
pub(crate) struct Options {}

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Where it goes.
const FOLDER: &str = "target/cross";
/// The release that the compiler is of.
const SUITES: [Suite; 1] = [("debian-security", "bookworm-security")];
/// The standard library.
const STD: &str = "libstd-rust-web-dev";
/// The linker, and what it links with.
const LINKER: [&str; 2] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];

/// Whether this machine has the compiler that it takes.
pub(crate) fn is_possible() -> bool {
    install::has_packages(&[STD])
}

/// Says why it is not done, and counts it.
pub(crate) fn skip(tally: &mut Tally) -> Result<()> {
    println!("SKIPPED: this takes Debian's {STD}, which comes with rustc-web");
    tally.skipped += 1;
    Ok(())
}

/// Compiles and links it.
pub(crate) fn run(_options: &Options) -> Result<()> {
    run_command(cargo("build")?.args(["--package=podmeter", "--bins"]))?;
    check(&root()?.join(FOLDER).join(TARGET).join("debug/podmeter"))
}

/// A cargo that does something for the target, and has all that this takes.
pub(crate) fn cargo(action: &str) -> Result<Command> {
    if !is_possible() {
        bail!("this takes Debian's rustc-web: run `cargo xtask ebpf` first, on Debian 12");
    }
    if !install::has_packages(&LINKER) {
        install::packages(&LINKER, "to link for 64-bit ARM")?;
    }
    let sysroot = sysroot()?;
    let mut cargo = Command::new("/usr/bin/cargo");
    cargo.current_dir(root()?).args([action, "--target", TARGET, "--target-dir", FOLDER]);
    cargo.env("RUSTC", "/usr/bin/rustc");
    // What the cargo that runs this has set is for another compiler.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc");
    let flags = format!("--sysroot {}", sysroot.display());
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags);
    Ok(cargo)
}

/// A sysroot with the standard library for the target beside the machine's own.
fn sysroot() -> Result<PathBuf> {
    let version = output(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", STD]))?;
    let directory = cache()?.join("cross");
    let sysroot = directory.join(format!("sysroot-{version}"));
    let libraries = sysroot.join("lib/rustlib");
    if libraries.join(TARGET).exists() {
        return Ok(sysroot);
    }
    let archive = Archive::new(directory.join("apt"), &SUITES, "arm64")?;
    archive.update()?;
    let package = archive.newest(STD)?;
    if package.version != version {
        bail!(
            "{STD} is {version} here and {} in the archive: `apt-get install {STD}` first",
            package.version
        );
    }
    let file = archive.fetch(&package)?.with_context(|| format!("the archive has no {STD} for arm64"))?;
    unpack(&file, &sysroot.join("tree"))?;
    fs::create_dir_all(&libraries)?;
    let own = "x86_64-unknown-linux-gnu";
    symlink(Path::new("/usr/lib/rustlib").join(own), libraries.join(own))?;
    symlink(Path::new("../../tree/usr/lib/rustlib").join(TARGET), libraries.join(TARGET))?;
    Ok(sysroot)
}

/// The binary is what it should be: an ELF file of 64 bits for machine 183.
fn check(binary: &Path) -> Result<()> {
    let head = fs::read(binary).with_context(|| binary.display().to_string())?;
    if head.get(..5) != Some(b"\x7fELF\x02") || head.get(18..20) != Some(&[183, 0]) {
        bail!("{} is no program for 64-bit ARM", binary.display());
    }
    println!("{}: {} bytes", binary.display(), head.len());
    Ok(())
}
