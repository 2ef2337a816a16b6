//! Cgroups like those of containers, in every hierarchy that podmeter reads, with processes in them.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    machine::{Process, read},
    sys,
};

/// Mount points of cgroup v2, which comes first, and of the v1 controllers that podmeter reads.
fn hierarchies(mounts: &str) -> Result<Vec<PathBuf>> {
    let mounts: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    let of = |wanted: &dyn Fn(&str, &str) -> bool| -> Vec<PathBuf> {
        let found = mounts.iter().filter(|fields| fields.len() > 3 && wanted(fields[2], fields[3]));
        found.map(|fields| PathBuf::from(fields[1])).collect()
    };
    let v2 = of(&|kind, _| kind == "cgroup2");
    let Some(v2) = v2.first() else {
        bail!("cgroup v2 is not mounted: `mount -t cgroup2 none /sys/fs/cgroup`")
    };
    let read = ["memory", "cpu", "blkio"];
    let v1 = of(&|kind, options| {
        kind == "cgroup" && options.split(',').any(|controller| read.contains(&controller))
    });
    let mut all = vec![v2.clone()];
    all.extend(v1);
    Ok(all)
}

/// A container's cgroup.
pub(super) struct Container {
    /// Its path, as in the label `id`.
    pub(super) path: String,
    directories: Vec<PathBuf>,
}

impl Container {
    /// Its directory in cgroup v2.
    pub(super) fn v2(&self) -> &Path {
        &self.directories[0]
    }

    /// A command that runs in it; the process keeps its number.
    pub(super) fn command(&self, program: &[&str]) -> Command {
        self.shell("exec \"$@\"", program)
    }

    fn shell(&self, script: &str, arguments: &[&str]) -> Command {
        let moves = self.directories.iter().map(|directory| {
            format!("echo $$ > '{}' || exit 97; ", directory.join("cgroup.procs").display())
        });
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{}{script}", moves.collect::<String>()), "sh"]).args(arguments);
        command.stdin(Stdio::null());
        command
    }
}

/// Containers in pods of two; removed, with the sleepers in them, when dropped. What else runs in them must be gone by then.
pub(super) struct Containers {
    hierarchies: Vec<PathBuf>,
    top: String,
    /// Parents before children.
    made: Vec<PathBuf>,
    paths: Vec<String>,
    sleepers: Vec<Process>,
}

impl Containers {
    /// None yet.
    pub(super) fn new() -> Result<Self> {
        let hierarchies = hierarchies(&read("/proc/self/mounts")?)?;
        let top = format!("kubepods-podmeter-bench-{}", std::process::id());
        Ok(Self { hierarchies, top, made: Vec::new(), paths: Vec::new(), sleepers: Vec::new() })
    }

    /// Makes one more container, in the last pod while that has only one.
    pub(super) fn add(&mut self) -> Result<Container> {
        let number = self.paths.len() as u64;
        let pod = digits(number / 2, 32);
        let uid = [&pod[..8], &pod[8..12], &pod[12..16], &pod[16..20], &pod[20..]].join("-");
        let parts = [&self.top, "burstable", &format!("pod{uid}"), &digits(!number, 64)].map(str::to_owned);
        let path = format!("/{}", parts.join("/"));
        let mut directories = Vec::new();
        for hierarchy in self.hierarchies.clone() {
            let mut directory = hierarchy;
            for part in &parts {
                directory.push(part);
                self.make(&directory)?;
            }
            directories.push(directory);
        }
        self.paths.push(path.clone());
        Ok(Container { path, directories })
    }

    fn make(&mut self, directory: &Path) -> Result<()> {
        if directory.exists() {
            return Ok(());
        }
        fs::create_dir(directory)
            .with_context(|| format!("cannot make the cgroup {}", directory.display()))?;
        // Where v2 is alone, a controller has files in a cgroup if the parent passes it on; elsewhere there is none to pass.
        if let Some(parent) = directory.parent().filter(|parent| self.made.iter().any(|made| made == parent))
        {
            for controller in ["+cpu", "+memory", "+io"] {
                _ = fs::write(parent.join("cgroup.subtree_control"), controller);
            }
        }
        self.made.push(directory.to_owned());
        Ok(())
    }

