//! Where a route goes: the kernel makes a hash of it, user space its text.

use super::MAX_TEXT;

/// A constant part of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
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

/// A hash of the route. Whoever chooses the paths can make two collide, to the harm of their own service only.
pub struct Hash {
    state: u64,
    mark: Kept,
}

/// A number in memory. What is needed at the end of a segment alone would be in a register otherwise, and what each byte changes in
/// memory: there are ten.
pub(super) struct Kept(u64);

impl Kept {
    pub(super) const fn new(number: u64) -> Self {
        Self(number)
    }

    #[inline(always)]
    pub(super) fn get(&self) -> u64 {
        // SAFETY: our own.
        unsafe { (&raw const self.0).read_volatile() }
    }

    #[inline(always)]
    pub(super) fn set(&mut self, number: u64) {
        // SAFETY: our own.
        unsafe { (&raw mut self.0).write_volatile(number) };
    }
}

impl Hash {
    /// Odd, with bits all over: 2^64 divided by the golden ratio.
    pub(crate) const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    /// Of nothing.
    #[expect(clippy::new_without_default, reason = "a hash of nothing is no default of anything")]
    pub const fn new() -> Self {
        Self::opaque(0)
    }

    /// Like [`Self::new`]; see [`super::Route::opaque`].
    pub const fn opaque(zero: u64) -> Self {
        let state = Self::FACTOR ^ zero;
        Self { state, mark: Kept::new(state) }
    }

    /// The hash; odd, hence never 0, which stands for the routes that are not told apart.
    pub const fn value(&self) -> u64 {
        // The upper bits of a product depend on all bits of a factor, its lower bits on few.
        let value = (self.state ^ self.state >> 32).wrapping_mul(Self::FACTOR);
        value ^ value >> 32 | 1
    }

    #[inline(always)]
    fn symbol(&mut self, symbol: u64) {
        self.state = (self.state ^ symbol).wrapping_mul(Self::FACTOR);
    }
}

impl Sink for Hash {
    fn byte(&mut self, byte: u8) {
        self.symbol(byte as u64);
    }

    fn token(&mut self, token: Token) {
        // Whatever the length of its text: one multiplication, by what is no byte.
        self.symbol(256 + token as u64);
    }

    fn mark(&mut self) {
        self.mark.set(self.state);
    }

    fn rollback(&mut self) {
        self.state = self.mark.get();
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
    #[expect(clippy::new_without_default, reason = "as of the hash")]
    pub const fn new() -> Self {
        Self { bytes: [0; MAX_TEXT], length: 0, mark: 0 }
    }

    /// The text: printable ASCII without quotes and backslashes.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl Sink for Text {
    fn byte(&mut self, byte: u8) {
        // What does not fit is of a segment that is too long to stay.
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
