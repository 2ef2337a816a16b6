//! The buckets of every histogram: one layout and one index function, used in the kernel and on the host.
//!
//! The upper bounds are those of a Prometheus native histogram of schema 3 (8 per doubling, 2^(n/8) seconds) from 2^-18 s
//! (3.8 us) to 2^6 s (64 s), with the classic boundaries that dashboards use as extra split points. So both the classic
//! `le` buckets and the native histogram come out of one array exactly: neither is interpolated.

/// The classic boundaries that split native buckets, in nanoseconds; 0.25, 0.5 and 1 s are native bounds anyway.
const SPLITS: [u64; 19] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    750_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

/// 2^(k/8) for k in 0..8.
const MANTISSAS: [f64; 8] = [
    1.0,
    1.090_507_732_665_257_7,
    1.189_207_115_002_721,
    1.296_839_554_651_009_6,
    core::f64::consts::SQRT_2,
    1.542_210_825_407_940_7,
    1.681_792_830_507_429,
    1.834_008_086_409_342_4,
];

const MIN_EXPONENT: i32 = -18;
const MAX_EXPONENT: i32 = 6;
const NATIVE: usize = ((MAX_EXPONENT - MIN_EXPONENT) * 8 + 1) as usize;

/// How many finite upper bounds there are.
pub const FINITE: usize = NATIVE + SPLITS.len();
/// How many buckets a histogram has: one per bound, and one for what is above the last.
pub const BUCKETS: usize = FINITE + 1;

/// The first guess is at most this many buckets too low (asserted below).
const STEPS: usize = 2;
const PADDED: usize = 256 + STEPS;

/// Ascending upper bounds in whole nanoseconds, inclusive; padded so that an index that fits a byte needs no check.
static BOUNDS: [u64; PADDED] = bounds();

/// By the highest bit and the four bits below it: the lowest bucket that such a value can belong to.
static GUESS: [u8; KEYS] = guesses();

const KEYS: usize = 64 * 16;

/// The native bound 2^(n/8) s as nanoseconds, rounded down: a whole number of nanoseconds is at or below the one exactly
/// when it is at or below the other.
const fn native(n: usize) -> u64 {
    let mut value = MANTISSAS[n % 8] * 1e9;
    let mut exponent = MIN_EXPONENT + (n / 8) as i32;
    while exponent < 0 {
        value /= 2.0;
        exponent += 1;
    }
    while exponent > 0 {
        value *= 2.0;
        exponent -= 1;
    }
    value as u64
}

const fn bounds() -> [u64; PADDED] {
    let mut out = [u64::MAX; PADDED];
    let (mut i, mut n, mut s) = (0, 0, 0);
    while n < NATIVE || s < SPLITS.len() {
        if s == SPLITS.len() || (n < NATIVE && native(n) < SPLITS[s]) {
            out[i] = native(n);
            n += 1;
        } else {
            out[i] = SPLITS[s];
            s += 1;
        }
        i += 1;
    }
    assert!(i == FINITE);
    out
}

const fn guesses() -> [u8; KEYS] {
    let bounds = bounds();
    let mut out = [0; KEYS];
    let mut key = 0;
    while key < KEYS {
        let (low, high) = range(key);
        let mut i = 0;
        while i < FINITE && bounds[i] < low {
            i += 1;
        }
        out[key] = i as u8;
        let mut steps = 0;
        while i < FINITE && bounds[i] < high {
            i += 1;
            steps += 1;
        }
        assert!(steps <= STEPS, "a guess may be too low by more steps than are taken");
        key += 1;
    }
    out
}

/// The least and the greatest value that share a key.
const fn range(key: usize) -> (u64, u64) {
    let (bit, next) = ((key / 16) as u32, (key % 16) as u64);
    if bit < 4 {
        // Fewer than four bits below the highest: all are far below the first bound.
        return (0, 15);
    }
    let low = (16 + next) << (bit - 4);
    (low, low + ((1u64 << (bit - 4)) - 1))
}

/// The bucket of a value in nanoseconds: constant work, no helper, about 30 instructions.
#[inline(always)]
pub fn index(nanos: u64) -> usize {
    let mut i = GUESS[key(nanos)] as usize;
    let mut step = 0;
    while step < STEPS {
        i += (nanos > BOUNDS[i]) as usize;
        step += 1;
    }
    if i > FINITE { FINITE } else { i }
}

