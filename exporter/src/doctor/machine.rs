//! The machine, as far as it decides what can be measured.

use std::{fs, fs::File, os::fd::AsFd as _, path::PathBuf};

use aya::programs::loaded_programs;
use serde_json::{Value, json};

use crate::{
    btf::Btf,
    capabilities,
    cgroup::layout::Layout,
    config::Agent,
    sys::{self, PacketHook},
};

/// What the agent needs. CAP_SYS_ADMIN stands for the first two on kernels that do not know them yet, and CAP_DAC_READ_SEARCH is for
/// files that others than root own.
const CAPABILITIES: [(&str, u32); 3] = [
    ("CAP_BPF", capabilities::BPF),
    ("CAP_PERFMON", capabilities::PERFMON),
    ("CAP_NET_ADMIN", capabilities::NET_ADMIN),
];

/// What there is.
#[derive(Debug)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// Its architecture.
    pub architecture: &'static str,
    /// How many types the kernel's BTF has, or why there is none.
    pub btf: Result<usize, String>,
    /// Where cgroup v2 is mounted.
    pub v2: Option<PathBuf>,
    /// Controllers that v2 has at its root.
    pub v2_controllers: Vec<String>,
    /// Controllers that are on a v1 hierarchy: `memory`, `cpu`, `io`.
    pub v1_controllers: Vec<&'static str>,
    /// The effective capabilities, a bit each.
    pub capabilities: u64,
    /// The mode of lockdown; none where the kernel does not tell.
    pub lockdown: Option<String>,
    /// Packet programs of others at the root of cgroup v2; a reason where that cannot be asked.
    pub foreign: Result<Vec<String>, String>,
}

impl Default for Machine {
    /// One that lacks nothing.
    fn default() -> Self {
        Self {
            kernel: String::new(),
            architecture: std::env::consts::ARCH,
            btf: Ok(0),
            v2: Some(PathBuf::from("/sys/fs/cgroup")),
            v2_controllers: Vec::new(),
            v1_controllers: Vec::new(),
            capabilities: u64::MAX,
            lockdown: None,
            foreign: Ok(Vec::new()),
        }
    }
}

impl Machine {
    /// Looks at it, where the agent would.
    pub fn read(config: &Agent) -> Self {
        let layout = Layout::detect(&config.cgroupfs, &config.procfs);
        let v2 = layout.v2().map(|v2| v2.root.clone());
        let on_v1 = [("memory", layout.memory), ("cpu", layout.cpu), ("io", layout.io)];
        let on_v1 = on_v1
            .into_iter()
            .filter(|(_, index)| index.is_some_and(|index| !layout.hierarchies[index].is_v2()));
        let read = |path: PathBuf| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let controllers =
            v2.as_ref().and_then(|root| read(root.join("cgroup.controllers"))).unwrap_or_default();
        let btf = config.sysfs.join("kernel/btf/vmlinux");
        let types = fs::read(&btf).map_err(|error| error.to_string());
        let types = types.and_then(|bytes| Btf::parse(bytes).map_err(|error| error.to_string()));
        Self {
            kernel: read(config.procfs.join("sys/kernel/osrelease")).unwrap_or_default(),
            architecture: std::env::consts::ARCH,
            btf: types.map(|btf| btf.count()).map_err(|error| format!("{}: {error}", btf.display())),
            v2_controllers: controllers.split_whitespace().map(str::to_owned).collect(),
            v1_controllers: on_v1.map(|(name, _)| name).collect(),
            capabilities: capabilities::effective().unwrap_or_default(),
            lockdown: read(config.sysfs.join("kernel/security/lockdown")).and_then(|text| chosen(&text)),
            foreign: foreign(v2.as_ref()),
            v2,
        }
    }

    /// Which of the capabilities that the agent needs it does not have.
    pub fn missing_capabilities(&self) -> Vec<&'static str> {
        let is_missing = |(_, bit): &&(&str, u32)| self.capabilities & 1 << bit == 0;
        CAPABILITIES.iter().filter(is_missing).map(|(name, _)| *name).collect()
    }

    /// How the cgroups are laid out, in a word.
    pub fn layout(&self) -> &'static str {
        match (&self.v2, self.v1_controllers.is_empty()) {
            (Some(_), true) => "v2",
            (Some(_), false) => "hybrid",
            (None, false) => "v1",
            (None, true) => "none",
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "architecture": self.architecture,
            "btf_types": self.btf.as_ref().ok(),
            "btf_error": self.btf.as_ref().err(),
            "cgroup_layout": self.layout(),
            "cgroup_v2": self.v2,
            "v2_controllers": self.v2_controllers,
            "v1_controllers": self.v1_controllers,
            "missing_capabilities": self.missing_capabilities(),
            "lockdown": self.lockdown,
            "foreign_programs": self.foreign.as_ref().ok(),
            "foreign_programs_error": self.foreign.as_ref().err(),
        })
    }
}

/// The chosen one of `none [integrity] confidentiality`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// The packet programs at the root: they run beside ours, and one that drops packets does so whatever ours says.
fn foreign(root: Option<&PathBuf>) -> Result<Vec<String>, String> {
    let Some(root) = root else { return Ok(Vec::new()) };
    let directory = File::open(root).map_err(|error| error.to_string())?;
    let mut names = Vec::new();
    for (hook, what) in [(PacketHook::Ingress, "ingress"), (PacketHook::Egress, "egress")] {
        let ids = sys::packet_programs(directory.as_fd(), hook).map_err(|error| error.to_string())?;
        for id in ids {
            let info = loaded_programs().flatten().find(|info| info.id() == id);
            let name = info.and_then(|info| info.name_as_str().map(str::to_owned)).unwrap_or_default();
            let is_agents = name == "http_ingress" || name == "http_egress";
            let of = if is_agents { ", of a running podmeter" } else { "" };
            names.push(format!("{what}: {name} (id {id}{of})"));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_mode_is_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality").as_deref(), Some("integrity"));
        assert_eq!(chosen(""), None);
    }

    #[test]
    fn capabilities_are_told_by_name() {
        let machine = Machine { capabilities: 1 << 39 | 1 << 12, ..Machine::default() };
        assert_eq!(machine.missing_capabilities(), ["CAP_PERFMON"]);
        assert!(capabilities::effective().is_some());
    }

    #[test]
    fn layouts_have_a_word_each() {
        let hybrid = Machine { v1_controllers: vec!["memory"], ..Machine::default() };
        assert_eq!((Machine::default().layout(), hybrid.layout()), ("v2", "hybrid"));
        assert_eq!(Machine { v2: None, ..hybrid }.layout(), "v1");
    }
}
