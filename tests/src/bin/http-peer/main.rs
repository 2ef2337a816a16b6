//! The two ends of the HTTP tests: each runs in a cgroup of its own, so each is a process of its own.
//!
//! * `serve ADDRESS` prints where it listens, and answers as the path says: see `serve`.
//! * `talk` does to its connections what the lines on its standard input say, and prints one line for each: see `talk`.
//! * `sink ADDRESS` prints where it listens, takes one connection to its end, and prints the sum of what came.
//! * `pour ADDRESS BYTES` sends that many bytes, and prints their sum.

mod serve;
mod talk;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use podmeter_tests::random::{Random, Sum};

/// How much is read or written at once.
const PIECE: usize = 256 * 1024;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", address] => serve::run(&listen(address)),
        ["talk"] => talk::run(),
        ["sink", address] => sink(&listen(address)),
        ["pour", address, bytes] => pour(address, bytes.parse().expect("a number")),
        _ => panic!("serve ADDRESS | talk | sink ADDRESS | pour ADDRESS BYTES, not {arguments:?}"),
    }
}

fn listen(address: &str) -> TcpListener {
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    println!("{}", listener.local_addr().expect("bound"));
    listener
}

fn sink(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("a connection");
    let (mut sum, mut piece) = (Sum::default(), vec![0; PIECE]);
    loop {
        match stream.read(&mut piece).expect("bytes") {
            0 => break,
            n => sum.add(&piece[..n]),
        }
    }
    println!("{} {:016x}", sum.bytes, sum.value());
}

fn pour(address: &str, bytes: usize) {
    let mut stream = TcpStream::connect(address).expect("the other end listens");
    let sum = send(&mut stream, bytes).expect("the other end reads");
    println!("{} {:016x}", sum.bytes, sum.value());
}

/// Sends this many bytes, always the same ones: a piece over and over, with its number.
fn send(stream: &mut TcpStream, bytes: usize) -> std::io::Result<Sum> {
    let (mut sum, mut piece) = (Sum::default(), vec![0; PIECE]);
    Random::new(bytes as u64).fill(&mut piece);
    let mut left = bytes;
    while left > 0 {
        // A binary protocol, for whoever would look at it: the first segment does not begin like a head.
        piece[..8].copy_from_slice(&(left as u64 | 0x80).to_le_bytes());
        let piece = &piece[..left.min(PIECE)];
        sum.add(piece);
        stream.write_all(piece)?;
        left -= piece.len();
    }
    Ok(sum)
}
