//! Cgroups as a kubelet makes them, with work in them, and the labels that Kubernetes would give them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use podmeter_tests::{cgroup::Cgroup, process::Gated};

/// The tests' own server.
const PEER: &str = env!("CARGO_BIN_EXE_http-peer");

/// A container of a pod.
pub(crate) struct Container {
    pub(crate) cgroup: Cgroup,
    pub(crate) pod: &'static str,
}

impl Container {
    /// The container of a pod whose uid and whose container's id come from the digit.
    pub(crate) fn new(pod: &'static str, digit: char) -> Self {
        let of = |length: usize| digit.to_string().repeat(length);
        let uid = format!("{}-{}-{}-{}-{}", of(8), of(4), of(4), of(4), of(12));
        Self { cgroup: Cgroup::at(&format!("/kubepods/burstable/pod{uid}/{}", of(64))), pod }
    }

    /// Rules of relabelling, as YAML, that say what a pod source would: its names are those of the pod.
    pub(crate) fn labels(&self) -> String {
        let labels = [
            ("namespace", "shop".to_owned()),
            ("pod", format!("{}-0", self.pod)),
            ("container", self.pod.to_owned()),
            ("image", format!("registry.example/{}:1", self.pod)),
        ];
        let rule = |(label, value): (&str, String)| {
            let id = self.cgroup.path();
            format!("      - {{ source_labels: [id], regex: '{id}', target_label: {label}, replacement: '{value}' }}\n")
        };
        labels.into_iter().map(rule).collect()
    }

    /// At most so many hundredths of a CPU, and so many MiB.
    pub(crate) fn limit(&self, hundredths: u32, mebibytes: u64) {
        let quota = hundredths * 1000;
        let (v2_cpu, v2_memory) = ("cpu.max", "memory.max");
        if self.cgroup.controller("cpu").join(v2_cpu).exists() {
            self.cgroup.write("cpu", v2_cpu, &format!("{quota} 100000"));
        } else {
            self.cgroup.write("cpu", "cpu.cfs_quota_us", &quota.to_string());
        }
        let file = if self.cgroup.controller("memory").join(v2_memory).exists() { v2_memory } else { "memory.limit_in_bytes" };
        self.cgroup.write("memory", file, &(mebibytes << 20).to_string());
    }

    /// Starts a shell's script in it.
    pub(crate) fn run(&self, script: &str) -> Gated {
        let mut process = self.cgroup.spawn(&["/bin/sh", "-c", script]);
        process.go();
        process
    }

    /// Starts the tests' own server in it; with its address.
    pub(crate) fn serve(&self) -> (Gated, String) {
        let mut process = self.cgroup.spawn(&[PEER, "serve", "127.0.0.1:0"]);
        let address = process.go().line();
        (process, address)
    }
}

/// Requests that go on, one after the other, from this process's own cgroup.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// A thread for each path.
    pub(crate) fn start(address: &str, paths: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = paths.iter().map(|path| {
            let (stop, address) = (stop.clone(), address.to_owned());
            let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    ask(&address, &request);
                    // Not as fast as it goes: the machine has other work. How many there are does not matter.
                    thread::sleep(Duration::from_millis(20));
                }
            })
        });
        Self { threads: threads.collect(), stop }
    }
}

/// A request, and its answer to the end; a connection that fails is no concern of a load.
fn ask(address: &str, request: &str) {
    if let Ok(mut stream) = TcpStream::connect(address) {
        _ = stream.write_all(request.as_bytes());
        _ = stream.read_to_end(&mut Vec::new());
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| _ = thread.join());
    }
}
