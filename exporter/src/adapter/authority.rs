//! A certificate authority of the adapter's own, where nobody gives it a certificate: in a Secret, so that its replicas share it.
//!
//! Each replica signs itself a certificate by it, anew when two thirds of its time are over, and sees to it that the APIServices
//! that are served here trust the authority. Whoever deletes the Secret gets a new authority: the API server trusts it before anyone
//! serves by it, and the one before for as long as a replica may.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail};
use axum::http::Request;
use k8s_openapi::ByteString;
use kube::{
    Client, Error,
    api::{Patch, PatchParams, PostParams},
    core::Request as Make,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use super::ask::GROUPS;
use crate::{config::Api, kube::client::Way};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an authority is good for, and a certificate.
const AUTHORITY: Duration = DAY.saturating_mul(3650);
const CERTIFICATE: Duration = DAY.saturating_mul(30);
/// How often is looked whether all is as it should be.
const LOOK: Duration = Duration::from_secs(5);
/// For how long the API server trusts an authority that another took the place of: until every replica has looked.
const OVERLAP: Duration = Duration::from_secs(60);
/// Longer than this no bundle is that is kept beside our own authority, bytes.
const BUNDLE: usize = 64 << 10;
const RETRY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);
const NAME: &str = "podmeter adapter";

/// A certificate with its chain, and its key.
#[derive(Debug)]
pub struct Leaf {
    /// The certificate.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
}

/// An authority, as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Authority {
    certificate: String,
    key: String,
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: BTreeMap<String, ByteString>,
}

fn params(lasts: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    // Clocks differ.
    (params.not_before, params.not_after) = ((now - DAY).into(), (now + lasts).into());
    params
}

fn authority_params() -> CertificateParams {
    let mut params = params(AUTHORITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, NAME);
    params
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        Ok(Self { certificate: authority_params().self_signed(&key)?.pem(), key: key.serialize_pem() })
    }

    /// Whom is to be trusted instead of those who are now; none if that is well. Beside us whoever was trusted before, unless it is to
    /// be us `alone`.
    fn bundle(&self, trusted: &[u8], alone: bool) -> Option<String> {
        let own = &self.certificate;
        let others = std::str::from_utf8(trusted).ok().filter(|others| {
            let mut certificates = CertificateDer::pem_slice_iter(trusted).peekable();
            others.len() <= BUNDLE && certificates.peek().is_some() && certificates.all(|one| one.is_ok())
        });
        match others {
            Some(others) if others == own => None,
            Some(others) if !alone && others.contains(own.trim()) => None,
            Some(others) if !alone => Some(format!("{}\n{others}", own.trim())),
            _ => Some(own.clone()),
        }
    }

    /// Signs a certificate for a server of these names.
    ///
    /// # Errors
    /// When the key is none.
    pub fn sign(&self, names: &[String]) -> anyhow::Result<Leaf> {
        let issuer = Issuer::new(authority_params(), KeyPair::from_pem(&self.key)?);
        let key = KeyPair::generate()?;
        let mut params = params(CERTIFICATE);
        // Authorities have one name; by this it is known which of two that are trusted has signed.
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.distinguished_name.push(DnType::CommonName, names.first().map_or(NAME, |name| name));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Leaf { chain: vec![certificate.der().clone()], key })
    }
}

/// Keeps a certificate current.
pub struct Keeper {
    api: Api,
    namespace: String,
    service: String,
}

impl Keeper {
    /// For the Service `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// When that is no Service.
    pub fn new(api: Api, service: &str) -> anyhow::Result<Self> {
        let (namespace, name) =
            service.split_once('/').with_context(|| format!("--service {service} has no namespace"))?;
        Ok(Self { api, namespace: namespace.to_owned(), service: name.to_owned() })
    }

    fn client(&self) -> anyhow::Result<Client> {
        Way::to_api(&self.api)?.client(PATIENCE)
    }

    fn names(&self) -> Vec<String> {
        let Self { namespace, service, .. } = self;
        vec![format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.cluster.local")]
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.namespace)
    }

