//! HTTP requests. The kernel half is `exporter-ebpf/src/http/`.

mod coverage;
mod sides;
mod traces;

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context as _;
use aya::maps::{HashMap as BpfHashMap, MapData};
use exporter_ebpf::http::{
    ACTIVE, Active, FLUSH, ROUTES, RouteKey, RouteLine, SIGNAL, detail, parse_detail,
    route::{Route, Text},
};

pub(crate) use self::coverage::UNPARSED;
use self::{
    coverage::Accounts,
    sides::{SIDES, Side},
    traces::Traces,
};
use super::{Collector, Context, Reader, Start};
use crate::{
    cgroup::tree::{NodeKey, Released, Tree, WorkloadId},
    probes::Probes,
    route::Routes,
    series::{Key, Sum},
    snapshot::{Histogram, Metric, Snapshot},
    sys::{IterLink, MappedArray},
};

/// The metrics of this signal.
pub static METRICS: &[&Metric] = &[
    SIDES[0].duration,
    SIDES[1].duration,
    SIDES[0].first_byte,
    SIDES[1].first_byte,
    SIDES[0].request_size,
    SIDES[1].request_size,
    SIDES[0].response_size,
    SIDES[1].response_size,
    SIDES[0].active,
    SIDES[1].active,
    &coverage::SEEN,
    &coverage::PARSED,
    &coverage::UNPARSED,
];

/// The metrics of requests that a container served: how long they took, and how many are outstanding.
pub(crate) fn served() -> [&'static Metric; 2] {
    [SIDES[0].duration, SIDES[0].active]
}

