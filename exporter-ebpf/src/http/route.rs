//! The route of a request: its target with whatever looks like data replaced, so that a service has few routes.
//!
//! Pure, and compiled for both sides: the kernel hashes the route while it scans the request line, user space makes the text
//! of the same route from the same bytes. A byte costs a look-up, an addition and a multiplication. The rules:
//!
//! * The route ends before the query: at `?`, `#`, a space or a line end. The scheme and the host of an absolute target
//!   (`http://host/path`) are cut, `*` is itself, any other target without a leading slash (`CONNECT host:port`) is
//!   `{authority}`.
//! * Empty segments count for nothing, so `//users/` is `/users`. What follows the eighth segment is `/{rest}`.
//! * A segment that looks like data is `{id}`: one with four digits, an escape, a parameter or a byte that is not printable,
//!   and one that is too long for what it consists of (see `limit`). So is one that is cut off: few words are, most tokens.
//!
//! To normalise a route again changes nothing, and no text needs escaping as a label. Segments of 8 KiB, which is more than
//! servers take, may be misjudged.

mod sink;
#[cfg(test)]
mod tests;

use sink::Kept;
pub use sink::{Hash, Sink, Text, Token};

/// How many segments are told apart.
pub const MAX_SEGMENTS: u64 = 8;
/// The most bytes that a route can have.
pub const MAX_TEXT: usize = MAX_SEGMENTS as usize * (1 + NAME as usize) + Token::Rest.text().len();

/// The most bytes of a word of an interface.
const WORD: u8 = 32;
/// The most bytes of a name such as `opentelemetry.proto.collector.metrics.v1.MetricsService`, which has 54.
const NAME: u8 = 63;

// What a byte adds to the sum of a route: one to the number of its kind, one to that of all bytes. At 64 bytes the numbers of
// kinds overflow into others, but then that of all bytes, which is in the uppermost 13 bits, decides alone.
/// Of a byte that ends a segment.
const STEP: u64 = 1;
const DIGIT: u64 = 1 << 4;
const LOWER: u64 = 1 << 10;
const UPPER: u64 = 1 << 17;
const DOT: u64 = 1 << 24;
const HYPHEN: u64 = 1 << 31;
const NO_HEX: u64 = 1 << 38;
/// No part of a word: escapes, parameters, quotes, whatever is not printable.
const SPECIAL: u64 = 1 << 45;
const BYTE: u64 = 1 << 51;
/// Like no sum of others.
const ASTERISK: u64 = BYTE | SPECIAL | DOT | HYPHEN;
/// Tells the bytes that end a segment from others.
const BOUNDARY: u64 = 1 << 63;

/// What each byte adds. BPF has no instruction that turns a comparison into a number, so range checks would be branches,
/// mispredicted on data.
static KINDS: [u64; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            b'/' | b'?' | b'#' | b' ' | b'\r' | b'\n' => BOUNDARY | STEP,
            b'0'..=b'9' => BYTE | DIGIT,
            b'a'..=b'f' => BYTE | LOWER,
            b'g'..=b'z' => BYTE | LOWER | NO_HEX,
            b'A'..=b'F' => BYTE | UPPER,
            b'G'..=b'Z' => BYTE | UPPER | NO_HEX,
            b'.' => BYTE | DOT | NO_HEX,
            b'-' | b'~' | b'$' => BYTE | HYPHEN | NO_HEX,
            b'_' => BYTE | NO_HEX,
            b'*' => ASTERISK,
            _ => BYTE | SPECIAL,
        };
        byte += 1;
    }
    kinds
};

/// Whether a byte ends a segment.
#[inline(always)]
pub(super) fn is_boundary(byte: u8) -> bool {
    KINDS[byte as usize] >= BOUNDARY
}

/// [`limit`] of each key.
static LIMITS: [u8; 128] = {
    let mut limits = [0; 128];
    let mut key = 0;
    while key < 128 {
        limits[key] = limit(key);
        key += 1;
    }
    limits
};

/// From which length on a segment is data: `key` has the number of its digits, at most 3, in two bits, then a bit for each kind
/// from `LOWER` to `NO_HEX` of which it has a byte.
///
/// Words stay: `users`, `v2beta1`, `getUserById`, `sha256`, `1.0`. So do services of gRPC, which are long and have versions.
const fn limit(key: usize) -> u8 {
    let (digits, letters, mixed) = (key & 3, key & 12 != 0, key & 12 == 12);
    let (dot, hyphen, hex) = (key & 16 != 0, key & 32 != 0, key & 64 == 0);
    match digits {
        _ if mixed && dot && !hyphen => NAME + 1,
        0 => WORD + 1,
        _ if !letters => 1 + 3 * dot as u8,
        _ if hex => 8,
        1 if !mixed => WORD + 1,
        // Base64.
        1 => 16,
        _ => 10,
    }
}

