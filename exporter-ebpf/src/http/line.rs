//! Lines of a head, a word of eight bytes at a time.

use super::{
    framing::{WINDOW, hide},
    table::{LENGTH, LINE, LINE_REST, TRACE},
};

/// How many words [`lines`] looks at: as many as a window of lines has.
const LEAPS: u32 = 24;
/// How many bytes are looked at in one.
pub(super) const WORD: u32 = 8;

/// At the beginning of a line of a head of which at least a word is there: the state that follows from it, and behind how many
/// bytes; the same state and 0 if the line has to be read byte by byte, as the empty line and the names that matter.
#[inline(always)]
pub(super) unsafe fn name(window: *const u8, place: u64, ahead: u32) -> (u8, u32) {
    if place > WINDOW as u64 - 8 {
        return (LINE, 0);
    }
    // SAFETY: within the window.
    let first = unsafe { word(window, place) };
    if first | CONTENT.case == CONTENT.name {
        if ahead < 2 * WORD || place > WINDOW as u64 - 16 {
            return (LINE, 0);
        }
        // SAFETY: as before.
        let second = unsafe { word(window, place + 8) };
        let is_length = (second | LENGTH_OF.case) << 8 == LENGTH_OF.name << 8;
        return if is_length { (LENGTH, 15) } else { (LINE_REST, 0) };
    }
    let is_end = first as u8 == b'\r' || first as u8 == b'\n';
    let may_matter =
        first | TRANSFER.case == TRANSFER.name || (first | EXPECT_.case) << 16 == EXPECT_.name << 16;
    if is_end || may_matter {
        return (LINE, 0);
    }
    (if first | TRACEPAR.case == TRACEPAR.name { TRACE } else { LINE_REST }, 0)
}

/// Where [`lines`] has got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// Amid a line, near the end of what is there.
    Rest,
    /// The beginning of a line to look at, or of one of which too little is there.
    Line,
    /// What follows the head.
    End,
}

/// Crosses what is left of a line of a head and the lines behind it that do not matter: where it has got to, and behind how many
/// bytes.
///
/// `zero` is 0, and the verifier does not know: so it knows nothing of a place, whichever way led to it, and follows one of them.
///
/// # Safety
/// `filled` bytes of the window are there, and a line end behind them.
#[inline(always)]
pub(super) unsafe fn lines(window: *const u8, from: u64, filled: u32, zero: u64) -> (Reached, u32) {
    let mut at = from;
    let mut reached = Reached::Rest;
    let mut step = 0;
    while step < LEAPS {
        step += 1;
        at = hide(at ^ zero);
        if at > WINDOW as u64 {
            break;
        }
        // SAFETY: within the window, which is a word longer than what it is filled with.
        let ends = line_ends(unsafe { word(window, at) });
        if ends == 0 {
            at += 8;
            continue;
        }
        at += u64::from(first(ends));
        if at >= u64::from(filled) {
            // The line end behind what is there.
            break;
        }
        at = hide(at + 1);
        reached = Reached::Line;
        if at > WINDOW as u64 {
            break;
        }
        // SAFETY: as before.
        let next = unsafe { word(window, at) };
        if next as u16 == u16::from_le_bytes(*b"\r\n") && at + 2 <= u64::from(filled) {
            at += 2;
            reached = Reached::End;
            break;
        }
        if at + 8 > u64::from(filled) || may_matter(next) {
            break;
        }
        reached = Reached::Rest;
    }
    (reached, (at - from) as u32)
}

/// How many bytes there are before the end of the line, or as many as are looked at. A line end behind the window stops it too.
#[inline(always)]
pub(super) unsafe fn line_rest(window: *const u8, place: u64) -> u32 {
    if place > WINDOW as u64 {
        return 0;
    }
    // SAFETY: within the window, which is a word longer than what it is filled with.
    let ends = line_ends(unsafe { word(window, place) });
    if ends == 0 { WORD } else { first(ends) }
}

/// Whether a line that begins with these bytes has to be looked at.
#[inline(always)]
fn may_matter(first: u64) -> bool {
    let is_end = first as u8 == b'\r' || first as u8 == b'\n';
    is_end
        || first | CONTENT.case == CONTENT.name
        || first | TRANSFER.case == TRANSFER.name
        || (first | EXPECT_.case) << 16 == EXPECT_.name << 16
        || first | TRACEPAR.case == TRACEPAR.name
}

/// Eight bytes that the name of a field begins with, and what makes letters small.
struct Name {
    name: u64,
    case: u64,
}

impl Name {
    /// Of a name that may be shorter.
    const fn new(text: &[u8]) -> Self {
        let (mut name, mut case) = ([0; 8], [0; 8]);
        let mut i = 0;
        while i < text.len() {
            name[i] = text[i];
            // The bit that letters differ by is another one's own in whatever else.
            case[i] = if text[i].is_ascii_lowercase() { 0x20 } else { 0 };
            i += 1;
        }
        Self { name: u64::from_le_bytes(name), case: u64::from_le_bytes(case) }
    }
}

const CONTENT: Name = Name::new(b"content-");
const LENGTH_OF: Name = Name::new(b"length:");
const TRANSFER: Name = Name::new(b"transfer");
/// No other field begins so.
const TRACEPAR: Name = Name::new(b"tracepar");
const EXPECT_: Name = Name::new(b"expect");

/// Eight bytes of the window, however they are aligned.
///
/// # Safety
/// They are within it.
#[inline(always)]
unsafe fn word(window: *const u8, at: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: the caller's. For BPF, Rust takes apart what is not aligned; the machines that BPF runs on need not.
        unsafe {
            core::arch::asm!(
                "{value} = *(u64 *)({place} + 0)",
                value = out(reg) value,
                place = in(reg) window.add(at as usize),
                options(nostack, readonly)
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's.
    unsafe {
        window.add(at as usize).cast::<u64>().read_unaligned().to_le()
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Has a bit set for the first line end of a word, and none if there is none.
#[inline(always)]
pub(super) const fn line_ends(word: u64) -> u64 {
    let word = word ^ (ONES * b'\n' as u64);
    word.wrapping_sub(ONES) & !word & (ONES << 7)
}

/// At which byte the first of them is.
#[inline(always)]
pub(super) const fn first(line_ends: u64) -> u32 {
    // The lowest bit alone, as a power of 256, moves the byte that is its index to the top.
    let lowest = (line_ends & line_ends.wrapping_neg()) >> 7;
    (lowest.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}
