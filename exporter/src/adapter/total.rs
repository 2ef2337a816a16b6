//! What containers used together, within their windows.

use exporter_ebpf::histogram::{BUCKETS, finite_bounds};

use super::{
    sample::{Histogram, Http, Known, Route},
    window::Window,
};

/// A sum, of which a part may be unknown: then all of it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sum(Option<f64>);

impl Default for Sum {
    fn default() -> Self {
        Self(Some(0.0))
    }
}

impl Sum {
    fn add(&mut self, part: Option<f64>) {
        self.0 = self.0.zip(part).map(|(sum, part)| sum + part);
    }
}

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

    /// The value, in seconds, that a part `q` of the observations are at or below; none without observations. Within a bucket they
    /// are taken as evenly spread: buckets are at most 9 % wide.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.0.iter().copied().fold(0, u64::saturating_add);
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

/// Requests that were served.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests {
    /// Per second.
    pub rate: f64,
    /// Of them those that failed.
    pub errors: f64,
    /// Those that wait, of all routes.
    active: Sum,
    /// How long they took.
    pub durations: Counts,
    /// Whether there are any, now or before.
    are_there: bool,
}

impl Requests {
    /// Those that wait.
    pub fn active(&self) -> Option<f64> {
        self.active.0
    }
}

/// What containers used together.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// The longest of the windows, ns.
    pub nanos: u64,
    /// How many containers.
    pub containers: u32,
    cpu: Sum,
    memory: Sum,
    queued: Sum,
    pressure: [Sum; 3],
    periods: u64,
    throttled: u64,
    requests: Option<Requests>,
    /// Whether a container has connections that could not be read, and none that could.
    is_unread: bool,
    /// The latency of block requests; none where there were none.
    pub block_io: Option<Counts>,
}

impl Total {
    /// Adds a container; of its requests those on routes that `wants` says yes to.
    pub fn add(&mut self, window: Window<'_>, wants: &dyn Fn(&str) -> bool) {
        let Window { from, to, nanos } = window;
        self.nanos = self.nanos.max(nanos);
        self.containers += 1;
        let grown =
            |from: Option<u64>, to: Option<u64>| to.zip(from).and_then(|(to, from)| to.checked_sub(from));
        let per_second =
            |from: Option<u64>, to: Option<u64>| grown(from, to).map(|grown| grown as f64 / nanos as f64);
        self.cpu.add(per_second(from.cpu.get(), to.cpu.get()));
        self.memory.add(to.memory.get().map(|bytes| bytes as f64));
        self.queued.add(per_second(from.queued.get(), to.queued.get()));
        for (sum, (from, to)) in self.pressure.iter_mut().zip(from.pressure.into_iter().zip(to.pressure)) {
            sum.add(per_second(from.get(), to.get()));
        }
        let of = |from: Known, to: Known| grown(from.get(), to.get()).unwrap_or(0);
        self.periods = self.periods.saturating_add(of(from.periods, to.periods));
        self.throttled = self.throttled.saturating_add(of(from.throttled, to.throttled));
        if let Some(latency) = to.block_io() {
            self.block_io.get_or_insert_default().add(from.block_io(), latency);
        }
        if let (Some(before), Some(now)) = (from.http(), to.http()) {
            if now.routes.is_empty() && now.unparsed > 0 {
                self.is_unread = true;
            } else {
                self.add_requests(before, now, nanos, wants);
            }
        }
    }

    fn add_requests(&mut self, from: &Http, to: &Http, nanos: u64, wants: &dyn Fn(&str) -> bool) {
        let requests = self.requests.get_or_insert_default();
        requests.are_there |= !to.routes.is_empty();
        requests.active.add(to.active.get().map(|active| active as f64));
        let seconds = nanos as f64 / 1e9;
        for (at, route) in to.routes.iter().enumerate().filter(|(_, route)| wants(&route.name)) {
            let before = from.route(&route.name, at);
            let of = |count: fn(&Route) -> u64| {
                count(route).saturating_sub(before.map_or(0, count)) as f64 / seconds
            };
            requests.rate += of(|route| route.requests);
            requests.errors += of(|route| route.errors);
            if let Some(durations) = &route.duration {
                requests.durations.add(before.and_then(|before| before.duration.as_ref()), durations);
            }
        }
    }

