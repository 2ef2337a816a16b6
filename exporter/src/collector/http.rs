//! HTTP requests. The kernel half is `exporter-ebpf/src/http/`.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context as _;
use aya::maps::{HashMap as BpfHashMap, MapData};
use exporter_ebpf::{
    http::{
        ACTIVE, Active, CONNECTIONS, FLUSH, ROUTES, RouteKey, RouteLine, SIGNAL,
        head::TARGET,
        parse_detail,
        route::{Route, Text},
    },
    series::Family,
};

use super::{Collector, Context, Start};
use crate::{
    cgroup::tree::{NodeKey, Released, Tree, WorkloadId},
    probes::Probes,
    route::Routes,
    snapshot::{Kind, Metric, Snapshot},
    sys::{IterLink, MappedArray},
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

static SERVER_ACTIVE: Metric = Metric::container(
    "http_server_active_requests",
    Kind::Gauge,
    &[],
    "Requests that have arrived and whose response has not begun, in this moment: those that are worked on, and the queue.",
);
static CLIENT_ACTIVE: Metric = Metric::container(
    "http_client_active_requests",
    Kind::Gauge,
    &[],
    "Requests that were made and whose response has not begun, in this moment.",
);

/// The metrics of this signal.
pub static METRICS: &[&Metric] = &[&SERVER, &CLIENT, &SERVER_ACTIVE, &CLIENT_ACTIVE];

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
    let named = start.routes.take().context("the user's routes")?;
    Ok(Box::new(Collect::new(start.probes, named)?))
}

const NONE: Active = Active { server: 0, client: 0 };

/// The collector.
struct Collect {
    flush: Option<IterLink>,
    active: MappedArray<Active>,
    routes: BpfHashMap<MapData, RouteKey, RouteLine>,
    /// Those that the user named.
    named: Routes,
    /// The texts of the routes, by hash, which is that of the text: what a cgroup that is gone had counted keeps its route.
    texts: HashMap<u64, String>,
}

impl Collect {
    fn new(probes: &mut Probes, named: Routes) -> anyhow::Result<Self> {
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
        let active = probes.array(ACTIVE)?;
        Ok(Self { flush, active, routes: probes.take(ROUTES)?, named, texts: HashMap::new() })
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
        for (metric, counts) in [&SERVER_ACTIVE, &CLIENT_ACTIVE].into_iter().zip(counts) {
            let family = out.family(metric);
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
        let mut seen = HashSet::new();
        let mut active = [BTreeMap::new(), BTreeMap::new()];
        for (side, (metric, family)) in
            [(&SERVER, Family::HttpServer), (&CLIENT, Family::HttpClient)].into_iter().enumerate()
        {
            let rows = context.rows(family);
            // Who ever had a request has none now, unless it is counted below.
            active[side].extend(rows.iter().map(|(key, _)| (key.workload, 0)));
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
        if self.flush.is_some() {
            self.emit_active(context, active, out);
        }
        Ok(())
    }

    fn release(&mut self, released: &Released, slot: Option<u32>) {
        self.named.release(released.key);
        let Some(slot) = slot else { return };
        let gone = self.routes.keys().flatten().filter(|key| key.slot == slot);
        for key in gone.collect::<Vec<_>>() {
            _ = self.routes.remove(&key);
        }
    }
}
