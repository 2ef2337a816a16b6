//! `podmeter agent`: puts the parts together, and runs until told to stop.

use std::{
    collections::HashSet,
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use aya_log::EbpfLogger;
use exporter_ebpf::{SIGNALS, cgroup};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::{Level, debug, info, warn};

use crate::{
    capabilities,
    cgroup::{
        layout::Layout,
        tree::{Tree, naming::Names},
    },
    collector::{COLLECTORS, Collector, Start, agent::Health, spec::Specs},
    config::Agent,
    http::{self, Source, guard::Guard},
    kube::{self, PodSource},
    probes::{Plan, Probes, State},
    registry::Registry,
    route::{self, Routes, Table},
    series::Series,
    slots::Slots,
    snapshot::Snapshot,
    status,
    stream::frame::{Frame, Identity},
    sys,
};

/// How often the agent shows that it is alive, and how old the last sign may be.
const BEAT: Duration = Duration::from_secs(5);
const LIVE: Duration = Duration::from_secs(20);

/// Each is on every series of every container.
const MAX_POD_LABELS: usize = 8;

/// An agent that has done all that takes rights: it is bound to its address, and its probes are attached.
pub struct Ready {
    config: Agent,
    listener: std::net::TcpListener,
    registry: Registry,
    started: Instant,
}

/// Does what takes rights, and gives them up. To be called before there are other threads, which would keep theirs; SIGINT and SIGTERM
/// are held back until [`run`].
///
/// # Errors
/// When it cannot listen, or when a route is none. A probe that cannot be had is no error.
pub fn prepare(mut config: Agent) -> anyhow::Result<Ready> {
    if let Some(path) = &config.route_file {
        config.routes.extend(route::read(path)?);
    }
    route::check(&config.routes)?;
    let labels = config.kube.pod_labels.len();
    ensure!(labels <= MAX_POD_LABELS, "--pod-labels has {labels} labels, and {MAX_POD_LABELS} are allowed");
    let listener = std::net::TcpListener::bind(config.listen).with_context(|| {
        format!("cannot listen on {}; choose another address with --listen", config.listen)
    })?;
    listener.set_nonblocking(true)?;
    // From here on a signal is an orderly end, and not the death that it is by default.
    sys::hold_signals(true);
    let started = Instant::now();
    let registry = build(&config);
    // The kernel's BTF, megabytes of it, is not needed any more.
    sys::trim_memory();
    report(&registry.probes);
    match capabilities::drop_all() {
        Ok(kept) => debug!(kept = format_args!("{kept:x}"), "capabilities are given up"),
        Err(error) => warn!("cannot give up capabilities: {error:#}"),
    }
    Ok(Ready { config, listener, registry, started })
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// When a file is missing that says who may read.
pub async fn run(ready: Ready) -> anyhow::Result<()> {
    let Ready { config, listener, registry, started } = ready;
    let interval = Duration::from_millis(config.stream_interval.into());
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    sys::hold_signals(false);
    let guard = Guard::new(&config)?;
    let scheme = if guard.tls.is_some() { "https" } else { "http" };
    if let Some(pods) = registry.pods.clone() {
        tokio::spawn(async move { kube::follow(config.kube, pods).await });
    }
    let shared = Arc::new(Shared { registry: Mutex::new(registry), started, beat: AtomicU64::new(0) });
    follow_events(&shared)?;
    follow_log(&shared);
    tokio::spawn(beat(shared.clone()));
    let listener = TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    info!(%address, took_seconds = started.elapsed().as_secs_f64(), "serving {scheme}://{address}/metrics");
    let shutdown = async move {
        tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
        info!("stopping");
    };
    http::serve(listener, guard, shared, interval, shutdown).await?;
    Ok(())
}

/// Loads, attaches, and builds a collector for every signal that has something to say.
pub fn build(config: &Agent) -> Registry {
    let layout = Layout::detect(&config.cgroupfs, &config.procfs);
    if layout.v2.is_none() {
        warn!(
            cgroupfs = %config.cgroupfs.display(),
            "no cgroup v2 hierarchy here: CPU and HTTP cannot be told apart by container; mount it, or point --cgroupfs at it"
        );
    }
    // `cgroup` is no signal of its own to the user, but the ground that the others stand on.
    let names = SIGNALS.iter().map(|signal| signal.name);
    let signals = names.filter(|name| *name == cgroup::SIGNAL.name || config.wants(name)).collect();
    let btf = config.sysfs.join("kernel/btf/vmlinux");
    let root = layout.v2().map(|v2| v2.root.clone());
    let (cgroups, rows) = (config.max_cgroups, config.max_histograms);
    let table = Table::new(&config.routes);
    let literals = table.literals.len() as u32;
    let plan = Plan {
        btf: &btf,
        cgroup: root.as_deref(),
        signals: &signals,
        globals: &[
            ("HIERARCHIES", layout.bits()),
            ("IO_ON_V1", u32::from(layout.io_on_v1())),
            ("HTTP_ROUTE_BUDGET", config.max_routes),
            ("HTTP_PATTERNS", table.len),
            ("HTTP_SCOPED_PATTERNS", table.scoped()),
            ("HTTP_LITERALS_MASK", literals - 1),
        ],
        sizes: &[
            ("CGROUPS", cgroups),
            ("SLOTS", cgroups),
            ("FREE_SLOTS", cgroups),
            ("CPU", cgroups),
            ("TCP", cgroups),
            ("ACTIVE", cgroups),
            ("COVERAGE", cgroups),
            ("BANDWIDTHS", cgroups),
            ("MEMORY", cgroups),
            ("PRESSURES", cgroups),
            ("SERIES", rows),
            ("ROWS", rows),
            ("FREE_ROWS", rows),
            ("ROUTES", rows),
            ("LITERALS", literals),
            ("SCOPES", if table.scoped() > 0 { cgroups } else { 1 }),
        ],
        debug: tracing::enabled!(target: "exporter_ebpf", Level::DEBUG),
    };
    let mut probes = Probes::load(&plan);
    let counters = Slots::new(&mut probes, &layout)
        .and_then(|slots| Ok((slots, Series::new(&mut probes)?)))
        .inspect_err(|error| debug!("without the kernel's counters: {error:#}"))
        .ok();
    let mut routes = Routes::new(&mut probes, table, layout.v2)
        .inspect_err(|error| debug!("without the user's routes: {error:#}"))
        .ok();
    let mut tree = Tree::new(layout);
    let kube = &config.kube;
    let pods = (PodSource::resolve(kube.pod_source) != PodSource::None).then(Arc::default);
    if pods.is_some() {
        tree.expect_names(Names::new(kube::node_name(kube), &kube.pod_labels, kube.pod_owner));
    }
    if let Some(routes) = routes.as_mut().filter(|routes| routes.are_scoped()) {
        // Before the first packet is looked at.
        tree.walk();
        tree.take_added().into_iter().for_each(|cgroup| routes.admit(&tree, cgroup));
    }
    // Attached before the walk: a cgroup made in between is seen twice, rather than not at all.
    probes.attach(&plan);
    tree.walk();
    let events = probes.is_attached("cgroup_mkdir").then(|| probes.take(cgroup::CGROUP_EVENTS).ok());
    let health = Health::new(&mut probes);
    let collectors = collectors(&mut Start {
        probes: &mut probes,
        tree: &tree,
        counters: counters.as_ref(),
        routes,
        config,
    });
    let (events, orphans) = (events.flatten(), HashSet::new());
    let resources_of = kube.pod_resources.then(|| kube::node_name(kube));
    let mut registry = Registry {
        tree,
        probes,
        events,
        counters,
        collectors,
        health,
        pods,
        resources_of,
        specs: Specs::default(),
        lost_events: 0,
        orphans,
        identity: Identity::new(kube::node_name(kube)),
        scraped: Instant::now(),
    };
    registry.admit();
    registry
}

/// Builds a collector for every signal that is wanted and whose required probes are attached.
fn collectors(start: &mut Start<'_>) -> Vec<Box<dyn Collector>> {
    let mut built = Vec::new();
    for entry in COLLECTORS.iter().filter(|entry| start.config.wants(entry.signal.name)) {
        let probes = entry.signal.probes.iter().filter(|probe| probe.required);
        if !probes.into_iter().all(|probe| start.probes.is_attached(probe.program)) {
            continue;
        }
        match (entry.new)(start) {
            Ok(collector) => built.push(collector),
            Err(error) => warn!(signal = entry.signal.name, "not collected: {error:#}"),
        }
    }
    built
}

/// One line per probe that is not attached, and a tally.
fn report(probes: &Probes) {
    for verdict in probes.verdicts() {
        let (signal, program, state) = (verdict.signal, verdict.program, verdict.state.as_str());
        match verdict.state {
            State::Attached => debug!(signal, program, state, "probe"),
            State::Disabled => info!(signal, program, state, "probe is switched off"),
            _ => warn!(signal, program, state, reason = verdict.reason, "probe is not attached"),
        }
    }
    let count = |state| probes.verdicts().iter().filter(|verdict| verdict.state == state).count();
    info!(
        attached = count(State::Attached),
        degraded = count(State::Degraded),
        unsupported = count(State::Unsupported),
        failed = count(State::Failed),
        "probes"
    );
}

/// What the server, the events and the heartbeat share.
struct Shared {
    registry: Mutex<Registry>,
    started: Instant,
    /// When the heart last beat, in milliseconds since the start.
    beat: AtomicU64,
}

impl Shared {
    /// A scrape that panicked leaves the registry usable: what it changes, it changes in whole steps.
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Shared {
    fn gather(&self) -> Snapshot {
        self.registry().gather()
    }

    fn frame(&self) -> Frame {
        self.registry().frame()
    }

    fn live(&self) -> Result<(), String> {
        let last = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        let age = self.started.elapsed().saturating_sub(last);
        if age > LIVE {
            return Err(format!("the registry has been busy or stuck for {} seconds", age.as_secs()));
        }
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        self.registry().ready()
    }

    fn status(&self) -> String {
        status::page(&self.registry())
    }
}

/// Shows that the registry can be had: a scrape that hangs stops the heart, and /livez says so.
async fn beat(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(BEAT);
    loop {
        ticks.tick().await;
        let shared = shared.clone();
        let tick = tokio::task::spawn_blocking(move || {
            drop(shared.registry());
            shared.beat.store(shared.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        });
        if tick.await.is_err() {
            return;
        }
    }
}

/// Applies births and deaths of cgroups as the kernel reports them.
fn follow_events(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let Some(ring) = shared.registry().events.as_ref().map(|ring| ring.as_fd().try_clone_to_owned()) else {
        return Ok(());
    };
    let ring = sys::readable(ring?)?;
    let shared = shared.clone();
    tokio::spawn(async move {
        while let Ok(mut guard) = ring.readable().await {
            guard.clear_ready();
            let shared = shared.clone();
            if tokio::task::spawn_blocking(move || shared.registry().drain()).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Passes on what the kernel half says, at debug level.
fn follow_log(shared: &Arc<Shared>) {
    if !tracing::enabled!(target: "exporter_ebpf", Level::DEBUG) {
        return;
    }
    let mut registry = shared.registry();
    let Some(logger) = registry.probes.object_mut().map(EbpfLogger::init) else { return };
    let logger = match logger.map(sys::readable) {
        Ok(Ok(logger)) => logger,
        Ok(Err(error)) => return warn!("cannot follow the kernel half's log: {error}"),
        Err(error) => return warn!("cannot follow the kernel half's log: {error}"),
    };
    tokio::spawn(async move {
        let mut logger = logger;
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}
