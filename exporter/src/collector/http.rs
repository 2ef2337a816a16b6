//! HTTP requests. The kernel half is `exporter-ebpf/src/http/`.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context as _;
use aya::maps::{HashMap as BpfHashMap, MapData};
use exporter_ebpf::{
    http::{
        ACTIVE, Active, CONNECTIONS, FLUSH, ROUTES, RouteKey, RouteLine, SIGNAL,
        coverage::{COVERAGE, Coverage, Reason},
        detail, parse_detail,
        route::{Route, Text},
    },
    series::Family,
};

use super::{Collector, Context, Start};
use crate::{
    cgroup::tree::{Released, WorkloadId},
    probes::Probes,
    series::{Key, Sum},
    snapshot::{Histogram, Kind, Metric, Snapshot},
    sys::{IterLink, MappedArray},
};

const LABELS: &[&str] = &["http_request_method", "http_response_status_code", "http_route"];
const ROUTE_LABELS: &[&str] = &["http_request_method", "http_route"];

/// What one side of the connections has: the requests that a container served, or those that it made.
struct Side {
    /// The kernel's rows: whole responses, long ones, and the first bytes of these.
    families: [Family; 3],
    duration: &'static Metric,
    first_byte: &'static Metric,
    request_size: &'static Metric,
    response_size: &'static Metric,
    active: &'static Metric,
}

static SIDES: [Side; 2] = [
    Side {
        families: [Family::HttpServer, Family::HttpServerLong, Family::HttpServerFirst],
        duration: &SERVER,
        first_byte: &SERVER_FIRST_BYTE,
        request_size: &SERVER_REQUEST_SIZE,
        response_size: &SERVER_RESPONSE_SIZE,
        active: &SERVER_ACTIVE,
    },
    Side {
        families: [Family::HttpClient, Family::HttpClientLong, Family::HttpClientFirst],
        duration: &CLIENT,
        first_byte: &CLIENT_FIRST_BYTE,
        request_size: &CLIENT_REQUEST_SIZE,
        response_size: &CLIENT_RESPONSE_SIZE,
        active: &CLIENT_ACTIVE,
    },
];

static SERVER: Metric = Metric::container(
    "http_server_request_duration_seconds",
    Kind::Histogram,
    LABELS,
    "Requests served: from the first byte of the request at the socket to the last byte of the response.",
);
static CLIENT: Metric = Metric::container(
    "http_client_request_duration_seconds",
    Kind::Histogram,
    LABELS,
    "Requests made: from the first byte of the request at the socket to the last byte of the response.",
);
static SERVER_FIRST_BYTE: Metric = Metric::container(
    "http_server_time_to_first_byte_seconds",
    Kind::Histogram,
    ROUTE_LABELS,
    "Requests served: from the first byte of the request at the socket to the first byte of the response (of the final one, after 100 or 103).",
);
static CLIENT_FIRST_BYTE: Metric = Metric::container(
    "http_client_time_to_first_byte_seconds",
    Kind::Histogram,
    ROUTE_LABELS,
    "Requests made: from the first byte of the request at the socket to the first byte of the response (of the final one, after 100 or 103).",
);
static SERVER_REQUEST_SIZE: Metric = Metric::container(
    "http_server_request_body_size_bytes",
    Kind::Histogram,
    ROUTE_LABELS,
    "Bodies of the requests served, as they were when the response had ended, without the framing of chunks. Sum and count, no buckets.",
);
static CLIENT_REQUEST_SIZE: Metric = Metric::container(
    "http_client_request_body_size_bytes",
    Kind::Histogram,
    ROUTE_LABELS,
    "Bodies of the requests made, as they were when the response had ended, without the framing of chunks. Sum and count, no buckets.",
);
static SERVER_RESPONSE_SIZE: Metric = Metric::container(
    "http_server_response_body_size_bytes",
    Kind::Histogram,
    ROUTE_LABELS,
    "Bodies of the responses to the requests served, without the framing of chunks. Sum and count, no buckets.",
);
static CLIENT_RESPONSE_SIZE: Metric = Metric::container(
    "http_client_response_body_size_bytes",
    Kind::Histogram,
    ROUTE_LABELS,
    "Bodies of the responses to the requests made, without the framing of chunks. Sum and count, no buckets.",
);
static SERVER_ACTIVE: Metric = Metric::container(
    "http_server_active_requests",
    Kind::Gauge,
    &[],
    "Requests that have arrived and whose response has not ended, in this moment: those that are worked on, and the queue.",
);
static CLIENT_ACTIVE: Metric = Metric::container(
    "http_client_active_requests",
    Kind::Gauge,
    &[],
    "Requests that were made and whose response has not ended, in this moment.",
);
static SEEN: Metric = Metric::container(
    "podmeter_http_coverage_seen_bytes_total",
    Kind::Counter,
    &[],
    "Payload of TCP connections that the HTTP programs saw.",
);
static PARSED: Metric = Metric::container(
    "podmeter_http_coverage_parsed_bytes_total",
    Kind::Counter,
    &[],
    "What of it was HTTP/1 that was followed from its first byte to its last.",
);
static UNPARSED: Metric = Metric::container(
    "podmeter_http_coverage_unparsed_bytes_total",
    Kind::Counter,
    &["reason"],
    "What of it was not: other protocols (tls, http2, unknown), connections that became something else (upgraded) or had too many requests outstanding (pipeline), and HTTP whose beginning was not seen (unmatched).",
);

