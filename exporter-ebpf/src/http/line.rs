//! Lines of a head, a word of eight bytes at a time.

use super::{
    framing::WINDOW,
    table::{LENGTH, LINE, LINE_REST, TRACE},
};

/// How many bytes a step crosses at most within a line.
const STRIDE: u32 = 32;
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

/// How many bytes there are before the end of the line, or as many as a step crosses. A line end behind the window stops it too.
#[inline(always)]
pub(super) unsafe fn line_rest(window: *const u8, place: u64, ahead: u32) -> u32 {
    // SAFETY: within the window, which is a word longer than what it is filled with.
    unsafe {
        if ahead >= STRIDE && place <= WINDOW as u64 - u64::from(STRIDE) {
            let (a, b) = (line_ends(word(window, place)), line_ends(word(window, place + 8)));
            let (c, d) = (line_ends(word(window, place + 16)), line_ends(word(window, place + 24)));
            return match (a | b, a, c) {
                (0, _, 0) if d == 0 => STRIDE,
                (0, _, 0) => 24 + first(d),
                (0, _, _) => 16 + first(c),
                (_, 0, _) => 8 + first(b),
                _ => first(a),
            };
        }
        if place > WINDOW as u64 {
            return 0;
        }
        let ends = line_ends(word(window, place));
        if ends == 0 { WORD } else { first(ends) }
    }
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
