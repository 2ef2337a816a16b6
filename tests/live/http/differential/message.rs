//! Messages of HTTP/1, with the oddities that RFC 9112 allows.

use podmeter_tests::random::Random;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// Its head tells its length.
    Length,
    Chunks,
    /// By the end of the connection.
    Close,
}

/// A message as it is sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// The length of its head.
    pub(super) head: usize,
}

impl Message {
    /// One as long as this that begins alike, whose body has a byte more and its head one less; none where that cannot be.
    pub(super) fn twin(&self) -> Option<Self> {
        let mut bytes = self.bytes.clone();
        let head = String::from_utf8(bytes[..self.head].to_vec()).ok()?.to_ascii_lowercase();
        // No other field begins so: see `head`.
        let at = head.find("\r\ncontent-length:")? + "\r\ncontent-length:".len();
        let at = at + head[at..].find(|byte: char| byte.is_ascii_digit())?;
        let digits = head[at..].find(|byte: char| !byte.is_ascii_digit())?;
        let more = (head[at..at + digits].parse::<u64>().ok()? + 1).to_string();
        let pad = head.rfind("pp\r\n")?;
        if more.len() != digits || bytes.len() == self.head {
            return None;
        }
        bytes[at..at + digits].copy_from_slice(more.as_bytes());
        bytes.remove(pad);
        bytes.push(b'x');
        Some(Self { bytes, head: self.head - 1 })
    }
}

/// The length of a head, at most.
const HEAD: usize = 4096;

const WORDS: [&str; 12] =
    ["users", "orders", "items", "api", "v1", "search", "cart", "files", "a", "health", "login", "posts"];

/// What looks like a head of its own, in a body.
const FORGED: [&str; 6] = [
    "GET /forged HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/1.1 500 Forged\r\nContent-Length: 3\r\n\r\nabc",
    "POST /forged HTTP/1.1\r\nContent-Length: 100000\r\n\r\n",
    "0\r\n\r\nGET /forged HTTP/1.1\r\n\r\n",
    "\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
];

/// A target, for the method that it is for.
pub(super) fn target(random: &mut Random, method: &str) -> String {
    match method {
        "CONNECT" => return format!("host{}.example:443", random.below(10)),
        "OPTIONS" if random.below(3) == 0 => return "*".to_owned(),
        _ => {}
    }
    let mut target = String::new();
    if random.below(12) == 0 {
        target += "http://example.com";
    }
    let mut has_uuid = false;
    for _ in 0..1 + random.below(4) {
        target.push('/');
        match random.below(6) {
            0 => target += &(random.below(1_000_000)).to_string(),
            1 if !has_uuid => {
                let (a, b) = (random.word(), random.word());
                let digits = format!("{a:016x}{b:016x}");
                target += &[&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]]
                    .join("-");
                has_uuid = true;
            }
            _ => target += random.pick(&WORDS),
        }
    }
    if random.below(2) == 0 {
        target += &format!("?page={}&q={}", random.below(1000), "x".repeat(random.below(150)));
    }
    target
}

/// A name as some write it.
fn cased(random: &mut Random, name: &str) -> String {
    match random.below(4) {
        0 => name.to_ascii_lowercase(),
        1 => name.to_ascii_uppercase(),
        _ => name.to_owned(),
    }
}

/// A line of a head.
fn field(random: &mut Random, name: &str, value: &str) -> String {
    let (before, after) = (random.pick(&["", " ", " ", " ", "\t", "  "]), random.pick(&["", "", "", " "]));
    format!("{}:{before}{value}{after}\r\n", cased(random, name))
}

/// A head: its first line and these fields, among others that say nothing of the body.
fn head(random: &mut Random, line: &str, fields: &[(&str, String)]) -> Vec<u8> {
    let mut lines: Vec<_> = fields.iter().map(|(name, value)| field(random, name, value)).collect();
    let others = [
        ("Accept", "*/*".to_owned()),
        ("X-Content-Length", "7".to_owned()),
        ("X-Forged", "Content-Length: 9".to_owned()),
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT".to_owned()),
        ("User-Agent", "differential/1.0 (GET /x HTTP/1.1)".to_owned()),
        ("X-Empty", String::new()),
    ];
    for (name, value) in others {
        if random.below(3) == 0 {
            lines.push(field(random, name, &value));
        }
    }
    let so_far = line.len() + 2 + lines.iter().map(String::len).sum::<usize>() + 2;
    let most = match random.below(10) {
        0 => HEAD,
        1 | 2 => 1000,
        _ => 0,
    };
    let mut pad = random.below(most.saturating_sub(so_far).max(1));
    while pad > 20 {
        let size = 20 + random.below(pad - 19);
        lines.push(format!("X-Pad: {}\r\n", "p".repeat(size - 9)));
        pad -= size;
    }
    // In any order.
    for at in (1..lines.len()).rev() {
        lines.swap(at, random.below(at + 1));
    }
    format!("{line}\r\n{}\r\n", lines.concat()).into_bytes()
}

/// What a body has.
pub(super) fn content(random: &mut Random) -> Vec<u8> {
    let most = match random.below(12) {
        0 => 100_000,
        1..4 => 5000,
        4..8 => 300,
        _ => 20,
    };
    let size = random.below(most);
    let mut content = Vec::new();
    match random.below(3) {
        0 => {
            content.resize(size, 0);
            random.fill(&mut content);
        }
        1 => content.resize(size, b'x'),
        _ => {
            while content.len() < size {
                content.extend(random.pick(&FORGED).bytes());
            }
            content.truncate(size);
        }
    }
    content
}

/// A content in chunks of any size, with extensions and trailers.
fn chunks(random: &mut Random, mut content: &[u8]) -> Vec<u8> {
    let extension = |random: &mut Random| random.pick(&["", "", "", ";a", ";a=b", "; a=\"0;1\"", ";ieof"]);
    let mut body = Vec::new();
    while !content.is_empty() {
        let most = [1, 16, 300, 70_000][random.below(4)];
        let size = (1 + random.below(most)).min(content.len());
        let digits = match random.below(4) {
            0 => format!("{size:X}"),
            1 => format!("{size:05x}"),
            _ => format!("{size:x}"),
        };
        body.extend(format!("{digits}{}\r\n", extension(random)).bytes());
        body.extend(&content[..size]);
        body.extend(b"\r\n");
        content = &content[size..];
    }
    body.extend(random.pick(&["0", "0", "00", "0000"]).bytes());
    body.extend(extension(random).bytes());
    body.extend(b"\r\n");
    for _ in 0..if random.below(3) == 0 { 1 + random.below(3) } else { 0 } {
        body.extend(
            random.pick(&["X-Sum: 1\r\n", "Content-Length: 5\r\n", "Server-Timing: a;dur=1\r\n"]).bytes(),
        );
    }
    body.extend(b"\r\n");
    body
}

/// A message with this first line, these fields and a body of that framing.
pub(super) fn message(
    random: &mut Random,
    line: &str,
    framing: Framing,
    mut fields: Vec<(&str, String)>,
) -> Message {
    let content = if framing == Framing::None { Vec::new() } else { content(random) };
    let body = match framing {
        Framing::Chunks => {
            fields.push(("Transfer-Encoding", "chunked".to_owned()));
            chunks(random, &content)
        }
        Framing::Length => {
            fields.push(("Content-Length", content.len().to_string()));
            content
        }
        Framing::None | Framing::Close => content,
    };
    let mut bytes = head(random, line, &fields);
    let head = bytes.len();
    bytes.extend(body);
    Message { bytes, head }
}
