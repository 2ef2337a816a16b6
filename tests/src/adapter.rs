//! The real adapter, as a process.

use std::{
    net::SocketAddr,
    process::{Child, Command},
    sync::{Arc, Mutex},
};

use crate::{agent::binary, serving::Serving};

/// A running `podmeter adapter`; ended by SIGKILL when dropped.
#[derive(Debug)]
pub struct Adapter {
    /// The process.
    pub child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Adapter {
    /// Starts it on a free port of loopback, and waits until it serves.
    ///
    /// # Panics
    /// When it does not, with what it logged.
    pub fn start(flags: &[&str]) -> Self {
        Self::at("127.0.0.1:0", flags)
    }

    /// As [`Self::start`], on a port that is known.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn at(listen: &str, flags: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["adapter", "--listen", listen, "--log-format", "json"]).args(flags);
        let Serving { child, address, log } = Serving::start(&mut command);
        Self { child, address, log }
    }

    /// What it logged so far.
    ///
    /// # Panics
    /// Never: the lock is ours.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("ours").clone()
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the adapter's last words:\n{}", self.log().join("\n"));
        }
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
