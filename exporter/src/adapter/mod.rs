//! `podmeter adapter`: the metrics APIs of Kubernetes, from what the agents stream.
//!
//! An agent's stream ([`follow`]) fills the [`store`]: for each container a ring of samples ([`window`]). A request is read
//! ([`ask`]), by whom is found out ([`caller`]), whether they may is asked ([`access`]), and what the pods did within the window
//! ([`total`], [`query`]) is written as the API has it ([`answer`]). What is not ours another adapter may have ([`upstream`]).

pub mod access;
pub mod agents;
pub mod answer;
pub mod ask;
pub mod authority;
pub mod caller;
pub mod configured;
pub mod counts;
pub mod flags;
pub mod follow;
pub mod keda;
pub mod labels;
pub mod metric;
pub mod node;
pub mod objects;
mod patient;
pub mod pod;
pub mod prometheus;
pub mod query;
pub mod refusal;
pub mod sample;
pub mod selector;
pub mod server;
pub mod serving;
pub mod store;
pub mod total;
pub mod trust;
pub mod upstream;
pub mod window;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use axum::{
    body::Body,
    http::{HeaderMap, Request, Uri, header::ACCEPT},
    response::{IntoResponse as _, Response},
};
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{debug, info};

use self::{
    access::Rules,
    answer::{custom, discovery, resource},
    ask::{Ask, What},
    authority::Keeper,
    caller::Callers,
    flags::{Access, Adapter, Origin},
    metric::Metrics,
    objects::Objects,
    refusal::Refusal,
    server::Answers,
    serving::{Clients, Serving, Source},
    store::Store,
    trust::Trust,
    upstream::Upstream,
    window::{Span, Spans},
};
use crate::{
    config::Api,
    kube::{
        review::Questions,
        watch::{Change, Which, follow as follow_objects},
    },
};

/// How many questions are put to the API server at the same time.
const ASKED: usize = 16;
/// How often what is long gone is forgotten.
const SWEEP: Duration = Duration::from_secs(30);

/// Runs the adapter until SIGINT or SIGTERM.
///
/// # Errors
/// When it cannot listen, or when the flags do not say what it needs.
pub async fn run(config: Adapter) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {}; choose another address with --listen", config.listen)
    })?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let age = Duration::from_secs(config.max_age().into());
    let window = Duration::from_secs(config.window.into());
    let mut metrics = Metrics::new(window)?;
    if let Some(file) = &config.metrics {
        configured::read(file, &mut metrics)?;
    }
    let metrics = Arc::new(metrics);
    let store = Arc::new(Store::new(Spans::new(Span::new(window), metrics.spans()), age));
    let (settings, trust) = watch::channel(Arc::new(Trust::default()));
    let files = config.tls_cert.clone().zip(config.tls_key.clone());
    let source = match files {
        Some((certificate, key)) => Some(Source::Files([certificate, key])),
        None if config.auth == Access::None => None,
        None => Some(Source::Own(Keeper::new(config.api.clone(), &config.service)?.begin().await)),
    };
    let clients = Clients::Cluster(trust.clone());
    let serving = source.clone().map(|source| Serving::new(source, clients)).transpose()?;
    let (stop, stopping) = watch::channel(());
    let keda = keda::start(&config.keda, source, store.clone(), metrics.clone(), stopping).await?;
    let nodes = Arc::default();
    let guard = match config.auth {
        Access::None => {
            ensure!(config.listen.ip().is_loopback(), "--auth none needs a loopback address in --listen");
            None
        }
        Access::Delegated => {
            let questions = Arc::new(Questions::new(config.api.clone(), ASKED)?);
            tokio::spawn(trust::follow(config.api.clone(), settings));
            tokio::spawn(follow_nodes(config.api.clone(), Arc::clone(&nodes)));
            Some((Callers::new(trust.clone(), questions.clone()), Rules::new(questions)))
        }
    };
    let app = App {
        store: store.clone(),
        guard,
        trust,
        upstream: Upstream::start(&config.upstream, &metrics)?,
        metrics,
        objects: Objects::new(config.api.clone()),
        nodes,
        has_been_ready: AtomicBool::new(false),
    };
    let scheme = if serving.is_some() { "https" } else { "http" };
    let address = listener.local_addr()?;
    info!(%address, "serving {scheme}://{address}/apis");
    let agents = tokio::spawn({
        let (config, store) = (config.clone(), store.clone());
        async move {
            match config.source.clone() {
                Origin::Agents => agents::run(config, store).await,
                Origin::Prometheus(url) => prometheus::run(config, url, store).await,
            }
        }
    });
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            store.sweep();
        }
    });
    let (failed, failure) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        if let Ok(Err(error)) = agents.await {
            _ = failed.send(error);
        }
    });
    let mut outcome = Ok(());
    let shutdown = async {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
            Ok(error) = failure => outcome = Err(error),
        }
        drop(stop);
    };
    server::serve(listener, serving, Arc::new(app), shutdown).await;
    if let Some(keda) = keda {
        keda.await?;
    }
    outcome
}

/// What requests come to.
pub struct App {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    /// Who asks, and whether they may; none where anyone may.
    guard: Option<(Callers, Rules)>,
    trust: watch::Receiver<Arc<Trust>>,
    /// Who has the metrics that are not ours.
    upstream: Option<Arc<Upstream>>,
    objects: Objects,
    nodes: Arc<RwLock<resource::NodeLabels>>,
    /// An API that comes and goes disturbs every client of the cluster: who was ready stays so.
    has_been_ready: AtomicBool,
}