/// Upper bounds of the duration buckets, ns: those of OpenTelemetry's semantic conventions, 5 ms to 10 s.
pub const DURATION_BOUNDS: [u64; 14] = [
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

/// The route of requests beyond a cgroup's budget of routes, and of those whose target is not in one segment.
const OTHER: &str = "other";

/// A row's key without the status.
fn of_route(key: &Key) -> Key {
    Key { detail: detail(parse_detail(key.detail).0.map_or(0, |method| method as u8), 0), ..*key }
}

/// Builds the collector.
///
/// # Errors
/// When the map of routes cannot be had.
pub fn new(start: &mut Start<'_>) -> anyhow::Result<Box<dyn Collector>> {
    let named = start.routes.take().context("the user's routes")?;
    Ok(Box::new(Collect::new(start.probes, named)?))
}

const NONE: Active = Active { server: 0, client: 0 };

/// The collector.
struct Collect {
    flush: Option<IterLink>,
    active: MappedArray<Active>,
    coverage: Accounts,
    routes: BpfHashMap<MapData, RouteKey, RouteLine>,
    /// Those that the user named.
    named: Routes,
    /// The texts of the routes, by hash, which is that of the text: what a cgroup that is gone had counted keeps its route.
    texts: HashMap<u64, String>,
    traces: Traces,
    /// The routes of this scrape.
    seen: HashSet<u64>,
}

impl Collect {
    fn new(probes: &mut Probes, named: Routes) -> anyhow::Result<Self> {
        let flush = probes.iter_sockets(&FLUSH);
        let (active, coverage) = (probes.array(ACTIVE)?, Accounts::new(probes)?);
        let (routes, texts, seen) = (probes.take(ROUTES)?, HashMap::new(), HashSet::new());
        let traces = Traces::new(probes)?;
        Ok(Self { flush, active, coverage, routes, named, texts, traces, seen })
    }

    /// Emits what one side has; the workloads that ever had a request.
    fn emit(&mut self, side: &Side, context: &Context<'_>, out: &mut Snapshot) -> BTreeMap<WorkloadId, u64> {
        let [whole, long, first] = side.families.map(|family| context.rows(family));
        let mut durations: BTreeMap<Key, Sum> = BTreeMap::new();
        let mut firsts: BTreeMap<Key, Sum> = BTreeMap::new();
        for (key, sum) in &first {
            firsts.entry(of_route(key)).or_default().merge(sum);
        }
        for (key, sum) in &whole {
            // What came in one segment had its first byte when it had its last.
            firsts.entry(of_route(key)).or_default().merge(sum);
        }
        let mut sizes: BTreeMap<Key, [u64; 3]> = BTreeMap::new();
        for (key, sum) in whole.into_iter().chain(long) {
            let [count, requests, responses] = sizes.entry(of_route(&key)).or_default();
            *count += sum.count();
            *requests += sum.received;
            *responses += sum.bytes;
            durations.entry(key).or_default().merge(&sum);
        }
        let active = durations.keys().map(|key| (key.workload, 0)).collect();
        let mut family = out.family(side.duration);
        let mut texts = BTreeMap::new();
        for (key, sum) in durations {
            let (Some(workload), (Some(method), status)) =
                (context.tree.get(key.workload), parse_detail(key.detail))
            else {
                continue;
            };
            let Some(route) = self.text(sum.slot, key.route) else { continue };
            let status = status.to_string();
            let mut histogram = sum.histogram(&DURATION_BOUNDS);
            histogram.exemplars = self.traces.take(&side.families[..2], key);
            family.histogram(&workload.labels, &[method.as_str(), &status, &route], histogram);
            texts.insert(of_route(&key), (workload, method.as_str(), route));
        }
        family = out.family(side.first_byte);
        for (key, (workload, method, route)) in &texts {
            if let Some(sum) = firsts.remove(key) {
                family.histogram(&workload.labels, &[method, route], sum.histogram(&DURATION_BOUNDS));
            }
        }
        for (at, metric) in [(1, side.request_size), (2, side.response_size)] {
            let family = out.family(metric);
            for (key, (workload, method, route)) in &texts {
                let Some(sizes) = sizes.get(key) else { continue };
                let (sum, count) = (sizes[at] as f64, sizes[0]);
                let histogram = Histogram { buckets: Vec::new(), sum, count, ..Histogram::default() };
                family.histogram(&workload.labels, &[method, route], histogram);
            }
        }
        active
    }

    /// Emits the requests that wait, of server and client; `counts` has the workloads that are shown in any case.
    fn emit_active(
        &self,
        context: &Context<'_>,
        mut counts: [BTreeMap<WorkloadId, u64>; 2],
        out: &mut Snapshot,
    ) {
        for (slot, owner) in context.owners.iter().enumerate() {
            let (Some(owner), Some(active)) = (owner, self.active.get(slot as u32)) else { continue };
            for (counts, active) in counts.iter_mut().zip([active.server, active.client]) {
                if active > 0 {
                    *counts.entry(*owner).or_default() += u64::from(active);
                }
            }
        }
        for (side, counts) in SIDES.iter().zip(counts) {
            let family = out.family(side.active);
            for (workload, count) in counts {
                if let Some(workload) = context.tree.get(workload) {
                    family.value(&workload.labels, &[], count as f64);
                }
            }
        }
    }

    /// The text of a route; `None` for a hash whose line is not there, of a slot that was given anew in this moment.
    fn text(&mut self, slot: u32, route: u64) -> Option<String> {
        if route == 0 {
            return Some(OTHER.to_owned());
        }
        if let Some(name) = self.named.name(route) {
            return Some(name.to_owned());
        }
        self.seen.insert(route);
        if !self.texts.contains_key(&route) {
            let line = self.routes.get(&RouteKey { route, slot, reserved: 0 }, 0).ok()?;
            self.texts.insert(route, name(&line));
        }
        self.texts.get(&route).cloned()
    }
}

/// The route of a request line: what the kernel hashed, as text.
pub fn name(line: &RouteLine) -> String {
    let mut route = Route::new(Text::new());
    for &byte in line.bytes.iter().skip(line.target as usize) {
        if !route.push(byte) {
            return route.finish(false).as_str().to_owned();
        }
    }
    route.finish(true).as_str().to_owned()
}

impl Collector for Collect {
    fn name(&self) -> &'static str {
        SIGNAL.name
    }

    fn admit(&mut self, tree: &Tree, cgroup: NodeKey) {
        self.named.admit(tree, cgroup);
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        for slot in 0..self.active.len() {
            if self.active.get(slot).is_some_and(|active| active != NONE) {
                self.active.set(slot, NONE);
            }
        }
        self.flush.as_ref().map_or(Ok(()), IterLink::walk).context("the connections")
    }

    fn collect(&mut self, context: &Context<'_>, out: &mut Snapshot) -> anyhow::Result<()> {
        self.seen.clear();
        if context.reader == Reader::Scrape {
            self.traces.read(context);
        }
        // Who ever had a request has none now, unless it is counted below.
        let active = [&SIDES[0], &SIDES[1]].map(|side| self.emit(side, context, out));
        let seen = &self.seen;
        self.texts.retain(|route, _| seen.contains(route));
        if self.flush.is_some() {
            self.emit_active(context, active, out);
        }
        self.coverage.emit(context, out);
        Ok(())
    }

    fn release(&mut self, released: &Released, slot: Option<u32>) {
        self.named.release(released.key);
        self.coverage.release(released, slot);
        let Some(slot) = slot else { return };
        self.traces.release(slot);
        let gone = self.routes.keys().flatten().filter(|key| key.slot == slot);
        for key in gone.collect::<Vec<_>>() {
            _ = self.routes.remove(&key);
        }
    }
}
