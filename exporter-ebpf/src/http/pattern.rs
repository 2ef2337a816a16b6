//! The user's own route patterns: which of them a target matches, if any.
//!
//! Pure, and compiled for both sides: the kernel asks it of a request line, user space builds what it asks, and tests it. All
//! patterns are followed side by side, one bit for each: a segment costs one look-up, which tells those that have it as a
//! literal, and a few words of arithmetic, however many patterns there are and whatever they have in common. The rules:
//!
//! * What a target's path is, and where it ends, is as in [`super::route`]; of absolute targets only `http` and `https` count.
//!   Empty segments count for nothing.
//! * A literal matches a segment of the very same bytes, a placeholder any one, the rest all that are left, at least one.
//! * Of the patterns that match the first wins. User space has them in order: see [`Patterns`].
//! * A target that is cut off matches only if the rest of it cannot matter.

use super::{
    RouteLine,
    framing::opaque,
    head::{HEAD, METHOD},
    route::{self, Hash, MAX_SEGMENTS},
};
use crate::layout::layout;

/// How many patterns there can be.
pub const MAX_PATTERNS: usize = 64 * WORDS;
const WORDS: usize = 4;

/// Some of the patterns, a bit each.
pub type Set = [u64; WORDS];

/// No pattern.
pub const NONE: Set = [0; WORDS];

/// How many places there are: before the first segment, after each that can be told apart, after more than these, and
/// [`HOST`].
const PLACES: usize = 16;
/// The place behind more segments than a pattern can have.
pub const BEYOND: usize = MAX_SEGMENTS as usize + 1;
/// The place before the host of an absolute target: any segment leads from it to the path.
pub const HOST: usize = PLACES - 1;

layout! {
    /// A place in a target: what holds there of each pattern.
    pub struct Place {
        /// Those that take any segment here.
        pub any: Set,
        /// Those that match a target which ends here.
        pub end: Set,
        /// Those that match if there is anything here, whatever follows.
        pub rest: Set,
        /// Where the next segment is.
        pub next: u64,
    }
    size 8 * (3 * WORDS + 1)
}

layout! {
    /// The patterns, in their order: where one has a literal and another has not, the one with the literal comes first, then
    /// the one with a placeholder, then the one that takes the rest; then the one that the user wrote first.
    pub struct Patterns {
        /// Those that are every container's.
        pub everyone: Set,
        /// By how many segments there were before.
        pub places: [Place; PLACES],
        /// The hash of the route that each makes.
        pub routes: [u64; MAX_PATTERNS],
    }
    size 8 * WORDS + PLACES * size_of::<Place>() + 8 * MAX_PATTERNS
}

layout! {
    /// The patterns that have a literal at a place.
    pub struct Literal {
        /// The [`key`](Segment::key) of the literal and its place; 0 is none.
        pub key: u64,
        /// The patterns.
        pub patterns: Set,
    }
    size 8 * (WORDS + 1)
}

impl Place {
    /// Where no pattern is.
    pub const EMPTY: Self = Self { any: NONE, end: NONE, rest: NONE, next: BEYOND as u64 };
}

/// The literals, each in one of the two [`slots`] of its key.
pub trait Literals {
    /// What is in a slot.
    fn get(&self, slot: u32) -> Option<&Literal>;
    /// How many slots there are, less one; their number is a power of two, and at most 65536.
    fn mask(&self) -> u32;
}

impl Literals for &[Literal] {
    fn get(&self, slot: u32) -> Option<&Literal> {
        <[Literal]>::get(self, slot as usize)
    }

    fn mask(&self) -> u32 {
        self.len() as u32 - 1
    }
}

/// The slots in which the literal of a key may be.
#[inline(always)]
pub const fn slots(key: u64, mask: u32) -> [u32; 2] {
    [(key >> 48) as u32 & mask, (key >> 32) as u32 & mask & 0xffff]
}

/// The hash of a segment in the making.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Segment(u64);

impl Segment {
    /// Without a byte.
    pub const EMPTY: Self = Self(Hash::FACTOR);

