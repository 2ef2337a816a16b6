//! Cgroups of a test's own, in every hierarchy that podmeter reads; removed, with what runs in them, when dropped.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use podmeter::cgroup::layout::{Hierarchy, Layout};

pub use crate::process::Gated;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A cgroup with the same path in every hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    layout: Layout,
    /// What was not there before, from the top: it is what goes again.
    made: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes `/podmeter-test-PID-N/NAME`, a leaf.
    ///
    /// # Panics
    /// Without root.
    pub fn new(name: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::at(&format!("/podmeter-test-{}-{number}/{name}", std::process::id()))
    }

    /// Makes the cgroup at `path`, and those above it.
    ///
    /// # Panics
    /// Without root.
    pub fn at(path: &str) -> Self {
        let layout = Layout::detect(Path::new("/sys/fs/cgroup"), Path::new("/proc"));
        let mut this = Self { path: path.to_owned(), layout, made: Vec::new() };
        for directory in this.directories() {
            let missing = directory.ancestors().take_while(|above| !above.exists());
            for directory in missing.map(Path::to_owned).collect::<Vec<_>>().into_iter().rev() {
                delegate(directory.parent().expect("below the root"));
                fs::create_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
                this.made.push(directory);
            }
        }
        this
    }

    /// A cgroup below this one.
    pub fn child(&self, name: &str) -> Self {
        Self::at(&format!("{}/{name}", self.path))
    }

    /// Its path, as in the label `id`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its directory in each hierarchy.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.layout.hierarchies.iter().map(|hierarchy| hierarchy.directory(&self.path)).collect()
    }

    /// Its directory in the v2 hierarchy.
    ///
    /// # Panics
    /// Without cgroup v2.
    pub fn v2(&self) -> PathBuf {
        self.layout.v2().expect("cgroup v2").directory(&self.path)
    }

    /// Its directory in the hierarchy of a controller: `memory`, `cpu` or `io`.
    ///
    /// # Panics
    /// When there is none.
    pub fn controller(&self, name: &str) -> PathBuf {
        self.hierarchy(name).directory(&self.path)
    }

    /// Whether a controller is on v2, where its files have other names than on v1.
    ///
    /// # Panics
    /// As [`Self::controller`].
    pub fn is_on_v2(&self, controller: &str) -> bool {
        self.hierarchy(controller).is_v2()
    }

    fn hierarchy(&self, controller: &str) -> &Hierarchy {
        let index = match controller {
            "memory" => self.layout.memory,
            "cpu" => self.layout.cpu,
            _ => self.layout.io,
        };
        &self.layout.hierarchies[index.expect("the controller")]
    }

    /// The memory that is charged to it, by its file.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn memory_usage(&self) -> u64 {
        self.number(
            "memory",
            if self.is_on_v2("memory") { "memory.current" } else { "memory.usage_in_bytes" },
        )
    }

    /// Limits its memory, and with it swap, in bytes.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn limit_memory(&self, bytes: u64) {
        if self.is_on_v2("memory") {
            self.write("memory", "memory.max", &bytes.to_string());
            // Not there without swap accounting.
            _ = fs::write(self.controller("memory").join("memory.swap.max"), "0");
        } else {
            self.write("memory", "memory.limit_in_bytes", &bytes.to_string());
        }
    }

    /// How many of its processes the OOM killer has killed, by its file.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.is_on_v2("memory") { "memory.events" } else { "memory.oom_control" };
        self.stat("memory", file, "oom_kill")
    }

    /// What a file of a controller says: `memory`, `cpu`, `io`, or `v2`.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn read(&self, controller: &str, file: &str) -> String {
        let path = self.file(controller, file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The number in a file that has one.
    ///
    /// # Panics
    /// When there is none.
    pub fn number(&self, controller: &str, file: &str) -> u64 {
        self.read(controller, file).trim().parse().unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// The number in a file's line `name number`.
    ///
    /// # Panics
    /// When there is none.
    pub fn stat(&self, controller: &str, file: &str, name: &str) -> u64 {
        let text = self.read(controller, file);
        let value =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{file} has no {name}:\n{text}"))
    }

    /// Writes a file of a controller.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn write(&self, controller: &str, file: &str, text: &str) {
        let path = self.file(controller, file);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{text:?} into {}: {error}", path.display()));
    }

    fn file(&self, controller: &str, file: &str) -> PathBuf {
        if controller == "v2" { self.v2().join(file) } else { self.controller(controller).join(file) }
    }

    /// Starts a program in the cgroup, from its first instruction: a shell moves itself there, waits for [`Gated::go`], and
    /// becomes the program. What it prints goes to [`Gated::line`].
    ///
    /// # Panics
    /// When there is no shell.
    pub fn spawn(&self, program: &[&str]) -> Gated {
        let procs: Vec<_> = self
            .directories()
            .iter()
            .map(|directory| directory.join("cgroup.procs").display().to_string())
            .collect();
        Gated::new(&procs, program)
    }

    /// Moves a process here, in every hierarchy.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn adopt(&self, pid: u32) {
        for directory in self.directories() {
            fs::write(directory.join("cgroup.procs"), pid.to_string()).expect("moved");
        }
    }

    /// Removes the cgroup from every hierarchy, before its time.
    pub fn remove(self) {}
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        for directory in self.made.iter().rev() {
            // A process that was killed is in its cgroup until it is gone: the kernel says busy for that long.
            while let Err(error) = fs::remove_dir(directory)
                && error.kind() != io::ErrorKind::NotFound
                && Instant::now() < deadline
            {
                kill_all(directory);
                std::thread::yield_now();
            }
        }
    }
}

/// Children of a program that was killed go on without it.
pub(crate) fn kill_all(directory: &Path) {
    for pid in fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default().lines() {
        _ = Command::new("/bin/sh").args(["-c", "kill -s KILL \"$0\" 2>&-", pid]).status();
    }
}

/// Has what is below a cgroup of v2 get the controllers that the cgroup has. The root's children get what the machine says.
fn delegate(above: &Path) {
    let Ok(available) = fs::read_to_string(above.join("cgroup.controllers")) else { return };
    let is_root = !above.join("cgroup.events").exists();
    let wanted = ["cpu", "memory", "io"]
        .into_iter()
        .filter(|name| available.split_whitespace().any(|own| own == *name));
    let wanted: String = wanted.map(|name| format!("+{name} ")).collect();
    if !is_root && !wanted.is_empty() {
        // One that holds processes cannot: what is below it has the files of v2 alone.
        _ = fs::write(above.join("cgroup.subtree_control"), wanted);
    }
}
