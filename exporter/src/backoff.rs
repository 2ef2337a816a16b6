//! How long to wait after a failure: twice as long each time, and never as long as others do.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// Something unforeseeable, of all 64 bits. The keys of a hasher are the standard library's only randomness.
pub fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// A part of a time, from none to all of it.
pub fn part(of: Duration) -> Duration {
    of.mul_f64(random() as f64 / u64::MAX as f64)
}

/// Waits between attempts.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// So long at first, and so long at most.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// It went well: the next failure is a first one again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// Waits between half of what it is time for and all of it.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.step()).await;
    }

    fn step(&mut self) -> Duration {
        let half = self.next / 2;
        self.next = (self.next * 2).min(self.most);
        half + part(half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_most_and_begin_anew() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 3 * second);
        for most in [1, 2, 3, 3] {
            let wait = backoff.step();
            assert!(wait >= most * second / 2 && wait <= most * second, "{wait:?} of {most} s");
        }
        backoff.reset();
        assert!(backoff.step() <= second);
    }
}