    /// With one more byte.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, byte: u8) -> Self {
        Self((self.0 ^ byte as u64).wrapping_mul(Hash::FACTOR))
    }

    /// What finds it at a place; never 0. As of routes, whoever chooses the paths can make two collide, to their own harm.
    #[inline(always)]
    pub const fn key(self, place: u64) -> u64 {
        (self.0 ^ self.0 >> 32).wrapping_add(place).wrapping_mul(Hash::FACTOR) | 1
    }
}

/// Where the path of a target begins, and in which place; `None` where there is none.
#[inline(always)]
pub fn path(head: &[u8; HEAD], target: usize) -> Option<(usize, u64)> {
    const LOWER: u64 = 0x2020_2020_2020_2020;
    if target > METHOD {
        return None;
    }
    if head[target] == b'/' {
        return Some((target, 0));
    }
    let mut start = [0; 8];
    let mut i = 0;
    while i < start.len() {
        start[i] = head[target + i];
        i += 1;
    }
    // Schemes are of any case; the colon and the slashes have that bit anyhow.
    let start = u64::from_le_bytes(start) | LOWER;
    let at = if start << 8 == u64::from_le_bytes(*b"http://\0") << 8 {
        target + 7
    } else if start == u64::from_le_bytes(*b"https://") {
        target + 8
    } else {
        return None;
    };
    Some((at, if head[at] == b'/' { 0 } else { HOST as u64 }))
}

/// A target that is being matched.
pub struct Matcher<'a, L> {
    patterns: &'a Patterns,
    literals: L,
    /// The patterns that match so far.
    alive: Set,
    /// How many segments there were.
    place: u64,
    segment: Segment,
    /// As a segment begins.
    empty: Segment,
}

impl<'a, L: Literals> Matcher<'a, L> {
    /// Begins at a place with the patterns that are a container's. `zero`: see [`route::Route::opaque`].
    #[inline(always)]
    pub fn new(patterns: &'a Patterns, literals: L, own: Set, place: u64, zero: u64) -> Self {
        let empty = Segment(Segment::EMPTY.0 ^ zero);
        Self { patterns, literals, alive: own, place: place ^ zero, segment: empty, empty }
    }

    /// Takes the next byte of the target; `false` when the path has ended, or when no pattern is left.
    #[inline(always)]
    #[must_use]
    pub fn push(&mut self, byte: u8) -> bool {
        if !route::is_boundary(byte) {
            self.segment = self.segment.and(byte);
            return true;
        }
        byte == b'/' && (self.segment == self.empty || self.step())
    }

    fn here(&self) -> &'a Place {
        &self.patterns.places[self.place as usize % PLACES]
    }

    /// Ends a segment; whether there are patterns left.
    #[inline(always)]
    fn step(&mut self) -> bool {
        let here = self.here();
        let mut these = here.any;
        let key = self.segment.key(self.place);
        for slot in slots(key, self.literals.mask()) {
            if let Some(literal) = self.literals.get(slot)
                && literal.key == key
            {
                for (these, those) in these.iter_mut().zip(&literal.patterns) {
                    *these |= those;
                }
            }
        }
        let mut left = 0;
        for (alive, these) in self.alive.iter_mut().zip(&these) {
            *alive &= these;
            left |= *alive;
        }
        self.place = here.next;
        self.segment = self.empty;
        left != 0
    }

    /// Ends the target: the hash of the route of the pattern that it matches; 0 if there is none. `cut`: the bytes ran out
    /// before the target ended.
    #[inline(always)]
    pub fn finish(mut self, cut: bool) -> u64 {
        let empty = self.segment == self.empty;
        let sure;
        if cut {
            // Nothing may follow a slash: then it is the segment before it that decides.
            let seen = self.place.wrapping_sub(u64::from(empty));
            sure = self.patterns.places[seen as usize % PLACES].rest;
        } else {
            if !empty {
                self.step();
            }
            sure = self.here().end;
            for (alive, sure) in self.alive.iter_mut().zip(&sure) {
                *alive &= sure;
            }
        }
        let mut word = 0;
        while word < WORDS {
            let alive = self.alive[word];
            if alive != 0 {
                let first = alive & alive.wrapping_neg();
                if sure[word] & first == 0 {
                    return 0;
                }
                let index = 64 * word + (first - 1).count_ones() as usize;
                return self.patterns.routes[index % MAX_PATTERNS];
            }
            word += 1;
        }
        0
    }
}

