//! How to reach the API server and the kubelet: kube's client over a connection of our own.
//!
//! kube's own way there reads every kind of kubeconfig, and brings megabytes of code for it. In a pod there are an address, an
//! authority and a token, which is read for every request: the kubelet replaces it before it expires.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use axum::http::{HeaderValue, Request, Uri, header::AUTHORIZATION};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Error,
    client::{Body, middleware::BaseUriLayer},
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::de::DeserializeOwned;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use tower::ServiceBuilder;
use tracing::warn;

use super::{ACCOUNT, trust::Anyone};
use crate::config;

const CONNECT: Duration = Duration::from_secs(10);
/// After how long of silence the other end is asked whether it is there; twice that, and it is not.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Where someone is, whom to trust that it is they, and how they know us.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    url: String,
    /// The certificates of authorities; none where anyone will do.
    authorities: Option<PathBuf>,
    token: Option<PathBuf>,
}

impl Way {
    /// To another server, which may serve in plain text whom it does not know. `flags` are those by which the user says where it is,
    /// whom to trust, and who we are.
    pub(crate) fn to_other(
        url: String,
        authorities: Option<PathBuf>,
        token: Option<PathBuf>,
        flags: [&str; 3],
    ) -> anyhow::Result<Self> {
        let is_secret = url.starts_with("https://");
        let [address, trust, secret] = flags;
        ensure!(
            is_secret || token.is_none(),
            "our token would go there in plain text: give {address} an https URL, or no {secret}"
        );
        ensure!(!is_secret || authorities.is_some(), "whom to trust is not known: give {trust}");
        Ok(Self { url, authorities, token })
    }

    /// To the API server: as the user says, or else as the cluster says to its pods.
    pub(crate) fn to_api(config: &config::Api) -> anyhow::Result<Self> {
        let account = |name: &str| PathBuf::from(ACCOUNT).join(name);
        let url = match &config.api_server {
            Some(url) => url.clone(),
            None => {
                let variable = |name: &str| {
                    let value = env::var(name).ok().filter(|value| !value.is_empty());
                    value
                        .with_context(|| format!("not in a cluster, as {name} is not set: give --api-server"))
                };
                let (host, port) =
                    (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
                let host = if host.contains(':') { format!("[{host}]") } else { host };
                format!("https://{host}:{port}")
            }
        };
        let authorities = config.api_ca.clone().unwrap_or_else(|| account("ca.crt"));
        let token = config.api_token_file.clone().unwrap_or_else(|| account("token"));
        Ok(Self { url, authorities: Some(authorities), token: Some(token) })
    }

    /// To the kubelet, as who we are to the API server: the kubelet asks that one who we are.
    pub(super) fn to_kubelet(config: &config::Kube) -> Self {
        let account = |name: &str| PathBuf::from(ACCOUNT).join(name);
        let authorities = config.kubelet_ca.clone().or_else(|| config.api.api_ca.clone());
        let authorities = authorities.unwrap_or_else(|| account("ca.crt"));
        Self {
            url: config.kubelet_url.clone(),
            authorities: (!config.kubelet_insecure).then_some(authorities),
            token: Some(config.api.api_token_file.clone().unwrap_or_else(|| account("token"))),
        }
    }

    /// A client, which gives up when it hears nothing for so long.
    pub(crate) fn client(&self, silence: Duration) -> anyhow::Result<Client> {
        let url: Uri = self.url.parse().with_context(|| format!("{} is no URL", self.url))?;
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(CONNECT));
        // Whose machine is gone says nothing, and a watch waits for long: the kernel asks whether it is still there.
        http.set_keepalive(Some(KEEPALIVE));
        http.set_keepalive_interval(Some(KEEPALIVE / 3));
        http.set_keepalive_retries(Some(3));
        http.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config(self.tls()?);
        // Only who has no secret to tell.
        let https = if self.token.is_some() { https.https_only() } else { https.https_or_http() };
        let mut connector = TimeoutConnector::new(https.enable_http1().wrap_connector(http));
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_read_timeout(Some(silence));
        let token = self.token.clone();
        let service = ServiceBuilder::new()
            .layer(BaseUriLayer::new(url))
            .map_request(move |mut request: Request<Body>| {
                let Some(token) = &token else { return request };
                let header = fs::read_to_string(token).map_err(anyhow::Error::from).and_then(|text| {
                    let mut header = HeaderValue::try_from(format!("Bearer {}", text.trim()))?;
                    header.set_sensitive(true);
                    Ok(header)
                });
                match header {
                    Ok(header) => _ = request.headers_mut().insert(AUTHORIZATION, header),
                    Err(error) => warn!(file = %token.display(), "asking without a token: {error:#}"),
                }
                request
            })
            .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
        Ok(Client::new(service, "default"))
    }

    fn tls(&self) -> anyhow::Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        let Some(file) = &self.authorities else {
            let anyone = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone::default()));
            return Ok(anyone.with_no_client_auth());
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities(file)?);
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

/// A client, kept for as long as it gets answers: the next one reads again whom to trust.
pub(crate) struct Kept {
    way: Box<dyn Fn() -> anyhow::Result<Way> + Send + Sync>,
    patience: Duration,
    client: Mutex<Option<Client>>,
}

impl Kept {
    /// Of the API server; gives up when it hears nothing for so long.
    pub(crate) fn new(api: config::Api, patience: Duration) -> Self {
        Self { way: Box::new(move || Way::to_api(&api)), patience, client: Mutex::default() }
    }

    /// Of another server.
    pub(crate) fn of(way: Way, patience: Duration) -> Self {
        Self { way: Box::new(move || Ok(way.clone())), patience, client: Mutex::default() }
    }

    /// The client; [`Self::keep`] says how it went.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let known = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.map_or_else(|| (self.way)()?.client(self.patience), Ok)
    }

    /// Keeps a client that got an answer, or none.
    pub(crate) fn keep(&self, client: Option<Client>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    /// Asks.
    pub(crate) async fn request<T: DeserializeOwned>(&self, request: Request<Vec<u8>>) -> anyhow::Result<T> {
        let client = self.client()?;
        let answer = client.request(request).await;
        let is_alive = answer.is_ok() || matches!(&answer, Err(Error::Api(_)));
        self.keep(is_alive.then_some(client));
        Ok(answer?)
    }
}

/// The certificates in a file.
pub(crate) fn authorities(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read certificates from {}", file.display()))
}
