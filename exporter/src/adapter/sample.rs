//! What a container had used at one moment, as small as it can be kept: there may be millions of them.

use std::{num::NonZeroU64, sync::Arc};

use anyhow::ensure;
use exporter_ebpf::histogram::BUCKETS;

use crate::stream::message::{self, Usage};

/// No route has a longer name, bytes.
const LONGEST: usize = 4096;

/// A number that may be unknown, in eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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

/// Observations by the kernel's buckets: those that have any.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// The buckets' numbers, shared with the sample before while they are the same.
    buckets: Arc<[u8]>,
    counts: Box<[u64]>,
}

const _: () = assert!(BUCKETS <= 1 << u8::BITS, "a bucket's number is a byte");

impl Histogram {
    /// Of what an agent said, who said `before` the last time.
    ///
    /// # Errors
    /// When that is no histogram.
    pub fn new(told: message::Histogram, before: Option<&Self>) -> anyhow::Result<Self> {
        let message::Histogram { buckets, counts } = told;
        ensure!(
            buckets.len() == counts.len(),
            "a histogram has {} buckets and {} counts",
            buckets.len(),
            counts.len()
        );
        ensure!(buckets.is_sorted_by(|one, next| one < next), "the buckets of a histogram are in no order");
        ensure!(
            buckets.last().is_none_or(|last| (*last as usize) < BUCKETS),
            "a histogram has too many buckets"
        );
        let buckets: Vec<_> = buckets.into_iter().map(|bucket| bucket as u8).collect();
        Ok(Self { buckets: shared(&*buckets, before.map(|before| &before.buckets)), counts: counts.into() })
    }

    /// The buckets, and how many observations each has.
    pub fn counts(&self) -> impl Iterator<Item = (usize, u64)> {
        self.buckets.iter().map(|bucket| usize::from(*bucket)).zip(self.counts.iter().copied())
    }
}

/// The requests of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// As in the label `http_route`; shared with the sample before.
    pub name: Arc<str>,
    /// Those that were answered.
    pub requests: u64,
    /// Of them those that failed.
    pub errors: u64,
    /// How long they took.
    pub duration: Option<Histogram>,
}

/// HTTP requests that a container served.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Http {
    /// By route.
    pub routes: Box<[Route]>,
    /// Those that wait in this moment: no counter.
    pub active: Known,
    /// Bytes of its connections that could not be read.
    pub unparsed: u64,
}

impl Http {
    fn new(told: message::Http, before: Option<&Self>) -> anyhow::Result<Self> {
        let routes = told.routes.into_iter().enumerate().map(|(at, route)| {
            let message::Route { route: name, requests, errors, duration } = route;
            ensure!(name.len() <= LONGEST, "the name of a route has {} bytes", name.len());
            let before = before.and_then(|before| before.route(&name, at));
            let known = before.and_then(|before| before.duration.as_ref());
            let duration = duration.map(|duration| Histogram::new(duration, known)).transpose()?;
            Ok(Route { name: shared(&*name, before.map(|before| &before.name)), requests, errors, duration })
        });
        let routes = routes.collect::<anyhow::Result<_>>()?;
        Ok(Self { routes, active: told.active.into(), unparsed: told.unparsed })
    }

    /// The route of this name, which is likely to be at this place: they are told in one order.
    pub fn route(&self, name: &str, likely: usize) -> Option<&Route> {
        let is_it = |route: &&Route| &*route.name == name;
        self.routes.get(likely).filter(is_it).or_else(|| self.routes.iter().find(is_it))
    }
}