/// The hash of the route of the pattern that a request line's target matches; 0 if there is none. Of `own`, the patterns that are
/// its container's. `available`: how many bytes of the line there are. `zero`: see [`route::Route::opaque`].
#[inline(always)]
pub fn matched<L: Literals>(
    patterns: &Patterns,
    literals: L,
    own: Set,
    line: &RouteLine,
    target: usize,
    available: u32,
    zero: u64,
) -> u64 {
    let Some((start, place)) = path(&line.bytes, target) else { return 0 };
    let mut at = start ^ zero as usize;
    let mut matcher = Matcher::new(patterns, literals, own, place, zero);
    while at < HEAD {
        // Verifiers before 6.8 learn nothing from the inequality that LLVM makes of the condition.
        let place = opaque(at as u32) as usize;
        if place >= HEAD {
            break;
        }
        if !matcher.push(line.bytes[place]) {
            return matcher.finish(false);
        }
        at += 1;
    }
    if (available as usize) < HEAD { 0 } else { matcher.finish(true) }
}

#[cfg(target_arch = "bpf")]
pub(super) mod kernel {
    use aya_ebpf::{
        Global,
        bindings::BPF_F_NO_PREALLOC,
        btf_maps::{Array, HashMap},
        macros::btf_map,
    };

    use super::{Literal, Literals, Patterns, RouteLine, Set, matched};

    #[btf_map]
    static PATTERNS: Array<Patterns, 1> = Array::new();
    /// User space says how many there are.
    #[btf_map]
    static LITERALS: Array<Literal, 1> = Array::new();
    /// The patterns of the cgroups that have other ones than everyone. User space says how many there can be.
    #[btf_map]
    static SCOPES: HashMap<u64, Set, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

    /// How many patterns there are: without any, the verifier drops all of this.
    #[unsafe(no_mangle)]
    static HTTP_PATTERNS: Global<u32> = Global::new(0);
    /// How many of them are not every container's.
    #[unsafe(no_mangle)]
    static HTTP_SCOPED_PATTERNS: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static HTTP_LITERALS_MASK: Global<u32> = Global::new(0);

    struct Map;

    impl Literals for Map {
        #[inline(always)]
        fn get(&self, slot: u32) -> Option<&Literal> {
            LITERALS.get(slot)
        }

        #[inline(always)]
        fn mask(&self) -> u32 {
            HTTP_LITERALS_MASK.load()
        }
    }

    /// The hash of the pattern of a request line of which `available` bytes are there; 0 if there is none.
    #[inline(always)]
    pub(in crate::http) fn pattern(cgroup: u64, line: *const RouteLine, available: u32) -> u64 {
        if HTTP_PATTERNS.load() == 0 { 0 } else { http_pattern(cgroup, line, available) }
    }

    /// Global: the verifier looks at it once, whatever it knows where it is called.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn http_pattern(cgroup: u64, line: *const RouteLine, available: u32) -> u64 {
        let Some(patterns) = PATTERNS.get(0) else { return 0 };
        // SAFETY: the verifier checks it.
        let Some(line) = (unsafe { line.as_ref() }) else { return 0 };
        let mut own = patterns.everyone;
        // SAFETY: the value is copied out at once.
        if HTTP_SCOPED_PATTERNS.load() != 0
            && let Some(scope) = unsafe { SCOPES.get(cgroup) }
        {
            own = *scope;
        }
        matched(patterns, Map, own, line, line.target as usize, available, u64::from(line.reserved))
    }
}
