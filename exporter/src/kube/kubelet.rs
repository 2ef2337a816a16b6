//! The kubelet of this node: it has no watch, so it is asked for its pods.

use anyhow::Context as _;
use axum::http::Request;
use kube::Client;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;

use super::{
    api::surroundings,
    asked::Source,
    pod::{Manifest, Pod},
};
use crate::config;

/// What the agent's role must have for this: since 1.33; before, the kubelet wants `nodes/proxy`, which lets into every container.
const RULE: &str = r#"{apiGroups: [""], resources: [nodes/pods], verbs: [get]}"#;

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

    /// As who we are to the API server, but elsewhere: the kubelet asks that one who we are.
    async fn client(&mut self) -> anyhow::Result<Client> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let url = &self.config.kubelet_url;
        let mut config = surroundings(&self.config).await?;
        config.cluster_url = url.parse().with_context(|| format!("{url} is no URL"))?;
        config.accept_invalid_certs = self.config.kubelet_insecure;
        if let Some(file) = &self.config.kubelet_ca {
            let authorities = CertificateDer::pem_file_iter(file)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .with_context(|| format!("cannot read certificates from {}", file.display()))?;
            config.root_cert = Some(authorities.iter().map(|authority| authority.to_vec()).collect());
        }
        config.read_timeout = config.connect_timeout;
        let client = Client::try_from(config)?;
        self.client = Some(client.clone());
        Ok(client)
    }
}

impl Source for Kubelet {
    const NAME: &str = "the kubelet";
    const RULE: &str = RULE;

    async fn ask(&mut self) -> anyhow::Result<Vec<Pod>> {
        let client = self.client().await?;
        let answer = client.request::<List>(Request::get("/pods").body(Vec::new())?).await;
        // The next one reads the token again.
        let list = answer.inspect_err(|_| self.client = None)?;
        Ok(list.items.into_iter().map(Pod::from).collect())
    }
}
