//! The compilation itself.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::toolchain::Toolchain;
use crate::command::{cargo_home, root, run};

/// The compiler's flags; a part of what the object is built from. Debug info is where bpf-linker gets the BTF from that
/// it is told to write.
pub(super) const FLAGS: [&str; 3] = ["-Cdebuginfo=2", "-Clink-arg=--btf", "--cfg=bpf_target_arch=\"x86_64\""];

/// cargo's arguments; a part of what the object is built from. Rust ships no `core` for this target: it is built too.
pub(super) const ARGUMENTS: [&str; 6] =
    ["--locked", "--release", "--package=exporter-ebpf", "--bin=exporter-ebpf", TARGET, "-Zbuild-std=core"];

const TARGET: &str = "--target=bpfel-unknown-none";

/// What the compiler's warnings are worth. Clippy, which runs for the host, does not see this half.
#[derive(Clone, Copy)]
pub(crate) enum Warnings {
    /// Shown: work in progress has them.
    Allow,
    /// An error.
    Deny,
}

/// Compiles the kernel half and returns the object, without debug info and with BTF.
pub(super) fn object(warnings: Warnings) -> Result<Vec<u8>> {
    let toolchain = Toolchain::ensure()?;
    let root = root()?;
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("ebpf");
    // Only what is downloaded has a folder whose name can be kept out of the object.
    run(cargo(&toolchain, &root).args(["fetch", "--locked", TARGET]))?;
    let flags = FLAGS.map(str::to_owned).into_iter().chain(remaps(&toolchain, &root)?);
    let mut build = cargo(&toolchain, &root);
    build.arg("build").args(ARGUMENTS).arg("--target-dir").arg(&target);
    build.env("CARGO_ENCODED_RUSTFLAGS", flags.collect::<Vec<_>>().join("\x1f"));
    if matches!(warnings, Warnings::Deny) {
        // Unlike a flag of the compiler it has nothing compiled anew. Stable from cargo 1.97 on.
        build.arg("-Zwarnings").env("CARGO_BUILD_WARNINGS", "deny");
    }
    run(&mut build).context("cannot compile the kernel half")?;
    strip(&toolchain, &target.join("bpfel-unknown-none/release/exporter-ebpf"))
}

/// The toolchain's cargo, with nothing of the cargo that started us in its environment.
fn cargo(toolchain: &Toolchain, root: &Path) -> Command {
    let mut command = Command::new(&toolchain.cargo);
    command.current_dir(root);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["CARGO_HOME", "RUSTUP_HOME"].contains(&&*text)
            || ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"]
                .iter()
                .any(|prefix| text.starts_with(prefix));
        if !ours && (text.starts_with("CARGO") || text.starts_with("RUST") || text == "LD_LIBRARY_PATH") {
            command.env_remove(&name);
        }
    }
    // Empty, a wrapper that cargo's configuration asks for is off.
    command.env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "");
    command.env("RUSTC", &toolchain.rustc).env("RUSTC_BOOTSTRAP", "1").env("PATH", &toolchain.path);
    command
}

/// Flags that keep the machine's paths out of the object, so that it is the same wherever it is built.
fn remaps(toolchain: &Toolchain, root: &Path) -> Result<Vec<String>> {
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags =
        vec![remap(root, "podmeter"), remap(&toolchain.sysroot.join("lib/rustlib/src"), "rust-src")];
    let registry = cargo_home()?.join("registry/src");
    for entry in fs::read_dir(&registry).with_context(|| format!("cannot list {}", registry.display()))? {
        flags.push(remap(&entry.context("cannot list cargo's sources")?.path(), "registry"));
    }
    Ok(flags)
}

/// Drops the debug info, ten times the size of the rest, and makes sure that the BTF stays.
fn strip(toolchain: &Toolchain, built: &Path) -> Result<Vec<u8>> {
    let stripped = built.with_extension("stripped");
    let mut objcopy = Command::new(&toolchain.objcopy);
    objcopy.arg("--strip-debug");
    // Fails when the section is missing.
    for section in [".BTF", ".BTF.ext"] {
        objcopy.arg(format!("--dump-section={section}={}{section}", built.display()));
    }
    run(objcopy.arg(built).arg(&stripped))
        .context("the compiled object has no BTF, or cannot be stripped")?;
    fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
}
