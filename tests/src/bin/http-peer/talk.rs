//! A client that does exactly what it is told, segment by segment.
//!
//! * `open ADDRESS` connects; a connection that was open before is closed. `listen ADDRESS` listens, once, and prints where;
//!   `accept` takes a connection there.
//! * `send TEXT` writes once; `\r`, `\n` and `\xHH` stand for bytes. `repeat N TEXT` writes N times.
//! * `hex BYTES` writes once, too. `take N` reads N bytes, and prints how many came before the end, and their sum.
//! * `until TEXT` reads until what came ends so; `skip N` reads N bytes, `eof` all there is to come. `peek` waits for a byte
//!   and leaves it.
//! * `answer` reads an answer whose length its head tells, and prints its status, and the length and sum of its body.
//! * `time N PATH` sends GETs, one after the other on a connection of their own, and prints how long each took, ns.
//! * `half` ends what is sent; `close` closes.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Instant,
};

use podmeter_tests::random::Sum;

pub(super) fn run() {
    let (mut connection, mut listener) = (None, None);
    for line in io::stdin().lines() {
        let line = line.expect("lines");
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let said = match command {
            "open" => {
                connection = Some(Connection::open(rest.parse().expect("an address")));
                String::from("opened")
            }
            "listen" => {
                let bound = TcpListener::bind(rest).expect("an address");
                let address = bound.local_addr().expect("bound").to_string();
                listener = Some(bound);
                address
            }
            "accept" => {
                let (stream, address) =
                    listener.as_ref().expect("listen first").accept().expect("a connection");
                connection = Some(Connection::new(address, stream));
                String::from("accepted")
            }
            "close" => {
                connection = None;
                String::from("closed")
            }
            _ => connection.as_mut().expect("a connection: open one first").obey(command, rest),
        };
        println!("{said}");
    }
}

struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    input: BufReader<TcpStream>,
}

impl Connection {
    fn open(address: SocketAddr) -> Self {
        Self::new(address, TcpStream::connect(address).expect("the server listens"))
    }

    fn new(address: SocketAddr, stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("no delay");
        let input = BufReader::new(stream.try_clone().expect("a second handle"));
        Self { address, stream, input }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    fn obey(&mut self, command: &str, rest: &str) -> String {
        match command {
            "send" => {
                self.send(&bytes(rest));
                String::from("sent")
            }
            "repeat" => {
                let (count, text) = rest.split_once(' ').expect("a number and a text");
                let text = bytes(text);
                (0..count.parse().expect("a number")).for_each(|_| self.send(&text));
                String::from("sent")
            }
            "hex" => {
                self.send(&from_hex(rest));
                String::from("sent")
            }
            "take" => {
                let (mut sum, mut piece) = (Sum::default(), vec![0; super::PIECE]);
                let count: u64 = rest.parse().expect("a number");
                while sum.bytes < count {
                    let most = piece.len().min((count - sum.bytes) as usize);
                    match self.input.read(&mut piece[..most]) {
                        Ok(0) | Err(_) => break,
                        Ok(n) => sum.add(&piece[..n]),
                    }
                }
                format!("{} {:016x}", sum.bytes, sum.value())
            }
            "until" => {
                let end = bytes(rest);
                let mut read = Vec::new();
                while !read.ends_with(&end) {
                    let mut byte = [0];
                    self.input.read_exact(&mut byte).expect("more");
                    read.extend(byte);
                }
                String::from("read")
            }
            "skip" => {
                let count = rest.parse().expect("a number");
                let skipped = io::copy(&mut self.input.by_ref().take(count), &mut io::sink()).expect("bytes");
                assert_eq!(skipped, count, "the end");
                String::from("skipped")
            }
            "eof" => io::copy(&mut self.input, &mut io::sink()).expect("an end").to_string(),
            "peek" => self.stream.peek(&mut [0]).expect("a byte").to_string(),
            "answer" => {
                let (status, sum) = self.answer();
                format!("{status} {} {:016x}", sum.bytes, sum.value())
            }
            "time" => {
                let (count, path) = rest.split_once(' ').expect("a number and a path");
                let mut own = Self::open(self.address);
                let request = format!("GET {path} HTTP/1.1\r\nHost: peer\r\n\r\n");
                let mut took = Vec::new();
                for _ in 0..count.parse().expect("a number") {
                    let started = Instant::now();
                    own.send(request.as_bytes());
                    own.answer();
                    took.push(started.elapsed().as_nanos().to_string());
                }
                took.join(" ")
            }
            "half" => {
                self.stream.shutdown(Shutdown::Write).expect("a half");
                String::from("half")
            }
            _ => panic!("{command} is none of the commands"),
        }
    }

    fn answer(&mut self) -> (String, Sum) {
        let (mut head, mut status, mut length) = (String::new(), String::new(), 0);
        while head != "\r\n" {
            head.clear();
            assert!(self.input.read_line(&mut head).expect("a head") > 0, "the end, not an answer");
            if let Some(rest) = head.strip_prefix("HTTP/1.1 ") {
                status = rest.split_whitespace().next().unwrap_or_default().to_owned();
            }
            if let Some(value) = head.strip_prefix("Content-Length: ") {
                length = value.trim().parse().expect("a number");
            }
        }
        let (mut sum, mut piece) = (Sum::default(), vec![0; super::PIECE]);
        while sum.bytes < length {
            let most = piece.len().min((length - sum.bytes) as usize);
            let n = self.input.read(&mut piece[..most]).expect("a body");
            assert!(n > 0, "the end, not a body");
            sum.add(&piece[..n]);
        }
        (status, sum)
    }
}

/// The bytes that hexadecimal digits stand for.
fn from_hex(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("two hex digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The bytes that a text stands for.
fn bytes(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.chars());
    while let Some(char) = rest.next() {
        if char != '\\' {
            bytes.extend(char.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        bytes.push(match rest.next() {
            Some('r') => b'\r',
            Some('n') => b'\n',
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16).expect("two hex digits")
            }
            other => panic!("{other:?} after a backslash"),
        });
    }
    bytes
}
