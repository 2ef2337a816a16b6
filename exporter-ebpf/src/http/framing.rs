//! Where an HTTP/1 message ends (RFC 9112, 6): heads, bodies of a known length, chunks and trailers.
//!
//! Pure, and compiled for both sides. A [`Stream`] is one direction of a connection; it takes bytes as they come, cut
//! anywhere. A byte costs one look-up in a table; lines that say nothing of the length are crossed 32 bytes at a time, and
//! bodies by arithmetic, without a look at them.
//!
//! The kernel's verifier follows a loop by what it knows of each variable. Here it knows nothing, since all of them are in
//! memory and are read anew in every step: each step is verified once, rather than once for every way that led to it.

use super::{
    line::{Reached, WORD, line_rest, lines, name},
    table::{
        self, BODY, CHUNKED, CLOSE, CODING_CHUNKED, DATA, DATA_CR, EXPECT, EXPECTS, FIRST_ACTION,
        FIRST_BYTEWISE, HAS_LENGTH, HEAD_END, LAST_ACTION, LENGTH, LINE, LINE_REST, LINE_REST_FIRST,
        MESSAGE_END, NO_BODY, RESPONSE, SIZE, SIZE_END, START, TRACE, TRAILER, UNKNOWN,
    },
};

/// How many bytes are looked at together.
pub const WINDOW: usize = 128;
/// How many steps are taken together.
const STEPS: u32 = 12;

/// One direction of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// The sequence number of the byte that is expected next.
    pub next: u32,
    /// Where in a message that is: a state of [`table`].
    pub state: u8,
    /// What the head said: flags of [`table`].
    pub flags: u8,
    /// Where in the payload the digits of the length begin.
    pub length_at: u16,
    /// How many bytes of the body, or of the chunk, are to come.
    pub left: u64,
    /// How many bytes of the body there were, without the framing of chunks.
    pub body: u64,
}

impl Stream {
    /// Before its first message.
    pub const NEW: Self = Self { next: 0, state: START, flags: 0, length_at: 0, left: 0, body: 0 };
}

/// What of a segment's payload is being looked at.
#[repr(C)]
pub struct Cursor {
    /// Where in the payload the next byte to read is. Of bytes kept from the segments before it is negative, wrapped.
    pub at: u32,
    /// How long the payload is.
    pub end: u32,
    /// Where in the payload the window begins.
    pub base: u32,
    /// How many bytes of it are filled.
    pub filled: u32,
    /// Where the payload begins in the packet.
    pub offset: u32,
    /// Behind which byte of the payload a line `traceparent` begins; 0 if none was found.
    pub trace_at: u32,
    /// Keeps the size explicit.
    pub spare: u32,
    /// The sequence number that the other direction goes on with.
    pub ack: u32,
    /// Now, ns; 0 before it was asked for.
    pub now: u64,
    /// When the request line in the window began, ns.
    pub began: u64,
    /// The hash of its route.
    pub route: u64,
    /// Whether the packet arrived.
    pub ingress: u16,
    /// Whether the socket is shared by connections: a listener's.
    pub shared: u16,
    /// Where in the window the route ended.
    pub route_end: u16,
    /// The method.
    pub method: u16,
    /// Where in the window the target begins. From here on it is a [`super::RouteLine`].
    pub target: u32,
    /// Keeps the size explicit.
    pub reserved: u32,
    /// The bytes, and a line end behind them.
    pub window: [u8; WINDOW + 8],
}

impl Cursor {
    /// At the beginning of a payload of that many bytes.
    pub const fn new(end: u32) -> Self {
        Self {
            at: 0,
            end,
            base: 0,
            filled: 0,
            offset: 0,
            trace_at: 0,
            spare: 0,
            ack: 0,
            now: 0,
            began: 0,
            route: 0,
            ingress: 0,
            shared: 0,
            route_end: 0,
            method: 0,
            target: 0,
            reserved: 0,
            window: [0; WINDOW + 8],
        }
    }
}

/// Where bytes come from: a packet, or a slice.
pub trait Source {
    /// Copies `len` bytes, 1 to [`WINDOW`], that begin `at` bytes into the payload; `false` if they are not to be had.
    ///
    /// # Safety
    /// `to` has room for them.
    unsafe fn load(&self, at: u32, to: *mut u8, len: u32) -> bool;
}

/// Reads what must not be in a register, so that the verifier knows nothing of it.
///
/// # Safety
/// `place` is a valid place.
#[inline(always)]
pub(super) unsafe fn get<T: Copy>(place: *const T) -> T {
    // SAFETY: the caller's.
    unsafe { place.read_volatile() }
}

