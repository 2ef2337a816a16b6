//! A program that serves HTTP on a port of loopback, for as long as a test wants it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use podmeter_tests::{temp::TempDir, wait};
use serde_json::Value;

/// A running server, ended when dropped.
pub(crate) struct Server {
    pub(crate) address: String,
    child: Child,
    pub(crate) directory: TempDir,
}

impl Server {
    /// Starts it: `command` gets the address, and the directory that is the server's own.
    pub(crate) fn start(directory: TempDir, command: impl FnOnce(&str, &TempDir) -> Command) -> Self {
        let address = free_address();
        let log = File::create(directory.path().join("log")).expect("a log");
        let mut command = command(&address, &directory);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("a program");
        let mut this = Self { address, child, directory };
        wait::until("a server that is ready", || {
            if let Ok(Some(status)) = this.child.try_wait() {
                panic!("{command:?}: {status}\n{}", this.log());
            }
            (status(&this.address, "GET", "/-/ready", "").0 == 200).then_some(())
        });
        this
    }

    /// The `data` of an answer of Prometheus' API.
    pub(crate) fn api(&self, path: &str) -> Value {
        let (code, body) = status(&self.address, "GET", path, "");
        assert_eq!(code, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    /// Sends a body of JSON.
    pub(crate) fn post(&self, path: &str, body: &Value) {
        let (code, said) = status(&self.address, "POST", path, &body.to_string());
        assert_eq!(code, 200, "{path}: {said}");
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// An address that nobody listens on.
pub(crate) fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").to_string()
}

/// Status and body of an answer; status 0 where nobody listens.
pub(crate) fn status(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(address) else { return (0, String::new()) };
    // Of 1.0, whose answers have no chunks.
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut text = String::new();
    if stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut text)).is_err() {
        return (0, text);
    }
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return (0, text) };
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0), body.to_owned())
}

/// An expression as a part of a URL.
pub(crate) fn escape(expression: &str) -> String {
    expression.bytes().map(|byte| format!("%{byte:02x}")).collect()
}
