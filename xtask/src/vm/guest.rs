//! What a guest is made of besides its kernel: the emulator, and a disk with the programs that the tests run. Both are trees of
//! Debian's packages, of one release, so that every machine has the same.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::board::Board;
use crate::{
    archive::Archive,
    command::{find, run},
    install,
};

/// The emulator. Versions before 10 corrupt the memory of guests from 6.12 on, now and then.
const EMULATOR: [&str; 2] = ["qemu-system-x86", "seabios"];
/// The one for 64-bit ARM.
const FOREIGN: [&str; 1] = ["qemu-system-arm"];

/// A disk: what is on it.
pub(super) struct Disk {
    pub(super) name: &'static str,
    pub(super) packages: &'static [&'static str],
    /// What the packages' own scripts would have written.
    pub(super) files: &'static [(&'static str, &'static str)],
}

/// The disk of most legs.
const DISK: Disk = Disk { name: "guest", packages: &PROGRAMS, files: &FILES };

/// What is on the disk.
const PROGRAMS: [&str; 23] = [
    "base-files",
    "bash",
    "busybox-static",
    "bpftool",
    "coreutils",
    "curl",
    "dash",
    "findutils",
    "grep",
    "iproute2",
    "iputils-ping",
    "libc-bin",
    "libcap2-bin",
    "libgcc-s1",
    "mawk",
    "mount",
    "nginx-light",
    "perl-base",
    "procps",
    "python3-minimal",
    "sed",
    "util-linux",
    "wrk",
];

/// Who is who, which the packages' own scripts would have written.
const FILES: [(&str, &str); 4] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

/// How large the disk is; the file has holes.
const SIZE: &str = "2G";

/// The parts, on this machine.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    emulator: PathBuf,
    pub(super) disk: PathBuf,
    pub(super) busybox: PathBuf,
}

impl Guest {
    /// Has them ready below a directory.
    pub(super) fn fetch(archive: &Archive, directory: &Path, fresh: bool) -> Result<Self> {
        Self::on(archive, &EMULATOR, archive, directory, fresh)
    }

    /// Has those of 64-bit ARM ready: what runs in the guest is of another archive than the emulator.
    pub(super) fn foreign(host: &Archive, archive: &Archive, directory: &Path, fresh: bool) -> Result<Self> {
        Self::on(host, &FOREIGN, archive, directory, fresh)
    }

    fn on(
        host: &Archive,
        packages: &[&str],
        archive: &Archive,
        directory: &Path,
        fresh: bool,
    ) -> Result<Self> {
        let emulator = directory.join("qemu");
        host.tree(&emulator, packages, fresh)?;
        let disk = DISK.fetch(archive, directory, fresh)?;
        let busybox = directory.join(DISK.name).join("usr/bin/busybox");
        Ok(Self { emulator, disk, busybox })
    }

    /// The emulator of a board, run by the loader and with the libraries of its own release.
    pub(super) fn emulate(&self, board: Board) -> Command {
        let tree = &self.emulator;
        let mut command = Command::new(tree.join("usr/lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(tree.join("usr/lib/x86_64-linux-gnu"));
        command.arg(tree.join("usr/bin").join(board.program()));
        for data in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(tree.join(data));
        }
        command
    }
}

impl Disk {
    /// Has it ready below a directory, beside the tree that it is made of.
    pub(super) fn fetch(&self, archive: &Archive, directory: &Path, fresh: bool) -> Result<PathBuf> {
        let tree = directory.join(self.name);
        let disk = tree.with_extension("ext4");
        archive.tree(&tree, self.packages, fresh)?;
        let made = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
        if made(&disk).ok() <= made(&tree.with_extension("packages")).ok() {
            make_disk(&tree, self.files, &disk)?;
        }
        Ok(disk)
    }
}

fn make_disk(tree: &Path, files: &[(&str, &str)], disk: &Path) -> Result<()> {
    for (path, text) in files {
        let path = tree.join(path);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    for directory in ["root", "vm", "proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    // Nobody reads them there.
    for directory in ["doc", "man", "locale", "info"] {
        _ = fs::remove_dir_all(tree.join("usr/share").join(directory));
    }
    if find("mke2fs").is_none() {
        install::packages(&["e2fsprogs"], "to make the guests' disk")?;
    }
    let part = disk.with_extension("part");
    _ = fs::remove_file(&part);
    let mke2fs = find("mke2fs").context("no mke2fs, after installing it")?;
    run(Command::new(mke2fs)
        .args(["-q", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0", "-d"])
        .args([tree, &part])
        .arg(SIZE))?;
    Ok(fs::rename(part, disk)?)
}
