//! The server: connections, and what they may hold.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderValue, Request, StatusCode, Version, header::CONNECTION},
    response::Response,
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info, warn};

use super::{patient::Patient, serving::Serving};

/// Open connections: those of a few API servers, and of who asks directly. When there are as many, the one that has been of no use for
/// the longest is closed for the next: whoever opens many and asks nothing keeps nobody out.
const CONNECTIONS: usize = 512;
/// What one connection may ask at once.
const STREAMS: u32 = 256;
/// How much of a request's head is read, in bytes.
const HEAD: usize = 64 * 1024;
/// How long a handshake, a head, and the reading of the next piece of an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often a connection of HTTP/2 is asked whether it is still there.
const PING: Duration = Duration::from_secs(30);
/// How long requests may go on when the server stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Who answers what is asked over a connection.
pub trait Answers: Send + Sync + 'static {
    /// Answers a request of a client with these certificates.
    fn answer(
        &self,
        certificates: &[CertificateDer<'_>],
        request: Request<Body>,
    ) -> impl Future<Output = Response> + Send;
}

/// Serves until `shutdown` completes, and then what is under way. Without TLS only where anyone may ask.
pub async fn serve(
    listener: TcpListener,
    serving: Option<Serving>,
    app: Arc<impl Answers>,
    shutdown: impl Future<Output = ()>,
) {
    let serving = serving.map(Arc::new);
    let (stop, stopping) = watch::channel(());
    let (mut connections, mut uses) = (JoinSet::new(), Uses::default());
    let mut shutdown = pin!(shutdown);
    loop {
        let client = tokio::select! {
            client = listener.accept() => client,
            () = &mut shutdown => break,
        };
        uses.retain();
        while connections.try_join_next().is_some() {}
        match client {
            Ok((stream, _)) => {
                if uses.0.len() >= CONNECTIONS && !uses.close_one() {
                    debug!(
                        limit = CONNECTIONS,
                        "too many connections, and all are in use: a new one is closed"
                    );
                    continue;
                }
                let usage = Arc::new(Use::default());
                let serve = accepted(stream, serving.clone(), app.clone(), usage.clone(), stopping.clone());
                uses.0.push((connections.spawn(serve), usage));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    drop(listener);
    drop(stopping);
    // Fails when there is no connection to tell.
    _ = stop.send(());
    info!(connections = connections.len(), "stopping");
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        warn!("stopped before all requests were answered");
    }
}

/// What a connection is used for.
#[derive(Debug)]
struct Use {
    /// How many requests are under way.
    asked: AtomicUsize,
    /// Whether there ever was one.
    is_used: AtomicBool,
    /// When the last one was answered, or when the connection was opened.
    last: Mutex<Instant>,
    /// There was no answer to be had. An API server keeps to its connection: it is to open another, which may lead to a replica that
    /// knows more.
    is_in_vain: Notify,
}

impl Default for Use {
    fn default() -> Self {
        Self {
            asked: AtomicUsize::new(0),
            is_used: AtomicBool::new(false),
            last: Mutex::new(Instant::now()),
            is_in_vain: Notify::new(),
        }
    }
}

impl Use {
    /// A request is under way, until what is returned is dropped.
    fn begin(&self) -> impl Drop + use<'_> {
        struct Asked<'a>(&'a Use);
        impl Drop for Asked<'_> {
            fn drop(&mut self) {
                *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                self.0.asked.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.is_used.store(true, Ordering::Relaxed);
        Asked(self)
    }
}

/// The connections there are.
#[derive(Debug, Default)]
struct Uses(Vec<(AbortHandle, Arc<Use>)>);

impl Uses {
    /// Forgets those that have ended.
    fn retain(&mut self) {
        self.0.retain(|(task, _)| !task.is_finished());
    }

    /// Closes the one that has been without a request for the longest; false if there is none.
    fn close_one(&mut self) -> bool {
        let idle =
            self.0.iter().enumerate().filter(|(_, (_, usage))| usage.asked.load(Ordering::Relaxed) == 0);
        let last = |usage: &Use| *usage.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, _)) = idle.min_by_key(|(_, (_, usage))| last(usage)) else { return false };
        self.0.swap_remove(at).0.abort();
        true
    }
}

async fn accepted(
    stream: TcpStream,
    serving: Option<Arc<Serving>>,
    app: Arc<impl Answers>,
    usage: Arc<Use>,
    stopping: watch::Receiver<()>,
) {
    _ = stream.set_nodelay(true);
    let Some(serving) = serving else {
        return connection(stream, Arc::default(), app, usage, stopping).await;
    };
    let handshake = TlsAcceptor::from(serving.config()).accept(stream);
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates: Arc<[CertificateDer<'static>]> = certificates.to_vec().into();
            connection(stream, certificates, app, usage, stopping).await;
        }
        Ok(Err(error)) => debug!(%error, "no TLS with a client"),
        Err(_) => debug!("a client did not shake hands in time"),
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    certificates: Arc<[CertificateDer<'static>]>,
    app: Arc<impl Answers>,
    usage: Arc<Use>,
    mut stopping: watch::Receiver<()>,
) {
    let over = usage.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, certificates, usage) = (app.clone(), certificates.clone(), usage.clone());
        async move {
            let _asked = usage.begin();
            let version = request.version();
            let mut answer = app.answer(&certificates, request.map(Body::new)).await;
            if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
                // HTTP/2 has frames for it; in HTTP/1 the answer itself says so, before the client can ask again.
                if version <= Version::HTTP_11 {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                usage.is_in_vain.notify_one();
            }
            Ok::<_, Infallible>(answer)
        }
    });
    // A client that reads nothing would have us keep the answer for as long as it likes.
    let stream = TokioIo::new(Patient::new(stream, PATIENCE));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD as u32)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PATIENCE);
    let mut connection = pin!(builder.serve_connection(stream, service));
    let (mut stopped, mut is_new) = (false, true);
    let mut unused = pin!(tokio::time::sleep(PATIENCE));
    let mut is_over = pin!(async {
        tokio::select! {
            _ = stopping.changed() => (),
            () = over.is_in_vain.notified() => (),
        }
    });
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(%error, "connection failed");
                }
                return;
            }
            // hyper waits without an end for a client to say which HTTP it speaks.
            () = &mut unused, if is_new => {
                is_new = false;
                if !over.is_used.load(Ordering::Relaxed) {
                    debug!("a client asked nothing in time");
                    return;
                }
            }
            () = &mut is_over, if !stopped => {
                stopped = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_connections_the_one_is_closed_that_is_of_least_use() {
        let mut uses = Uses::default();
        for _ in 0..3 {
            uses.0.push((tokio::spawn(std::future::pending::<()>()).abort_handle(), Arc::default()));
        }
        let all: Vec<_> = uses.0.iter().map(|(_, usage)| usage.clone()).collect();
        // The first has just been answered, and the second asks.
        drop(all[0].begin());
        let asked = all[1].begin();
        let is_there = |uses: &Uses, at: usize| uses.0.iter().any(|(_, usage)| Arc::ptr_eq(usage, &all[at]));
        assert!(uses.close_one() && !is_there(&uses, 2));
        assert!(uses.close_one() && !is_there(&uses, 0));
        assert!(!uses.close_one() && is_there(&uses, 1), "nobody is cut off who asks");
        drop(asked);
        assert!(uses.close_one());
    }
}
