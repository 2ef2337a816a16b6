//! How long things took, of containers together.

use exporter_ebpf::histogram::{BUCKETS, finite_bounds};

use super::sample::Histogram;

/// Observations by bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts(Box<[u64; BUCKETS]>);

impl Default for Counts {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl Counts {
    /// Adds what came between two states of a histogram.
    pub fn add(&mut self, from: Option<&Histogram>, to: &Histogram) {
        let mut before = from.into_iter().flat_map(Histogram::counts).peekable();
        for (bucket, count) in to.counts() {
            // Both are in order. A bucket that has fewer than before takes nothing away from what others had.
            while before.next_if(|(earlier, _)| *earlier < bucket).is_some() {}
            let known = before.next_if(|(same, _)| *same == bucket).map_or(0, |(_, count)| count);
            if let Some(sum) = self.0.get_mut(bucket) {
                *sum = sum.saturating_add(count.saturating_sub(known));
            }
        }
    }

    /// Adds others.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&*other.0).for_each(|(sum, count)| *sum = sum.saturating_add(*count));
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.0.iter().copied().fold(0, u64::saturating_add)
    }

    /// The value, in seconds, that a part `q` of the observations are at or below; none without observations. Within a bucket they
    /// are taken as evenly spread: buckets are at most 9 % wide.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = q * total as f64;
        let mut below: u64 = 0;
        let bounds = finite_bounds();
        for (bucket, &count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            let up_to = below.saturating_add(count);
            if up_to as f64 >= rank || up_to == total {
                let lower = bucket.checked_sub(1).map_or(0.0, |before| bounds[before] as f64);
                // Above the last bound nothing is known but that.
                let upper = bounds.get(bucket).map_or(lower, |&bound| bound as f64);
                let part = ((rank - below as f64) / count as f64).clamp(0.0, 1.0);
                return Some((lower + (upper - lower) * part) / 1e9);
            }
            below = up_to;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use exporter_ebpf::histogram::index;
    use proptest::prelude::*;

    use super::*;
    use crate::stream::message;

    fn histogram(nanos: &[u64]) -> Histogram {
        let mut counts = [0; BUCKETS];
        nanos.iter().for_each(|&value| counts[index(value)] += 1);
        Histogram::new(message::Histogram::new(&counts), None).unwrap()
    }

    proptest! {
        #[test]
        fn quantiles_of_merged_histograms_are_those_of_all_observations(
            one in prop::collection::vec(4_000u64..60_000_000_000, 1..300),
            other in prop::collection::vec(4_000u64..60_000_000_000, 0..300),
            old in prop::collection::vec(0u64..60_000_000_000, 0..50),
            q in prop_oneof![Just(0.5), Just(0.9), Just(0.99)],
        ) {
            let mut counts = Counts::default();
            let before = histogram(&old);
            counts.add(Some(&before), &histogram(&[&old[..], &one[..]].concat()));
            counts.add(None, &histogram(&other));
            let mut all = [one, other].concat();
            all.sort_unstable();
            let rank = ((q * all.len() as f64).ceil() as usize).max(1) - 1;
            let exact = all[rank] as f64 / 1e9;
            let found = counts.quantile(q).unwrap();
            // A bucket is 2^(1/8) wide.
            prop_assert!((exact / 1.0906..=exact * 1.0906).contains(&found), "{} for {}", found, exact);
        }
    }

    #[test]
    fn who_has_counted_back_takes_nothing_away_from_others() {
        let mut counts = Counts::default();
        counts.add(None, &histogram(&[5_000_000_000; 7]));
        let only = counts.clone();
        counts.add(Some(&histogram(&[5_000_000_000; 3])), &histogram(&[5_000_000_000; 2]));
        counts.add(Some(&histogram(&[5_000_000_000; 3])), &histogram(&[]));
        assert_eq!(counts, only);
    }

    #[test]
    fn no_observation_has_no_quantile() {
        assert_eq!(Counts::default().quantile(0.99), None);
        let mut counts = Counts::default();
        counts.add(None, &histogram(&[u64::MAX]));
        assert_eq!(counts.quantile(0.5), Some(64.0), "above every bound");
    }
}
