//! The agent's side of the protocol.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{body::Body, http::Request, response::Response};
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Status, server::ServerStreamingService};
use tonic_prost::ProstCodec;

use super::{
    VERSION,
    delta::Told,
    frame::Frame,
    message::{Update, Watch},
    publish::Hub,
};

/// An adapter asks for next to nothing.
const MAX_REQUEST: usize = 1024;

/// Answers a call of [`super::WATCH`].
pub async fn answer(hub: Arc<Hub>, request: Request<Body>) -> Response {
    let codec = ProstCodec::<Update, Watch>::default();
    let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_REQUEST);
    grpc.server_streaming(Service(hub), request).await.map(Body::new)
}

struct Service(Arc<Hub>);

type Updates = Pin<Box<dyn Stream<Item = Result<Update, Status>> + Send>>;

impl ServerStreamingService<Watch> for Service {
    type Response = Update;
    type ResponseStream = Updates;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Updates>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Watch>) -> Self::Future {
        let watch = request.into_inner();
        let hub = self.0.clone();
        Box::pin(async move {
            if watch.version != VERSION {
                let why = format!("this agent speaks version {VERSION}, and not {}", watch.version);
                return Err(Status::failed_precondition(why));
            }
            let wanted = Duration::from_millis(watch.interval_millis.into());
            let receiver = Receiver {
                // Ticks come a little late or early.
                interval: wanted.saturating_sub(hub.interval() / 2),
                frames: hub.listen(),
                told: Told::default(),
                last: None,
            };
            let updates = stream::unfold(receiver, |mut receiver| async {
                let update = receiver.next().await?;
                Some((update, receiver))
            });
            Ok(tonic::Response::new(Box::pin(updates) as Updates))
        })
    }
}

struct Receiver {
    frames: watch::Receiver<Option<Arc<Frame>>>,
    told: Told,
    interval: Duration,
    last: Option<Instant>,
}

impl Receiver {
    async fn next(&mut self) -> Option<Result<Update, Status>> {
        loop {
            self.frames.changed().await.ok()?;
            let frame = self.frames.borrow_and_update().clone()?;
            if self.last.is_none_or(|last| last.elapsed() >= self.interval) {
                self.last = Some(Instant::now());
                return Some(Ok(self.told.tell(frame)));
            }
        }
    }
}
