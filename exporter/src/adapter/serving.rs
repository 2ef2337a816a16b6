//! The certificate that is served, and whom the handshake takes certificates from.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::sync::watch;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};
use tracing::{info, warn};

use super::{authority::Leaf, trust::Trust};
use crate::{
    http::tls::{HTTP2, Stamp, stamp},
    kube::client::authorities,
};

/// Where the certificate is from.
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
    trust: watch::Receiver<Arc<Trust>>,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    version: Version,
    trust: Arc<Trust>,
}

impl Serving {
    /// With a certificate from there.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(source: Source, trust: watch::Receiver<Arc<Trust>>) -> anyhow::Result<Self> {
        let (version, known) = (source.version(), trust.borrow().clone());
        let current = Mutex::new(Current { config: build(&source, &known)?, version, trust: known });
        Ok(Self { source, trust, current })
    }

    /// What the next handshake goes by. While a new certificate is no good, the one before.
    pub fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, trust) = (self.source.version(), self.trust.borrow().clone());
        if version != current.version || !Arc::ptr_eq(&trust, &current.trust) {
            match build(&self.source, &trust) {
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

fn build(source: &Source, trust: &Trust) -> anyhow::Result<Arc<ServerConfig>> {
    let Leaf { chain, key } = source.read()?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match trust.handshake()? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let config = builder.with_single_cert(chain, key);
    let mut config = config.context("the certificate and the key do not fit")?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