#[inline(always)]
fn key(nanos: u64) -> usize {
    // BPF has no count-leading-zeros instruction; a tree of compares is what LLVM's expansion is not: short.
    let (mut value, mut bit) = (nanos | 16, 0);
    if value >> 32 != 0 {
        value >>= 32;
        bit += 32;
    }
    if value >> 16 != 0 {
        value >>= 16;
        bit += 16;
    }
    if value >> 8 != 0 {
        value >>= 8;
        bit += 8;
    }
    if value >> 4 != 0 {
        value >>= 4;
        bit += 4;
    }
    if value >> 2 != 0 {
        value >>= 2;
        bit += 2;
    }
    bit += value >> 1;
    let next = ((nanos | 16) >> (bit - 4)) & 15;
    ((bit << 4 | next) & (KEYS as u64 - 1)) as usize
}

/// The finite upper bounds in nanoseconds, ascending; bucket `i` holds what is above bound `i - 1` and at or below `i`.
#[cfg(not(target_arch = "bpf"))]
pub fn finite_bounds() -> &'static [u64] {
    &BOUNDS[..FINITE]
}

/// The index of a bucket in a native histogram of schema 3, whose bucket `i` ends at 2^(i/8) s; several have the same where
/// a classic boundary splits one. None for the first, which is all that is at most [`ZERO_THRESHOLD`], and for the last, which
/// has no upper bound.
#[cfg(not(target_arch = "bpf"))]
pub fn native_index(bucket: usize) -> Option<i32> {
    let &bound = finite_bounds().get(bucket)?;
    let n = (0..NATIVE).find(|&n| native(n) >= bound)?;
    (bucket > 0).then_some(MIN_EXPONENT * 8 + n as i32)
}

/// The upper bound of the first bucket, s: 2^-18.
#[cfg(not(target_arch = "bpf"))]
pub const ZERO_THRESHOLD: f64 = 1.0 / (1 << -MIN_EXPONENT) as f64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reference(nanos: u64) -> usize {
        finite_bounds().partition_point(|&bound| bound < nanos)
    }

    #[test]
    fn bounds_ascend_and_hold_the_classic_ones() {
        assert!(finite_bounds().windows(2).all(|pair| pair[0] < pair[1]));
        for millis in [5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000u64] {
            assert!(finite_bounds().contains(&(millis * 1_000_000)), "{millis} ms");
        }
        assert_eq!(finite_bounds()[0], 3814);
        assert_eq!(*finite_bounds().last().unwrap(), 64_000_000_000);
    }

    #[test]
    fn native_bounds_are_powers_of_the_eighth_root_of_two() {
        for n in 0..NATIVE {
            let exact = 2f64.powf(f64::from(MIN_EXPONENT) + n as f64 / 8.0) * 1e9;
            assert!((native(n) as f64 - exact.floor()).abs() <= 1.0, "{n}: {} {exact}", native(n));
        }
    }

    #[test]
    fn native_indices_are_those_of_the_powers() {
        assert_eq!((native_index(0), native_index(FINITE)), (None, None));
        let indices: Vec<_> = (1..FINITE).filter_map(native_index).collect();
        assert_eq!(indices.len(), FINITE - 1);
        assert!(indices.windows(2).all(|pair| pair[1] - pair[0] <= 1 && pair[0] <= pair[1]));
        assert_eq!((indices[0], indices.last()), (-143, Some(&48)));
        for (at, index) in indices.into_iter().enumerate() {
            let (above, upto) = (2f64.powf(f64::from(index - 1) / 8.0), 2f64.powf(f64::from(index) / 8.0));
            let bound = finite_bounds()[at + 1] as f64 / 1e9;
            assert!(bound > above - 1e-9 && bound < upto + 1e-9, "{bound} in {above} to {upto}");
        }
    }

    #[test]
    fn exact_at_every_bound() {
        for (i, &bound) in finite_bounds().iter().enumerate() {
            assert_eq!(index(bound), i, "at {bound}");
            assert_eq!(index(bound + 1), i + 1, "above {bound}");
        }
        assert_eq!(index(0), 0);
        assert_eq!(index(u64::MAX), FINITE);
    }

    proptest! {
        #[test]
        fn is_the_first_bound_at_or_above(nanos in prop_oneof![any::<u64>(), 0u64..100_000_000_000, 0u64..100_000]) {
            prop_assert_eq!(index(nanos), reference(nanos));
        }

        #[test]
        fn is_monotonic(a in 0u64..200_000_000_000, b in 0u64..200_000_000_000) {
            prop_assert!((a <= b) <= (index(a) <= index(b)));
        }
    }
}
