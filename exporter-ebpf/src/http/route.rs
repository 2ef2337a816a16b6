//! The route of a request: its target with whatever looks like data replaced, so that a service has few routes.
//!
//! Pure, and compiled for both sides: the kernel hashes the route while it scans the request line, user space makes the text
//! of the same route from the same bytes. A byte costs a table look-up, an addition and a multiplication; only a slash costs
//! more. The rules:
//!
//! * The route ends before the query: at `?`, `#`, a space or a line end. The scheme and the host of an absolute target
//!   (`http://host/path`) are cut, `*` is itself, and any other target without a leading slash (`CONNECT host:port`) is
//!   `{authority}`.
//! * Empty segments count for nothing, so `//users/` is `/users`. What follows the eighth segment is `/{rest}`.
//! * A segment that looks like data is `{id}`: see [`Segment::is_data`]. So is one that is cut off, since most segments that
//!   run out of the window are tokens.
//!
//! To normalise a route again changes nothing, and no text needs escaping as a label.

/// How many segments are told apart.
pub const MAX_SEGMENTS: u64 = 8;

/// The most bytes that a route can have.
pub const MAX_TEXT: usize = MAX_SEGMENTS as usize * (1 + LONGEST_NAME as usize) + Token::Rest.text().len();

/// The most bytes of a segment that is no dotted name.
const LONGEST_WORD: u8 = 32;
/// The most bytes of a dotted name: `opentelemetry.proto.collector.metrics.v1.MetricsService` has 54.
const LONGEST_NAME: u64 = 63;

/// A constant part of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The path without segments.
    Root,
    /// A segment that looks like data.
    Id,
    /// What follows the last segment that is told apart.
    Rest,
    /// A target that is no path.
    Authority,
}

impl Token {
    /// As it is in the text of a route.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Root => "/",
            Self::Id => "/{id}",
            Self::Rest => "/{rest}",
            Self::Authority => "{authority}",
        }
    }
}

/// Where the route goes: a hash in the kernel, text in user space.
pub trait Sink {
    /// Appends a byte.
    fn byte(&mut self, byte: u8);
    /// Appends a constant.
    fn token(&mut self, token: Token);
    /// Remembers this point.
    fn mark(&mut self);
    /// Drops what came after the point remembered last, or everything.
    fn rollback(&mut self);
}

// What a byte adds to the sum of a route. A kind of byte has at least 6 bits; from 64 bytes on they overflow into each other,
// but then the number of all bytes, which has the uppermost 13 bits, decides alone.
/// One of what ends a segment. There are few: 4 bits.
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
/// Marks what ends a segment.
const BOUNDARY: u64 = 1 << 63;

/// What each byte adds to its segment. BPF has no instruction that turns a comparison into a number: range checks would be
/// branches, mispredicted on data.
static KINDS: [u64; 256] = kinds();

const fn kinds() -> [u64; 256] {
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
}

/// The least length from which a segment without special bytes and with at most 3 digits is data: by its digits, and by
/// whether it has bytes of the kinds from `LOWER` to `NO_HEX`, in this order from the third bit on.
static LIMITS: [u8; 128] = limits();

const fn limits() -> [u8; 128] {
    let mut limits = [0; 128];
    let mut key = 0;
    while key < 128 {
        let (digits, lower, upper) = (key & 3, key & 4 != 0, key & 8 != 0);
        let (dot, hyphen, no_hex) = (key & 16 != 0, key & 32 != 0, key & 64 != 0);
        limits[key] = if !lower && !upper && !no_hex {
            // A number.
            1
        } else if lower && upper && dot && !hyphen {
            // A service of gRPC is long and often has a version.
            LONGEST_NAME as u8 + 1
        } else if digits > 0 && !no_hex {
            8
        } else if digits > 1 {
            10
        } else if digits > 0 && lower && upper {
            // Base64.
            16
        } else {
            LONGEST_WORD + 1
        };
        key += 1;
    }
    limits
}

/// What the bytes of a segment add up to.
#[derive(Clone, Copy)]
struct Segment(u64);

impl Segment {
    #[inline(always)]
    fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    fn is_special(self) -> bool {
        self.0 & 63 * SPECIAL != 0
    }

    /// Whether this is one of many of its kind (a number, UUID, hash, token, file name, date, escaped or with parameters)
    /// rather than a word of the interface, such as `users`, `v2beta1`, `getUserById`, `sha256` or `pkg.v1beta1.Service`.
    #[inline(always)]
    fn is_data(self) -> bool {
        // A special byte, four digits, or more bytes than any name has.
        if self.0 & (63 * SPECIAL | 60 * DIGIT | !(64 * BYTE - 1)) != 0 {
            return true;
        }
        const KINDS: u64 = LOWER | UPPER | DOT | HYPHEN | NO_HEX;
        // The seventh bit of a kind is 1 if there is a byte of it; the product has these bits side by side at its top.
        let present = (self.0 + 63 * KINDS) & 64 * KINDS;
        let key = present.wrapping_mul(1 << 43 | 1 << 37 | 1 << 31 | 1 << 25 | 1 << 19) >> 59 << 2
            | self.0 / DIGIT & 3;
        self.0 / BYTE >= LIMITS[key as usize] as u64
    }
}

