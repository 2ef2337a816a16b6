//! The kernels, locked by the check sums of their packages in `tests/vm/kernels.toml`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{cpio::Cpio, module};
use crate::{
    architecture::Architecture,
    archive::{Archive, Package, unpack},
    command::succeeds,
};

/// The kernels that the guests run.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Lock {
    #[serde(rename = "kernel")]
    pub(super) kernels: Vec<Kernel>,
}

/// A kernel.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Kernel {
    /// Its series, as in `6.12`; where it is not for 64-bit x86, with its architecture, as in `6.12-arm64`.
    pub(super) name: String,
    /// Whose instructions it has.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub(super) architecture: Architecture,
    /// Whether a run goes on without it where its packages are gone: the release that has them is at its end.
    #[serde(default)]
    pub(super) optional: bool,
    /// The packages that it is in.
    packages: Vec<Package>,
}

/// A kernel on this machine.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) name: String,
    pub(super) architecture: Architecture,
    pub(super) image: PathBuf,
    /// Its modules as an initial file system has them.
    pub(super) modules: PathBuf,
}

/// What the header of the lock says.
const HEADER: &str = "\
# The kernels that `cargo xtask vm` boots: Debian's, for virtual machines, exactly these. One that the archive has no more is
# replaced by the newest of its series, with a warning; `cargo xtask vm fetch --update` writes that down here.\n\n";

impl Lock {
    /// Reads it.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Writes it.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).context("the lock as TOML")?;
        fs::write(path, format!("{HEADER}{text}")).with_context(|| path.display().to_string())
    }

    /// The kernel of a name.
    pub(super) fn kernel(&self, name: &str) -> Result<&Kernel> {
        let names = || self.kernels.iter().map(|kernel| &*kernel.name).collect::<Vec<_>>().join(", ");
        self.kernels
            .iter()
            .find(|kernel| kernel.name == name)
            .with_context(|| format!("there is no kernel {name}; there are {}", names()))
    }
}

impl Kernel {
    /// Has it on this machine; none where it cannot be had and need not be, which is said.
    pub(super) fn fetch(&self, archive: &Archive, directory: &Path) -> Result<Option<Unpacked>> {
        match self.files(archive)? {
            Some(files) => self.unpack(&files, directory).map(Some),
            None => self.replace(archive, directory),
        }
    }

    /// The files of its packages, if the archive or the cache has them all.
    fn files(&self, archive: &Archive) -> Result<Option<Vec<PathBuf>>> {
        self.packages.iter().map(|package| archive.fetch(package)).collect()
    }

    fn replace(&self, archive: &Archive, directory: &Path) -> Result<Option<Unpacked>> {
        let newest = self.newest(archive)?;
        if let Some(newest) = newest
            && let Some(files) = newest.files(archive)?
        {
            eprintln!(
                "WARNING: the archive has {} of {} no more; this runs {}: `cargo xtask vm fetch --update` locks that",
                self.title(),
                self.name,
                newest.title()
            );
            return newest.unpack(&files, directory).map(Some);
        }
        if !self.optional {
            bail!("the archive has no kernel {} any more", self.name);
        }
        eprintln!("SKIPPED: kernel {}, which the archive has no more", self.name);
        Ok(None)
    }

    /// Its series, as in `6.12`.
    fn series(&self) -> &str {
        self.name.strip_suffix(&format!("-{}", self.architecture.name())).unwrap_or(&self.name)
    }

    /// The first package, as a person would name it.
    pub(super) fn title(&self) -> String {
        self.packages
            .first()
            .map(|package| format!("{} {}", package.name, package.version))
            .unwrap_or_default()
    }

