//! Asks the API server who has a token, and whether they may read the metrics.

use std::{collections::BTreeMap, time::Duration};

use anyhow::anyhow;
use kube::{Error, api::PostParams, core::Request};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{debug, warn};

use super::{
    client::{Kept, Way},
    remembered::Remembered,
};
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

impl Verdict {
    /// For how long, where a yes holds for `yes`.
    fn holds(&self, yes: Duration) -> Duration {
        if *self == Self::Allowed { yes } else { NO }
    }
}

/// Who has a token, as the API server says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct User {
    /// The name.
    #[serde(rename = "username")]
    pub name: String,
    /// What tells this user from another of the same name.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// What else whoever vouches for the user says.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Asks the API server, every time.
pub struct Questions {
    client: Kept,
    asked: Semaphore,
}

/// Asks, and remembers.
pub struct Reviewer {
    questions: Questions,
    answers: Remembered<String, Verdict>,
}

impl std::fmt::Debug for Questions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Questions").finish_non_exhaustive()
    }
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
        Ok(Self { questions: Questions::new(config.api, ASKED)?, answers: Remembered::new(KEPT) })
    }

    /// What becomes of a token.
    pub async fn review(&self, token: &str) -> Verdict {
        let known = || self.answers.get(token, |verdict| verdict.holds(YES));
        if let Some(verdict) = known() {
            return verdict;
        }
        let Ok(_permit) = self.questions.asked.acquire().await else { return Verdict::Undecided };
        // Another may have asked the same meanwhile.
        if let Some(verdict) = known() {
            return verdict;
        }
        let asked = tokio::time::timeout(PATIENCE, self.ask(token)).await;
        match asked.unwrap_or_else(|_| Err(anyhow!("the API server did not answer in time"))) {
            Ok(verdict) => {
                self.answers.keep(token.to_owned(), verdict.clone(), |verdict| verdict.holds(ALONE));
                verdict
            }
            Err(error) => {
                let is_refusal = matches!(error.downcast_ref(), Some(Error::Api(_)));
                let before = self.answers.get(token, |verdict| verdict.holds(ALONE));
                if let Some(Verdict::Allowed) = before.filter(|_| !is_refusal) {
                    debug!("letting in whom the API server let in before: {error:#}");
                    return Verdict::Allowed;
                }
                warn!("cannot tell who may read the metrics: {error:#}");
                Verdict::Undecided
            }
        }
    }

    async fn ask(&self, token: &str) -> anyhow::Result<Verdict> {
        let Some(user) = self.questions.who(token).await? else { return Ok(Verdict::Unknown) };
        let attributes = json!({"nonResourceAttributes": {"path": "/metrics", "verb": "get"}});
        if self.questions.may(&user, attributes).await? {
            return Ok(Verdict::Allowed);
        }
        let is_nameless = user.name.is_empty();
        Ok(Verdict::Denied(if is_nameless { "a user without a name".to_owned() } else { user.name }))
    }
}

impl Questions {
    /// So many at a time.
    ///
    /// # Errors
    /// When nothing tells where the API server is.
    pub fn new(api: config::Api, at_once: usize) -> anyhow::Result<Self> {
        Way::to_api(&api)?;
        Ok(Self { client: Kept::new(api, PATIENCE), asked: Semaphore::new(at_once) })
    }

    /// The right to ask, which is waited for.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.asked.acquire().await.ok()
    }

    /// Whose a token is; nobody's if the API server does not know it.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn who(&self, token: &str) -> anyhow::Result<Option<User>> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let review = self.post(TOKEN_REVIEWS, &review).await?;
        let status = &review["status"];
        if status["authenticated"] != true {
            return Ok(None);
        }
        Ok(Some(User::deserialize(&status["user"])?))
    }

    /// Whether a user may do what the attributes say.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn may(&self, user: &User, attributes: Value) -> anyhow::Result<bool> {
        let mut spec = attributes;
        spec["user"] = json!(user.name);
        spec["uid"] = json!(user.uid);
        spec["groups"] = json!(user.groups);
        spec["extra"] = json!(user.extra);
        let review =
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
        let review = self.post(ACCESS_REVIEWS, &review).await?;
        Ok(review["status"]["allowed"] == true)
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = Request::new(path).create(&PostParams::default(), serde_json::to_vec(body)?)?;
        self.client.request(request).await.map_err(|error| match error.downcast_ref() {
            Some(Error::Api(status)) if status.code == 403 => {
                error.context(format!("a ClusterRole of our service account lacks the rules {RULES}"))
            }
            _ => error,
        })
    }
}
