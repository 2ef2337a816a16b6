//! The first line of an HTTP/1 message, from its first bytes.
//!
//! Pure, and compiled for both sides: the kernel runs it on a copy of a segment's first bytes, the host under test and fuzzing.

/// How many bytes of a request line are looked at.
pub const HEAD: usize = 96;
/// How many bytes of a target are looked at: what is left after the longest method that is told apart, and its space.
pub const TARGET: usize = HEAD - 8;
/// How many bytes a status line has at least: `HTTP/1.1 200`.
pub const STATUS: usize = 12;
/// How many bytes of a method are looked at, its space among them.
pub const METHOD: usize = 24;

/// A request method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Method {
    Get = 1,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    /// One that neither RFC 9110 nor RFC 5789 has.
    Other,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 10] = [
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Delete,
        Self::Connect,
        Self::Options,
        Self::Trace,
        Self::Patch,
        Self::Other,
    ];

    /// The token on the wire, and in the label `http_request_method`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            // As OpenTelemetry has it.
            Self::Other => "_OTHER",
        }
    }
}

/// Whether requests of a method, as a number, usually have no body.
#[inline(always)]
pub const fn is_bodiless(method: u8) -> bool {
    method == Method::Get as u8
        || method == Method::Head as u8
        || method == Method::Delete as u8
        || method == Method::Options as u8
        || method == Method::Trace as u8
}

/// What a connection's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A request line of HTTP/1: the method, and where the target begins.
    Request(Method, usize),
    /// A status line of HTTP/1.
    Response,
    /// The preface of HTTP/2 with prior knowledge (RFC 9113, 3.4).
    Http2,
    /// A TLS record of a handshake (RFC 8446, 5.1).
    Tls,
    /// Something else.
    Other,
}

#[inline(always)]
fn word(head: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

const fn token(bytes: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*bytes)
}

/// Tells what the first bytes of a segment begin; behind its end there is a 0 or a line end.
#[inline(always)]
pub fn start(head: &[u8; 16]) -> Start {
    let (first, second) = (word(head, 0), word(head, 4));
    // A target begins with a slash (origin form), a letter (absolute and authority form) or an asterisk: a byte above '!'.
    const GET: u32 = token(b"GET ");
    const PUT: u32 = token(b"PUT ");
    const POST: u32 = token(b"POST");
    const HEAD_: u32 = token(b"HEAD");
    const PATC: u32 = token(b"PATC");
    const DELE: u32 = token(b"DELE");
    const OPTI: u32 = token(b"OPTI");
    const CONN: u32 = token(b"CONN");
    const TRAC: u32 = token(b"TRAC");
    const HTTP: u32 = token(b"HTTP");
    const PRI: u32 = token(b"PRI ");
    let (method, target) = match first {
        GET => (Method::Get, 4),
        PUT => (Method::Put, 4),
        POST if second & 0xff == 0x20 => (Method::Post, 5),
        HEAD_ if second & 0xff == 0x20 => (Method::Head, 5),
        PATC if second & 0xffff == token(b"H \0\0") => (Method::Patch, 6),
        TRAC if second & 0xffff == token(b"E \0\0") => (Method::Trace, 6),
        DELE if second & 0xff_ffff == token(b"TE \0") => (Method::Delete, 7),
        OPTI if second == token(b"ONS ") => (Method::Options, 8),
        CONN if second == token(b"ECT ") => (Method::Connect, 8),
        HTTP if second & 0xff_ffff == token(b"/1.\0") => return Start::Response,
        PRI if second == token(b"* HT") => return Start::Http2,
        // Handshake (22), version 3.x.
        _ if first & 0xffff == 0x0316 => return Start::Tls,
        _ => return Start::Other,
    };
    // A short first segment may end here: its target is then unknown, but it is a request.
    if head[target] > b'!' || head[target] == 0 || head[target] == b'\n' {
        Start::Request(method, target)
    } else {
        Start::Other
    }
}

/// Whether bytes, fewer than eight and in the order of memory, are the beginning of a method and its space.
#[inline(always)]
pub fn may_begin(bytes: u64, len: u32) -> bool {
    const METHODS: [u64; 9] = [
        u64::from_le_bytes(*b"GET \0\0\0\0"),
        u64::from_le_bytes(*b"PUT \0\0\0\0"),
        u64::from_le_bytes(*b"POST \0\0\0"),
        u64::from_le_bytes(*b"HEAD \0\0\0"),
        u64::from_le_bytes(*b"PATCH \0\0"),
        u64::from_le_bytes(*b"TRACE \0\0"),
        u64::from_le_bytes(*b"DELETE \0"),
        u64::from_le_bytes(*b"OPTIONS "),
        u64::from_le_bytes(*b"CONNECT "),
    ];
    if len == 0 || len > 7 {
        return false;
    }
    let kept = (1 << (8 * (len & 7))) - 1;
    let mut i = 0;
    while i < METHODS.len() {
        if METHODS[i] & kept == bytes & kept {
            return true;
        }
        i += 1;
    }
    false
}