/// The metrics of this signal.
pub static METRICS: &[&Metric] = &[
    &SERVER,
    &CLIENT,
    &SERVER_FIRST_BYTE,
    &CLIENT_FIRST_BYTE,
    &SERVER_REQUEST_SIZE,
    &CLIENT_REQUEST_SIZE,
    &SERVER_RESPONSE_SIZE,
    &CLIENT_RESPONSE_SIZE,
    &SERVER_ACTIVE,
    &CLIENT_ACTIVE,
    &SEEN,
    &PARSED,
    &UNPARSED,
];

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

/// Nothing carried.
const UNCOVERED: Coverage = Coverage { parsed: 0, unparsed: [0; Reason::ALL.len()] };

fn add(sum: &mut Coverage, coverage: &Coverage) {
    sum.parsed += coverage.parsed;
    for (sum, bytes) in sum.unparsed.iter_mut().zip(coverage.unparsed) {
        *sum += bytes;
    }
}

/// A row's key without the status.
fn of_route(key: &Key) -> Key {
    Key { detail: detail(parse_detail(key.detail).0.map_or(0, |method| method as u8), 0), ..*key }
}

/// Builds the collector.
///
/// # Errors
/// When the map of routes cannot be had.
pub fn new(start: &mut Start<'_>) -> anyhow::Result<Box<dyn Collector>> {
    Ok(Box::new(Collect::new(start.probes)?))
}

const NONE: Active = Active { server: 0, client: 0 };

/// The collector.
struct Collect {
    flush: Option<IterLink>,
    active: MappedArray<Active>,
    coverage: MappedArray<Coverage>,
    routes: BpfHashMap<MapData, RouteKey, RouteLine>,
    /// The texts of the routes, by hash, which is that of the text: what a cgroup that is gone had counted keeps its route.
    texts: HashMap<u64, String>,
    /// The routes of this scrape.
    seen: HashSet<u64>,
    /// What cgroups that are gone had carried, by the workload that goes on.
    retained: HashMap<WorkloadId, Coverage>,
}

impl Collect {
    fn new(probes: &mut Probes) -> anyhow::Result<Self> {
        let flush = if probes.is_attached(FLUSH) {
            let link = probes.iter_map(FLUSH, CONNECTIONS);
            link.inspect_err(|error| {
                let reason =
                    format!("no requests that wait, and bytes count when connections end: {error:#}");
                probes.degrade(FLUSH, reason);
            })
            .ok()
        } else {
            None
        };
        let (active, coverage) = (probes.array(ACTIVE)?, probes.array(COVERAGE)?);
        let (texts, seen, retained) = (HashMap::new(), HashSet::new(), HashMap::new());
        Ok(Self { flush, active, coverage, routes: probes.take(ROUTES)?, texts, seen, retained })
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
            family.histogram(
                &workload.labels,
                &[method.as_str(), &status, &route],
                sum.histogram(&DURATION_BOUNDS),
            );
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
                let histogram = Histogram { buckets: Vec::new(), sum, count, fine: None };
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

    /// Emits how much of what was carried could be parsed.
    fn emit_coverage(&self, context: &Context<'_>, out: &mut Snapshot) {
        let mut sums: BTreeMap<WorkloadId, Coverage> =
            self.retained.iter().map(|(workload, coverage)| (*workload, *coverage)).collect();
        for (slot, owner) in context.owners.iter().enumerate() {
            let (Some(owner), Some(coverage)) = (owner, self.coverage.get(slot as u32)) else { continue };
            if coverage != UNCOVERED {
                add(sums.entry(*owner).or_insert(UNCOVERED), &coverage);
            }
        }
        let of = |id: &WorkloadId| context.tree.get(*id).map(|workload| &workload.labels);
        let shown: Vec<_> = sums.iter().filter_map(|(id, coverage)| Some((of(id)?, coverage))).collect();
        let family = out.family(&SEEN);
        for (labels, coverage) in &shown {
            let seen = coverage.parsed + coverage.unparsed.iter().sum::<u64>();
            family.value(labels, &[], seen as f64);
        }
        let family = out.family(&PARSED);
        for (labels, coverage) in &shown {
            family.value(labels, &[], coverage.parsed as f64);
        }
        let family = out.family(&UNPARSED);
        for (labels, coverage) in &shown {
            for (reason, bytes) in Reason::ALL.iter().zip(coverage.unparsed).filter(|(_, bytes)| *bytes > 0) {
                family.value(labels, &[reason.name()], bytes as f64);
            }
        }
    }

    /// The text of a route; `None` for a hash whose line is not there, of a slot that was given anew in this moment.
    fn text(&mut self, slot: u32, route: u64) -> Option<String> {
        if route == 0 {
            return Some(OTHER.to_owned());
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
        // Who ever had a request has none now, unless it is counted below.
        let active = [&SIDES[0], &SIDES[1]].map(|side| self.emit(side, context, out));
        let seen = &self.seen;
        self.texts.retain(|route, _| seen.contains(route));
        if self.flush.is_some() {
            self.emit_active(context, active, out);
        }
        self.emit_coverage(context, out);
        Ok(())
    }

    fn release(&mut self, released: &Released, slot: Option<u32>) {
        if !released.survives {
            self.retained.remove(&released.workload);
        }
        let Some(slot) = slot else { return };
        if let Some(coverage) = self.coverage.get(slot) {
            if released.survives && coverage != UNCOVERED {
                add(self.retained.entry(released.workload).or_insert(UNCOVERED), &coverage);
            }
            self.coverage.set(slot, UNCOVERED);
        }
        let gone = self.routes.keys().flatten().filter(|key| key.slot == slot);
        for key in gone.collect::<Vec<_>>() {
            _ = self.routes.remove(&key);
        }
    }
}
