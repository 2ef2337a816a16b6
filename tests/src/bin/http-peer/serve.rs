//! A server that does what the path says, one thread per connection. What it counts is the tests' second opinion.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// How many requests came, those for `/count` not among them.
static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Of the last long body that was sent.
static SUM: Mutex<String> = Mutex::new(String::new());

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const EMPTY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";

pub(super) fn run(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || {
            // A client that is gone is the end of its connection, and nothing else.
            _ = connection(stream);
        });
    }
}

/// A request without its body.
struct Request {
    method: String,
    path: String,
    length: usize,
    is_chunked: bool,
    expects_continue: bool,
    closes: bool,
}

fn connection(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream.try_clone()?);
    while let Some(request) = head(&mut input)? {
        if request.path != "/count" {
            REQUESTS.fetch_add(1, Ordering::Relaxed);
        }
        if request.expects_continue {
            stream.write_all(CONTINUE.as_bytes())?;
        }
        body(&mut input, &request)?;
        if !answer(&mut stream, &request)? || request.closes {
            return Ok(());
        }
    }
    // Not HTTP/1: taken without a word, to its end.
    io::copy(&mut input, &mut io::sink()).map(drop)
}

/// The next request; none at the end, and where there is no HTTP/1.
fn head(input: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line)?;
    let text = String::from_utf8_lossy(&line).into_owned();
    let mut words = text.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    if !METHODS.contains(&method) || !text.ends_with("HTTP/1.1\r\n") {
        return Ok(None);
    }
    let mut request = Request {
        method: method.to_owned(),
        path: path.split('?').next().unwrap_or_default().to_owned(),
        length: 0,
        is_chunked: false,
        expects_continue: false,
        closes: false,
    };
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(Some(request));
        }
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ").unwrap_or((&line, "")) {
            ("content-length", value) => request.length = value.parse().unwrap_or(0),
            ("transfer-encoding", "chunked") => request.is_chunked = true,
            ("expect", "100-continue") => request.expects_continue = true,
            ("connection", "close") => request.closes = true,
            _ => {}
        }
    }
}

/// Reads the request's body.
fn body(input: &mut BufReader<TcpStream>, request: &Request) -> io::Result<()> {
    if !request.is_chunked {
        return io::copy(&mut input.take(request.length as u64), &mut io::sink()).map(drop);
    }
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim_end(), 16).unwrap_or(0);
        io::copy(&mut input.take(size + 2), &mut io::sink())?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// Answers; whether the connection can go on.
fn answer(stream: &mut TcpStream, request: &Request) -> io::Result<bool> {
    let words: Vec<_> = request.path.split('/').skip(1).collect();
    let number = |word: &str| word.parse::<u64>().unwrap_or(0);
    match words[..] {
        ["count"] => plain(stream, request, "200 OK", &REQUESTS.load(Ordering::Relaxed).to_string())?,
        ["sum"] => plain(stream, request, "200 OK", &SUM.lock().unwrap_or_else(PoisonError::into_inner))?,
        ["status", status] => plain(stream, request, &format!("{status} As Asked"), "asked\n")?,
        // The time of the request is that of the answer's last byte, with what the server does before it.
        ["delay", .., millis] => {
            thread::sleep(Duration::from_millis(number(millis)));
            plain(stream, request, "200 OK", "late\n")?;
        }
        // One at a time, in the order in which they came: the more wait, the longer each waits.
        ["turn", millis] => {
            take_turn(Duration::from_millis(number(millis)));
            plain(stream, request, "200 OK", "done\n")?;
        }
        ["trickle", millis] => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")?;
            thread::sleep(Duration::from_millis(number(millis)));
            stream.write_all(b"b")?;
        }
        ["body", bytes] => {
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").as_bytes())?;
            let sum = super::send(stream, number(bytes) as usize)?;
            *SUM.lock().unwrap_or_else(PoisonError::into_inner) =
                format!("{} {:016x}", sum.bytes, sum.value());
        }
        // Each chunk is a segment that looks like an answer of its own.
        ["chunked", chunks] => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for _ in 0..number(chunks) {
                stream.write_all(b"1c\r\n")?;
                stream.write_all(b"HTTP/1.1 500 Not a Head\r\n\r\n\n\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")?;
        }
        ["close"] => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            super::send(stream, 100_000)?;
            return Ok(false);
        }
        ["early", "empty"] => plain(stream, request, "200 OK", "")?,
        ["early", "apart"] => {
            stream.write_all(HINTS.as_bytes())?;
            plain(stream, request, "200 OK", "")?;
        }
        // In one segment.
        ["early", "joined"] => stream.write_all([HINTS, EMPTY].concat().as_bytes())?,
        ["early", "continue"] => stream.write_all([CONTINUE, EMPTY].concat().as_bytes())?,
        ["pieces"] => {
            stream.write_all(b"HTTP/1.1 200 \r\n")?;
            stream.write_all(b"Content-Length: 0\r\n\r\n")?;
        }
        // Hints, and then nothing for as long as the client stays.
        ["hang"] => {
            stream.write_all(HINTS.as_bytes())?;
            return stream.read(&mut [0]).map(|_| false);
        }
        _ => plain(stream, request, "200 OK", "ok\n")?,
    }
    Ok(true)
}

/// Sleeps when all who came before have slept.
fn take_turn(time: Duration) {
    /// The next number that is given, and that which may go.
    static TURNS: Mutex<[u64; 2]> = Mutex::new([0; 2]);
    static NEXT: Condvar = Condvar::new();
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    let own = turns[0];
    turns[0] += 1;
    let turns = NEXT.wait_while(turns, |turns| turns[1] != own).unwrap_or_else(PoisonError::into_inner);
    drop(turns);
    thread::sleep(time);
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)[1] += 1;
    NEXT.notify_all();
}

/// In one segment.
fn plain(stream: &mut TcpStream, request: &Request, status: &str, body: &str) -> io::Result<()> {
    let has_body = !matches!(&status[..3], "204" | "304");
    let body = if has_body && request.method != "HEAD" { body } else { "" };
    let length = if has_body { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
    let connection = if request.closes { "Connection: close\r\n" } else { "" };
    stream.write_all(format!("HTTP/1.1 {status}\r\n{length}{connection}\r\n{body}").as_bytes())
}
