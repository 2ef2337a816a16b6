//! TLS, with a certificate that is read again when its files change.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
    server::TlsStream,
};
use tracing::{info, warn};

/// As a client names it when it shakes hands.
pub(crate) const HTTP2: &[u8] = b"h2";

/// The certificate that is served, and the files that it is from.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// Of the files when they were last looked into, whether that went well or not.
    stamps: [Stamp; 2],
}

/// What changes when a file is written or replaced: when it was, its number, its size.
pub(crate) type Stamp = Option<(i64, i64, u64, u64)>;

pub(crate) fn stamp(path: &Path) -> Stamp {
    // Through symbolic links: the kubelet swaps one to replace all the files of a secret.
    let file = fs::metadata(path).ok()?;
    Some((file.mtime(), file.mtime_nsec(), file.ino(), file.len()))
}

impl Tls {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    /// When they cannot be read, or do not belong together.
    pub fn new(certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        let stamps = [stamp(certificate), stamp(key)];
        let current = Mutex::new(Current { config: read(certificate, key)?, stamps });
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), current })
    }

    /// Shakes hands with a client.
    ///
    /// # Errors
    /// When it does not speak TLS, or none that we do.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config()).accept(stream).await
    }

    /// The certificate as it is now. While its files are being replaced, and no good, the one before.
    fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = [stamp(&self.certificate), stamp(&self.key)];
        if stamps != current.stamps {
            current.stamps = stamps;
            match read(&self.certificate, &self.key) {
                Ok(config) => {
                    info!(certificate = %self.certificate.display(), "serving a new certificate");
                    current.config = config;
                }
                Err(error) => warn!("going on with the certificate from before: {error:#}"),
            }
        }
        Arc::clone(&current.config)
    }
}

fn read(certificate: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read certificates from {}", certificate.display()))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read a private key from {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| format!("{} and {} do not fit", certificate.display(), key.display()))?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
