//! The server: connections, and what they may hold.

use std::{convert::Infallible, future::Future, io, pin::pin, sync::Arc, time::Duration};

use axum::{body::Body, http::Request, response::Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info, warn};

use super::{patient::Patient, serving::Serving};

/// Open connections; further ones are closed as they come. Those of a few API servers, and of who asks directly.
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
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let client = tokio::select! {
            client = listener.accept() => client,
            () = &mut shutdown => break,
        };
        while connections.try_join_next().is_some() {}
        match client {
            Ok(_) if connections.len() >= CONNECTIONS => {
                debug!(limit = CONNECTIONS, "too many connections: one is closed");
            }
            Ok((stream, _)) => {
                connections.spawn(accepted(stream, serving.clone(), app.clone(), stopping.clone()));
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

async fn accepted(
    stream: TcpStream,
    serving: Option<Arc<Serving>>,
    app: Arc<impl Answers>,
    stopping: watch::Receiver<()>,
) {
    _ = stream.set_nodelay(true);
    let Some(serving) = serving else { return connection(stream, Arc::default(), app, stopping).await };
    let handshake = TlsAcceptor::from(serving.config()).accept(stream);
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates: Arc<[CertificateDer<'static>]> = certificates.to_vec().into();
            connection(stream, certificates, app, stopping).await;
        }
        Ok(Err(error)) => debug!(%error, "no TLS with a client"),
        Err(_) => debug!("a client did not shake hands in time"),
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    certificates: Arc<[CertificateDer<'static>]>,
    app: Arc<impl Answers>,
    mut stopping: watch::Receiver<()>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, certificates) = (app.clone(), certificates.clone());
        async move { Ok::<_, Infallible>(app.answer(&certificates, request.map(Body::new)).await) }
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
    let mut stopped = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(%error, "connection failed");
                }
                return;
            }
            _ = stopping.changed(), if !stopped => {
                stopped = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
