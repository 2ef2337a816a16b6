//! The leg whose guest is a machine as nodes are: systemd is its first process, and containerd runs containers, by runc or crun. It has a
//! disk of its own, which is made when it is first wanted.

use std::path::Path;

use anyhow::Result;

use super::guest::{Disk, Guest};
use crate::archive::Archive;

/// The leg's name.
const LEG: &str = "systemd";

/// Its disk. Nothing of the packages has run: systemd's first start finds the users here that it needs.
const DISK: Disk = Disk {
    name: "guest-systemd",
    packages: &[
        "base-files",
        "bash",
        "busybox-static",
        "containerd",
        "containernetworking-plugins",
        "coreutils",
        "crun",
        "dash",
        "dbus",
        "findutils",
        "grep",
        "iproute2",
        "libc-bin",
        "libgcc-s1",
        "mount",
        "procps",
        "runc",
        "sed",
        "systemd",
        "tar",
        "util-linux",
    ],
    files: &[
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nmessagebus:x:101:101:dbus:/nonexistent:/bin/false\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        ),
        ("etc/group", "root:x:0:\ntty:x:5:\nmessagebus:x:101:\nnogroup:x:65534:\n"),
        ("etc/hostname", "node\n"),
        ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
        // Pods get copies of it.
        ("etc/resolv.conf", ""),
        // A machine that has been started before.
        ("etc/machine-id", "70f0d6e7e0d94f5eb5b1d5c3a0c6e9aa\n"),
    ],
};

impl Guest {
    /// As it is in a leg.
    pub(super) fn of(&self, leg: &str, archive: &Archive, directory: &Path) -> Result<Self> {
        let mut guest = self.clone();
        if leg == LEG {
            guest.disk = DISK.fetch(archive, directory, false)?;
        }
        Ok(guest)
    }

    /// Has what the legs' guests differ in.
    pub(super) fn fetch_others(archive: &Archive, directory: &Path, fresh: bool) -> Result<()> {
        DISK.fetch(archive, directory, fresh).map(drop)
    }
}