/// The counterpart of [`get`].
///
/// # Safety
/// `place` is a valid place.
#[inline(always)]
pub(super) unsafe fn set<T>(place: *mut T, value: T) {
    // SAFETY: the caller's.
    unsafe { place.write_volatile(value) };
}

/// Keeps LLVM from proving away a check that the verifier needs, and from making it one of 32 bits.
#[inline(always)]
pub(super) fn opaque(value: u32) -> u64 {
    hide(u64::from(value))
}

/// Keeps LLVM from checking a number by another one that goes with it: the verifier of 6.1 learns nothing from that, the one of 6.12 does.
#[inline(always)]
pub(super) fn hide(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: nothing at all.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// A length of 1 to `most`, cut if need be; `len` is not 0. Verifiers before 6.8 learn nothing of a comparison with 0: here the least
/// is 1 by construction.
#[inline(always)]
pub(super) fn at_most(len: u32, most: u32) -> u64 {
    let most = u64::from(most - 1);
    let last = opaque(len.wrapping_sub(1));
    (if last > most { most } else { last }) + 1
}

/// Fills the window from where the cursor is; `false` if the bytes are not to be had.
///
/// # Safety
/// `cursor` is valid, and not at its end.
#[inline(always)]
pub(super) unsafe fn fill(source: &impl Source, cursor: *mut Cursor) -> bool {
    // SAFETY: the caller's; at most WINDOW bytes are loaded.
    unsafe {
        let at = get(&raw const (*cursor).at);
        let rest = get(&raw const (*cursor).end).wrapping_sub(at);
        let len = at_most(rest, WINDOW as u32);
        if rest == 0 || !source.load(at, (&raw mut (*cursor).window).cast(), len as u32) {
            return false;
        }
        set(&raw mut (*cursor).base, at);
        set(&raw mut (*cursor).filled, len as u32);
        set((&raw mut (*cursor).window).cast::<u8>().add(len as usize), b'\n');
    }
    true
}

/// Reads on in a message whose first line has begun, up to its end, to the end of the payload, or to where the framing is lost
/// or without end, which `stream.state` tells. For a few steps; whether there are more to take.
///
/// # Safety
/// Both are valid.
#[inline(always)]
pub unsafe fn scan(source: &impl Source, cursor: *mut Cursor, stream: *mut Stream) -> bool {
    let mut step = 0;
    // SAFETY: the caller's.
    unsafe {
        while step < STEPS {
            if !advance(source, cursor, stream) {
                return false;
            }
            step += 1;
        }
        let is_over = get(&raw const (*cursor).at) == get(&raw const (*cursor).end);
        get(&raw const (*stream).state) >= BODY && !is_over
    }
}

/// One step; whether there may be another.
#[inline(always)]
unsafe fn advance(source: &impl Source, cursor: *mut Cursor, stream: *mut Stream) -> bool {
    // SAFETY: the caller's; the window's places are checked.
    unsafe {
        let state = get(&raw const (*stream).state);
        let at = get(&raw const (*cursor).at);
        let rest = get(&raw const (*cursor).end).wrapping_sub(at);
        if state < BODY || rest == 0 {
            return false;
        }
        if state < FIRST_BYTEWISE {
            skip(cursor, stream, state, at, rest);
            return true;
        }
        let filled = get(&raw const (*cursor).filled);
        let place = at.wrapping_sub(get(&raw const (*cursor).base));
        let ahead = filled.wrapping_sub(place);
        // The beginning of a line is looked at with what follows it.
        if place >= filled || (ahead < WORD && ahead < rest) {
            if fill(source, cursor) {
                return true;
            }
            set(&raw mut (*stream).state, UNKNOWN);
            return false;
        }
        let window = (&raw const (*cursor).window).cast::<u8>();
        let mut crossed = 0;
        let mut state = state;
        if state == LINE && ahead >= WORD {
            (state, crossed) = name(window, opaque(place), ahead);
            if state == TRACE {
                set(&raw mut (*cursor).trace_at, at.wrapping_add(1));
            }
        }
        if state == LINE_REST {
            let (reached, crossed) =
                lines(window, opaque(place), filled, u64::from(get(&raw const (*cursor).spare)));
            set(&raw mut (*cursor).at, at.wrapping_add(crossed));
            match reached {
                Reached::Rest => set(&raw mut (*stream).state, LINE_REST),
                Reached::Line => set(&raw mut (*stream).state, LINE),
                Reached::End => act(stream, HEAD_END, b'\n', at),
            }
            return true;
        }
        if state >= LINE_REST_FIRST {
            crossed = line_rest(window, opaque(place));
        }
        if crossed != 0 {
            set(&raw mut (*stream).state, state);
            set(&raw mut (*cursor).at, at.wrapping_add(if crossed < ahead { crossed } else { ahead }));
            if crossed >= ahead || state < LINE_REST_FIRST {
                return true;
            }
        }
        let place = opaque(place.wrapping_add(crossed));
        if place >= WINDOW as u64 {
            return false;
        }
        let byte = get(window.add(place as usize));
        let at = at.wrapping_add(crossed);
        set(&raw mut (*cursor).at, at.wrapping_add(1));
        let next = table::next(state, byte);
        set(&raw mut (*stream).state, next);
        if (FIRST_ACTION..=LAST_ACTION).contains(&next) {
            act(stream, next, byte, at);
        }
    }
    true
}

/// Crosses what there is of a body or of a chunk.
#[inline(always)]
unsafe fn skip(cursor: *mut Cursor, stream: *mut Stream, state: u8, at: u32, rest: u32) {
    // SAFETY: the caller's.
    unsafe {
        let left = get(&raw const (*stream).left);
        let jump = if left < u64::from(rest) { left as u32 } else { rest };
        set(&raw mut (*cursor).at, at.wrapping_add(jump));
        pass(stream, state, left, u64::from(jump));
    }
}

/// Lets bytes of a body or of a chunk pass, of which `left` are to come: at most these.
///
/// # Safety
/// `stream` is valid, in `state`, which is `BODY` or `DATA`.
#[inline(always)]
pub(super) unsafe fn pass(stream: *mut Stream, state: u8, left: u64, count: u64) {
    // SAFETY: the caller's.
    unsafe {
        set(&raw mut (*stream).left, left - count);
        set(&raw mut (*stream).body, get(&raw const (*stream).body) + count);
        if left == count {
            set(&raw mut (*stream).state, if state == DATA { DATA_CR } else { START });
        }
    }
}

/// What a byte does beside leading from one state to the next.
#[inline(always)]
unsafe fn act(stream: *mut Stream, next: u8, byte: u8, at: u32) {
    // SAFETY: the caller's.
    unsafe {
        let left = get(&raw const (*stream).left);
        let flags = get(&raw const (*stream).flags);
        match next {
            // The blanks before the number are no digits.
            LENGTH if byte.wrapping_sub(b'0') < 10 => {
                let digit = u64::from(byte & 15);
                if flags & HAS_LENGTH == 0 {
                    set(&raw mut (*stream).length_at, at as u16);
                }
                set(&raw mut (*stream).left, left.wrapping_mul(10).wrapping_add(digit));
                set(&raw mut (*stream).flags, flags | HAS_LENGTH);
            }
            // A letter's low bits count from 1, and its sixth bit says that it is one.
            SIZE => {
                let digit = u64::from((byte & 15) + 9 * (byte >> 6));
                set(&raw mut (*stream).left, left << 4 | digit);
            }
            CODING_CHUNKED => set(&raw mut (*stream).flags, flags | CHUNKED),
            EXPECT => set(&raw mut (*stream).flags, flags | EXPECTS),
            SIZE_END => set(&raw mut (*stream).state, if left == 0 { TRAILER } else { DATA }),
            HEAD_END => set(&raw mut (*stream).state, body(stream, flags, left)),
            MESSAGE_END => set(&raw mut (*stream).state, START),
            _ => (),
        }
    }
}

/// What follows a head (RFC 9112, 6.3).
#[inline(always)]
unsafe fn body(stream: *mut Stream, flags: u8, left: u64) -> u8 {
    if flags & NO_BODY != 0 {
        return START;
    }
    if flags & CHUNKED != 0 {
        // SAFETY: the caller's.
        unsafe { set(&raw mut (*stream).left, 0) };
        return table::SIZE_FIRST;
    }
    match (flags & HAS_LENGTH != 0, flags & RESPONSE != 0) {
        (true, _) if left != 0 => BODY,
        (false, true) => CLOSE,
        _ => START,
    }
}

/// Reads on in a message whose first line has begun, as the kernel does with a segment; how many bytes are of it.
#[cfg(not(target_arch = "bpf"))]
pub fn read(stream: &mut Stream, payload: &[u8]) -> usize {
    struct Slice<'a>(&'a [u8]);
    impl Source for Slice<'_> {
        unsafe fn load(&self, at: u32, to: *mut u8, len: u32) -> bool {
            let Some(bytes) = self.0.get(at as usize..(at + len) as usize) else { return false };
            // SAFETY: the caller's.
            unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            true
        }
    }
    let mut cursor = Cursor::new(payload.len() as u32);
    // SAFETY: both are valid.
    while unsafe { scan(&Slice(payload), &raw mut cursor, stream) } {}
    cursor.at as usize
}

#[cfg(test)]
#[path = "framing/tests.rs"]
mod tests;
