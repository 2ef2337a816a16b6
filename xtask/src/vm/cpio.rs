//! The initial file system of a guest: an archive in the newc format of cpio, which the kernel unpacks.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// An archive that is being written.
#[derive(Default)]
pub(super) struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<PathBuf>,
}

impl Cpio {
    /// Adds a directory, and those above it.
    pub(super) fn directory(&mut self, path: &str) {
        let mut missing: Vec<_> = Path::new(path).ancestors().map(Path::to_owned).collect();
        missing.reverse();
        for path in missing.into_iter().filter(|path| path.parent().is_some()) {
            if self.directories.insert(path.clone()) {
                self.entry(&path.display().to_string(), DIRECTORY | 0o755, &[]);
            }
        }
    }

    /// Adds a file with these bytes.
    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.above(path);
        self.entry(path, FILE | mode, bytes);
    }

    /// Adds a copy of a file, with its mode.
    pub(super) fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let context = || from.display().to_string();
        let mode = fs::metadata(from).with_context(context)?.permissions().mode() & 0o777;
        self.file(path, mode, &fs::read(from).with_context(context)?);
        Ok(())
    }

    fn above(&mut self, path: &str) {
        if let Some(parent) = Path::new(path).parent() {
            self.directory(&parent.display().to_string());
        }
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.entries += 1;
        let name = path.trim_start_matches('/');
        // inode, mode, uid, gid, links, mtime, size, device and its like, length of the name, no check sum.
        let fields =
            [self.entries, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").bytes()));
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The whole archive. Another may follow it in the same file.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_directories_come_once() {
        let mut cpio = Cpio::default();
        cpio.file("/a/b/c", 0o755, b"hello");
        cpio.file("/a/b/d", 0o644, b"");
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).expect("it is all text");
        let heads: Vec<_> = text.match_indices("070701").map(|(at, _)| &text[at + 14..at + 22]).collect();
        assert_eq!(
            heads,
            ["000041ed", "000041ed", "000081ed", "000081a4", "00000000"],
            "/a, /a/b, c, d, trailer"
        );
        assert!(text.contains("a/b/c\0") && text.contains("hello"));
    }
}