/// Where a method ends that [`start`] does not know: at its space, or at a line end, which may be that of the segment.
/// [`METHOD`] if it is none.
#[inline(always)]
pub fn method_end(byte: impl Fn(usize) -> u8) -> usize {
    let mut i = 0;
    while i < METHOD {
        let byte = byte(i);
        if (byte == b' ' && i > 2) || byte == b'\n' {
            return i;
        }
        if !(byte.is_ascii_uppercase() || byte == b'-' || byte == b'_') {
            return METHOD;
        }
        i += 1;
    }
    METHOD
}

/// The status of a response head `HTTP/1.x SSS`, 100 to 599 (RFC 9110, 15); 0 if it is none.
#[inline(always)]
pub fn status(head: &[u8; 16]) -> u16 {
    let first = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let second = u32::from_le_bytes([head[4], head[5], head[6], 0]);
    if first != token(b"HTTP") || second != token(b"/1.\0") || head[8] != b' ' {
        return 0;
    }
    let digit = |byte: u8| u32::from(byte.wrapping_sub(b'0'));
    let (a, b, c) = (digit(head[9]), digit(head[10]), digit(head[11]));
    if a.wrapping_sub(1) > 4 || b > 9 || c > 9 {
        return 0;
    }
    (a * 100 + b * 10 + c) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &[u8]) -> [u8; 16] {
        let mut head = [0; 16];
        let n = text.len().min(16);
        head[..n].copy_from_slice(&text[..n]);
        head
    }

    fn short(text: &str) -> [u8; 16] {
        head(text.as_bytes())
    }

    #[test]
    fn knows_every_method() {
        for method in Method::ALL.into_iter().filter(|method| *method != Method::Other) {
            let line = format!("{} /x HTTP/1.1\r\n", method.as_str());
            assert_eq!(start(&head(line.as_bytes())), Start::Request(method, method.as_str().len() + 1));
        }
    }

    #[test]
    fn tells_protocols_apart() {
        assert_eq!(start(&head(b"HTTP/1.1 200 OK\r\n")), Start::Response);
        assert_eq!(start(&head(b"HTTP/2 200\r\n")), Start::Other);
        assert_eq!(start(&head(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")), Start::Http2);
        assert_eq!(start(&head(&[22, 3, 1, 2, 0, 1])), Start::Tls);
        for text in
            ["GETX /", "GET", "get / HTTP/1.1", "POSTAL /", "DELETED /", "", "SSH-2.0-OpenSSH", "GET  /"]
        {
            assert_eq!(start(&head(text.as_bytes())), Start::Other, "{text}");
        }
        assert_eq!(start(&head(b"OPTIONS * HTTP/1.1")), Start::Request(Method::Options, 8));
        assert_eq!(start(&head(b"CONNECT a:1 HTTP/1.1")), Start::Request(Method::Connect, 8));
    }

    #[test]
    fn knows_the_beginning_of_a_method() {
        let may = |text: &str| {
            let mut bytes = [0; 8];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            may_begin(u64::from_le_bytes(bytes), text.len() as u32)
        };
        assert!(["G", "GET", "P", "PAT", "CONNECT", "DELETE ", "OPTIONS"].into_iter().all(may));
        assert!(!["", "X", "GEX", "PING", "get", "DELETED"].into_iter().any(may));
    }

    #[test]
    fn finds_the_end_of_a_method_that_it_does_not_know() {
        let end = |line: &'static [u8]| method_end(|i| line.get(i).copied().unwrap_or(b'\n'));
        assert_eq!(end(b"PROPFIND / HTTP/1.1"), 8);
        assert_eq!(end(b"M-SEARCH * HTTP/1.1"), 8);
        assert_eq!(end(b"PROP"), 4, "it may go on");
        assert_eq!(end(b"propfind /"), METHOD);
        assert_eq!(end(b"A / HTTP/1.1"), METHOD);
        assert_eq!(end(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ /"), METHOD);
    }

    #[test]
    fn reads_a_status() {
        assert_eq!(status(&short("HTTP/1.1 200 OK\r\n")), 200);
        assert_eq!(status(&short("HTTP/1.0 404 Not")), 404);
        assert_eq!(status(&short("HTTP/1.1 599")), 599);
        for text in [
            "HTTP/1.1 600 X",
            "HTTP/1.1 099 X",
            "HTTP/1.1 2x0 X",
            "HTTP/1.1  200",
            "HTTP/2 200",
            "",
            "GET / HTTP/1.1",
        ] {
            assert_eq!(status(&short(text)), 0, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            _ = start(&head(&bytes));
            _ = status(&head(&bytes));
        }

        #[test]
        fn every_status_is_read(code in 100u16..600) {
            prop_assert_eq!(status(&short(&format!("HTTP/1.1 {code} X"))), code);
        }
    }
}
