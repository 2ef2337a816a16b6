//! What the machine's kernel does not support, by the table of `tests/vm/support.toml`.

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

use podmeter::cgroup::layout::Layout;

/// A row: probes that are not attached.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Exception {
    /// On these kernels; without any, on all.
    #[serde(default)]
    pub kernels: Vec<String>,
    /// On these legs; without any, on all.
    #[serde(default)]
    pub legs: Vec<String>,
    /// The programs.
    pub programs: Vec<String>,
    /// The state that they are in.
    pub state: String,
    /// A part of what the verdict gives as its reason.
    pub reason: String,
    /// Whether they may be attached all the same: which kernel it is cannot be told from here.
    #[serde(default)]
    pub perhaps: bool,
}

/// What becomes of a program, by the table.
#[derive(Clone, Debug)]
pub struct Expectation(Option<Exception>);

impl Expectation {
    /// Whether it is so.
    pub fn is_met_by(&self, state: &str, reason: &str) -> bool {
        let is_attached = state == "attached";
        self.0.as_ref().map_or(is_attached, |row| {
            (state == row.state && reason.contains(&row.reason)) || (row.perhaps && is_attached)
        })
    }
}

#[derive(serde::Deserialize)]
struct Table {
    #[serde(default)]
    probe: Vec<Exception>,
}

/// Where the tests run: a guest's kernel and leg, or here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The kernel's series, as in `6.12`; `host` outside of guests.
    pub kernel: String,
    /// The leg.
    pub leg: String,
}

impl Place {
    /// This one.
    pub fn here() -> Self {
        let variable = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
        Self { kernel: variable("PODMETER_VM_KERNEL", "host"), leg: variable("PODMETER_VM_LEG", "plain") }
    }

    /// Whether it is a guest, emulated and slow.
    pub fn is_guest(&self) -> bool {
        self.kernel != "host"
    }

    /// What the table says of a program here: it has to be attached, unless there is an exception.
    ///
    /// # Panics
    /// When the table cannot be read.
    pub fn expectation(&self, program: &str) -> Expectation {
        let table: Table = toml::from_str(include_str!("../vm/support.toml")).expect("the table");
        let is_here = |among: &[String], own: &String| among.is_empty() || among.contains(own);
        Expectation(table.probe.into_iter().find(|row| {
            row.programs.iter().any(|name| name == program)
                && is_here(&row.kernels, &self.kernel)
                && is_here(&row.legs, &self.leg)
        }))
    }
}

/// Whether v2 has a controller here. It must, in a guest of the plain leg: a test that leaves something out where it has none
/// leaves nothing out there.
///
/// # Panics
/// In a guest that lacks it.
pub fn has_v2(controller: &str) -> bool {
    let layout = Layout::detect(Path::new("/sys/fs/cgroup"), Path::new("/proc"));
    let read = |root: &Path| fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
    let enabled = layout.v2().map(|v2| read(&v2.root)).unwrap_or_default();
    let has = enabled.split_whitespace().any(|name| name == controller);
    let place = Place::here();
    assert!(has || !place.is_guest() || place.leg == "hybrid", "{controller} is not on v2 in {place:?}");
    has
}

/// Tells the host something, a line; nothing outside of guests.
///
/// # Panics
/// When it cannot be written.
pub fn tell(line: &str) {
    if let Ok(path) = env::var("PODMETER_VM_TELL") {
        let mut file = OpenOptions::new().append(true).open(path).expect("the second serial port");
        writeln!(file, "{}", line.replace('\n', " ")).expect("the host listens");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_without_a_row_has_everything() {
        let place = Place { kernel: "1.0".into(), leg: "none".into() };
        let expectation = place.expectation("cpu_switch");
        assert!(expectation.is_met_by("attached", "") && !expectation.is_met_by("failed", "EPERM"));
    }

    #[test]
    fn the_kernel_of_a_host_may_refuse_to_walk_elements() {
        let expectation = Place { kernel: "host".into(), leg: "plain".into() }.expectation("http_flush");
        assert!(expectation.is_met_by("attached", ""));
        let reason = "walking the open files of all tasks instead: the kernel refuses the program: Operation not permitted";
        assert!(expectation.is_met_by("degraded", &format!("{reason} (os error 1)")));
        assert!(!expectation.is_met_by("degraded", "another reason"));
        assert!(!expectation.is_met_by("failed", reason));
        let guest = Place { kernel: "6.18".into(), leg: "plain".into() };
        assert!(!guest.expectation("http_flush").is_met_by("degraded", reason));
    }
}
