//! The certificate that is served, and whom the handshake takes certificates from.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::sync::watch;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};
use tracing::{info, warn};

use super::trust::Trust;
use crate::http::tls::{HTTP2, Stamp, stamp};

/// TLS as it is now.
pub struct Serving {
    files: [PathBuf; 2],
    trust: watch::Receiver<Arc<Trust>>,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    stamps: [Stamp; 2],
    trust: Arc<Trust>,
}

impl Serving {
    /// With the certificate and the key in these files.
    ///
    /// # Errors
    /// When they cannot be read, or do not belong together.
    pub fn new(certificate: &Path, key: &Path, trust: watch::Receiver<Arc<Trust>>) -> anyhow::Result<Self> {
        let files = [certificate.to_owned(), key.to_owned()];
        let (stamps, known) = (files.each_ref().map(|file| stamp(file)), trust.borrow().clone());
        let current = Mutex::new(Current { config: build(&files, &known)?, stamps, trust: known });
        Ok(Self { files, trust, current })
    }

    /// What the next handshake goes by. While a new certificate is no good, the one before.
    pub fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (stamps, trust) = (self.files.each_ref().map(|file| stamp(file)), self.trust.borrow().clone());
        if stamps != current.stamps || !Arc::ptr_eq(&trust, &current.trust) {
            match build(&self.files, &trust) {
                Ok(config) => {
                    info!("serving with a new certificate, or for clients of others");
                    current.config = config;
                }
                Err(error) => warn!("going on with the certificate from before: {error:#}"),
            }
            (current.stamps, current.trust) = (stamps, trust);
        }
        Arc::clone(&current.config)
    }
}

fn build([certificate, key]: &[PathBuf; 2], trust: &Trust) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read certificates from {}", certificate.display()))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read a private key from {}", key.display()))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match trust.handshake()? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, private)
        .with_context(|| format!("{} and {} do not fit", certificate.display(), key.display()))?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