    /// The newest of the same series that the archive has.
    pub(super) fn newest(&self, archive: &Archive) -> Result<Option<Self>> {
        let end = format!("-cloud-{}", self.architecture.name());
        // From 6.19 on the image and its modules are packages of their own.
        for parts in [&["binary", "modules"][..], &["image"]] {
            let start = format!("linux-{}-{}.", parts[0], self.series());
            let names = archive.names(&start)?;
            let versions = names.iter().filter_map(|name| name.strip_prefix("linux-")?.split_once('-'));
            // A kernel of a later release, rebuilt for an older one, is in the newer one too.
            let versions = versions.map(|(_, version)| version);
            let versions = versions.filter(|version| version.ends_with(&end) && !version.contains(".deb1"));
            let Some(version) = versions.reduce(|one, other| if is_newer(other, one) { other } else { one })
            else {
                continue;
            };
            let packages = parts
                .iter()
                .map(|part| archive.newest(&format!("linux-{part}-{version}")))
                .collect::<Result<_>>()?;
            return Ok(Some(Self { packages, ..self.clone() }));
        }
        Ok(None)
    }

    fn unpack(&self, files: &[PathBuf], directory: &Path) -> Result<Unpacked> {
        let sums: String = self.packages.iter().map(|package| &*package.sha256).collect();
        let to = directory.join(format!("{}-{:.12x}", self.name, Sha256::digest(sums)));
        let (image, modules) = (to.join("vmlinuz"), to.join("modules.cpio"));
        if !image.is_file() || !modules.is_file() {
            let tree = to.join("tree");
            _ = fs::remove_dir_all(&to);
            files.iter().try_for_each(|file| unpack(file, &tree))?;
            let root = [tree.join("usr/lib/modules"), tree.join("lib/modules")];
            let root = root.iter().find(|root| root.is_dir()).context("the packages have no modules")?;
            let version = fs::read_dir(root)?.next().context("the packages have no modules")??.path();
            fs::write(&modules, archive_of(&version)?)?;
            let name = version.file_name().context("a version")?.to_string_lossy().into_owned();
            let boot = [tree.join("boot").join(format!("vmlinuz-{name}")), version.join("vmlinuz")];
            let boot = boot.iter().find(|boot| boot.is_file()).context("the packages have no kernel")?;
            fs::copy(boot, &image)?;
            fs::remove_dir_all(&tree)?;
        }
        Ok(Unpacked { name: self.name.clone(), architecture: self.architecture, image, modules })
    }
}

/// The modules that guests need, and the order in which they are loaded.
fn archive_of(modules: &Path) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    let mut order = String::new();
    for module in module::closure(modules)? {
        let name = format!("{}.ko", module.name);
        cpio.file(&format!("/modules/{name}"), 0o644, &module.bytes);
        order += &format!("{name}\n");
    }
    cpio.file("/modules/order", 0o644, order.as_bytes());
    Ok(cpio.finish())
}

/// Whether a kernel is for what most are for, which then need not be said.
fn is_usual(architecture: &Architecture) -> bool {
    *architecture == Architecture::default()
}

/// Whether one version is newer than another, by Debian's own rules.
fn is_newer(one: &str, other: &str) -> bool {
    succeeds(Command::new("dpkg").args(["--compare-versions", one, "gt", other]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_as_it_would_be_written() {
        let path = crate::command::root().expect("cargo runs this").join(super::super::LOCK);
        let lock = Lock::read(&path).expect("the lock");
        let text = format!("{HEADER}{}", toml::to_string(&lock).expect("TOML"));
        assert_eq!(fs::read_to_string(&path).expect("the lock"), text);
        assert!(lock.kernel("6.1").is_ok() && lock.kernel("2.6").is_err());
        let series = |name: &str| lock.kernel(name).expect("a kernel").series().to_owned();
        assert_eq!([series("6.12"), series("6.12-arm64")], ["6.12", "6.12"]);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(is_newer("6.18.15+deb13-cloud-amd64", "6.18.9+deb13-cloud-amd64"));
        assert!(!is_newer("5.10.0-9-cloud-amd64", "5.10.0-46-cloud-amd64"));
    }
}
