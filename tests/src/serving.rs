//! A podmeter that serves, as a process.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

/// The process, where it listens, and what it logs.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) log: Arc<Mutex<Vec<String>>>,
}

impl Serving {
    /// Starts it, logging in JSON, and waits until it says where it serves.
    ///
    /// # Panics
    /// When it does not, with what it logged.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("podmeter");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let address = loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("podmeter ended: {:?}\n{}", child.wait(), log.lock().expect("ours").join("\n"));
            };
            let found =
                line.split("\"address\":\"").nth(1).and_then(|rest| rest.split('"').next()?.parse().ok());
            log.lock().expect("ours").push(line);
            if let Some(address) = found {
                break address;
            }
        };
        let kept = log.clone();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| kept.lock().expect("ours").push(line));
        });
        Self { child, address, log }
    }
}
