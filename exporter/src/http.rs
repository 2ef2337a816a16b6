//! The HTTP server: `/metrics`, the health checks and a status page.
//!
//! A connection of HTTP/1 carries one request. Scrapes and probes come seconds apart, so keeping connections open would save
//! little, and it makes what a client may hold easy to bound: each connection has a deadline, whether its client sends
//! nothing, reads nothing or waits for a scrape that hangs. A connection of HTTP/2 has the same, but for as long as it carries a
//! stream for an adapter.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER, VARY,
};
use axum::http::{Request, StatusCode, Version};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_rustls::server::TlsStream;
use tracing::{debug, error, warn};

use crate::encode::Exposition;
use crate::format::{self, Format};
use crate::snapshot::Snapshot;
use crate::stream::{self, frame::Frame, publish::Hub};

use exposed::Exposed;
use guard::Guard;
use log::Entry;

mod exposed;
pub mod guard;
mod log;
pub mod tls;

const ENDPOINTS: &str = "not found; there are / /metrics /livez /readyz /healthz\n";

/// How much of a request's head is read, in bytes; a scraper's has a few hundred.
const MAX_HEAD: usize = 32 * 1024;

/// What a connection of HTTP/2 may ask at once, and how often it is asked whether it is still there.
const MAX_STREAMS: u32 = 8;
const PING: Duration = Duration::from_secs(10);

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

/// What requests come to.
#[derive(Clone)]
struct Front {
    guard: Arc<Guard>,
    router: TowerToHyperService<Router>,
    hub: Arc<Hub>,
}

/// What a connection is over.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Whether a client says at once that it speaks HTTP/2. Its first words stay unread.
async fn begins_with_http2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI ";
    loop {
        let mut first = [0; PREFACE.len()];
        let read = stream.peek(&mut first).await?;
        if read == PREFACE.len() || read == 0 || first[..read] != PREFACE[..read] {
            return Ok(first == *PREFACE);
        }
        // More of it is on its way, and nothing would wake us when it comes.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Shakes hands first, if there is a certificate, and finds out which HTTP it is.
async fn accepted(limits: Limits, stream: TcpStream, front: Front, stopping: watch::Receiver<()>) {
    let Some(tls) = &front.guard.tls else {
        match tokio::time::timeout(limits.head, begins_with_http2(&stream)).await {
            Ok(Ok(true)) => streams(limits, stream, front, stopping).await,
            Ok(Ok(false)) => connection(limits, stream, front, stopping).await,
            Ok(Err(error)) => debug!(%error, "a client left"),
            Err(_) => debug!("a client said nothing"),
        }
        return;
    };
    match tokio::time::timeout(limits.head, tls.accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(tls::HTTP2) => {
            streams(limits, stream, front, stopping).await;
        }
        Ok(Ok(stream)) => connection(limits, stream, front, stopping).await,
        Ok(Err(error)) => debug!(%error, "no TLS with a client"),
        Err(_) => debug!("a client did not shake hands in time"),
    }
}

/// Serves a connection of HTTP/2: an adapter's, or that of a scraper that prefers it.
async fn streams(limits: Limits, stream: impl Wire, front: Front, mut stopping: watch::Receiver<()>) {
    let watches = Arc::new(AtomicUsize::new(0));
    let service = service_fn(|request| answer(front.clone(), Arc::clone(&watches), request));
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .serve_connection(TokioIo::new(stream), service)
    );
    let patience = limits.head + limits.response;
    let mut deadline = pin!(tokio::time::sleep(patience));
    let mut stopped = false;
    loop {
        tokio::select! {
            result = &mut connection => {
                if let Err(error) = result {
                    debug!(%error, "connection failed");
                }
                return;
            }
            () = &mut deadline => {
                if watches.load(Ordering::Relaxed) == 0 {
                    if stopped {
                        return warn!("connection cut off: its answers were not ready or not read in time");
                    }
                    stopped = true;
                    connection.as_mut().graceful_shutdown();
                }
                deadline.set(tokio::time::sleep(patience));
            }
            _ = stopping.changed(), if !stopped => {
                stopped = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A stream for an adapter, while there is one.
struct Watched(Arc<AtomicUsize>);

impl Watched {
    fn new(watches: Arc<AtomicUsize>) -> Self {
        watches.fetch_add(1, Ordering::Relaxed);
        Self(watches)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves the one request of a connection.
async fn connection(limits: Limits, stream: impl Wire, front: Front, mut stopping: watch::Receiver<()>) {
    let peer = stream.tcp().peer_addr().map_or_else(|error| error.to_string(), |peer| peer.to_string());
    let service = service_fn(|request| answer(front.clone(), Arc::default(), request));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut deadline = pin!(tokio::time::sleep(limits.head + limits.response));
    let mut stopped = false;
    loop {
        tokio::select! {
            result = &mut connection => {
                if let Err(error) = result {
                    debug!(peer, %error, "connection failed");
                }
                return;
            }
            () = &mut deadline => break,
            _ = stopping.changed(), if !stopped => {
                stopped = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    warn!(peer, "connection cut off: its answer was not ready or not read in time");
    // Or the kernel would keep what the client does not read.
    if let Err(error) = connection.into_parts().io.inner().tcp().set_zero_linger() {
        debug!(peer, %error, "cannot drop unsent data");
    }
}

async fn answer(
    front: Front,
    watches: Arc<AtomicUsize>,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let entry = Entry::new(&request);
    if let Err(refusal) = front.guard.admit(request.uri().path(), request.headers()).await {
        return Ok(entry.answer(refusal));
    }
    let request = request.map(Body::new);
    if request.version() == Version::HTTP_2 && request.uri().path() == stream::WATCH {
        let watched = Watched::new(watches);
        let answer = stream::serve::answer(front.hub, request).await;
        return Ok(entry.answer(answer.map(|body| {
            Body::new(body.map_frame(move |frame| {
                // Goes along with the body.
                let _ = &watched;
                frame
            }))
        })));
    }
    Ok(entry.answer(front.router.call(request).await?))
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
