//! HTTP requests. The kernel half is `exporter-ebpf/src/http/`.

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;
use aya::maps::{HashMap as BpfHashMap, MapData};
use exporter_ebpf::{
    http::{
        CONNECTIONS, FLUSH, ROUTES, RouteKey, RouteLine, SIGNAL,
        head::TARGET,
        parse_detail,
        route::{Route, Text},
    },
    series::Family,
};

use super::{Collector, Context, Start};
use crate::{
    cgroup::tree::Released,
    probes::Probes,
    snapshot::{Kind, Metric, Snapshot},
    sys::IterLink,
};

const LABELS: &[&str] = &["http_request_method", "http_response_status_code", "http_route"];

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

/// The metrics of this signal.
pub static METRICS: &[&Metric] = &[&SERVER, &CLIENT];

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

/// Builds the collector.
///
/// # Errors
/// When the map of routes cannot be had.
pub fn new(start: &mut Start<'_>) -> anyhow::Result<Box<dyn Collector>> {
    Ok(Box::new(Collect::new(start.probes)?))
}

/// The collector.
struct Collect {
    flush: Option<IterLink>,
    routes: BpfHashMap<MapData, RouteKey, RouteLine>,
    /// The texts of the routes, by hash, which is that of the text: what a cgroup that is gone had counted keeps its route.
    texts: HashMap<u64, String>,
}

impl Collect {
    fn new(probes: &mut Probes) -> anyhow::Result<Self> {
        let flush = if probes.is_attached(FLUSH) {
            let link = probes.iter_map(FLUSH, CONNECTIONS);
            link.inspect_err(|error| {
                let reason = format!("the last request of an idle connection counts when it ends: {error:#}");
                probes.degrade(FLUSH, reason);
            })
            .ok()
        } else {
            None
        };
        Ok(Self { flush, routes: probes.take(ROUTES)?, texts: HashMap::new() })
    }

    /// The text of a route; `None` for a hash whose line is not there, of a slot that was given anew in this moment.
    fn text(&mut self, slot: u32, route: u64) -> Option<String> {
        if route == 0 {
            return Some(OTHER.to_owned());
        }
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
    for &byte in line.bytes.iter().skip(line.target as usize).take(TARGET) {
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
        self.flush.as_ref().map_or(Ok(()), IterLink::walk).context("idle connections")
    }

    fn collect(&mut self, context: &Context<'_>, out: &mut Snapshot) -> anyhow::Result<()> {
        let mut seen = HashSet::new();
        for (metric, family) in [(&SERVER, Family::HttpServer), (&CLIENT, Family::HttpClient)] {
            let rows = context.rows(family);
            let family = out.family(metric);
            for (key, sum) in rows {
                let (Some(workload), (Some(method), status)) =
                    (context.tree.get(key.workload), parse_detail(key.detail))
                else {
                    continue;
                };
                seen.insert(key.route);
                let Some(route) = self.text(sum.slot, key.route) else { continue };
                let status = status.to_string();
                let values = [method.as_str(), &status, &route];
                family.histogram(&workload.labels, &values, sum.histogram(&DURATION_BOUNDS));
            }
        }
        self.texts.retain(|route, _| seen.contains(route));
        Ok(())
    }

    fn release(&mut self, _released: &Released, slot: Option<u32>) {
        let Some(slot) = slot else { return };
        let gone = self.routes.keys().flatten().filter(|key| key.slot == slot);
        for key in gone.collect::<Vec<_>>() {
            _ = self.routes.remove(&key);
        }
    }
}
