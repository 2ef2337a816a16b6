//! A connection: which HTTP it speaks, how long it may last, and who answers on it.

use std::{
    convert::Infallible,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, Version},
    response::Response,
};
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::{Limits, guard::Guard, log::Entry, tls};
use crate::stream::{self, publish::Hub};

/// How much of a request's head is read, in bytes; a scraper's has a few hundred.
const MAX_HEAD: usize = 32 * 1024;

/// What a connection of HTTP/2 may ask at once, and how often it is asked whether it is still there.
const MAX_STREAMS: u32 = 8;
const PING: Duration = Duration::from_secs(10);
/// What requests come to.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) guard: Arc<Guard>,
    pub(super) router: TowerToHyperService<Router>,
    pub(super) hub: Arc<Hub>,
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
pub(super) async fn accepted(limits: Limits, stream: TcpStream, front: Front, stopping: watch::Receiver<()>) {
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
                Pin::new(&mut connection).graceful_shutdown();
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
