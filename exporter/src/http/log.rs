//! A line in the log for each request, once its answer has been sent.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    body::{Body, Bytes},
    http::{Request, StatusCode},
    response::Response,
};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tracing::{debug, info};

use super::exposed::Series;

/// How much of a path is logged, in characters: it is the client's to choose.
pub(super) const MAX_LOGGED: usize = 128;

/// A request's line, written when this is dropped: also where its client went away before the end of the answer.
pub(super) struct Entry {
    method: String,
    path: String,
    begin: Instant,
    status: Option<StatusCode>,
    series: Option<Series>,
    bytes: usize,
    is_complete: bool,
}

impl Entry {
    pub(super) fn new(request: &Request<Incoming>) -> Self {
        let cut = |text: &str| text.chars().take(MAX_LOGGED).collect();
        let (method, path) = (cut(request.method().as_str()), cut(request.uri().path()));
        let begin = Instant::now();
        Self { method, path, begin, status: None, series: None, bytes: 0, is_complete: false }
    }

    /// Goes along with the answer.
    pub(super) fn answer(mut self, response: Response) -> Response {
        self.status = Some(response.status());
        self.series = response.extensions().get().cloned();
        response.map(|body| Body::new(Logged { body, entry: self }))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Self { method, path, begin, status, series, bytes, is_complete } = self;
        let duration_seconds = begin.elapsed().as_secs_f64();
        let series = series.as_ref().map(Series::get);
        let Some(status) = status.filter(|_| *is_complete) else {
            info!(method, path, duration_seconds, series, bytes, "request abandoned");
            return;
        };
        let health = matches!(path.as_str(), "/livez" | "/readyz" | "/healthz");
        let status_code = status.as_u16();
        if health && status.is_success() {
            debug!(method, path, status = status_code, duration_seconds, series, bytes, "request");
        } else {
            info!(method, path, status = status_code, duration_seconds, series, bytes, "request");
        }
    }
}

/// A body that counts what of it was taken.
struct Logged {
    body: Body,
    entry: Entry,
}

impl hyper::body::Body for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.entry.bytes += frame.data_ref().map_or(0, Bytes::len);
        }
        // Of a body whose length is known, nobody asks for what comes after its last byte.
        self.entry.is_complete |= matches!(frame, Poll::Ready(None)) || self.body.is_end_stream();
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        // Of an empty body, nobody asks for anything.
        self.entry.is_complete |= self.body.is_end_stream();
    }
}
