//! A loopback of a test's own, on which nothing overtakes.
//!
//! The kernel takes what is sent over loopback on the CPU that sends it, and what a task sends and what an acknowledgement lets go may be
//! sent by two. So segments of a connection overtake each other, or are taken at the same time, and podmeter, which sees them as they come,
//! tells of a framing that it lost. By receive packet steering (`rps_cpus`, 2.6.35+) all are taken on one CPU, as they are from a network card.

use std::{fs::File, io::Write as _, panic, process::Command, thread};

use rustix::{
    fs::{Mode, OFlags, openat},
    io,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Runs a test in a network namespace with such a loopback, and nothing else; so is what the test starts.
///
/// # Panics
/// When the test does; without root; without `ip`; on a kernel before 5.2.
pub fn in_order(test: impl FnOnce() + Send) {
    let here = thread::current();
    thread::scope(|scope| {
        let other = thread::Builder::new().name(here.name().unwrap_or("in order").to_owned());
        let other = other.spawn_scoped(scope, || {
            move_away().expect("a network namespace");
            test();
        });
        if let Err(failure) = other.expect("a thread").join() {
            panic::resume_unwind(failure);
        }
    });
}

/// Moves this thread.
fn move_away() -> io::Result<()> {
    // SAFETY: it is the network that is no more shared, and no memory or file.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.expect("ip").success(), "ip link set lo up");
    // The files of a network namespace's devices are where sysfs was mounted from within it: here, and nowhere in the tree.
    let sysfs = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&sysfs)?;
    let sysfs = fsmount(&sysfs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let steering =
        openat(&sysfs, "class/net/lo/queues/rx-0/rps_cpus", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    match steering {
        Ok(file) => File::from(file).write_all(b"1").expect("a mask of CPUs"),
        // A kernel for one CPU has none to choose.
        Err(io::Errno::NOENT) if thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1) => (),
        Err(error) => return Err(error),
    }
    Ok(())
}
