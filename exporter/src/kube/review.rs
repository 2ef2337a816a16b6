//! Asks the API server who has a token, and whether they may read the metrics.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use kube::{Client, Error, api::PostParams, core::Request};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::client::Way;
use crate::config;

const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// How long a yes holds, and a no.
const YES: Duration = Duration::from_secs(60);
const NO: Duration = Duration::from_secs(10);
/// How long a yes holds while the API server cannot be reached: it could not tell of a change either.
const ALONE: Duration = Duration::from_secs(3600);
/// How many answers are kept: a flood of made-up tokens must not fill the memory.
const KEPT: usize = 1024;
/// How many questions are under way, and how long one may take.
const ASKED: usize = 4;
const PATIENCE: Duration = Duration::from_secs(5);

/// What the agent's role must have for this; the role system:auth-delegator has it.
const RULES: &str = "{apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]} and \
                     {apiGroups: [authorization.k8s.io], resources: [subjectaccessreviews], verbs: [create]}";

/// What became of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its owner may.
    Allowed,
    /// Its owner, who has this name, may not.
    Denied(String),
    /// Nobody has it.
    Unknown,
    /// The API server did not say.
    Undecided,
}

/// Asks, and remembers.
pub struct Reviewer {
    config: config::Kube,
    client: Mutex<Option<Client>>,
    answers: Mutex<HashMap<String, (Instant, Verdict)>>,
    asked: Semaphore,
}

impl std::fmt::Debug for Reviewer {
    /// Without the tokens.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reviewer").finish_non_exhaustive()
    }
}

impl Reviewer {
    /// Knows nobody yet.
    ///
    /// # Errors
    /// When nothing tells where the API server is.
    pub fn new(config: config::Kube) -> anyhow::Result<Self> {
        Way::to_api(&config)?;
        let (client, answers) = (Mutex::default(), Mutex::default());
        Ok(Self { config, client, answers, asked: Semaphore::new(ASKED) })
    }

    /// What becomes of a token.
    pub async fn review(&self, token: &str) -> Verdict {
        let known = |limits: [Duration; 2]| {
            let answers = lock(&self.answers);
            let (at, verdict) = answers.get(token)?;
            let limit = if *verdict == Verdict::Allowed { limits[0] } else { limits[1] };
            (at.elapsed() < limit).then(|| verdict.clone())
        };
        if let Some(verdict) = known([YES, NO]) {
            return verdict;
        }
        let Ok(_permit) = self.asked.acquire().await else { return Verdict::Undecided };
        // Another may have asked the same meanwhile.
        if let Some(verdict) = known([YES, NO]) {
            return verdict;
        }
        let asked = tokio::time::timeout(PATIENCE, self.ask(token)).await;
        match asked.unwrap_or_else(|_| Err(anyhow!("the API server did not answer in time"))) {
            Ok(verdict) => {
                self.keep(token, verdict.clone());
                verdict
            }
            Err(error) => {
                *lock(&self.client) = None;
                let is_refusal = matches!(error.downcast_ref(), Some(Error::Api(_)));
                if let Some(Verdict::Allowed) = known([ALONE, NO]).filter(|_| !is_refusal) {
                    debug!("letting in whom the API server let in before: {error:#}");
                    return Verdict::Allowed;
                }
                warn!("cannot tell who may read the metrics: {error:#}");
                Verdict::Undecided
            }
        }
    }

    fn keep(&self, token: &str, verdict: Verdict) {
        let mut answers = lock(&self.answers);
        if answers.len() >= KEPT {
            answers.retain(|_, (at, verdict)| {
                at.elapsed() < if *verdict == Verdict::Allowed { ALONE } else { NO }
            });
        }
        if answers.len() < KEPT {
            answers.insert(token.to_owned(), (Instant::now(), verdict));
        }
    }

    async fn ask(&self, token: &str) -> anyhow::Result<Verdict> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let review = self.post(TOKEN_REVIEWS, &review).await?;
        let status = &review["status"];
        if status["authenticated"] != true {
            return Ok(Verdict::Unknown);
        }
        let user = &status["user"];
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user["username"], "uid": user["uid"], "groups": user["groups"], "extra": user["extra"],
                "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
            },
        });
        let review = self.post(ACCESS_REVIEWS, &review).await?;
        Ok(match review["status"]["allowed"] {
            Value::Bool(true) => Verdict::Allowed,
            _ => Verdict::Denied(user["username"].as_str().unwrap_or("a user without a name").to_owned()),
        })
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let known = lock(&self.client).clone();
        let client = match known {
            Some(client) => client,
            None => {
                let client = Way::to_api(&self.config)?.client(PATIENCE)?;
                *lock(&self.client) = Some(client.clone());
                client
            }
        };
        let request = Request::new(path).create(&PostParams::default(), serde_json::to_vec(body)?)?;
        let answer = client.request(request).await;
        Ok(match &answer {
            Err(Error::Api(status)) if status.code == 403 => answer.with_context(|| {
                format!("a ClusterRole of the agent's service account lacks the rules {RULES}")
            })?,
            _ => answer?,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
