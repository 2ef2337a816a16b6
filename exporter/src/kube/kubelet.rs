//! The kubelet of this node: it has no watch, so it is asked for its pods.

use std::time::Duration;

use axum::http::Request;
use kube::Client;
use serde::Deserialize;

use super::{
    asked::Source,
    client::Way,
    pod::{Manifest, Pod},
};
use crate::config;

/// What the agent's role must have for this: since 1.33; before, the kubelet wants `nodes/proxy`, which lets into every container.
const RULE: &str = r#"{apiGroups: [""], resources: [nodes/pods], verbs: [get]}"#;

const PATIENCE: Duration = Duration::from_secs(10);

/// A client of the kubelet.
pub(super) struct Kubelet {
    config: config::Kube,
    client: Option<Client>,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Manifest>,
}

impl Kubelet {
    /// Not connected yet.
    pub(super) fn new(config: config::Kube) -> Self {
        Self { config, client: None }
    }

    fn client(&mut self) -> anyhow::Result<Client> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = Way::to_kubelet(&self.config).client(PATIENCE)?;
        self.client = Some(client.clone());
        Ok(client)
    }
}

impl Source for Kubelet {
    const NAME: &str = "the kubelet";
    const RULE: &str = RULE;

    async fn ask(&mut self) -> anyhow::Result<Vec<Pod>> {
        let client = self.client()?;
        let answer = client.request::<List>(Request::get("/pods").body(Vec::new())?).await;
        // The next one reads again whom to trust.
        let list = answer.inspect_err(|_| self.client = None)?;
        Ok(list.items.into_iter().map(Pod::from).collect())
    }
}
