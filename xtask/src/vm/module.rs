//! Modules of a kernel: which a guest needs, in an order in which they can be loaded.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

/// What the guests use. One that a kernel has built in is not among its modules.
const WANTED: [&str; 9] = [
    "virtio_pci",
    "virtio_blk",
    "loop",
    "veth",
    "bridge",
    "inet_diag",
    "tcp_diag",
    "overlay",
    "nf_conntrack",
];

/// A module as it is loaded.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// The wanted modules below a directory, each after those that it needs.
pub(super) fn closure(directory: &Path) -> Result<Vec<Module>> {
    let mut files = HashMap::new();
    index(directory, &mut files)?;
    let mut found = Vec::new();
    for name in WANTED {
        add(name, &files, &mut found)?;
    }
    Ok(found)
}

fn add(name: &str, files: &HashMap<String, PathBuf>, found: &mut Vec<Module>) -> Result<()> {
    let Some(file) = files.get(name).filter(|_| found.iter().all(|module| module.name != name)) else {
        return Ok(());
    };
    let bytes = read(file)?;
    for needed in needs(&bytes).with_context(|| file.display().to_string())? {
        add(&needed, files, found)?;
    }
    found.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

/// Finds the files of modules by their names.
fn index(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = path.file_name().and_then(|name| name.to_str()?.split_once(".ko")) {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// The bytes of a module, unpacked: not every kernel can do that.
fn read(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "ko") {
        return Ok(fs::read(file)?);
    }
    let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(file).output().context("xz")?;
    if !output.status.success() {
        bail!("xz cannot unpack {}", file.display());
    }
    Ok(output.stdout)
}

/// What a module says it depends on.
fn needs(bytes: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(bytes)?;
    let info = file.section_by_name(".modinfo").context("no section .modinfo")?.data()?;
    let lines = info.split(|byte| *byte == 0).filter_map(|line| std::str::from_utf8(line).ok());
    let depends = lines.filter_map(|line| line.strip_prefix("depends=")).flat_map(|list| list.split(','));
    Ok(depends.filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}
