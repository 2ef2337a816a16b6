//! `--upstream`: another adapter, which has the custom and external metrics that are not podmeter's.
//!
//! Each API has one server in a cluster, so that whoever has metrics of their own would have to choose. Who asks, and whether they
//! may, is found out here; the other adapter is asked by us, in the same words, and its answer is passed on as it is. Its list of
//! metrics is read now and then, and stays as it was while it does not answer.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use axum::{
    body::to_bytes,
    http::{Request, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use kube::client::Body;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    answer::discovery::Resource,
    ask::{GROUPS, METRICS},
    flags,
    metric::Metrics,
    refusal::Refusal,
};
use crate::{
    backoff::Backoff,
    kube::client::{Kept, Way},
};

/// How long an answer may take: the API server gives up after a minute.
const PATIENCE: Duration = Duration::from_secs(20);
/// No answer is longer, bytes.
const LONGEST: usize = 16 << 20;
/// How often its list is read.
const LOOK: Duration = Duration::from_secs(30);
/// How soon after a failure, at first.
const RETRY: Duration = Duration::from_secs(1);

/// The lists of metrics, by group and version.
type Lists = HashMap<(&'static str, &'static str), Vec<Resource>>;

/// The other adapter.
pub struct Upstream {
    client: Kept,
    /// Those that are ours.
    own: Arc<Metrics>,
    lists: RwLock<Lists>,
    /// What is wrong with it: each is logged when it begins, and not for every question.
    trouble: Mutex<Trouble>,
}

#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    Silent,
    Refuses,
}

#[derive(Deserialize)]
struct List {
    resources: Vec<Resource>,
}

/// Why the other adapter refuses, where it says so as Kubernetes does.
#[derive(Default, Deserialize)]
struct Said {
    #[serde(default)]
    message: String,
}

impl Upstream {
    /// Reads its list from now on; none where there is no other adapter.
    ///
    /// # Errors
    /// When the flags do not say whom to trust.
    pub fn start(flags: &flags::Upstream, own: &Arc<Metrics>) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(url) = flags.upstream.clone() else { return Ok(None) };
        let (authorities, token) = (flags.upstream_ca.clone(), flags.upstream_token_file.clone());
        let names = ["--upstream", "--upstream-ca", "--upstream-token-file"];
        let way = Way::to_other(url.trim_end_matches('/').to_owned(), authorities, token, names)?;
        let client = Kept::of(way, PATIENCE);
        // What cannot work is said at once.
        client.client()?;
        let this = Arc::new(Self {
            client,
            own: own.clone(),
            lists: RwLock::default(),
            trouble: Mutex::new(Trouble::None),
        });
        tokio::spawn(this.clone().look());
        Ok(Some(this))
    }

    /// The metrics of a version of a group that it has, and we have not.
    pub fn resources(&self, group: &str, version: &str) -> Vec<Resource> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        let known = lists.iter().find(|((own, of), _)| *own == group && *of == version);
        known.map(|(_, list)| list.clone()).unwrap_or_default()
    }

    /// Asks it for what was asked for here.
    ///
    /// # Errors
    /// When it does not answer, or does not know us.
    pub async fn pass_on(&self, uri: &Uri) -> Result<Response, Refusal> {
        let path = uri.path_and_query().map_or_else(|| uri.path(), |both| both.as_str());
        let (status, body) = self.ask(path).await.map_err(|error| {
            let message = format!("the adapter behind podmeter's does not answer: {error:#}");
            self.tell(Trouble::Silent, &message);
            Refusal::unavailable(message)
        })?;
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            // Who asks may: it is we who may not.
            let said = serde_json::from_slice::<Said>(&body).unwrap_or_default().message;
            let message = format!("the adapter behind podmeter's does not let podmeter's ask: {said}");
            self.tell(Trouble::Refuses, &message);
            return Err(Refusal::gateway(message));
        }
        self.tell(Trouble::None, "the adapter behind podmeter's answers");
        if serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err() {
            return Err(Refusal::gateway("the adapter behind podmeter's says what is no JSON"));
        }
        Ok((status, [(CONTENT_TYPE, "application/json")], body).into_response())
    }

    fn tell(&self, trouble: Trouble, message: &str) {
        let before = mem::replace(&mut *self.trouble.lock().unwrap_or_else(PoisonError::into_inner), trouble);
        match trouble {
            _ if before == trouble => {}
            Trouble::None => info!("{message}"),
            _ => warn!("{message}"),
        }
    }

    async fn ask(&self, path: &str) -> anyhow::Result<(StatusCode, Vec<u8>)> {
        let client = self.client.client()?;
        let request = Request::get(path).header("accept", "application/json").body(Body::empty())?;
        let asked = async {
            let answer = client.send(request).await?;
            let status = answer.status();
            let body = to_bytes(axum::body::Body::new(answer.into_body()), LONGEST).await?;
            anyhow::Ok((status, body.to_vec()))
        };
        let answer = timeout(PATIENCE, asked).await.context("it takes too long").and_then(|answer| answer);
        self.client.keep(answer.is_ok().then_some(client));
        answer
    }

    async fn look(self: Arc<Self>) {
        let (mut backoff, mut said) = (Backoff::new(RETRY, LOOK), String::new());
        loop {
            let message = match self.read().await {
                Ok(lists) => {
                    let count = lists.values().map(Vec::len).sum::<usize>();
                    *self.lists.write().unwrap_or_else(PoisonError::into_inner) = lists;
                    Ok(format!("the adapter behind this one lists {count} metrics of its own"))
                }
                Err(error) => Err(format!("no list from the adapter behind this one: {error:#}")),
            };
            let (Ok(text) | Err(text)) = &message;
            if *text != said {
                match &message {
                    Ok(text) => info!("{text}"),
                    Err(text) => warn!("{text}"),
                }
                said.clone_from(text);
            }
            if message.is_ok() {
                backoff.reset();
                tokio::time::sleep(LOOK).await;
            } else {
                backoff.pause().await;
            }
        }
    }

    async fn read(&self) -> anyhow::Result<Lists> {
        let mut lists = Lists::new();
        for (group, versions) in GROUPS.into_iter().filter(|(group, _)| *group != METRICS) {
            for version in versions {
                let (status, body) = self.ask(&format!("/apis/{group}/{version}")).await?;
                if status == StatusCode::NOT_FOUND {
                    // It does not serve this group.
                    continue;
                }
                ensure!(status.is_success(), "{group}/{version}: {status}");
                let list: List =
                    serde_json::from_slice(&body).with_context(|| format!("of {group}/{version}"))?;
                lists.insert((group, *version), others(list.resources, &self.own));
            }
        }
        Ok(lists)
    }
}

