//! The real agent, as a process.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{process::signal, scrape::Scrape, serving::Serving, wait};

/// A running `podmeter agent`; ended by SIGKILL when dropped, which leaves nothing attached.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

/// The binary, which lies where cargo puts it, beside the tests.
///
/// # Panics
/// When it was not built.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("our own path");
    let binary = test.ancestors().nth(2).expect("target/PROFILE/deps").join("podmeter");
    assert!(binary.exists(), "{} is not there: run `cargo build --package podmeter` first", binary.display());
    binary
}

impl Agent {
    /// Starts the agent on a free port of loopback, and waits until it serves.
    ///
    /// # Panics
    /// When it does not, with what it logged.
    pub fn start(flags: &[&str]) -> Self {
        Self::start_by(&mut Command::new(binary()), flags)
    }

    /// As [`Self::start`], by a command that becomes the binary in its own way (other user, other name).
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_by(command: &mut Command, flags: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", command, flags)
    }

    /// As [`Self::start_by`], on a port that is known.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_at(listen: &str, command: &mut Command, flags: &[&str]) -> Self {
        let command = command.args(["agent", "--listen", listen, "--log-format", "json"]).args(flags);
        let Serving { child, address, log } = Serving::start(command);
        Self { child, address, log }
    }

    /// GETs a path: the status code and the body.
    ///
    /// # Panics
    /// When the agent does not answer.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("the agent listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        // To a client of 1.0 the metrics come as they are, and not in chunks.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: podmeter\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        assert!(
            !head.to_ascii_lowercase().contains("transfer-encoding: chunked"),
            "chunks are not decoded here"
        );
        (status, body.to_owned())
    }

    /// Scrapes once.
    ///
    /// # Panics
    /// When the status is not 200.
    pub fn scrape(&self) -> Scrape {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        Scrape(body)
    }

    /// Scrapes until `wanted` says yes: for what the kernel tells with a delay of its own.
    ///
    /// # Panics
    /// When that never comes.
    pub fn scrape_until(&self, what: &str, wanted: impl Fn(&Scrape) -> bool) -> Scrape {
        wait::until(what, || Some(self.scrape()).filter(&wanted))
    }

    /// Sends a signal, named without SIG, and waits for the end.
    ///
    /// # Panics
    /// When it is gone.
    pub fn stop(mut self, name: &str) -> ExitStatus {
        signal(self.child.id(), name);
        self.child.wait().expect("our own child")
    }

    /// The numbers of the BPF objects of a kind that it has open: `prog`, `link`.
    ///
    /// # Panics
    /// When it is gone.
    pub fn held(&self, kind: &str) -> BTreeSet<u32> {
        let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", self.child.id())).expect("it runs");
        let texts = descriptors.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let start = format!("{kind}_id:");
        texts
            .filter_map(|text| text.lines().find_map(|line| line.strip_prefix(&start)?.trim().parse().ok()))
            .collect()
    }

    /// A set of its capabilities, a bit each: `CapEff`, `CapBnd`.
    ///
    /// # Panics
    /// When it is gone.
    pub fn capabilities(&self, set: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let mask = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':')).expect("a set");
        u64::from_str_radix(mask.trim(), 16).expect("a mask")
    }

    /// The state of a probe in a scrape, and why it is not attached, by the log; empty if it is.
    pub fn verdict(&self, scrape: &Scrape, program: &str) -> (String, String) {
        let state = scrape.probes().remove(program).unwrap_or_default();
        let lines = self.log();
        let lines = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let told = lines.filter(|line| line["program"] == program);
        let reason = told.filter_map(|line| Some(line.get("reason")?.as_str()?.to_owned())).next_back();
        (state, reason.unwrap_or_default())
    }

    /// What it logged so far.
    ///
    /// # Panics
    /// Never: the lock is ours.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("ours").clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
