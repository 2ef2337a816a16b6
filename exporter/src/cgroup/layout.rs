//! Where the cgroup hierarchies are mounted, and which controller is on which: v2 alone, v1 alone, or both (hybrid).

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Which hierarchy: an index into [`Layout::hierarchies`].
pub type HierarchyIndex = usize;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// As in /proc/cgroups; 0 is v2.
    pub id: u32,
    /// Where it is mounted.
    pub root: PathBuf,
}

impl Hierarchy {
    /// Whether it is v2.
    pub fn is_v2(&self) -> bool {
        self.id == 0
    }

    /// The directory of a cgroup, whose path begins with a slash.
    pub fn directory(&self, cgroup: &str) -> PathBuf {
        self.root.join(cgroup.trim_start_matches('/'))
    }
}

/// The hierarchies that podmeter reads, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The hierarchies.
    pub hierarchies: Vec<Hierarchy>,
    /// The v2 one.
    pub v2: Option<HierarchyIndex>,
    /// That of the memory controller.
    pub memory: Option<HierarchyIndex>,
    /// That of the cpu controller.
    pub cpu: Option<HierarchyIndex>,
    /// That of the block controller.
    pub io: Option<HierarchyIndex>,
}

impl Layout {
    /// Finds the hierarchies below `cgroupfs` (as /sys/fs/cgroup), with their numbers from `procfs`.
    pub fn detect(cgroupfs: &Path, procfs: &Path) -> Self {
        let mut this = Self::default();
        let v2 = [cgroupfs.to_owned(), cgroupfs.join("unified")]
            .into_iter()
            .find(|root| root.join("cgroup.controllers").exists());
        this.v2 = v2.map(|root| this.add(Hierarchy { id: 0, root }));
        let numbers = fs::read_to_string(procfs.join("cgroups")).unwrap_or_default();
        let mut controller = |name: &str| match number(&numbers, name) {
            // Not listed, or listed under no v1 hierarchy: v2 has it, if anything has.
            None | Some(0) => this.v2,
            Some(id) => {
                let root = cgroupfs.join(name);
                root.is_dir().then(|| this.add(Hierarchy { id, root }))
            }
        };
        (this.memory, this.cpu, this.io) = (controller("memory"), controller("cpu"), controller("blkio"));
        this
    }

    fn add(&mut self, hierarchy: Hierarchy) -> HierarchyIndex {
        if let Some(known) = self.hierarchies.iter().position(|known| known.id == hierarchy.id) {
            return known;
        }
        self.hierarchies.push(hierarchy);
        self.hierarchies.len() - 1
    }

    /// The hierarchy of v2.
    pub fn v2(&self) -> Option<&Hierarchy> {
        self.v2.map(|index| &self.hierarchies[index])
    }

    /// The index of the hierarchy with this number.
    pub fn by_id(&self, id: u32) -> Option<HierarchyIndex> {
        self.hierarchies.iter().position(|hierarchy| hierarchy.id == id)
    }

    /// A bit for each hierarchy's number, for the kernel half.
    pub fn bits(&self) -> u32 {
        self.hierarchies
            .iter()
            .filter(|hierarchy| hierarchy.id < 32)
            .fold(0, |bits, hierarchy| bits | 1 << hierarchy.id)
    }

    /// Whether the block controller is on a v1 hierarchy.
    pub fn io_on_v1(&self) -> bool {
        self.io.is_some_and(|index| !self.hierarchies[index].is_v2())
    }
}

/// The hierarchy of a controller in the text of /proc/cgroups: `#subsys_name hierarchy num_cgroups enabled`.
pub fn number(text: &str, controller: &str) -> Option<u32> {
    let line = text.lines().map(str::split_whitespace).find_map(|mut fields| {
        (fields.next() == Some(controller)).then(|| fields.next().map(str::to_owned)).flatten()
    });
    line?.parse().ok()
}

/// The id of the cgroup at `directory`: its inode number.
///
/// # Errors
/// When it is gone.
pub fn id(directory: &Path) -> std::io::Result<u64> {
    Ok(fs::metadata(directory)?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str =
        "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t1\t1\ncpuacct\t2\t1\t1\nmemory\t4\t15\t1\n";
    const UNIFIED: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t99\t1\nmemory\t0\t99\t1\n";

    #[test]
    fn reads_numbers() {
        assert_eq!(number(HYBRID, "cpu"), Some(1));
        assert_eq!(number(HYBRID, "memory"), Some(4));
        assert_eq!(number(UNIFIED, "memory"), Some(0));
        assert_eq!(number(HYBRID, "blkio"), None);
        assert_eq!(number("", "cpu"), None);
        assert_eq!(number("cpu x y", "cpu"), None);
    }

    #[test]
    fn tells_layouts_apart() {
        let dir = std::env::temp_dir().join(format!("podmeter-layout-{}", std::process::id()));
        let (unified, hybrid, proc) = (dir.join("v2"), dir.join("hybrid"), dir.join("proc"));
        for path in [&unified, &hybrid.join("unified"), &hybrid.join("memory"), &hybrid.join("cpu"), &proc] {
            fs::create_dir_all(path).unwrap();
        }
        for path in [&unified, &hybrid.join("unified")] {
            fs::write(path.join("cgroup.controllers"), "").unwrap();
        }
        fs::write(proc.join("cgroups"), UNIFIED).unwrap();
        let layout = Layout::detect(&unified, &proc);
        assert_eq!((layout.v2, layout.memory, layout.cpu, layout.io), (Some(0), Some(0), Some(0), Some(0)));
        assert_eq!((layout.bits(), layout.io_on_v1()), (1, false));
        fs::write(proc.join("cgroups"), HYBRID).unwrap();
        let layout = Layout::detect(&hybrid, &proc);
        assert_eq!(layout.v2().unwrap().root, hybrid.join("unified"));
        assert_eq!(layout.hierarchies[layout.memory.unwrap()].root, hybrid.join("memory"));
        assert_eq!((layout.bits(), layout.by_id(4)), (1 | 1 << 4 | 1 << 1, layout.memory));
        assert_eq!(Layout::detect(&dir.join("none"), &dir.join("none")), Layout::default());
        fs::remove_dir_all(dir).unwrap();
    }
}
