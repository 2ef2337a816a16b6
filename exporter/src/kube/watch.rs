//! Objects of one kind as they are and as they change, by a list and a watch: for what there is little of.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use kube::{
    Error,
    api::{ListParams, WatchEvent, WatchParams},
    core::{ObjectList, Request},
};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::client::Way;
use crate::{backoff::Backoff, config};

const WAIT: Duration = Duration::from_secs(1);
const WAIT_MOST: Duration = Duration::from_secs(30);
/// How long the server keeps a watch open, and how long it may say nothing: it sends a bookmark every minute.
const WATCH_SECONDS: u32 = 290;
const SILENCE: Duration = Duration::from_secs(180);

/// What became of an object.
pub(crate) enum Change<T> {
    /// These are all.
    All(Vec<T>),
    /// It is new, or has changed.
    Set(T),
    /// It is gone.
    Gone(T),
}

/// Which objects: their path, what their labels and fields must be like, and what they are called in the log.
pub(crate) struct Which {
    pub(crate) path: String,
    pub(crate) labels: Option<String>,
    pub(crate) fields: Option<String>,
    pub(crate) name: &'static str,
}

/// Follows them for as long as the program runs. What goes wrong is logged once, and tried again.
pub(crate) async fn follow<T>(api: &config::Api, which: &Which, mut apply: impl FnMut(Change<T>))
where
    T: DeserializeOwned + Clone + std::fmt::Debug,
{
    let (mut backoff, mut said) = (Backoff::new(WAIT, WAIT_MOST), String::new());
    loop {
        let mut has_begun = false;
        let outcome = run(api, which, |change| {
            has_begun = true;
            apply(change);
        })
        .await;
        if has_begun {
            backoff.reset();
            said.clear();
        }
        if let Err(error) = outcome {
            let message = format!("{error:#}");
            if message != said {
                warn!("no news of {}: {message}", which.name);
                said = message;
            }
        }
        backoff.pause().await;
    }
}

async fn run<T>(api: &config::Api, which: &Which, mut apply: impl FnMut(Change<T>)) -> anyhow::Result<()>
where
    T: DeserializeOwned + Clone + std::fmt::Debug,
{
    // A new one for each watch: it reads again whom to trust.
    let client = Way::to_api(api)?.client(SILENCE)?;
    let (labels, fields) = (which.labels.as_deref().unwrap_or(""), which.fields.as_deref().unwrap_or(""));
    // From the server's memory, and not from its database.
    let params = ListParams::default().labels(labels).fields(fields).match_any();
    let list: ObjectList<T> = client.request(Request::new(&which.path).list(&params)?).await?;
    let version = list.metadata.resource_version.unwrap_or_default();
    apply(Change::All(list.items));
    let params = WatchParams::default().labels(labels).fields(fields).timeout(WATCH_SECONDS);
    let request = Request::new(&which.path).watch(&params, &version)?;
    let events = client.request_events::<T>(request).await?;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => apply(Change::Set(object)),
            WatchEvent::Deleted(object) => apply(Change::Gone(object)),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => return Err(Error::Api(status).into()),
        }
    }
    Ok(())
}