    /// The authority that all replicas share: what is in the Secret, or a new one.
    async fn authority(&self, client: &Client) -> anyhow::Result<Authority> {
        let name = format!("{}-authority", self.service);
        let read = Request::get(format!("{}/{name}", self.path())).body(Vec::new())?;
        match client.request::<Secret>(read).await {
            Ok(secret) => {
                let text = |key: &str| -> anyhow::Result<String> {
                    let bytes =
                        secret.data.get(key).with_context(|| format!("the Secret {name} has no {key}"))?;
                    Ok(String::from_utf8(bytes.0.clone())?)
                };
                return Ok(Authority { certificate: text("tls.crt")?, key: text("tls.key")? });
            }
            Err(Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error).context("cannot read the Secret with our authority"),
        }
        let new = Authority::new()?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
            "stringData": {"tls.crt": new.certificate, "tls.key": new.key}});
        let create = Make::new(self.path()).create(&PostParams::default(), serde_json::to_vec(&secret)?)?;
        match client.request::<Value>(create).await {
            Ok(_) => info!(secret = name, "made a certificate authority of our own"),
            // Another replica was faster: its own is there at the next look.
            Err(Error::Api(status)) if status.code == 409 => bail!("another replica makes the authority"),
            Err(error) => return Err(error).context("cannot keep our authority in a Secret"),
        }
        Ok(new)
    }

    /// The first certificate; waits for as long as it takes.
    pub async fn begin(self) -> watch::Receiver<Arc<Leaf>> {
        let (authority, leaf) = loop {
            let made = async {
                let authority = self.authority(&self.client()?).await?;
                let leaf = authority.sign(&self.names())?;
                anyhow::Ok((authority, leaf))
            };
            match made.await {
                Ok(made) => break made,
                Err(error) => warn!("no certificate to serve with as yet: {error:#}"),
            }
            tokio::time::sleep(RETRY).await;
        };
        let (sender, receiver) = watch::channel(Arc::new(leaf));
        tokio::spawn(self.keep(authority, sender));
        receiver
    }

    async fn keep(self, mut signer: Authority, leaf: watch::Sender<Arc<Leaf>>) {
        let (mut signed, mut authority, mut since) = (Instant::now(), signer.clone(), Instant::now());
        loop {
            let looked = async {
                let client = self.client()?;
                let now = self.authority(&client).await?;
                let is_new = now != authority;
                if is_new {
                    info!("there is another authority: the API server is to trust it before it signs");
                    (authority, since) = (now, Instant::now());
                }
                self.be_trusted(&client, &authority, since.elapsed() > OVERLAP).await?;
                // The API server needs a moment to see whom to trust.
                if !is_new && (authority != signer || signed.elapsed() > CERTIFICATE * 2 / 3) {
                    leaf.send_replace(Arc::new(authority.sign(&self.names())?));
                    (signer, signed) = (authority.clone(), Instant::now());
                    info!("signed a new certificate");
                }
                anyhow::Ok(is_new)
            };
            let wait = match looked.await {
                Ok(false) => LOOK,
                Ok(true) => RETRY,
                Err(error) => {
                    warn!("cannot keep our certificate current: {error:#}");
                    RETRY
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Has the API server trust the authority, for the APIs that are served here: not for what another serves. `alone` if no replica
    /// can go by another any more.
    async fn be_trusted(&self, client: &Client, authority: &Authority, alone: bool) -> anyhow::Result<()> {
        for name in registered() {
            const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
            let read = Request::get(format!("{SERVICES}/{name}")).body(Vec::new())?;
            let object: Value = match client.request(read).await {
                Ok(object) => object,
                Err(Error::Api(status)) if status.code == 404 => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot read the APIService {name}"));
                }
            };
            let service = &object["spec"]["service"];
            if service["namespace"] != *self.namespace || service["name"] != *self.service {
                warn!(name, %service, "this API is served by another, and left alone");
                continue;
            }
            let trusted: Option<ByteString> = serde_json::from_value(object["spec"]["caBundle"].clone())?;
            if let Some(bundle) = authority.bundle(&trusted.unwrap_or_default().0, alone) {
                let bundle = ByteString(bundle.into_bytes());
                let change =
                    Patch::Merge(json!({"spec": {"caBundle": bundle, "insecureSkipTLSVerify": false}}));
                let patch = Make::new(SERVICES).patch(&name, &PatchParams::default(), &change)?;
                client
                    .request::<Value>(patch)
                    .await
                    .with_context(|| format!("cannot change the APIService {name}"))?;
                info!(name, "the API server trusts our authority");
            }
        }
        Ok(())
    }
}

/// The names of the APIServices of what is served here.
fn registered() -> Vec<String> {
    let mut names = Vec::new();
    for (group, versions) in GROUPS {
        names.extend(versions.iter().map(|version| format!("{version}.{group}")));
    }
    names
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::{ServerName, UnixTime};
    use tokio_rustls::rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
        crypto::ring,
    };

    use super::*;

    #[test]
    fn what_the_authority_signs_is_trusted_by_who_trusts_it_for_its_name_alone() {
        let authority = Authority::new().unwrap();
        let leaf = authority.sign(&["adapter.podmeter.svc".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let trusts = |name: &'static str, at: UnixTime| {
            let name = ServerName::try_from(name).unwrap();
            verifier.verify_server_cert(&leaf.chain[0], &[], &name, &[], at).is_ok()
        };
        assert!(trusts("adapter.podmeter.svc", UnixTime::now()));
        assert!(!trusts("other.podmeter.svc", UnixTime::now()));
        let later = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + 2 * CERTIFICATE;
        assert!(!trusts("adapter.podmeter.svc", UnixTime::since_unix_epoch(later)));
    }

    #[test]
    fn who_was_trusted_before_is_for_a_while() {
        let [old, new] = [(); 2].map(|()| Authority::new().unwrap());
        let begun = new.bundle(b"", false).unwrap();
        assert_eq!(begun, new.certificate);
        assert_eq!(new.bundle(begun.as_bytes(), false), None);
        assert_eq!(new.bundle(begun.as_bytes(), true), None);
        let both = new.bundle(old.certificate.as_bytes(), false).unwrap();
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(both.as_bytes()).map(Result::unwrap).collect();
        let wanted =
            [&new, &old].map(|one| CertificateDer::from_pem_slice(one.certificate.as_bytes()).unwrap());
        assert_eq!(certificates, wanted);
        assert_eq!(new.bundle(both.as_bytes(), false), None);
        assert_eq!(
            old.bundle(both.as_bytes(), false),
            None,
            "a replica that has not looked yet leaves it alone"
        );
        assert_eq!(new.bundle(both.as_bytes(), true), Some(new.certificate.clone()));
        assert_eq!(new.bundle(b"no certificate", false), Some(new.certificate.clone()));
    }

    #[test]
    fn every_group_and_version_is_registered() {
        let names = [
            "v1beta1.metrics.k8s.io",
            "v1beta2.custom.metrics.k8s.io",
            "v1beta1.custom.metrics.k8s.io",
            "v1beta1.external.metrics.k8s.io",
        ];
        assert_eq!(registered(), names);
    }
}