    /// Adds what others used.
    pub fn merge(&mut self, other: &Self) {
        self.nanos = self.nanos.max(other.nanos);
        self.containers += other.containers;
        self.cpu.add(other.cpu.0);
        self.memory.add(other.memory.0);
        self.queued.add(other.queued.0);
        self.pressure.iter_mut().zip(other.pressure).for_each(|(sum, part)| sum.add(part.0));
        self.periods = self.periods.saturating_add(other.periods);
        self.throttled = self.throttled.saturating_add(other.throttled);
        if let Some(latency) = &other.block_io {
            self.block_io.get_or_insert_default().merge(latency);
        }
        self.is_unread |= other.is_unread;
        if let Some(requests) = &other.requests {
            let own = self.requests.get_or_insert_default();
            own.are_there |= requests.are_there;
            own.rate += requests.rate;
            own.errors += requests.errors;
            own.active.add(requests.active.0);
            own.durations.merge(&requests.durations);
        }
    }

    /// The requests served. None where nobody looked, and where there were none but connections that could not be read, of any of
    /// the containers: a zero of a container beside it says nothing of that one's.
    pub fn http(&self) -> Option<&Requests> {
        self.requests.as_ref().filter(|requests| requests.are_there || !self.is_unread)
    }

    /// Cores in use.
    pub fn cpu(&self) -> Option<f64> {
        self.cpu.0
    }

    /// The working set, bytes.
    pub fn memory(&self) -> Option<f64> {
        self.memory.0
    }

    /// Seconds waited in run queues per second, over all tasks.
    pub fn queued(&self) -> Option<f64> {
        self.queued.0
    }

    /// The share of the time in which something waited for CPU (0), memory (1), I/O (2): the mean over the containers.
    pub fn pressure(&self, of: usize) -> Option<f64> {
        self.pressure[of].0.filter(|_| self.containers > 0).map(|sum| sum / f64::from(self.containers))
    }

    /// The share of the enforcement periods that were throttled; none without a quota, or where none passed.
    pub fn throttled(&self) -> Option<f64> {
        (self.periods > 0).then(|| self.throttled as f64 / self.periods as f64)
    }
}

#[cfg(test)]
mod tests {
    use exporter_ebpf::histogram::index;
    use proptest::prelude::*;

    use super::*;
    use crate::{adapter::sample::Sample, stream::message};

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

    #[test]
    fn an_idle_container_does_not_make_a_zero_of_what_cannot_be_read() {
        let sample = |requests: Option<u64>, unparsed: u64| {
            let route =
                |requests| message::Route { route: "/".to_owned(), requests, ..message::Route::default() };
            let routes = requests.map(route).into_iter().collect();
            let http = message::Http { routes, active: Some(0), unparsed };
            Sample::new(0, message::Usage { http: Some(http), ..message::Usage::default() }, None).unwrap()
        };
        let rate = |containers: &[(Option<u64>, u64)]| {
            let mut totals = [(); 2].map(|()| Total::default());
            for (at, (requests, unparsed)) in containers.iter().enumerate() {
                let (from, to) = (sample(requests.map(|_| 0), *unparsed), sample(*requests, *unparsed));
                let window = Window { from: &from, to: &to, nanos: 1_000_000_000 };
                totals[0].add(window, &|_| true);
                let mut own = Total::default();
                own.add(window, &|_| true);
                // Whoever comes first.
                let (mut first, second) =
                    if at % 2 == 0 { (own, &totals[1]) } else { (totals[1].clone(), &own) };
                first.merge(second);
                totals[1] = first;
            }
            let [of_pod, of_pods] = totals.map(|total| total.http().map(|requests| requests.rate));
            assert_eq!(of_pod, of_pods, "{containers:?}");
            of_pod
        };
        let (idle, busy, unread) = ((None, 0), (Some(7), 0), (None, 900));
        assert_eq!(rate(&[idle, idle]), Some(0.0));
        assert_eq!(rate(&[unread, idle]), None, "nobody knows what it serves");
        assert_eq!(rate(&[idle, unread]), None);
        assert_eq!(rate(&[unread, busy, idle]), Some(7.0), "what is known is said");
    }

    #[test]
    fn one_unknown_part_makes_the_sum_unknown() {
        let mut sum = Sum::default();
        sum.add(Some(1.0));
        assert_eq!(sum.0, Some(1.0));
        sum.add(None);
        sum.add(Some(2.0));
        assert_eq!(sum.0, None);
    }
}
