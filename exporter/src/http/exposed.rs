//! The body of `/metrics`: rendered, and compressed, while it is sent.

use std::{
    io::{self, Write as _},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::body::Bytes;
use flate2::{Compression, write::GzEncoder};
use hyper::body::{Body, Frame};
use tokio::sync::OwnedSemaphorePermit;

use crate::encode::Exposition;

/// How many series an answer has had so far.
#[derive(Clone, Default)]
pub(super) struct Series(Arc<AtomicUsize>);

impl Series {
    /// The number.
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// An exposition that is asked for piece by piece. A piece takes some tens of microseconds, with gzip some hundreds: no
/// work for another thread.
pub(super) struct Exposed {
    exposition: Exposition,
    /// Level 1: an exposition repeats itself so much that the effort of higher levels gains little.
    gzip: Option<GzEncoder<Vec<u8>>>,
    series: Series,
    /// The right to a scrape, because the snapshot is in memory until it is sent.
    _permit: OwnedSemaphorePermit,
}

impl Exposed {
    pub(super) fn new(exposition: Exposition, gzip: bool, permit: OwnedSemaphorePermit) -> Self {
        let gzip = gzip.then(|| GzEncoder::new(Vec::new(), Compression::new(1)));
        Self { exposition, gzip, series: Series::default(), _permit: permit }
    }

    /// The number of series, as it grows.
    pub(super) fn series(&self) -> Series {
        self.series.clone()
    }

    fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        let piece = self.exposition.next();
        self.series.0.store(self.exposition.series(), Ordering::Relaxed);
        let (Some(gzip), Some(text)) = (&mut self.gzip, &piece) else {
            return Ok(match self.gzip.take() {
                Some(gzip) => Some(gzip.finish()?),
                None => piece,
            });
        };
        gzip.write_all(text)?;
        Ok(Some(std::mem::take(gzip.get_mut())))
    }
}

impl Body for Exposed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            match self.piece() {
                // The compressor may keep what it is given for later.
                Ok(Some(piece)) if piece.is_empty() => {}
                Ok(piece) => return Poll::Ready(piece.map(|piece| Ok(Frame::data(piece.into())))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}
