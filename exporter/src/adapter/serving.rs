//! The certificate that is served, and whom the handshake takes certificates from.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::sync::watch;
use tokio_rustls::rustls::{ServerConfig, crypto::ring, server::danger::ClientCertVerifier};
use tracing::{info, warn};

use super::{
    authority::Leaf,
    trust::{self, Trust},
};
use crate::{
    http::tls::{HTTP2, Stamp, stamp},
    kube::client::authorities,
};

/// Which clients' certificates are taken in the handshake.
#[derive(Clone, Debug)]
pub enum Clients {
    /// Those that the cluster trusts, and none will do.
    Cluster(watch::Receiver<Arc<Trust>>),
    /// Those that an authority in this file has signed, and without one there is no connection.
    Of(PathBuf),
}

impl Clients {
    fn version(&self) -> (Stamp, Option<Arc<Trust>>) {
        match self {
            Self::Cluster(trust) => (None, Some(trust.borrow().clone())),
            Self::Of(file) => (stamp(file), None),
        }
    }

    fn verifier(&self) -> anyhow::Result<Option<Arc<dyn ClientCertVerifier>>> {
        match self {
            Self::Cluster(trust) => trust.borrow().handshake(),
            Self::Of(file) => trust::required(&authorities(file)?).map(Some),
        }
    }
}

/// Where the certificate is from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The files of a certificate and its key.
    Files([PathBuf; 2]),
    /// An authority of our own.
    Own(watch::Receiver<Arc<Leaf>>),
}

/// What changes when a certificate does.
type Version = ([Stamp; 2], usize);

impl Source {
    fn version(&self) -> Version {
        match self {
            Self::Files(files) => (files.each_ref().map(|file| stamp(file)), 0),
            Self::Own(leaf) => ([None, None], Arc::as_ptr(&*leaf.borrow()) as usize),
        }
    }

    fn read(&self) -> anyhow::Result<Leaf> {
        match self {
            Self::Files([certificate, key]) => Ok(Leaf {
                chain: authorities(certificate)?,
                key: PrivateKeyDer::from_pem_file(key)
                    .with_context(|| format!("cannot read a private key from {}", key.display()))?,
            }),
            Self::Own(leaf) => {
                let leaf = leaf.borrow();
                Ok(Leaf { chain: leaf.chain.clone(), key: leaf.key.clone_key() })
            }
        }
    }
}

/// TLS as it is now.
pub struct Serving {
    source: Source,
    clients: Clients,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    version: Version,
    /// Of what clients are known by.
    trust: (Stamp, Option<Arc<Trust>>),
}

impl Serving {
    /// With a certificate from there.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(source: Source, clients: Clients) -> anyhow::Result<Self> {
        let (version, trust) = (source.version(), clients.version());
        let current = Mutex::new(Current { config: build(&source, &clients)?, version, trust });
        Ok(Self { source, clients, current })
    }

    /// What the next handshake goes by. While a new certificate is no good, the one before.
    pub fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, trust) = (self.source.version(), self.clients.version());
        let is_same = |one: &Option<Arc<Trust>>, other: &Option<Arc<Trust>>| {
            one.as_ref().map(Arc::as_ptr) == other.as_ref().map(Arc::as_ptr)
        };
        if version != current.version || trust.0 != current.trust.0 || !is_same(&trust.1, &current.trust.1) {
            match build(&self.source, &self.clients) {
                Ok(config) => {
                    info!("the next handshakes go by a new certificate, or by new authorities for clients");
                    current.config = config;
                }
                Err(error) => warn!("going on with the certificate from before: {error:#}"),
            }
            (current.version, current.trust) = (version, trust);
        }
        Arc::clone(&current.config)
    }
}

fn build(source: &Source, clients: &Clients) -> anyhow::Result<Arc<ServerConfig>> {
    let Leaf { chain, key } = source.read()?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match clients.verifier()? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let config = builder.with_single_cert(chain, key);
    let mut config = config.context("the certificate and the key do not fit")?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
