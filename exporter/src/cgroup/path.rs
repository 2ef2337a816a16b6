//! From a cgroup path to the workload that its usage is charged to.
//!
//! Paths are read from the right, by containment: a node may itself be a container (kind, k3d), the kubelet
//! may have its own root, and a runtime may put pods below its own unit, so no prefix can be relied upon.

use std::{borrow::Cow, iter};

/// The program that named a container's cgroup, as far as the name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// containerd, through its CRI plugin or nerdctl.
    Containerd,
    /// CRI-O.
    CriO,
    /// Docker, with or without cri-dockerd.
    Docker,
    /// Podman, whose containers are outside the kubelet's hierarchy.
    Podman,
}

impl Runtime {
    /// The spelling of a Kubernetes `containerID` (`cri-o://…`), so that both can be joined.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// Whole names only: `crio-conmon` and `libpod-conmon` are a container's monitor, not the container.
    fn from_prefix(prefix: &str) -> Option<Self> {
        Some(match prefix {
            "cri-containerd" | "nerdctl" => Self::Containerd,
            "crio" => Self::CriO,
            "docker" => Self::Docker,
            // `libpod-payload` is the container's half of `--cgroups=split`, which Quadlet uses.
            "libpod" | "libpod-payload" => Self::Podman,
            _ => return None,
        })
    }
}

/// What a cgroup belongs to: a container, a systemd unit, or itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload<'a> {
    /// The cgroup at which the workload starts, a prefix by components of the parsed path. Everything below
    /// rolls up to it, because containers and units are free to split their own subtree.
    pub path: &'a str,
    /// 64 lower-case hex digits. A pod's sandbox looks the same: only the runtime or the API tells it apart.
    pub container_id: Option<&'a str>,
    /// `None` where the name is a bare id, as under the cgroupfs driver.
    pub runtime: Option<Runtime>,
    /// Spelled as by the API, except for static pods, where the kubelet uses a hash without dashes, which the
    /// API only shows in the annotation `kubernetes.io/config.hash`.
    pub pod_uid: Option<Cow<'a, str>>,
    /// The systemd unit, if it is no container. Slices only group other units, so they are not one.
    pub unit: Option<&'a str>,
}

/// Finds the workload of a cgroup, given its path below the hierarchy's mount.
///
/// Any string has an answer, because cgroups can be created under any name: what is not recognised is itself.
#[must_use]
pub fn workload(path: &str) -> Workload<'_> {
    if let Some((path, (id, runtime))) = ancestors(path).find_map(|(at, name)| Some((at, container(name)?))) {
        return Workload { path, container_id: Some(id), runtime, pod_uid: pod_uid_of(path), unit: None };
    }
    // A pod below a unit (a runtime that creates cgroups under its own service) is not part of that unit.
    let mut units = ancestors(path)
        .take_while(|(_, name)| pod_uid(name).is_none())
        .filter(|(_, name)| is_unit(name))
        .peekable();
    let deepest = units.peek().copied();
    // Every delegated subtree with a manager of its own has an `init.scope`, so it identifies nothing.
    let unit = units.find(|(_, name)| *name != INIT_SCOPE).or(deepest);
    let whole = ancestors(path).next().map_or("/", |(at, _)| at);
    let path = unit.map_or(whole, |(at, _)| at);
    Workload {
        path,
        container_id: None,
        runtime: None,
        pod_uid: pod_uid_of(path),
        unit: unit.map(|(_, name)| unescape(name)),
    }
}

/// The path of the innermost pod that a cgroup is in, or is.
#[must_use]
pub fn pod(path: &str) -> Option<&str> {
    ancestors(path).find_map(|(at, name)| pod_uid(name).map(|_| at))
}

const INIT_SCOPE: &str = "init.scope";
const UNIT_SUFFIXES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
const ID_LEN: usize = 64;
const UUID_LEN: usize = 36;
const HASH_LEN: usize = 32;

/// The path and its ancestors below the root, deepest first, each with its last component.
fn ancestors(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = path;
    iter::from_fn(move || {
        let at = rest.trim_end_matches('/');
        let name = at.rsplit('/').next().filter(|name| !name.is_empty())?;
        rest = &at[..at.len() - name.len()];
        Some((at, name))
    })
}

/// The container id in a cgroup's name, and the runtime if the name tells.
fn container(name: &str) -> Option<(&str, Option<Runtime>)> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (prefix, id) = name.split_at_checked(name.len().checked_sub(ID_LEN)?)?;
    if !id.bytes().all(is_hex) {
        return None;
    }
    if prefix.is_empty() {
        return Some((id, None));
    }
    let prefix = match prefix.strip_suffix(':') {
        // A runtime on cgroupfs takes the `slice:prefix:id` of a kubelet on systemd literally.
        Some(triple) => triple.rsplit_once(':')?.1,
        None => prefix.strip_suffix('-')?,
    };
    Some((id, Some(Runtime::from_prefix(prefix)?)))
}

/// The UID of the innermost pod that a cgroup is in.
fn pod_uid_of(path: &str) -> Option<Cow<'_, str>> {
    let uid = ancestors(path).find_map(|(_, name)| pod_uid(name))?;
    Some(if uid.contains('_') { Cow::Owned(uid.replace('_', "-")) } else { Cow::Borrowed(uid) })
}

/// The UID in a pod's cgroup name, still with the underscores that replace dashes in a slice's name.
fn pod_uid(name: &str) -> Option<&str> {
    let stem = name.split_once(':').map_or(name, |(slice, _)| slice);
    let stem = stem.strip_suffix(".slice").unwrap_or(stem);
    [UUID_LEN, HASH_LEN].into_iter().find_map(|len| {
        let (head, uid) = stem.split_at_checked(stem.len().checked_sub(len)?)?;
        let parent = head.strip_suffix("pod")?;
        // Shape matters: without it, any user's `foo-pod….slice` would be a pod.
        let shaped = uid.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 if len == UUID_LEN => matches!(byte, b'-' | b'_'),
            _ => is_hex(byte),
        });
        (shaped && (parent.is_empty() || parent.ends_with('-'))).then_some(uid)
    })
}

fn is_unit(name: &str) -> bool {
    UNIT_SUFFIXES.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|stem| !stem.is_empty()))
}

/// systemd puts `_` before a name that could be a file of the kernel's, such as `memory.service`.
fn unescape(name: &str) -> &str {
    name.strip_prefix('_').unwrap_or(name)
}

/// Runtimes and the kubelet write lower case only.
fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests;
