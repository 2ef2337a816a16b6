//! The HTTP server: `/metrics`, the health checks and a status page.
//!
//! A connection of HTTP/1 carries one request. Scrapes and probes come seconds apart, so keeping connections open would save
//! little, and it makes what a client may hold easy to bound: each connection has a deadline, whether its client sends
//! nothing, reads nothing or waits for a scrape that hangs. A connection of HTTP/2 has the same, but for as long as it carries a
//! stream for an adapter.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER, VARY,
};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tracing::{error, warn};

use crate::encode::Exposition;
use crate::format::{self, Format};
use crate::snapshot::Snapshot;
use crate::stream::{frame::Frame, publish::Hub};

use connection::{Front, accepted};
use exposed::Exposed;
use guard::Guard;

mod connection;
mod exposed;
pub mod guard;
mod log;
pub mod tls;

const ENDPOINTS: &str = "not found; there are / /metrics /livez /readyz /healthz\n";

/// What the server shows. Every method is called on the blocking pool; one that panics is answered with status 500.
pub trait Source: Send + Sync + 'static {
    /// Takes a scrape: reads maps and files. One runs at a time.
    fn gather(&self) -> Snapshot;

    /// What adapters are told: as a scrape.
    fn frame(&self) -> Frame;

    /// Whether the agent does its work.
    ///
    /// # Errors
    ///
    /// The reason why a restart is called for: it has not done its work recently.
    fn live(&self) -> Result<(), String>;

    /// Whether there is something to scrape.
    ///
    /// # Errors
    ///
    /// The reason why not: no probe is attached.
    fn ready(&self) -> Result<(), String>;

    /// The status page for people, as HTML.
    fn status(&self) -> String;
}

/// What clients may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; further ones are closed as they come.
    pub connections: usize,
    /// Scrapes that run, wait or are being read by their clients: each may hold megabytes. Further ones get status 503.
    pub scrapes: usize,
    /// From the opening of a connection to the end of its request's head.
    pub head: Duration,
    /// How long a connection may stay open beyond that: until then its client has read the whole answer.
    pub response: Duration,
    /// How long requests may go on when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            scrapes: 8,
            head: Duration::from_secs(10),
            response: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// Serves `source` until `shutdown` completes, and then the requests under way for a few seconds more. Adapters are told what
/// changed every `interval`.
///
/// # Errors
///
/// None as yet: those of the listener are logged, and it goes on.
pub async fn serve(
    listener: TcpListener,
    guard: Guard,
    source: Arc<dyn Source>,
    interval: Duration,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_within(Limits::default(), listener, guard, source, interval, shutdown).await
}

/// [`serve`] with limits of one's own.
///
/// # Errors
///
/// As those of [`serve`].
pub async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    guard: Guard,
    source: Arc<dyn Source>,
    interval: Duration,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let guard = Arc::new(guard);
    let hub = Arc::new(Hub::new(interval));
    let publishing = tokio::spawn({
        let (hub, source) = (Arc::clone(&hub), Arc::clone(&source));
        async move { hub.run(move || source.frame()).await }
    });
    let scrapes = Arc::new(Semaphore::new(limits.scrapes));
    let app = App { source, guard: Arc::clone(&guard), scrapes, scraping: Arc::default() };
    let router = router(Arc::new(app));
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut refusals = Refusals::default();
    let mut shutdown = pin!(shutdown);
    loop {
        let client = tokio::select! {
            client = listener.accept() => client,
            () = &mut shutdown => break,
        };
        while let Some(ended) = connections.try_join_next() {
            report(ended);
        }
        match client {
            Ok(_) if connections.len() >= limits.connections => refusals.add(limits.connections),
            Ok((stream, _)) => {
                let hub = Arc::clone(&hub);
                let front = Front { guard: Arc::clone(&guard), router: router.clone(), hub };
                connections.spawn(accepted(limits, stream, front, stopping.clone()));
            }
            // A client that left before it was accepted. What else there is, such as a lack of descriptors, lasts.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    drop(listener);
    publishing.abort();
    hub.close();
    drop(stopping);
    // Fails when there is no connection to tell.
    let _ = stop.send(());
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(limits.drain, drained).await.is_err() {
        warn!(connections = connections.len(), "stopped before all requests were answered");
    }
    Ok(())
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a connection's task failed");
    }
}

/// Counts refused connections, and keeps a flood of them out of the log.
#[derive(Default)]
struct Refusals {
    count: u64,
    logged: Option<Instant>,
}

impl Refusals {
    fn add(&mut self, limit: usize) {
        self.count += 1;
        if self.logged.is_none_or(|at| at.elapsed() >= Duration::from_secs(10)) {
            warn!(limit, refused_total = self.count, "too many connections; further ones are closed");
            self.logged = Some(Instant::now());
        }
    }
}

struct App {
    source: Arc<dyn Source>,
    guard: Arc<Guard>,
    scrapes: Arc<Semaphore>,
    /// Held while a scrape is taken.
    scraping: Arc<Mutex<()>>,
}

fn router(app: Arc<App>) -> TowerToHyperService<Router> {
    let router = Router::new()
        .route("/", get(status))
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .fallback(|| async { (StatusCode::NOT_FOUND, ENDPOINTS) })
        .with_state(app);
    TowerToHyperService::new(router)
}

/// Runs `work` where it may block. A panic in it becomes an answer.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Response> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        error!(%error, "a request failed");
        (StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the agent's log\n").into_response()
    })
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response, Response> {
    let Ok(permit) = Arc::clone(&app.scrapes).try_acquire_owned() else {
        let body = "too many scrapes under way\n";
        return Err((StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "5")], body).into_response());
    };
    let format = Format::negotiate(list(&headers, &ACCEPT).as_deref());
    let gzip = list(&headers, &ACCEPT_ENCODING).is_some_and(|accepted| accepts_gzip(&accepted));
    let scraping = Arc::clone(&app.scraping).lock_owned().await;
    // The lock goes along: the work goes on when the client leaves, and the next scrape must wait for it all the same.
    let snapshot = blocking(move || {
        let mut snapshot = app.source.gather();
        app.guard.collect(&mut snapshot);
        drop(scraping);
        snapshot
    })
    .await?;
    let body = Exposed::new(Exposition::new(snapshot, format), gzip, permit);
    let series = body.series();
    let headers = [(CONTENT_TYPE, format.content_type()), (VARY, "Accept, Accept-Encoding")];
    let encoding = gzip.then_some([(CONTENT_ENCODING, "gzip")]);
    Ok((encoding, headers, Extension(series), Body::new(body)).into_response())
}

/// The value of a header that may come in several lines.
fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// Whether an `Accept-Encoding` allows gzip: by its name, or else by the wildcard.
fn accepts_gzip(accepted: &str) -> bool {
    let weight = |name: &str| {
        let mut all = format::weighted(accepted).filter(|(coding, ..)| coding.eq_ignore_ascii_case(name));
        all.next().map(|(.., weight)| weight)
    };
    weight("gzip").or_else(|| weight("*")).is_some_and(|weight| weight > 0.0)
}

async fn live(State(app): State<Arc<App>>) -> Result<Response, Response> {
    blocking(move || app.source.live()).await.map(health)
}

async fn ready(State(app): State<Arc<App>>) -> Result<Response, Response> {
    blocking(move || app.source.ready()).await.map(health)
}

fn health(health: Result<(), String>) -> Response {
    match health {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn status(State(app): State<Arc<App>>) -> Result<Response, Response> {
    blocking(move || app.source.status()).await.map(|page| Html(page).into_response())
}

#[cfg(test)]
mod tests;
