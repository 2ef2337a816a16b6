//! Sources on the node that do not tell by themselves: asked when something in a pod has no name, and only then.

use std::time::Duration;

use kube::Error;
use tracing::{info, warn};

use super::{
    pod::Pod,
    pods::{Failure, Shared},
};

/// How long to wait before asking again, at first and at most: what has no name now may have one in a second.
const WAIT: Duration = Duration::from_secs(1);
const WAIT_MOST: Duration = Duration::from_secs(30);

/// Who can be asked for every pod of this node.
pub(super) trait Source {
    /// As in the log.
    const NAME: &str;
    /// What the agent's role must have.
    const RULE: &str;

    /// Every pod of this node.
    async fn ask(&mut self) -> anyhow::Result<Vec<Pod>>;
}

/// Asks for as long as the agent runs.
pub(super) async fn follow<S: Source>(mut source: S, shared: &Shared) {
    let mut wait = WAIT;
    loop {
        match source.ask().await {
            Ok(pods) => {
                wait = WAIT;
                replace(pods, shared, S::NAME);
            }
            Err(error) => {
                wait = (wait * 2).min(WAIT_MOST);
                failed::<S>(&error, shared);
            }
        }
        tokio::time::sleep(wait).await;
        shared.wanted.notified().await;
    }
}

fn replace(told: Vec<Pod>, shared: &Shared, name: &str) {
    let mut pods = shared.lock();
    pods.heard_from();
    let uids = told.iter().map(|pod| pod.uid.clone()).collect();
    told.into_iter().for_each(|pod| pods.set(pod));
    if !pods.is_synced() {
        info!(pods = pods.len(), "{name} has told of this node's pods");
    }
    pods.synced(&uids);
}

fn failed<S: Source>(error: &anyhow::Error, shared: &Shared) {
    let code = match error.downcast_ref() {
        Some(Error::Api(status)) => status.code,
        _ => 0,
    };
    let name = S::NAME;
    let (failure, message) = match code {
        401 => (Failure::Unauthorized, format!("{name} does not accept our token: {error:#}")),
        403 => {
            let lack = format!("a ClusterRole of the agent's service account lacks the rule {}", S::RULE);
            (Failure::Forbidden, format!("{lack}: {error:#}"))
        }
        0 => (Failure::Unreachable, format!("cannot reach {name}: {error:#}")),
        _ => (Failure::Other, format!("{name} says: {error:#}")),
    };
    if shared.lock().lost(failure, message.clone()) {
        warn!(reason = failure.as_str(), "no news of this node's pods: {message}");
    }
}
