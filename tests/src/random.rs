//! Bytes that look like none in particular and are the same in every run, and a sum that tells whether they arrived.

/// xorshift64*: small, and good enough to be no pattern.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins with a seed; 0 is taken for another.
    pub const fn new(seed: u64) -> Self {
        Self(if seed == 0 { 0x9e37_79b9_7f4a_7c15 } else { seed })
    }

    /// The next word.
    pub const fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub const fn below(&mut self, limit: usize) -> usize {
        ((self.word() >> 32) as usize * limit) >> 32
    }

    /// One of several.
    pub fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// The next bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A sum of bytes in their order: no change of one word, no loss and no swap leaves it as it was.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    value: u64,
    /// What is not a whole word yet.
    rest: Vec<u8>,
    /// How many bytes there were.
    pub bytes: u64,
}

impl Sum {
    /// Adds bytes, in pieces of any size.
    pub fn add(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if !self.rest.is_empty() {
            let missing = (8 - self.rest.len()).min(bytes.len());
            self.rest.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.rest.len() < 8 {
                return;
            }
            self.value = mix(self.value, &self.rest);
            self.rest.clear();
        }
        let words = bytes.chunks_exact(8);
        self.rest.extend_from_slice(words.remainder());
        self.value = words.fold(self.value, mix);
    }

    /// The sum of what was added so far.
    pub fn value(&self) -> u64 {
        let mut last = [0; 8];
        last[..self.rest.len()].copy_from_slice(&self.rest);
        mix(self.value, &last) ^ self.bytes
    }
}

/// An odd factor loses nothing, and the rotation brings the upper bits into play.
fn mix(value: u64, word: &[u8]) -> u64 {
    let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
    (value ^ word).rotate_left(23).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_that_of_the_bytes_however_they_are_cut() {
        let mut random = Random::new(1);
        let mut bytes = [0; 1001];
        random.fill(&mut bytes);
        let mut whole = Sum::default();
        whole.add(&bytes);
        let mut cut = Sum::default();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(random.below(20).min(rest.len()));
            cut.add(piece);
            rest = after;
        }
        assert_eq!((cut.value(), cut.bytes), (whole.value(), 1001));
        bytes[500] ^= 1;
        let mut changed = Sum::default();
        changed.add(&bytes);
        assert_ne!(changed.value(), whole.value());
    }

    #[test]
    fn numbers_stay_below_their_limit() {
        let mut random = Random::new(0);
        assert!((0..1000).all(|_| random.below(7) < 7));
    }
}
