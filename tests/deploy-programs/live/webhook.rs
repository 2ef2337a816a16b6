//! Whoever is told of alerts: takes what an Alertmanager posts, and whatever else.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

/// A receiver on a port of loopback.
pub(crate) struct Webhook {
    pub(crate) address: String,
    messages: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Webhook {
    pub(crate) fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let messages = Arc::new(Mutex::new(Vec::new()));
        let kept = messages.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // One that breaks off is sent again.
                if let Some(message) = take(stream) {
                    kept.lock().expect("ours").push(message);
                }
            }
        });
        Self { address, messages }
    }

    /// Paths and bodies so far.
    pub(crate) fn messages(&self) -> Vec<(String, Value)> {
        self.messages.lock().expect("ours").clone()
    }
}

fn take(mut stream: TcpStream) -> Option<(String, Value)> {
    let mut input = BufReader::new(stream.try_clone().ok()?);
    let (mut path, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if path.is_empty() {
            path = line.split(' ').nth(1)?.to_owned();
        } else if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    Some((path, serde_json::from_slice(&body).ok()?))
}
