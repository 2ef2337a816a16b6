//! Reads the counters while anyone listens, once for all of them.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, watch};
use tracing::error;

use super::frame::Frame;

/// Where readers of the stream get their frames from.
pub struct Hub {
    /// The newest frame, and none at the end: who is slow misses some, and none waits for anyone.
    frames: watch::Sender<Option<Arc<Frame>>>,
    wanted: Notify,
    interval: Duration,
}

impl Hub {
    /// Reads every `interval`, once somebody listens.
    pub fn new(interval: Duration) -> Self {
        Self { frames: watch::channel(None).0, wanted: Notify::new(), interval }
    }

    /// Reads, until dropped. `read` may block.
    pub async fn run(&self, read: impl Fn() -> Frame + Clone + Send + 'static) {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.frames.receiver_count() == 0 {
                self.wanted.notified().await;
                // Whoever comes first is told at once.
                ticks.reset_immediately();
                continue;
            }
            ticks.tick().await;
            match tokio::task::spawn_blocking(read.clone()).await {
                Ok(frame) => _ = self.frames.send_replace(Some(Arc::new(frame))),
                Err(error) => error!(%error, "cannot read for the stream"),
            }
        }
    }

    /// The frames from now on.
    pub fn listen(&self) -> watch::Receiver<Option<Arc<Frame>>> {
        let frames = self.frames.subscribe();
        self.wanted.notify_one();
        frames
    }

    /// How often there is a frame.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Tells everyone that there is no more.
    pub fn close(&self) {
        self.frames.send_replace(None);
    }
}
