//! temporary
pub trait Sink { fn byte(&mut self, byte: u8); }
pub struct Hash(u64);
impl Hash { pub const fn new() -> Self { Self(0xcbf29ce484222325) } pub fn value(&self) -> u64 { self.0 | 1 } }
impl Sink for Hash { #[inline(always)] fn byte(&mut self, b: u8) { self.0 = (self.0 ^ b as u64).wrapping_mul(0x100000001b3); } }
pub struct Route<S>(S);
impl<S: Sink> Route<S> { pub const fn new(s: S) -> Self { Self(s) }
 #[inline(always)] pub fn push(&mut self, b: u8) -> bool { if b == b' ' || b == b'?' || b == b'#' { return false } self.0.byte(b); true }
 #[inline(always)] pub fn finish(self, _t: bool) -> S { self.0 } }
pub struct Text<const N: usize>(Vec<u8>);
impl<const N: usize> Text<N> { pub fn new() -> Self { Self(vec![]) } pub fn as_str(&self) -> &str { std::str::from_utf8(&self.0).unwrap_or("bad") } }
impl<const N: usize> Sink for Text<N> { fn byte(&mut self, b: u8) { self.0.push(b) } }