impl Answers for App {
    async fn answer(&self, certificates: &[CertificateDer<'_>], request: Request<Body>) -> Response {
        let begin = Instant::now();
        let path = request.uri().path().chars().take(256).collect::<String>();
        let method = request.method().clone();
        let answer = match Ask::parse(&method, request.uri()) {
            Ok(ask) => self.ask(certificates, request.headers(), request.uri(), ask).await,
            Err(refusal) => Err(refusal),
        };
        let answer = answer.unwrap_or_else(Refusal::into_response);
        debug!(%method, path, status = answer.status().as_u16(), duration_seconds = begin.elapsed().as_secs_f64(), "request");
        answer
    }
}

impl App {
    async fn ask(
        &self,
        certificates: &[CertificateDer<'_>],
        headers: &HeaderMap,
        uri: &Uri,
        ask: Ask,
    ) -> Result<Response, Refusal> {
        if let What::Health(about_ready) = ask.what {
            return self.health(about_ready);
        }
        if let Some((callers, rules)) = &self.guard {
            let user = callers.who(certificates, headers).await?;
            rules.admit(&user, &ask).await?;
        }
        let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let accept = accept.collect::<Vec<_>>().join(",");
        if !accepts_json(&accept) {
            return Err(Refusal::not_acceptable());
        }
        if let Some(upstream) = self.upstream.as_deref().filter(|_| ask.is_of_others(&self.metrics)) {
            return upstream.pass_on(uri).await;
        }
        let store = &self.store;
        let is_about_data = matches!(
            ask.what,
            What::Pods { .. } | What::Nodes { .. } | What::Custom { .. } | What::External { .. }
        );
        if is_about_data && !store.has_data() {
            return Err(Refusal::unavailable("no agent has reported of late"));
        }
        match &ask.what {
            What::Description => Ok(discovery::description()),
            What::Groups => Ok(discovery::of_all(&accept, &|group, version| self.resources(group, version))),
            What::Group(group) => Ok(discovery::of_group(group)),
            What::Resources(group, version) => {
                Ok(discovery::of_version(group, version, &self.resources(group, version)))
            }
            What::Pods { namespace, name } => {
                resource::pods(store, &ask, namespace.as_deref(), name.as_deref(), &accept)
            }
            What::Nodes { name } => {
                let labels = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
                resource::nodes(store, &labels, &ask, name.as_deref(), &accept)
            }
            What::Custom { version, namespace, resource, name, metric } => {
                // Every object that has pods is in a namespace, or is one.
                let namespace = namespace.as_deref().ok_or_else(Refusal::no_path)?;
                let metric = custom::find(&self.metrics, metric, &ask.series, resource)?;
                let wanted = custom::Wanted { version, metric, namespace };
                if resource == "pods" {
                    return custom::pods(store, &ask, &wanted, name);
                }
                let object = self.objects.find(namespace, resource, name).await?;
                let own = (object.kind != "Namespace").then_some(namespace);
                let reference = custom::reference(object.version, object.kind, own, name);
                custom::object(store, &ask, &wanted, reference, |about| object.pods.has(about))
            }
            What::External { namespace, metric } => {
                custom::external(store, &self.metrics, &ask, namespace, metric)
            }
            What::Health(_) | What::Other => Err(Refusal::no_path()),
        }
    }

    /// What there is of a version of a group.
    fn resources(&self, group: &str, version: &str) -> Vec<discovery::Resource> {
        let mut resources = discovery::own(group, &self.metrics);
        if let Some(upstream) = &self.upstream {
            resources.extend(upstream.resources(group, version));
        }
        resources
    }

    fn health(&self, about_ready: bool) -> Result<Response, Refusal> {
        if about_ready && !self.has_been_ready.load(Ordering::Relaxed) {
            if self.guard.is_some() && !self.trust.borrow().is_known() {
                return Err(Refusal::unavailable("the cluster has not said whom to believe"));
            }
            if !self.store.has_data() {
                return Err(Refusal::unavailable("no agent has reported"));
            }
            self.has_been_ready.store(true, Ordering::Relaxed);
        }
        Ok("ok".into_response())
    }
}

/// Whether a client takes JSON, as all do that know of these APIs.
fn accepts_json(accept: &str) -> bool {
    accept.is_empty()
        || accept.split(',').any(|part| {
            let kind = part.split(';').next().unwrap_or_default().trim();
            matches!(kind, "" | "*/*" | "application/*" | "application/json")
        })
}

#[derive(Clone, Debug, Deserialize)]
struct NodeObject {
    metadata: NodeMetadata,
}

#[derive(Clone, Debug, Deserialize)]
struct NodeMetadata {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Follows the labels of nodes, by which they can be selected.
async fn follow_nodes(api: Api, nodes: Arc<RwLock<resource::NodeLabels>>) {
    let which = Which { path: "/api/v1/nodes".to_owned(), labels: None, fields: None, name: "nodes' labels" };
    let apply = |change: Change<NodeObject>| {
        let mut nodes = nodes.write().unwrap_or_else(PoisonError::into_inner);
        let pair = |node: NodeObject| (node.metadata.name, node.metadata.labels.into());
        match change {
            Change::All(all) => *nodes = all.into_iter().map(pair).collect(),
            Change::Set(node) => nodes.extend([pair(node)]),
            Change::Gone(node) => _ = nodes.remove(&node.metadata.name),
        }
    };
    follow_objects(&api, &which, apply).await;
}
