//! What a container had used at one moment, as small as it can be kept: there may be millions of them.

use std::{num::NonZeroU64, sync::Arc};

use anyhow::ensure;
use exporter_ebpf::histogram::BUCKETS;

use crate::stream::message::{Histogram, Http, Usage};

/// A number that may be unknown, in eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known(Option<NonZeroU64>);

impl From<Option<u64>> for Known {
    fn from(number: Option<u64>) -> Self {
        Self(number.and_then(|number| NonZeroU64::new(number.saturating_add(1))))
    }
}

impl Known {
    /// The number.
    pub fn get(self) -> Option<u64> {
        self.0.map(|number| number.get() - 1)
    }
}

/// What few containers have, and what changes in few moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rest {
    /// The latency of block requests.
    pub block_io: Option<Histogram>,
    /// The HTTP requests served.
    pub http: Option<Http>,
}

/// The counters of a container at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// When, by the agent's clock, ns.
    pub time: u64,
    /// CPU time, ns.
    pub cpu: Known,
    /// The working set, bytes: no counter.
    pub memory: Known,
    /// Time in run queues, ns.
    pub queued: Known,
    /// Time in which something waited for CPU, memory, I/O, ns.
    pub pressure: [Known; 3],
    /// Enforcement periods of the CPU quota.
    pub periods: Known,
    /// Those with throttling.
    pub throttled: Known,
    /// Shared with the sample before while it is the same.
    pub rest: Option<Arc<Rest>>,
}

impl Sample {
    /// Of what an agent said.
    ///
    /// # Errors
    /// When that is no usage.
    pub fn new(time: u64, usage: Usage, before: Option<&Self>) -> anyhow::Result<Self> {
        let routes = usage.http.iter().flat_map(|http| &http.routes);
        let histograms = routes.filter_map(|route| route.duration.as_ref()).chain(&usage.block_io);
        for histogram in histograms {
            check(histogram)?;
        }
        let rest = Rest { block_io: usage.block_io, http: usage.http };
        let known = before.and_then(|before| before.rest.as_ref()).filter(|known| ***known == rest);
        let rest = match known {
            Some(known) => Some(Arc::clone(known)),
            None => (rest != Rest::default()).then(|| Arc::new(rest)),
        };
        Ok(Self {
            time,
            cpu: usage.cpu.into(),
            memory: usage.memory.into(),
            queued: usage.queued.into(),
            pressure: [usage.cpu_pressure, usage.memory_pressure, usage.io_pressure].map(Known::from),
            periods: usage.periods.into(),
            throttled: usage.throttled_periods.into(),
            rest,
        })
    }

    /// The HTTP requests.
    pub fn http(&self) -> Option<&Http> {
        self.rest.as_ref()?.http.as_ref()
    }

    /// The latency of block requests.
    pub fn block_io(&self) -> Option<&Histogram> {
        self.rest.as_ref()?.block_io.as_ref()
    }

    /// Whether nothing but the time is different.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let Self { time: _, cpu, memory, queued, pressure, periods, throttled, rest } = self;
        (cpu, memory, queued, pressure) == (&other.cpu, &other.memory, &other.queued, &other.pressure)
            && (periods, throttled, rest) == (&other.periods, &other.throttled, &other.rest)
    }

    /// Whether any counter is less than it was: then something began anew, and no difference says anything.
    pub fn is_reset_since(&self, before: &Self) -> bool {
        let counters = |sample: &Self| {
            let [cpu, memory, io] = sample.pressure;
            [sample.cpu, sample.queued, cpu, memory, io, sample.periods, sample.throttled]
        };
        let less = |(now, before): (Known, Known)| {
            now.get().zip(before.get()).is_some_and(|(now, before)| now < before)
        };
        counters(self).into_iter().zip(counters(before)).any(less) || self.has_fewer_requests(before)
    }

    fn has_fewer_requests(&self, before: &Self) -> bool {
        let (Some(now), Some(before)) = (self.http(), before.http()) else { return false };
        before.routes.iter().any(|route| {
            let now = now.routes.iter().find(|now| now.route == route.route);
            now.is_none_or(|now| now.requests < route.requests || now.errors < route.errors)
        })
    }
}

fn check(histogram: &Histogram) -> anyhow::Result<()> {
    let Histogram { buckets, counts } = histogram;
    ensure!(
        buckets.len() == counts.len(),
        "a histogram has {} buckets and {} counts",
        buckets.len(),
        counts.len()
    );
    ensure!(buckets.is_sorted_by(|one, next| one < next), "the buckets of a histogram are in no order");
    ensure!(buckets.last().is_none_or(|last| (*last as usize) < BUCKETS), "a histogram has too many buckets");
    Ok(())
}