/// What the bytes of a segment add up to.
#[derive(Clone, Copy)]
struct Segment(u64);

impl Segment {
    fn is_special(self) -> bool {
        self.0 & (63 * SPECIAL) != 0
    }

    /// Whether this is one of many of its kind rather than a word of the interface.
    #[inline(always)]
    fn is_data(self) -> bool {
        // Four digits, a special byte, or more bytes than any name has.
        if self.0 & ((60 * DIGIT) | (63 * SPECIAL) | !(64 * BYTE - 1)) != 0 {
            return true;
        }
        // Added to 63, the number of a kind has its seventh bit set if it is not 0. The product has these bits side by side
        // at its top.
        const ALL: u64 = LOWER | UPPER | DOT | HYPHEN | NO_HEX;
        const GATHER: u64 = 1 << 43 | 1 << 37 | 1 << 31 | 1 << 25 | 1 << 19;
        let kinds = ((self.0 + 63 * ALL) & (64 * ALL)).wrapping_mul(GATHER) >> 59;
        let digits = (self.0 / DIGIT) & 3;
        self.0 / BYTE >= LIMITS[(kinds << 2 | digits) as usize] as u64
    }
}

// Where in the target a segment is: how many steps there were.
/// The target may begin with a slash, be absolute, or be no path.
const START: u64 = 0;
/// After `scheme:/`.
const SCHEME: u64 = 1;
/// After `scheme://`.
const HOST: u64 = 2;
/// In the path: this plus the number of segments before.
const PATH: u64 = 3;
const LAST: u64 = PATH + MAX_SEGMENTS;

/// A route in the making.
pub struct Route<S> {
    sink: S,
    /// What the bytes so far add up to. The difference of two sums is a segment: a state, a counter or a reset of its own
    /// would be a constant by which the verifier tells the ways through the program apart, and they would be too many.
    sum: u64,
    /// The sum at the beginning of the segment.
    base: Kept,
}

impl<S: Sink> Route<S> {
    /// Begins with the first byte of a target.
    pub const fn new(sink: S) -> Self {
        Self::opaque(sink, 0)
    }

    /// Like [`Self::new`], with a 0 that the verifier does not know to be one: there is less that it can tell ways apart by.
    pub const fn opaque(sink: S, zero: u64) -> Self {
        Self { sink, sum: zero, base: Kept::new(zero) }
    }

    /// Takes the next byte of the target; `false` when the route has ended, after which there must be no more.
    #[inline(always)]
    #[must_use]
    pub fn push(&mut self, byte: u8) -> bool {
        let kind = KINDS[byte as usize];
        if kind >= BOUNDARY {
            return byte == b'/' && self.slash(kind);
        }
        self.sum = self.sum.wrapping_add(kind);
        self.sink.byte(byte);
        true
    }

    /// Where the current segment is, what it has, and whether it has nothing.
    #[inline(always)]
    fn current(&self) -> (u64, Segment, bool) {
        let base = self.base.get();
        (self.sum % 16, Segment(self.sum.wrapping_sub(base)), self.sum == base)
    }

    #[inline(always)]
    fn slash(&mut self, step: u64) -> bool {
        match self.current() {
            (PATH.., _, true) => return true,
            (LAST, ..) => return false,
            (PATH.., segment, _) if segment.is_data() => self.replace(Token::Id),
            (PATH.., ..) => (),
            // There is no scheme, nor a host.
            (START, _, true) => self.sum = self.sum.wrapping_add(PATH - SCHEME),
            // The colon is special.
            (START, segment, _) if segment.is_special() => self.sink.rollback(),
            (SCHEME, _, true) | (HOST, ..) => self.sink.rollback(),
            _ => return false,
        }
        self.sum = self.sum.wrapping_add(step);
        self.base.set(self.sum);
        self.sink.mark();
        self.sink.byte(b'/');
        true
    }

    /// Ends the route. `truncated`: the bytes ran out before the target ended.
    #[inline(always)]
    pub fn finish(mut self, truncated: bool) -> S {
        let (place, segment, empty) = self.current();
        match (place, empty) {
            (START, _) if segment.0 == ASTERISK && !truncated => (),
            (START, false) | (SCHEME, _) => self.replace(Token::Authority),
            (START | PATH, true) | (HOST, _) if !truncated => {
                self.sink.rollback();
                self.sink.byte(b'/');
            }
            (_, true) if !truncated => self.sink.rollback(),
            (LAST, _) => self.replace(Token::Rest),
            _ if truncated || segment.is_data() => self.replace(Token::Id),
            _ => (),
        }
        self.sink
    }

    fn replace(&mut self, token: Token) {
        self.sink.rollback();
        self.sink.token(token);
    }
}