    /// Makes containers until there are so many, each with one process that burns a few ms of CPU and then sleeps.
    pub(super) fn fill(&mut self, count: usize) -> Result<()> {
        const BURN: &str =
            "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); done; echo ready; exec sleep 1000000 > /dev/null";
        while self.paths.len() < count {
            let mut command = self.add()?.shell(BURN, &[]);
            let child = command.stdout(Stdio::piped()).spawn().context("cannot start a shell")?;
            let mut process = Process(child);
            let mut line = String::new();
            let out = process.0.stdout.take().context("a child without a standard output")?;
            BufReader::new(out).read_line(&mut line).context("cannot read what a shell prints")?;
            if line != "ready\n" {
                bail!(
                    "a process could not move into {}; is the cgroup frozen?",
                    self.paths[self.paths.len() - 1]
                );
            }
            self.sleepers.push(process);
        }
        Ok(())
    }

    /// Has every sleeper run for a moment.
    pub(super) fn wake(&self) {
        self.sleepers.iter().for_each(|process| sys::wake(process.id()));
    }

    /// How many containers a scrape lacks: without CPU time, or without memory.
    pub(super) fn missing_in(&self, scrape: &str) -> usize {
        let shown =
            ["container_cpu_usage_seconds_total{", "container_memory_working_set_bytes{"].map(|metric| {
                let lines = scrape.lines().filter(|line| line.starts_with(metric));
                lines.filter_map(|line| line.split("id=\"").nth(1)?.split('"').next()).collect::<HashSet<_>>()
            });
        let lacks = |path: &&String| shown.iter().any(|shown| !shown.contains(path.as_str()));
        self.paths.iter().filter(lacks).count()
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        for process in &mut self.sleepers {
            _ = process.0.kill();
        }
        self.sleepers.clear();
        let deadline = Instant::now() + Duration::from_secs(10);
        for directory in self.made.iter().rev() {
            // A process that was killed is in its cgroup until it is gone: the kernel says busy for that long.
            while let Err(error) = fs::remove_dir(directory) {
                if Instant::now() > deadline {
                    eprintln!("remove the cgroup {} by hand: {error}", directory.display());
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Hexadecimal digits that look like chance and are the same each time (splitmix64).
fn digits(seed: u64, count: usize) -> String {
    let mut state = seed;
    let words = std::iter::from_fn(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(format!("{:016x}", mixed ^ (mixed >> 31)))
    });
    words.take(count / 16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_hierarchies() {
        let mounts = "proc /proc proc rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = hierarchies(mounts).unwrap();
        assert_eq!(found, ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpu,cpuacct"].map(PathBuf::from));
        assert!(hierarchies("proc /proc proc rw 0 0\n").is_err());
    }

    #[test]
    fn a_container_without_memory_is_missing() {
        let paths = vec!["/a/1".to_owned(), "/a/2".to_owned()];
        let containers = Containers {
            hierarchies: Vec::new(),
            top: String::new(),
            made: Vec::new(),
            paths,
            sleepers: Vec::new(),
        };
        let cpu = "container_cpu_usage_seconds_total{id=\"/a/1\"} 1\ncontainer_cpu_usage_seconds_total{id=\"/a/2\"} 1\n";
        assert_eq!(containers.missing_in(cpu), 2);
        let both = format!("{cpu}container_memory_working_set_bytes{{id=\"/a/2\",pod=\"x\"}} 1\n");
        assert_eq!(containers.missing_in(&both), 1);
    }

    #[test]
    fn names_differ() {
        let names: HashSet<_> = (0..2000).map(|number| digits(number, 64)).collect();
        assert_eq!(names.len(), 2000);
        assert!(names.iter().all(|name| name.len() == 64));
    }
}
