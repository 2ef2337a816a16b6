//! The states of an HTTP/1 message, and how a byte leads from one to the next.
//!
//! Of a head only three fields matter: `Content-Length`, `Transfer-Encoding` and `Expect`; the rest of any other line is skipped.

// Not read at all.
/// A message begins with the next byte.
pub const START: u8 = 0;
/// Where the message ends is not known.
pub const UNKNOWN: u8 = 1;
/// The message ends with the connection.
pub const CLOSE: u8 = 2;
/// The first line has begun, and what there is of it is kept.
pub const PARTIAL: u8 = 3;
// Crossed by arithmetic.
/// In a body of known length.
pub const BODY: u8 = 4;
/// In a chunk.
pub const DATA: u8 = 5;

/// From here on bytes are read.
pub const FIRST_BYTEWISE: u8 = 6;

// States in which the byte that led there does something.
/// Among the digits of a length.
pub const LENGTH: u8 = FIRST_ACTION;
/// Among the digits of a chunk's size.
pub const SIZE: u8 = 7;
/// The coding is `chunked`.
pub const CODING_CHUNKED: u8 = 8;
/// There is a field `Expect`.
pub const EXPECT: u8 = 9;
/// The line of a chunk's size has ended.
pub const SIZE_END: u8 = 10;
/// The head has ended.
pub const HEAD_END: u8 = 11;
/// The last chunk and its trailers have ended.
pub const MESSAGE_END: u8 = LAST_ACTION;
/// The first state of that kind.
pub const FIRST_ACTION: u8 = 6;
/// The last.
pub const LAST_ACTION: u8 = 12;

/// At the beginning of a line of a head.
pub const LINE: u8 = 13;
const LINE_CR: u8 = 14;
/// Between codings.
const CODING: u8 = 15;
const CODING_OTHER: u8 = 16;
/// At the beginning of the line of a chunk's size.
pub const SIZE_FIRST: u8 = 17;
/// Behind a chunk.
pub const DATA_CR: u8 = 18;
const DATA_LF: u8 = 19;
/// At the beginning of a line of trailers.
pub const TRAILER: u8 = 20;
const TRAILER_CR: u8 = 21;
/// Behind the first letters of a name, as many as are added to it.
const NAME_LENGTH: u8 = 22;
const NAME_CODING: u8 = NAME_LENGTH + CONTENT_LENGTH.len() as u8;
const NAME_EXPECT: u8 = NAME_CODING + TRANSFER_ENCODING.len() as u8;
const VALUE_CHUNKED: u8 = NAME_EXPECT + EXPECT_NAME.len() as u8;

/// In a line of which the rest does not matter.
pub const LINE_REST: u8 = LINE_REST_FIRST;
/// The same among trailers.
const TRAILER_REST: u8 = 125;
/// The same behind a chunk's size.
const EXTENSION: u8 = 126;
/// In the line that names the trace, whose value is not read here.
pub const TRACE: u8 = 127;
/// The first of these states.
pub const LINE_REST_FIRST: u8 = 124;

const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
const EXPECT_NAME: &[u8] = b"expect";
const CHUNKED_VALUE: &[u8] = b"chunked";

const _: () = assert!(VALUE_CHUNKED + (CHUNKED_VALUE.len() as u8) < LINE_REST_FIRST);

/// [`super::framing::Stream::flags`]: it is a response.
pub const RESPONSE: u8 = 1;
/// It has no body, whatever its fields say.
pub const NO_BODY: u8 = 2;
/// Its body is in chunks.
pub const CHUNKED: u8 = 4;
/// It says how long its body is.
pub const HAS_LENGTH: u8 = 8;
/// Its body may never come: the answer decides.
pub const EXPECTS: u8 = 16;

const STATES: usize = 128;
const CLASSES: usize = 32;
const LF: usize = 1;
const CR: usize = 2;
const BLANK: usize = 3;
const COLON: usize = 4;
const COMMA: usize = 5;
const SEMICOLON: usize = 6;
const DIGIT: usize = 7;
const FIRST_LETTER: usize = 8;
/// The bytes of names and values that matter, and the hexadecimal digits.
const LETTERS: &[u8] = b"abcdefghiklnoprstux-";

/// What each byte is.
static CLASS: [u8; 256] = {
    let mut classes = [0; 256];
    classes[b'\n' as usize] = LF as u8;
    classes[b'\r' as usize] = CR as u8;
    classes[b' ' as usize] = BLANK as u8;
    classes[b'\t' as usize] = BLANK as u8;
    classes[b':' as usize] = COLON as u8;
    classes[b',' as usize] = COMMA as u8;
    classes[b';' as usize] = SEMICOLON as u8;
    let mut digit = b'0';
    while digit <= b'9' {
        classes[digit as usize] = DIGIT as u8;
        digit += 1;
    }
    let mut i = 0;
    while i < LETTERS.len() {
        classes[LETTERS[i] as usize] = (FIRST_LETTER + i) as u8;
        classes[LETTERS[i].to_ascii_uppercase() as usize] = (FIRST_LETTER + i) as u8;
        i += 1;
    }
    classes
};
const _: () = assert!(FIRST_LETTER + LETTERS.len() <= CLASSES);

