//! The samples of a container, as many as windows need, and what was used within one.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::sample::Sample;

/// Of how many parts a window is: samples are kept about that far apart, however often they come. Those that only longer windows
/// reach are as far apart as those need, so that a long one takes no more memory than a short one.
const PARTS: u64 = 6;

/// The samples of a run of a container, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Ring(VecDeque<Sample>);

/// How long a window is, ns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// As long as there are samples for.
    pub wanted: u64,
    /// For what is younger than that: no rate over less.
    pub least: u64,
}

impl Span {
    /// Windows of this length, or a third of it for what is young.
    pub fn new(wanted: Duration) -> Self {
        let wanted = wanted.as_nanos() as u64;
        Self { wanted, least: wanted / 3 }
    }
}

/// Every window that may be asked for.
#[derive(Clone, Debug)]
pub struct Spans {
    /// Where nothing else is said.
    pub usual: Span,
    /// How long they are, ns, ascending.
    lengths: Arc<[u64]>,
}

impl Spans {
    /// The usual one, and others.
    pub fn new(usual: Span, others: impl Iterator<Item = Span>) -> Self {
        let mut lengths: Vec<_> = others.chain([usual]).map(|span| span.wanted).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Self { usual, lengths: lengths.into() }
    }

    /// The usual one alone.
    pub fn only(usual: Span) -> Self {
        Self::new(usual, std::iter::empty())
    }

    /// The longest, ns.
    pub fn longest(&self) -> u64 {
        self.lengths.last().copied().unwrap_or(self.usual.wanted)
    }

    /// How far apart samples may be of which the newer is so old: the shortest window that begins between them needs no more.
    fn apart(&self, age: u64) -> u64 {
        let length = self.lengths.iter().find(|length| **length > age);
        length.copied().unwrap_or(self.longest()) / PARTS
    }
}

/// What a container had used at the ends of a window.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// At its beginning.
    pub from: &'a Sample,
    /// At its end.
    pub to: &'a Sample,
    /// How long it is.
    pub nanos: u64,
}

impl Window<'_> {
    /// By how much a counter grew within it.
    pub fn grown(&self, count: impl Fn(&Sample) -> Option<u64>) -> Option<u64> {
        count(self.to)?.checked_sub(count(self.from)?)
    }
}

impl Ring {
    /// Adds a sample. `previous` is when the agent reported before: until then, what it did not mention was as it had been.
    pub fn push(&mut self, sample: Sample, previous: u64, spans: &Spans) {
        if let Some(last) = self.0.back() {
            if sample.is_reset_since(last) {
                self.0.clear();
            } else if last.time < previous {
                let held = Sample { time: previous, ..last.clone() };
                self.append(held, spans);
            }
        }
        let now = sample.time;
        self.append(sample, spans);
        let longest = spans.longest();
        while self.0.get(1).is_some_and(|second| second.time.saturating_add(longest) <= now) {
            self.0.pop_front();
        }
        if spans.lengths.len() > 1 {
            self.thin(now, spans);
        }
    }

    fn append(&mut self, sample: Sample, spans: &Spans) {
        // The one between is not needed, as long as its neighbours are close.
        let before = self.0.len().checked_sub(2).and_then(|at| self.0.get(at));
        if before.is_some_and(|before| sample.time - before.time <= spans.apart(0)) {
            self.0.pop_back();
        }
        // One by one: it is soon as long as it ever will be, and twice that for every container would be much.
        self.0.reserve_exact(1);
        self.0.push_back(sample);
    }

