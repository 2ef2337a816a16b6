//! Whether who asks may.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tracing::warn;

use super::{
    ask::{Ask, What},
    refusal::Refusal,
};
use crate::kube::{
    remembered::Remembered,
    review::{Questions, User},
};

/// How long the API server's word holds, and how many are kept.
const HOLDS: Duration = Duration::from_secs(10);
/// How long its word on a whole group holds.
const HOLDS_WIDELY: Duration = Duration::from_secs(60);
const KEPT: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(5);

const MASTERS: &str = "system:masters";

/// The API server's rules, asked for and remembered.
pub struct Rules {
    questions: Arc<Questions>,
    answers: Remembered<(User, String), bool>,
}

impl Rules {
    /// Remembers nothing yet.
    pub fn new(questions: Arc<Questions>) -> Self {
        Self { questions, answers: Remembered::new(KEPT) }
    }

    /// Lets a request pass.
    ///
    /// # Errors
    /// When the user may not, or when nobody can tell.
    pub async fn admit(&self, user: &User, ask: &Ask) -> Result<(), Refusal> {
        if user.groups.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        let attributes = ask.attributes();
        let resource = &attributes["resourceAttributes"];
        if !resource.is_null() {
            // Whoever scales may read every metric: that is one question, and not one for each of a thousand workloads.
            let all = json!({"resourceAttributes": {"verb": resource["verb"], "group": resource["group"], "version": "*", "resource": "*"}});
            if self.may(user, all, HOLDS_WIDELY).await? {
                return Ok(());
            }
        }
        if self.may(user, attributes.clone(), HOLDS).await? {
            return Ok(());
        }
        Err(Refusal::forbidden(refusal(user, ask, &attributes)))
    }

    async fn may(&self, user: &User, attributes: Value, holds: Duration) -> Result<bool, Refusal> {
        let key = (user.clone(), attributes.to_string());
        let known = || self.answers.get(&key, |_| holds);
        if let Some(may) = known() {
            return Ok(may);
        }
        let _turn = self.questions.turn().await;
        if let Some(may) = known() {
            return Ok(may);
        }
        let asked = tokio::time::timeout(PATIENCE, self.questions.may(user, attributes)).await;
        let may = match asked {
            Ok(Ok(may)) => may,
            Ok(Err(error)) => {
                warn!("cannot tell who may ask: {error:#}");
                return Err(Refusal::internal("nobody can tell whether you may"));
            }
            Err(_) => return Err(Refusal::internal("the API server does not tell whether you may")),
        };
        // Of what holds for different times, all that may still hold.
        self.answers.keep(key, may, |_| HOLDS_WIDELY);
        Ok(may)
    }
}

/// In Kubernetes' own words.
fn refusal(user: &User, ask: &Ask, attributes: &Value) -> String {
    let name = &user.name;
    let resource = &attributes["resourceAttributes"];
    if resource.is_null() {
        return format!("forbidden: User \"{name}\" cannot get path \"{}\"", ask.path);
    }
    let text = |key: &str| resource[key].as_str().unwrap_or_default();
    let of = match text("subresource") {
        "" => text("resource").to_owned(),
        part => format!("{}/{part}", text("resource")),
    };
    let scope = match text("namespace") {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let (group, verb) = (text("group"), text("verb"));
    let which = if matches!(ask.what, What::Nodes { .. } | What::Pods { .. }) && verb == "get" {
        format!(" \"{}\"", text("name"))
    } else {
        String::new()
    };
    format!(
        "{}.{group}{which} is forbidden: User \"{name}\" cannot {verb} resource \"{of}\" in API group \"{group}\" {scope}",
        text("resource")
    )
}