const fn class(letter: u8) -> usize {
    let mut i = 0;
    while LETTERS[i] != letter {
        i += 1;
    }
    FIRST_LETTER + i
}

/// By state and class of the byte.
static NEXT: [u8; STATES * CLASSES] = {
    let mut table = Table([UNKNOWN; STATES * CLASSES]);
    table.line(LINE_REST, LINE_REST, LINE);
    table.line(TRACE, LINE_REST, LINE);
    table.line(EXPECT, LINE_REST, LINE);
    table.line(LINE, LINE_REST, HEAD_END);
    table.on(LINE, CR, LINE_CR);
    table.line(LINE_CR, LINE_REST, HEAD_END);
    table.name(LINE, NAME_LENGTH, CONTENT_LENGTH, LENGTH);
    table.name(LINE, NAME_CODING, TRANSFER_ENCODING, CODING);
    table.name(LINE, NAME_EXPECT, EXPECT_NAME, EXPECT);
    table.line(LENGTH, LINE_REST, LINE);
    table.on(LENGTH, BLANK, LENGTH);
    table.on(LENGTH, DIGIT, LENGTH);
    let mut coding = 0;
    while coding < 3 + CHUNKED_VALUE.len() {
        let state = match coding {
            0 => CODING,
            1 => CODING_OTHER,
            2 => CODING_CHUNKED,
            _ => VALUE_CHUNKED + (coding - 3) as u8,
        };
        table.line(state, CODING_OTHER, LINE);
        table.on(state, BLANK, CODING);
        table.on(state, COMMA, CODING);
        coding += 1;
    }
    let mut at = 0;
    while at < CHUNKED_VALUE.len() {
        let state = if at == 0 { CODING } else { VALUE_CHUNKED + at as u8 };
        let next = if at + 1 == CHUNKED_VALUE.len() { CODING_CHUNKED } else { VALUE_CHUNKED + at as u8 + 1 };
        table.on(state, class(CHUNKED_VALUE[at]), next);
        at += 1;
    }
    table.hex(SIZE_FIRST);
    table.on(SIZE_FIRST, BLANK, SIZE_FIRST);
    table.hex(SIZE);
    table.on(SIZE, LF, SIZE_END);
    table.on(SIZE, CR, EXTENSION);
    table.on(SIZE, BLANK, EXTENSION);
    table.on(SIZE, SEMICOLON, EXTENSION);
    table.line(EXTENSION, EXTENSION, SIZE_END);
    table.on(DATA_CR, CR, DATA_LF);
    table.on(DATA_CR, LF, SIZE_FIRST);
    table.on(DATA_LF, LF, SIZE_FIRST);
    table.line(TRAILER, TRAILER_REST, MESSAGE_END);
    table.on(TRAILER, CR, TRAILER_CR);
    table.line(TRAILER_CR, TRAILER_REST, MESSAGE_END);
    table.line(TRAILER_REST, TRAILER_REST, TRAILER);
    table.0
};

/// [`NEXT`] in the making.
struct Table([u8; STATES * CLASSES]);

impl Table {
    const fn on(&mut self, state: u8, class: usize, next: u8) {
        self.0[state as usize * CLASSES + class] = next;
    }

    /// A line end leads to `end`, anything else to `rest`.
    const fn line(&mut self, state: u8, rest: u8, end: u8) {
        let mut class = 0;
        while class < CLASSES {
            self.on(state, class, if class == LF { end } else { rest });
            class += 1;
        }
    }

    /// From `state`, these letters lead through `first + n` to the colon, and it to `value`.
    const fn name(&mut self, state: u8, first: u8, name: &[u8], value: u8) {
        let mut at = 0;
        while at < name.len() {
            let from = if at == 0 { state } else { first + at as u8 - 1 };
            let to = first + at as u8;
            self.line(to, LINE_REST, LINE);
            self.on(from, class(name[at]), to);
            at += 1;
        }
        self.on(first + name.len() as u8 - 1, COLON, value);
    }

    const fn hex(&mut self, state: u8) {
        self.on(state, DIGIT, SIZE);
        let mut letter = b'a';
        while letter <= b'f' {
            self.on(state, class(letter), SIZE);
            letter += 1;
        }
    }
}

/// Where a byte leads.
#[inline(always)]
pub fn next(state: u8, byte: u8) -> u8 {
    let at = (state as usize % STATES) * CLASSES + CLASS[byte as usize] as usize % CLASSES;
    NEXT[at]
}
