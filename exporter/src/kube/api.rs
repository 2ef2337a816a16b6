//! The API server: a watch of this node's pods, and of no others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use kube::{
    Client, Error,
    api::{ListParams, WatchEvent, WatchParams},
    core::{ObjectList, Request},
};
use rustc_hash::FxHashSet;
use tracing::{debug, info, warn};

use super::{
    client::Way,
    node_name,
    pod::Manifest,
    pods::{Failure, Shared},
};
use crate::{
    backoff::{self, Backoff},
    config,
};

/// Up to how long the first request waits: the agents of a cluster that comes up must not ask all at once.
const START: Duration = Duration::from_secs(2);
/// How long to wait after a failure, at first and at most; each time between half of it and all.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_MOST: Duration = Duration::from_secs(30);
/// How long the server keeps a watch open, and how long it may say nothing: it sends a bookmark every minute.
const WATCH_SECONDS: u32 = 290;
const SILENCE: Duration = Duration::from_secs(180);

const PODS: &str = "/api/v1/pods";
/// On the bookmark that ends what there was when the watch began.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// What the agent's role must have for this.
const RULE: &str = r#"{apiGroups: [""], resources: [pods], verbs: [list, watch]}"#;

/// Follows the pods of this node for as long as the agent runs.
pub(super) async fn follow(config: &config::Kube, pods: &Arc<Shared>) {
    let mut watch = Watch {
        selector: format!("spec.nodeName={}", node_name(config)),
        config,
        pods,
        client: None,
        version: None,
        seen: FxHashSet::default(),
        can_stream: true,
    };
    tokio::time::sleep(backoff::part(START)).await;
    let mut backoff = Backoff::new(WAIT, WAIT_MOST);
    loop {
        let begun = Instant::now();
        let Err(error) = watch.run().await else {
            backoff.reset();
            // Closed at its time; whoever closes it at once is not asked at once again.
            tokio::time::sleep(WAIT.saturating_sub(begun.elapsed())).await;
            continue;
        };
        if pods.lock().away().is_none() {
            // It answered, and then broke.
            backoff.reset();
        }
        watch.failed(&error);
        backoff.pause().await;
    }
}

struct Watch<'a> {
    config: &'a config::Kube,
    selector: String,
    pods: &'a Shared,
    client: Option<Client>,
    /// Where the watch goes on; none where everything is to be told.
    version: Option<String>,
    /// The uids that were told of since everything is being told.
    seen: FxHashSet<String>,
    /// Whether the server can tell everything in a watch (1.32 by default, and 1.27 where asked).
    can_stream: bool,
}

impl Watch<'_> {
    /// One watch, to its end.
    async fn run(&mut self) -> anyhow::Result<()> {
        let client = self.client()?;
        if self.version.is_none() && !self.can_stream {
            self.list(&client).await?;
        }
        let mut params = WatchParams::default().fields(&self.selector).timeout(WATCH_SECONDS);
        if self.version.is_none() {
            self.seen.clear();
            params = params.initial_events();
        }
        let version = self.version.as_deref().unwrap_or("0");
        let request = Request::new(PODS).watch(&params, version)?;
        let events = client.request_events::<Manifest>(request).await?;
        let mut events = std::pin::pin!(events);
        self.pods.lock().heard_from();
        while let Some(event) = events.try_next().await? {
            self.apply(event)?;
        }
        Ok(())
    }

    /// What there is, from the server's memory and not from its database, for one that cannot tell it in a watch.
    async fn list(&mut self, client: &Client) -> anyhow::Result<()> {
        let params = ListParams::default().fields(&self.selector).match_any();
        let request = Request::new(PODS).list(&params)?;
        let list: ObjectList<Manifest> = client.request(request).await?;
        self.seen.clear();
        for pod in list.items {
            self.set(pod);
        }
        self.version = list.metadata.resource_version;
        self.synced();
        Ok(())
    }

    fn apply(&mut self, event: WatchEvent<Manifest>) -> Result<(), Error> {
        self.pods.lock().heard_from();
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                // Until everything was told, there is nowhere to go on from.
                if self.version.is_some() {
                    self.version = Some(pod.resource_version().to_owned());
                }
                self.set(pod);
            }
            WatchEvent::Deleted(pod) => {
                if self.version.is_some() {
                    self.version = Some(pod.resource_version().to_owned());
                }
                self.seen.remove(pod.uid());
                self.pods.lock().remove(pod.uid());
            }
            WatchEvent::Bookmark(bookmark) => {
                let is_end = bookmark.metadata.annotations.contains_key(INITIAL_END);
                if is_end || self.version.is_some() {
                    self.version = Some(bookmark.metadata.resource_version);
                }
                if is_end {
                    self.synced();
                }
            }
            WatchEvent::Error(status) => return Err(Error::Api(status)),
        }
        Ok(())
    }

    fn set(&mut self, pod: Manifest) {
        self.seen.insert(pod.uid().to_owned());
        self.pods.lock().set(pod.into());
    }

    fn synced(&mut self) {
        let mut pods = self.pods.lock();
        pods.heard_from();
        pods.synced(&self.seen);
        info!(pods = pods.len(), selector = self.selector, "the API server has told of this node's pods");
    }

    /// Keeps what went wrong, and does what may help.
    fn failed(&mut self, error: &anyhow::Error) {
        // The next one reads again whom to trust.
        self.client = None;
        let answer = error.downcast_ref().and_then(|error| match error {
            Error::Api(status) => Some(status.code),
            _ => None,
        });
        let (failure, message) = match answer.unwrap_or(0) {
            401 => (Failure::Unauthorized, format!("the API server does not accept our token: {error:#}")),
            403 => {
                let lack = format!("a ClusterRole of the agent's service account lacks the rule {RULE}");
                (Failure::Forbidden, format!("{lack}: {error:#}"))
            }
            410 => {
                self.version = None;
                (Failure::Expired, format!("the API server has forgotten where we were: {error:#}"))
            }
            400 | 422 if self.version.is_none() && self.can_stream => {
                debug!("the API server cannot list in a watch, so we list before: {error:#}");
                self.can_stream = false;
                return;
            }
            0 => (Failure::Unreachable, format!("cannot reach the API server: {error:#}")),
            _ => (Failure::Other, format!("the API server says: {error:#}")),
        };
        if self.pods.lock().lost(failure, message.clone()) {
            warn!(reason = failure.as_str(), "no news of this node's pods: {message}");
        }
    }

    fn client(&mut self) -> anyhow::Result<Client> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = Way::to_api(&self.config.api)?.client(SILENCE)?;
        self.client = Some(client.clone());
        Ok(client)
    }
}