/// Those that are not ours.
fn others(mut resources: Vec<Resource>, own: &Metrics) -> Vec<Resource> {
    resources.retain(|resource| own.find(resource.metric()).is_none());
    resources
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::{
        answer::discovery,
        ask::{CUSTOM, EXTERNAL},
    };

    fn own() -> Arc<Metrics> {
        Arc::new(Metrics::new(Duration::from_secs(15)).unwrap())
    }

    #[test]
    fn what_is_ours_is_not_asked_of_others() {
        let theirs = r#"[
            {"name": "pods/http_requests_per_second", "singularName": "", "namespaced": true, "kind": "MetricValueList", "verbs": ["get"]},
            {"name": "namespaces/queue_length", "singularName": "", "namespaced": false, "kind": "MetricValueList", "verbs": ["get"]},
            {"name": "queue_length", "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList", "verbs": ["get"]}]"#;
        let own = own();
        let names = others(serde_json::from_str(theirs).unwrap(), &own).into_iter().map(|own| own.name);
        let names: Vec<_> = names.collect();
        assert_eq!(names, ["namespaces/queue_length", "queue_length"]);
        for group in [CUSTOM, EXTERNAL] {
            let listed = discovery::own(group, &own);
            assert!(!listed.is_empty() && others(listed, &own).is_empty());
        }
    }

    #[tokio::test]
    async fn a_token_goes_nowhere_in_plain_text() {
        let flags = |url: &str| flags::Upstream {
            upstream: Some(url.to_owned()),
            upstream_token_file: Some("token".into()),
            ..flags::Upstream::default()
        };
        assert!(Upstream::start(&flags("http://adapter.test"), &own()).is_err());
        let error = Upstream::start(&flags("https://adapter.test"), &own()).err().expect("whom to trust?");
        assert!(error.to_string().contains("--upstream-ca"), "{error}");
        assert!(Upstream::start(&flags::Upstream::default(), &own()).is_ok_and(|none| none.is_none()));
    }
}