/// What was known before, if it is the same.
fn shared<T: PartialEq + ?Sized>(new: &T, before: Option<&Arc<T>>) -> Arc<T>
where
    Arc<T>: for<'a> From<&'a T>,
{
    before.filter(|before| ***before == *new).map_or_else(|| new.into(), Arc::clone)
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
        let known = before.and_then(|before| before.rest.as_ref());
        let block_io =
            usage.block_io.map(|told| Histogram::new(told, known.and_then(|known| known.block_io.as_ref())));
        let http = usage.http.map(|told| Http::new(told, known.and_then(|known| known.http.as_ref())));
        let rest = Rest { block_io: block_io.transpose()?, http: http.transpose()? };
        let rest = match known.filter(|known| ***known == rest) {
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
        before.routes.iter().enumerate().any(|(at, route)| {
            let now = now.route(&route.name, at);
            now.is_none_or(|now| now.requests < route.requests || now.errors < route.errors)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram() -> impl Strategy<Value = message::Histogram> {
        prop::collection::btree_map(0..BUCKETS as u32, 1u64.., 0..8).prop_map(|counts| {
            let (buckets, counts) = counts.into_iter().unzip();
            message::Histogram { buckets, counts }
        })
    }

    fn usage() -> impl Strategy<Value = Usage> {
        let route = (any::<[u64; 2]>(), prop::option::of(histogram()));
        let routes = prop::collection::btree_map("/[a-c]", route, 0..3).prop_map(|routes| {
            let routes = routes.into_iter().map(|(route, (counts, duration))| {
                let [requests, errors] = counts;
                message::Route { route, requests, errors, duration }
            });
            routes.collect::<Vec<_>>()
        });
        let http = (routes, any::<Option<u64>>(), any::<u64>())
            .prop_map(|(routes, active, unparsed)| message::Http { routes, active, unparsed });
        (prop::option::of(http), prop::option::of(histogram())).prop_map(|(http, block_io)| Usage {
            http,
            block_io,
            ..Usage::default()
        })
    }

    fn told(histogram: &Histogram) -> message::Histogram {
        let (buckets, counts) = histogram.counts().map(|(bucket, count)| (bucket as u32, count)).unzip();
        message::Histogram { buckets, counts }
    }

    /// What an agent must have said of requests.
    fn requests(http: &Http) -> message::Http {
        let routes = http.routes.iter().map(|route| message::Route {
            route: route.name.to_string(),
            requests: route.requests,
            errors: route.errors,
            duration: route.duration.as_ref().map(told),
        });
        message::Http { routes: routes.collect(), active: http.active.get(), unparsed: http.unparsed }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_was_told_whatever_was_before(before in usage(), now in usage()) {
            let before = Sample::new(1, before, None).unwrap();
            let sample = Sample::new(2, now.clone(), Some(&before)).unwrap();
            prop_assert_eq!(&sample, &Sample::new(2, now.clone(), None).unwrap());
            // One unknown number is not kept apart: the largest.
            let wanted = now.http.map(|http| message::Http {
                active: http.active.map(|active| active.min(u64::MAX - 1)),
                ..http
            });
            prop_assert_eq!(sample.http().map(requests), wanted);
            prop_assert_eq!(sample.block_io().map(told), now.block_io);
        }
    }

    #[test]
    fn what_is_the_same_is_kept_once() {
        let usage = |requests| {
            let duration = Some(message::Histogram { buckets: vec![3, 7], counts: vec![1, requests] });
            let route = message::Route { route: "/users/{id}".to_owned(), requests, errors: 0, duration };
            let http = message::Http { routes: vec![route], ..message::Http::default() };
            Usage { http: Some(http), ..Usage::default() }
        };
        let first = Sample::new(1, usage(5), None).unwrap();
        let same = Sample::new(2, usage(5), Some(&first)).unwrap();
        assert!(Arc::ptr_eq(first.rest.as_ref().unwrap(), same.rest.as_ref().unwrap()));
        let more = Sample::new(3, usage(6), Some(&same)).unwrap();
        let [first, more] = [&first, &more].map(|sample| &sample.http().unwrap().routes[0]);
        assert!(Arc::ptr_eq(&first.name, &more.name));
        let [first, more] = [first, more].map(|route| route.duration.as_ref().unwrap());
        assert!(Arc::ptr_eq(&first.buckets, &more.buckets));
        assert_eq!(more.counts().collect::<Vec<_>>(), [(3, 1), (7, 6)]);
    }
}