// Where in the target a segment is, as the number of steps in the sum.
/// Nothing is known: the target may begin with a slash, be absolute, or be no path.
const START: u64 = 0;
/// After `scheme:/`.
const SCHEME: u64 = 1;
/// After `scheme://`.
const HOST: u64 = 2;
/// In the path; plus the number of segments before this one.
const PATH: u64 = 3;
const LAST: u64 = PATH + MAX_SEGMENTS;

/// A route in the making.
pub struct Route<S> {
    sink: S,
    /// What all bytes so far add up to. A segment is a difference of two sums: a state, a counter or a reset of its own would
    /// be a constant by which the verifier tells paths through the program apart, and there would be too many of them.
    sum: u64,
    /// The sum at the beginning of the segment.
    base: u64,
}

impl<S: Sink> Route<S> {
    /// Begins with the first byte of a target.
    #[inline(always)]
    pub const fn new(sink: S) -> Self {
        Self::opaque(sink, 0)
    }

    /// Like [`Self::new`]; `zero` is 0, but the verifier must not know: it would tell paths apart by what it knows.
    #[inline(always)]
    pub const fn opaque(sink: S, zero: u64) -> Self {
        Self { sink, sum: zero, base: zero }
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

    #[inline(always)]
    fn segment(&self) -> Segment {
        Segment(self.sum.wrapping_sub(self.base))
    }

    #[inline(always)]
    fn place(&self) -> u64 {
        self.sum % 16
    }

    #[inline(always)]
    fn slash(&mut self, step: u64) -> bool {
        let segment = self.segment();
        let empty = segment.is_empty();
        let place = self.place();
        if place >= PATH {
            if empty {
                return true;
            }
            if place == LAST {
                return false;
            }
            if segment.is_data() {
                self.replace(Token::Id);
            }
        } else {
            match place {
                START if empty => self.sum = self.sum.wrapping_add(PATH - SCHEME),
                START if segment.is_special() => (),
                SCHEME if empty => (),
                HOST => (),
                _ => return false,
            }
            self.sink.rollback();
        }
        self.sum = self.sum.wrapping_add(step);
        self.base = self.sum;
        self.sink.mark();
        self.sink.byte(b'/');
        true
    }

    /// Ends the route. `truncated`: the bytes ran out before the target ended.
    #[inline(always)]
    pub fn finish(mut self, truncated: bool) -> S {
        let segment = self.segment();
        let empty = segment.is_empty();
        match self.place() {
            START if segment.0 == ASTERISK => (),
            START if !empty => self.replace(Token::Authority),
            SCHEME => self.replace(Token::Authority),
            HOST if !truncated => self.replace(Token::Root),
            START | PATH if empty && !truncated => self.replace(Token::Root),
            _ if empty && !truncated => self.sink.rollback(),
            LAST => self.replace(Token::Rest),
            _ if truncated || segment.is_data() => self.replace(Token::Id),
            _ => (),
        }
        self.sink
    }

    #[inline(always)]
    fn replace(&mut self, token: Token) {
        self.sink.rollback();
        self.sink.token(token);
    }
}

/// A hash of the route. Which routes collide is no secret, but to make two collide harms only the service that serves them.
pub struct Hash {
    state: u64,
    mark: u64,
}

impl Hash {
    /// Of nothing.
    #[inline(always)]
    #[expect(clippy::new_without_default, reason = "a hash of nothing is no default of anything")]
    pub const fn new() -> Self {
        Self::opaque(0)
    }

    /// Like [`Self::new`]; see [`Route::opaque`].
    #[inline(always)]
    pub const fn opaque(zero: u64) -> Self {
        let state = Self::FACTOR ^ zero;
        Self { state, mark: state }
    }

    /// Odd, with bits all over: 2^64 divided by the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The hash; never 0, which stands for all routes that have no series of their own.
    #[inline(always)]
    pub const fn value(&self) -> u64 {
        // A product's upper bits depend on all bits below them, its lower bits on few.
        let value = (self.state ^ self.state >> 32).wrapping_mul(Self::FACTOR);
        value ^ value >> 32 | 1
    }

    #[inline(always)]
    const fn mix(&mut self, symbol: u64) {
        self.state = (self.state ^ symbol).wrapping_mul(Self::FACTOR);
    }
}

impl Sink for Hash {
    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.mix(byte as u64);
    }

    /// One symbol beyond those of the bytes, whatever the length of its text.
    #[inline(always)]
    fn token(&mut self, token: Token) {
        self.mix(0x100 + token as u64);
    }

    #[inline(always)]
    fn mark(&mut self) {
        self.mark = self.state;
    }

    #[inline(always)]
    fn rollback(&mut self) {
        self.state = self.mark;
    }
}

/// The text of the route.
pub struct Text {
    bytes: [u8; MAX_TEXT],
    length: usize,
    mark: usize,
}

impl Text {
    /// Nothing.
    #[expect(clippy::new_without_default, reason = "as that of the hash")]
    pub const fn new() -> Self {
        Self { bytes: [0; MAX_TEXT], length: 0, mark: 0 }
    }

    /// The text: printable ASCII without quotes and backslashes.
    pub fn as_str(&self) -> &str {
        // What a segment holds beyond a route's greatest length was dropped, and the segment with it.
        self.bytes.get(..self.length).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl Sink for Text {
    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn token(&mut self, token: Token) {
        token.text().bytes().for_each(|byte| self.byte(byte));
    }

    fn mark(&mut self) {
        self.mark = self.length;
    }

    fn rollback(&mut self) {
        self.length = self.mark;
    }
}

#[cfg(test)]
mod tests;
