//! The exemplars of requests: which traces some of them were of. The kernel half is `exporter-ebpf/src/http/exemplar.rs`.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aya::maps::{HashMap as BpfHashMap, MapData};
use exporter_ebpf::{
    http::exemplar::{EXEMPLARS, ExemplarKey, LINE},
    series::Family,
};
use rustix::time::{ClockId, clock_gettime};

use crate::{collector::Context, probes::Probes, series::Key, snapshot::Exemplar};

/// How long one is shown that no other has replaced, ns: who looks at a dashboard looks back further, into Prometheus.
const KEPT: u64 = 600_000_000_000;

/// The user side of the map.
pub(super) struct Traces {
    map: BpfHashMap<MapData, ExemplarKey, exporter_ebpf::http::exemplar::Exemplar>,
    /// Those of this scrape, by the family of the row and what it counts.
    found: BTreeMap<(u32, Key), Vec<Exemplar>>,
}

impl Traces {
    pub(super) fn new(probes: &mut Probes) -> anyhow::Result<Self> {
        Ok(Self { map: probes.take(EXEMPLARS)?, found: BTreeMap::new() })
    }

    /// Reads what there is for this scrape.
    pub(super) fn read(&mut self, context: &Context<'_>) {
        let (now, unix) = clocks();
        self.found.clear();
        let mut old = Vec::new();
        for (key, exemplar) in self.map.iter().flatten() {
            let age = now.saturating_sub(exemplar.at);
            let (Some(trace), true) = (trace(&exemplar.line), age < KEPT) else {
                old.push(key);
                continue;
            };
            let Some(workload) = context.owner(key.series.slot) else { continue };
            let of = Key { workload, detail: key.series.detail, route: key.series.route };
            let at = unix.saturating_sub(Duration::from_nanos(age)).as_secs_f64();
            let value = exemplar.nanos as f64 / 1e9;
            let exemplar = Exemplar { trace: trace.to_owned(), value, at };
            self.found.entry((key.series.family, of)).or_default().push(exemplar);
        }
        old.iter().for_each(|key| _ = self.map.remove(key));
    }

    /// Those of a sum of these families' rows, the latest last.
    pub(super) fn take(&mut self, families: &[Family], key: Key) -> Vec<Exemplar> {
        let found = families.iter().filter_map(|family| self.found.remove(&(*family as u32, key)));
        let mut found: Vec<_> = found.flatten().collect();
        found.sort_by(|one, other| one.at.total_cmp(&other.at));
        found
    }

    /// Drops those of a slot, which is given to another cgroup next.
    pub(super) fn release(&mut self, slot: u32) {
        let gone: Vec<_> = self.map.keys().flatten().filter(|key| key.series.slot == slot).collect();
        gone.iter().for_each(|key| _ = self.map.remove(key));
    }
}

/// Now: as the kernel half says it, ns, and since 1970.
fn clocks() -> (u64, Duration) {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32);
    (now.as_nanos() as u64, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The id of the trace in a line `traceparent` (W3C Trace Context, level 1, 3.2); `None` if it is none.
fn trace(line: &[u8; LINE + 4]) -> Option<&str> {
    let text = str::from_utf8(&line[..LINE]).ok()?;
    let (_, value) = text.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("traceparent"))?;
    let mut parts = value.split('-');
    let [version, trace, span, flags] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let is = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_some = |part: &str| part.bytes().any(|byte| byte != b'0');
    let is_valid = is(version, 2) && version != "ff" && is(trace, 32) && is(span, 16) && is(flags, 2);
    (is_valid && is_some(trace) && is_some(span)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn line(text: &str) -> [u8; LINE + 4] {
        let mut line = [0; LINE + 4];
        line[..text.len()].copy_from_slice(text.as_bytes());
        line
    }

    #[test]
    fn a_trace_is_read_whatever_the_case_of_the_name() {
        for name in ["traceparent", "Traceparent", "TRACEPARENT"] {
            let line = line(&format!("{name}: 00-{TRACE}-b7ad6b7169203331-01"));
            assert_eq!(trace(&line), Some(TRACE));
        }
        assert_eq!(trace(&line(&format!("traceparent: cc-{TRACE}-b7ad6b7169203331-09"))), Some(TRACE));
    }

    #[test]
    fn what_is_no_trace_is_none() {
        for text in [
            "tracepartial: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "traceparent: ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "traceparent: 00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "traceparent: 00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "traceparent: 00-0af7651916cd43dd8448eb211c8031-9c-7ad6b7169203331-01",
            "traceparent:  0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "",
        ] {
            assert_eq!(trace(&line(text)), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_trace_is_always_32_digits(bytes in prop::collection::vec(any::<u8>(), LINE + 4)) {
            let line: [u8; LINE + 4] = bytes.try_into().expect("as many");
            prop_assert!(trace(&line).is_none_or(|trace| trace.len() == 32));
        }

        #[test]
        fn one_byte_changed_is_a_trace_or_none(at in 0..LINE, byte: u8) {
            let mut line = line(&format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01"));
            line[at] = byte;
            let digits = trace(&line).map(|trace| trace.bytes().all(|byte| byte.is_ascii_hexdigit()));
            prop_assert!(digits.is_none_or(|digits| digits));
        }
    }
}
