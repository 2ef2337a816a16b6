//! The hash over everything that the object is built from: the same on every machine and for every checkout's path.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::{
    build::{ARGUMENTS, FLAGS},
    toolchain::LINKER,
};

/// What the kernel half depends on directly; Cargo.lock says what that depends on in turn.
const DEPENDENCIES: [&str; 2] = ["aya-ebpf", "aya-log-ebpf"];

/// The hash in hex.
pub(super) fn hash(root: &Path) -> Result<String> {
    let mut parts = BTreeMap::new();
    files(root, "exporter-ebpf/src", &mut parts)?;
    for path in ["exporter-ebpf/Cargo.toml", "Cargo.toml", "Cargo.lock"] {
        parts.insert(path.to_owned(), read(root, path)?);
    }
    // Of the files that the whole workspace shares, only what reaches the object.
    for (path, excerpt) in [("Cargo.toml", manifest as fn(&str) -> Result<String>), ("Cargo.lock", lock)] {
        let text = parts.remove(path).unwrap_or_default();
        let text = String::from_utf8(text).with_context(|| format!("{path} is not text"))?;
        parts.insert(path.to_owned(), excerpt(&text)?.into_bytes());
    }
    let recipe = format!("{FLAGS:?} {ARGUMENTS:?} {} {}", LINKER.name, LINKER.version);
    parts.insert("recipe".to_owned(), recipe.into_bytes());
    Ok(digest(&parts))
}

/// Each part with its length, so that no two sets of parts read the same.
fn digest(parts: &BTreeMap<String, Vec<u8>>) -> String {
    let mut hash = Sha256::new();
    for (path, content) in parts {
        hash.update(format!("{path} {}\n", content.len()));
        hash.update(content);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every Rust source under `folder`, by its path from the root with `/` between.
fn files(root: &Path, folder: &str, parts: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    let entries = fs::read_dir(root.join(folder)).with_context(|| format!("cannot list {folder}"))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {folder}"))?;
        let name = entry
            .file_name()
            .into_string()
            .ok()
            .with_context(|| format!("a name in {folder} is not text"))?;
        let path = format!("{folder}/{name}");
        if entry.file_type().with_context(|| format!("cannot look at {path}"))?.is_dir() {
            files(root, &path, parts)?;
        } else if name.ends_with(".rs") {
            let content = read(root, &path)?;
            parts.insert(path, content);
        }
    }
    Ok(())
}

fn read(root: &Path, path: &str) -> Result<Vec<u8>> {
    fs::read(root.join(path)).with_context(|| format!("cannot read {path}"))
}

/// Of the workspace's manifest, the profiles, the edition and the features of the dependencies.
fn manifest(text: &str) -> Result<String> {
    let mut section = "";
    let lines = text.lines().filter(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let key = line.split(['=', ' ']).next().unwrap_or_default();
        let content = !line.is_empty() && !line.starts_with('#');
        content
            && (section.starts_with("[profile.")
                || section == "[workspace.package]" && key == "edition"
                || section == "[workspace.dependencies]" && DEPENDENCIES.contains(&key))
    });
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

/// Of the lock file, the packages that the kernel half reaches.
fn lock(text: &str) -> Result<String> {
    let packages: BTreeMap<_, _> =
        text.split("[[package]]").skip(1).map(|stanza| (key(stanza), stanza)).collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<String> = DEPENDENCIES.map(str::to_owned).into();
    while let Some(wanted) = open.pop() {
        // "name" where the lock file has one version of it, "name version" otherwise.
        let matches =
            |(name, version): &(&str, &str)| wanted == *name || wanted == format!("{name} {version}");
        let Some(&package) = packages.keys().find(|key| matches(key)) else {
            bail!("Cargo.lock has no {wanted}: run `cargo metadata` to bring it up to date");
        };
        if reached.insert(package) {
            let dependencies =
                packages[&package].lines().skip_while(|line| !line.starts_with("dependencies"));
            open.extend(dependencies.filter_map(|line| line.split('"').nth(1)).map(str::to_owned));
        }
    }
    Ok(reached.iter().map(|package| packages[package].trim()).collect::<Vec<_>>().join("\n\n"))
}

/// The name and the version of a package in the lock file.
fn key(stanza: &str) -> (&str, &str) {
    let value = |key: &str| {
        let line = stanza.lines().find_map(|line| line.strip_prefix(key));
        line.map(|value| value.trim_matches([' ', '=', '"'])).unwrap_or_default()
    };
    (value("name"), value("version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"version = 4

[[package]]
name = "aya-ebpf"
version = "0.2.1"
dependencies = [
 "syn 2.0.1",
]

[[package]]
name = "aya-log-ebpf"
version = "0.2.0"

[[package]]
name = "syn"
version = "2.0.1"

[[package]]
name = "syn"
version = "3.0.0"

[[package]]
name = "tokio"
version = "1.0.0"
"#;

    #[test]
    fn the_lock_file_counts_as_far_as_the_kernel_half_reaches() {
        let reached = lock(LOCK).unwrap();
        assert_eq!(reached.matches("name = ").count(), 3, "{reached}");
        assert_eq!(lock(&LOCK.replace("3.0.0", "3.0.1").replace("1.0.0", "1.0.1")).unwrap(), reached);
        assert_ne!(lock(&LOCK.replace("2.0.1", "2.0.2")).unwrap(), reached);
        assert!(lock("version = 4").unwrap_err().to_string().contains("aya-log-ebpf"));
    }

    #[test]
    fn the_manifest_counts_as_far_as_it_reaches_the_object() {
        let text = "[workspace.package]\nversion = \"1\"\nedition = \"2024\"\n[workspace.dependencies]\naya = \"1\"\n\
                    aya-ebpf = \"=0.2.1\"\n\n[profile.release]\n# why\nlto = \"thin\"\n[other]\nlto = 1\n";
        let expected = "edition = \"2024\"\naya-ebpf = \"=0.2.1\"\n[profile.release]\nlto = \"thin\"\n";
        assert_eq!(manifest(text).unwrap(), expected);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let parts = |parts: &[(&str, &str)]| {
            digest(&parts.iter().map(|&(path, content)| (path.to_owned(), content.into())).collect())
        };
        assert_ne!(parts(&[("a", "xy"), ("b", "")]), parts(&[("a", "x"), ("b", "y")]));
        assert_ne!(parts(&[("a", "x")]), parts(&[("b", "x")]));
    }
}
