//! What compiles Rust for BPF: a compiler with the source of `core`, and bpf-linker on the same LLVM.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{find, output},
    install::{self, Tool},
};

/// Debian's compiler for its web browsers, newer than Debian's own, with the LLVM that it is built on.
const PACKAGES: [&str; 5] = ["rustc-web", "rust-web-src", "cargo-web", "llvm-22-dev", "libpolly-22-dev"];

/// The linker; a part of what the object is built from.
pub(super) const LINKER: Tool = Tool { name: "bpf-linker", version: "0.13.0" };

/// Where the parts are.
pub(super) struct Toolchain {
    pub(super) cargo: PathBuf,
    pub(super) rustc: PathBuf,
    pub(super) objcopy: PathBuf,
    pub(super) sysroot: PathBuf,
    /// PATH, with the linker's folder in front.
    pub(super) path: OsString,
}

impl Toolchain {
    /// The toolchain, after installing what is missing.
    pub(super) fn ensure() -> Result<Self> {
        if install::has_packages(&PACKAGES) {
            return Self::debian();
        }
        if let Some(nightly) = Self::nightly() {
            return nightly;
        }
        if !install::is_offered(PACKAGES[0]) {
            bail!(
                "compiling the kernel half takes one of\n  \
                 - on Debian 12 with its security updates, as root: apt-get install {}\n  \
                 - rustup toolchain install nightly --component rust-src\n\
                 install either and try again",
                PACKAGES.join(" ")
            );
        }
        install::packages(&PACKAGES, "to compile the kernel half")?;
        Self::debian()
    }

    fn debian() -> Result<Self> {
        Self::at(Path::new("/usr/bin/cargo"), Path::new("/usr/bin/rustc"))
    }

    /// The rustup nightly, if it has the source of `core`.
    fn nightly() -> Option<Result<Self>> {
        let which = |program| {
            let mut rustup = Command::new("rustup");
            let output =
                rustup.args(["which", "--toolchain=nightly", program]).stderr(Stdio::null()).output().ok()?;
            let path = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
            Some(PathBuf::from(path.trim_end()))
        };
        let (cargo, rustc) = (which("cargo")?, which("rustc")?);
        let core = rustc.parent()?.parent()?.join("lib/rustlib/src/rust/library/core");
        core.is_dir().then(|| Self::at(&cargo, &rustc))
    }

    fn at(cargo: &Path, rustc: &Path) -> Result<Self> {
        // rustup's compilers need their own libraries, not those of the cargo that started us.
        let ask =
            |arguments: &[&str]| output(Command::new(rustc).args(arguments).env_remove("LD_LIBRARY_PATH"));
        let version = ask(&["--version", "--verbose"])?;
        let value = |key: &str| version.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let llvm =
            value("LLVM version:").and_then(|llvm| llvm.split('.').next()).context("rustc names no LLVM")?;
        let host = value("host:").context("rustc names no host")?;
        let sysroot = PathBuf::from(ask(&["--print=sysroot"])?.trim_end());
        let objcopy = [
            sysroot.join(format!("lib/rustlib/{host}/bin/rust-objcopy")),
            PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-objcopy")),
        ];
        let objcopy = objcopy.into_iter().find(|path| path.is_file()).or_else(|| find("llvm-objcopy"));
        let objcopy = objcopy.with_context(|| format!("there is no llvm-objcopy: install LLVM {llvm}"))?;
        let path = path_with(&linker(llvm)?)?;
        Ok(Self { cargo: cargo.into(), rustc: rustc.into(), objcopy, sysroot, path })
    }
}

/// bpf-linker reads what the compiler writes only when both are of the same LLVM.
fn linker(llvm: &str) -> Result<PathBuf> {
    let why = format!("to link the kernel half, on LLVM {llvm} (its -dev and libpolly packages)");
    LINKER.ensure(&why, |install| {
        install.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
        install.env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
    })
}

fn path_with(program: &Path) -> Result<OsString> {
    let folder = program.parent().context("a program without a folder")?;
    let old = env::var_os("PATH").unwrap_or_default();
    env::join_paths([folder.to_owned()].into_iter().chain(env::split_paths(&old)))
        .context("PATH cannot be extended")
}
