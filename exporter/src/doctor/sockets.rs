//! The sockets of a cgroup's processes, as /proc has them: what a container talks through, measured or not.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::Path,
};

use procfs::{
    net::{TcpState, UnixState},
    process::{FDTarget, Process},
};

/// What the processes hold open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// How many processes there are.
    pub processes: usize,
    /// Connections that are established, and their ports: the local one, and the one of the peer.
    pub connections: Vec<(u16, u16)>,
    /// Ports that are listened at.
    pub listening: BTreeSet<u16>,
    /// Ports of UDP sockets.
    pub udp: BTreeSet<u16>,
    /// Connections by unix sockets.
    pub unix: usize,
    /// Processes whose sockets could not be looked at.
    pub unreadable: usize,
}

impl Sockets {
    /// Looks at every process of a cgroup and of those below it.
    pub fn of(cgroup: &Path, procfs: &Path) -> Self {
        let mut this = Self::default();
        let mut pids = Vec::new();
        collect_pids(cgroup, &mut pids);
        this.processes = pids.len();
        let mut seen = HashSet::new();
        for pid in pids {
            // It may have ended meanwhile.
            let Ok(process) = Process::new_with_root(procfs.join(pid)) else { continue };
            if this.add(&process, &mut seen).is_err() {
                this.unreadable += 1;
            }
        }
        this
    }

    /// Takes over what another cgroup has.
    pub fn join(&mut self, other: Self) {
        self.processes += other.processes;
        self.connections.extend(other.connections);
        self.listening.extend(other.listening);
        self.udp.extend(other.udp);
        self.unix += other.unix;
        self.unreadable += other.unreadable;
    }

    fn add(&mut self, process: &Process, seen: &mut HashSet<u64>) -> procfs::ProcResult<()> {
        let inode = |target| match target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        };
        let own = process.fd()?.flatten().filter_map(|fd| inode(fd.target));
        // Threads and children share sockets: each counts once.
        let own: HashSet<_> = own.filter(|inode| seen.insert(*inode)).collect();
        if own.is_empty() {
            return Ok(());
        }
        for entry in process.tcp()?.iter().chain(&process.tcp6().unwrap_or_default()) {
            if own.contains(&entry.inode) {
                match entry.state {
                    TcpState::Listen => _ = self.listening.insert(entry.local_address.port()),
                    TcpState::Established => {
                        self.connections.push((entry.local_address.port(), entry.remote_address.port()));
                    }
                    _ => {}
                }
            }
        }
        let udp = process.udp()?.into_iter().chain(process.udp6().unwrap_or_default());
        self.udp
            .extend(udp.filter(|entry| own.contains(&entry.inode)).map(|entry| entry.local_address.port()));
        let unix = process.unix()?;
        let is_connected = |entry: &&procfs::net::UnixNetEntry| {
            entry.state == UnixState::CONNECTED && own.contains(&entry.inode)
        };
        self.unix += unix.iter().filter(is_connected).count();
        Ok(())
    }
}

fn collect_pids(cgroup: &Path, pids: &mut Vec<String>) {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    pids.extend(own.lines().map(str::to_owned));
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_pids(&entry.path(), pids);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn our_own_sockets_are_found() {
        let cgroup = std::env::temp_dir().join(format!("podmeter-sockets-{}", std::process::id()));
        fs::create_dir_all(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _unix = UnixStream::pair().unwrap();
        let found = Sockets::of(&cgroup, Path::new("/proc"));
        assert_eq!((found.processes, found.unreadable), (1, 0));
        assert!(found.listening.contains(&listener.local_addr().unwrap().port()));
        assert!(found.unix >= 2, "both ends: {found:?}");
        fs::remove_dir_all(cgroup).unwrap();
        assert_eq!(Sockets::of(Path::new("/none"), Path::new("/proc")), Sockets::default());
    }
}
