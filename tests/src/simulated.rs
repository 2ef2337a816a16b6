//! Agents that are simulated: what they tell is made up, and how they tell it is an agent's own code.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use podmeter::stream::{frame::Frame, publish::Hub, serve};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::AbortHandle,
};

/// Agents by their numbers, each with an address of its own in loopback, on one port. They end when this is dropped.
pub struct Agents {
    port: u16,
    known: Arc<Mutex<HashMap<u16, Agent>>>,
    _runtime: Runtime,
}

struct Agent {
    hub: Arc<Hub>,
    reading: AbortHandle,
}

impl Agents {
    /// Begins to listen. Whoever connects to an agent for the first time starts it: `agent` makes of its number what reads its
    /// counters, as often as `interval` says.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start<Read>(
        interval: Duration,
        agent: impl Fn(u16) -> Read + Send + Sync + 'static,
    ) -> io::Result<Self>
    where
        Read: Fn() -> Frame + Clone + Send + Sync + 'static,
    {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let this = Self { port: listener.local_addr()?.port(), known: Arc::default(), _runtime: runtime };
        let known = this.known.clone();
        this._runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(SocketAddr::V4(local)) = stream.local_addr() else { continue };
                let [.., high, low] = local.ip().octets();
                let number = u16::from_be_bytes([high, low]);
                let hub =
                    lock(&known).entry(number).or_insert_with(|| start(interval, agent(number))).hub.clone();
                tokio::spawn(serve(stream, hub));
            }
        });
        Ok(this)
    }

    /// The port of all of them. An agent's number is the end of the address that it is asked at, whichever that is.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where an agent is.
    pub fn url(&self, number: u16) -> String {
        let [high, low] = number.to_be_bytes();
        format!("http://{}", SocketAddr::new(IpAddr::from(Ipv4Addr::new(127, 1, high, low)), self.port))
    }

    /// Has an agent say nothing any more, as one that hangs: whoever is connected stays so.
    pub fn silence(&self, number: u16) {
        if let Some(agent) = lock(&self.known).get(&number) {
            agent.reading.abort();
        }
    }
}

fn lock(known: &Mutex<HashMap<u16, Agent>>) -> MutexGuard<'_, HashMap<u16, Agent>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(interval: Duration, read: impl Fn() -> Frame + Clone + Send + Sync + 'static) -> Agent {
    let hub = Arc::new(Hub::new(interval));
    let running = hub.clone();
    let reading = tokio::spawn(async move { running.run(read).await }).abort_handle();
    Agent { hub, reading }
}

async fn serve(stream: TcpStream, hub: Arc<Hub>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let hub = hub.clone();
        async move { Ok::<_, Infallible>(serve::answer(hub, request.map(Body::new)).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    _ = builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}
