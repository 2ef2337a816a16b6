//! The parts of a query that are numbers of containers: each added up over all of them, before anything is made of it.

use super::{
    matcher::{Matcher, all_match},
    series::{Place, Series},
};
use crate::adapter::{
    counts::Counts,
    sample::{Http, Route},
    window::{Span, Window},
};

/// A part.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) series: Series,
    pub(super) of: Of,
    /// Over how long; as long as usual if none.
    pub(super) span: Option<Span>,
    pub(super) only: Only,
}

/// What of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Of {
    /// The sum of a gauge's values, or of a counter's rates.
    Sum,
    /// The mean of that over the containers.
    Mean,
    /// The value that a part of the observations are at or below.
    Quantile(f64),
}

/// Which series of the name.
#[derive(Clone, Debug, Default)]
pub(super) struct Only {
    pub(super) containers: Vec<Matcher>,
    pub(super) routes: Vec<Matcher>,
    /// Those requests that failed, or those that did not.
    pub(super) failed: Option<bool>,
}

/// What is known of a part, of containers together.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum {
    sum: f64,
    counts: Option<Counts>,
    /// Of how many containers.
    containers: u32,
    /// Whether one has it, and nobody knows how much.
    is_unknown: bool,
    /// Whether there were requests, now or before.
    has_requests: bool,
    /// Whether a container has connections that could not be read, and none that could.
    is_unread: bool,
}

impl Sum {
    /// Adds a container's; it is unknown what that has if `amount` is none.
    fn add(&mut self, amount: Option<f64>) {
        self.containers += 1;
        match amount {
            Some(amount) => self.sum += amount,
            None => self.is_unknown = true,
        }
    }

    /// Adds what is known of others.
    pub(super) fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        if let Some(counts) = &other.counts {
            self.counts.get_or_insert_default().merge(counts);
        }
        self.containers += other.containers;
        self.is_unknown |= other.is_unknown;
        self.has_requests |= other.has_requests;
        self.is_unread |= other.is_unread;
    }
}

impl Part {
    /// Whether it is of containers of this name.
    pub(super) fn is_of(&self, container: &str) -> bool {
        all_match(&self.only.containers, container)
    }

    /// Adds a container; of its requests those on routes that `wants` says yes to.
    pub(super) fn add(&self, window: Window<'_>, wants: &dyn Fn(&str) -> bool, into: &mut Sum) {
        let per_second = |grown: u64| grown as f64 / (window.nanos as f64 / 1e9);
        match self.series.place {
            Place::Number { of, per, is_everywhere } => {
                let amount = match self.span {
                    Some(_) => window.grown(of).map(|grown| per_second(grown) / per),
                    None => of(window.to).map(|value| value as f64 / per),
                };
                if amount.is_some() || is_everywhere {
                    into.add(amount);
                }
            }
            Place::BlockIo => {
                // Until its first request it has none.
                let Some(latency) = window.to.block_io() else { return };
                let mut counts = Counts::default();
                counts.add(window.from.block_io(), latency);
                into.add(Some(per_second(counts.total())));
                if matches!(self.of, Of::Quantile(_)) {
                    into.counts.get_or_insert_default().merge(&counts);
                }
            }
            Place::Requests | Place::Durations | Place::Active => {
                // Where nobody looked there are none.
                let (Some(from), Some(to)) = (window.from.http(), window.to.http()) else { return };
                if to.routes.is_empty() && to.unparsed > 0 {
                    into.is_unread = true;
                    return;
                }
                into.has_requests |= !to.routes.is_empty();
                match self.series.place {
                    Place::Active => into.add(to.active.get().map(|active| active as f64)),
                    Place::Requests => {
                        into.add(Some(self.grown(from, to, wants).map(per_second).sum()));
                    }
                    _ => {
                        into.add(Some(0.0));
                        self.add_durations(from, to, wants, into.counts.get_or_insert_default());
                    }
                }
            }
        }
    }

    fn routes<'a>(
        &'a self,
        from: &'a Http,
        to: &'a Http,
        wants: &'a dyn Fn(&str) -> bool,
    ) -> impl Iterator<Item = (Option<&'a Route>, &'a Route)> {
        let wanted = |route: &Route| wants(&route.name) && all_match(&self.only.routes, &route.name);
        let routes = to.routes.iter().enumerate().filter(move |(_, route)| wanted(route));
        routes.map(|(at, route)| (from.route(&route.name, at), route))
    }

    /// By how much each route's requests grew.
    fn grown<'a>(
        &'a self,
        from: &'a Http,
        to: &'a Http,
        wants: &'a dyn Fn(&str) -> bool,
    ) -> impl Iterator<Item = u64> {
        let count = |route: &Route| match self.only.failed {
            None => route.requests,
            Some(true) => route.errors,
            Some(false) => route.requests.saturating_sub(route.errors),
        };
        let routes = self.routes(from, to, wants);
        routes.map(move |(before, route)| count(route).saturating_sub(before.map_or(0, count)))
    }

    fn add_durations(&self, from: &Http, to: &Http, wants: &dyn Fn(&str) -> bool, counts: &mut Counts) {
        for (before, route) in self.routes(from, to, wants) {
            if let Some(durations) = &route.duration {
                counts.add(before.and_then(|before| before.duration.as_ref()), durations);
            }
        }
    }

    /// What it is of containers together. None where nobody knows or none of them has it; and of requests where there were none but
    /// connections that could not be read, of any of the containers: a zero of a container beside it says nothing of that one's.
    pub(super) fn value(&self, sum: &Sum) -> Option<f64> {
        if sum.is_unknown || sum.containers == 0 || (sum.is_unread && !sum.has_requests) {
            return None;
        }
        match self.of {
            Of::Sum => Some(sum.sum),
            Of::Mean => Some(sum.sum / f64::from(sum.containers)),
            Of::Quantile(q) => sum.counts.as_ref()?.quantile(q),
        }
    }
}