    /// Forgets what only a shorter window needed. With one length nothing becomes that.
    fn thin(&mut self, now: u64, spans: &Spans) {
        let mut at = 1;
        while let (Some(before), Some(next)) = (self.0.get(at - 1), self.0.get(at + 1)) {
            if next.time - before.time <= spans.apart(now - next.time) {
                self.0.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// The newest sample.
    pub fn last(&self) -> Option<&Sample> {
        self.0.back()
    }

    /// The window that ends `now`, when the agent last reported. None while the container is too young.
    pub fn window(&self, now: u64, span: Span) -> Option<Window<'_>> {
        let to = self.0.back()?;
        let begin = now.checked_sub(span.wanted);
        if begin.is_some_and(|begin| to.time <= begin) {
            // Nothing has changed for as long as that.
            return Some(Window { from: to, to, nanos: span.wanted });
        }
        let at = self.0.iter().rposition(|sample| begin.is_some_and(|begin| sample.time <= begin));
        let (from, next) = (self.0.get(at.unwrap_or(0))?, at.and_then(|at| self.0.get(at + 1)));
        // Counters that are the same at two moments were so in between.
        let nanos = match next {
            Some(next) if next.is_same_as(from) => span.wanted,
            _ => now.checked_sub(from.time)?,
        };
        (nanos >= span.least && nanos > 0).then_some(Window { from, to, nanos })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN: Span = Span { wanted: 15_000, least: 5_000 };
    const LONG: Span = Span { wanted: 240_000, least: 80_000 };

    fn sample(time: u64, cpu: u64) -> Sample {
        Sample { time, cpu: Some(cpu).into(), ..Sample::default() }
    }

    /// A counter that changes in some of the ticks, told as an agent would: only when it changed.
    fn tell(ticks: &[(u64, u64)], spans: &Spans) -> (Ring, Vec<(u64, u64)>) {
        let (mut ring, mut truth) = (Ring::default(), Vec::new());
        let (mut time, mut cpu, mut previous) = (1_000_000, 0, 0);
        for (at, (step, growth)) in ticks.iter().enumerate() {
            time += step;
            cpu += growth;
            if at == 0 || *growth > 0 {
                ring.push(sample(time, cpu), previous, spans);
            }
            previous = time;
            truth.push((time, cpu));
        }
        (ring, truth)
    }

    proptest! {
        #[test]
        fn a_window_has_what_was_used_between_two_ticks(
            ticks in prop::collection::vec((1u64..4_000, prop_oneof![Just(0u64), 0u64..1_000]), 1..200),
            others in prop::sample::subsequence(vec![5_000, 60_000, 240_000], 0..=3),
        ) {
            let others = others.into_iter().map(|wanted| Span { wanted, least: wanted / 3 });
            let spans = Spans::new(SPAN, others.clone());
            let (ring, truth) = tell(&ticks, &spans);
            let (now, cpu) = *truth.last().unwrap();
            let age = now - truth[0].0;
            let step = ticks.iter().map(|(step, _)| *step).max().unwrap();
            for span in others.chain([SPAN]) {
                let Some(window) = ring.window(now, span) else {
                    prop_assert!(age < span.least);
                    continue;
                };
                prop_assert_eq!(window.to.cpu.get(), Some(cpu));
                let begin = now - window.nanos;
                let known = truth.iter().rev().find(|(time, _)| *time <= begin).unwrap();
                prop_assert_eq!(window.from.cpu.get(), Some(known.1), "at {}", begin);
                prop_assert!(window.nanos >= span.wanted.min(age), "no shorter than it can be");
                prop_assert!(window.nanos <= span.wanted + span.wanted / PARTS + 2 * step, "{} long", window.nanos);
            }
            let most = spans.lengths.len() * (2 * PARTS as usize + 4);
            prop_assert!(ring.0.len() <= most, "{} samples", ring.0.len());
            prop_assert!(ring.0.capacity() <= most, "room for {}", ring.0.capacity());
        }
    }

    #[test]
    fn a_long_window_takes_few_samples() {
        let spans = Spans::new(SPAN, [LONG].into_iter());
        let ticks = vec![(1_000, 1); 1_000];
        let (alone, _) = tell(&ticks, &Spans::only(SPAN));
        let (both, _) = tell(&ticks, &spans);
        println!("{} samples for 15 s, {} for that and 240 s", alone.0.len(), both.0.len());
        assert!(both.0.len() <= alone.0.len() + 2 * PARTS as usize, "{} of {}", both.0.len(), alone.0.len());
    }

    #[test]
    fn what_begins_anew_has_no_window_across() {
        let mut ring = Ring::default();
        for tick in 0..20 {
            ring.push(
                sample(tick * 1000, 5_000 + tick),
                (tick * 1000).saturating_sub(1000),
                &Spans::only(SPAN),
            );
        }
        assert!(ring.window(19_000, SPAN).is_some());
        ring.push(sample(20_000, 3), 19_000, &Spans::only(SPAN));
        assert!(ring.window(20_000, SPAN).is_none());
        ring.push(sample(26_000, 9), 25_000, &Spans::only(SPAN));
        let window = ring.window(26_000, SPAN).unwrap();
        assert_eq!((window.nanos, window.from.cpu.get(), window.to.cpu.get()), (6_000, Some(3), Some(9)));
    }

    #[test]
    fn an_idle_container_has_used_nothing() {
        let mut ring = Ring::default();
        ring.push(sample(0, 7), 0, &Spans::only(SPAN));
        let window = ring.window(1_000_000, SPAN).unwrap();
        assert_eq!((window.nanos, window.from.cpu), (SPAN.wanted, window.to.cpu));
    }
}
