//! Whose word is believed: the cluster's own settings for aggregated API servers, in
//! `kube-system/extension-apiserver-authentication`, as they are and as they change.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, ensure};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_rustls::rustls::{
    RootCertStore,
    crypto::ring,
    server::{ClientCertVerifierBuilder, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tracing::{info, warn};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{
    config::Api,
    kube::watch::{Change, Which, follow as follow_objects},
};

type Verifier = Arc<dyn ClientCertVerifier>;

/// The settings.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Signs the certificate of the API server as a front proxy: its word on who asks is taken. Not the authority below.
    front: Option<Verifier>,
    /// What that certificate is for; empty is anything.
    names: Vec<String>,
    /// Signs users' certificates.
    clients: Option<Verifier>,
    /// The headers of the front proxy.
    pub headers: Headers,
    /// Both authorities, for the handshake.
    authorities: Vec<CertificateDer<'static>>,
}

/// In which headers a front proxy says who asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headers {
    /// The user's name.
    pub user: Vec<String>,
    /// The user's uid.
    pub uid: Vec<String>,
    /// The user's groups.
    pub group: Vec<String>,
    /// What the names of others begin with.
    pub extra: Vec<String>,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subject {
    /// The common name.
    pub name: String,
    /// The organizations.
    pub organizations: Vec<String>,
}

impl Trust {
    /// Reads the settings.
    ///
    /// # Errors
    /// When they are none.
    pub fn new(data: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let list = |key: &str| -> anyhow::Result<Vec<String>> {
            let Some(text) = data.get(key).filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
            serde_json::from_str(text).with_context(|| format!("{key} is no list"))
        };
        let authority = |key: &str| -> anyhow::Result<Vec<CertificateDer<'static>>> {
            let Some(text) = data.get(key) else { return Ok(Vec::new()) };
            let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>();
            certificates.with_context(|| format!("{key} has no certificates"))
        };
        let (front, clients) = (authority("requestheader-client-ca-file")?, authority("client-ca-file")?);
        let names = list("requestheader-allowed-names")?;
        if names.is_empty() && front.iter().any(|one| clients.contains(one)) {
            warn!(
                "every user with a certificate may say to be anyone: the API server's --requestheader-allowed-names is empty, and both authorities are one"
            );
        }
        Ok(Self {
            names,
            headers: Headers {
                user: list("requestheader-username-headers")?,
                uid: list("requestheader-uid-headers")?,
                group: list("requestheader-group-headers")?,
                extra: list("requestheader-extra-headers-prefix")?,
            },
            front: verifier(&front)?,
            clients: verifier(&clients)?,
            authorities: [front, clients].concat(),
        })
    }

    /// Whether the settings have been read.
    pub fn is_known(&self) -> bool {
        self.front.is_some()
    }

    /// Asks for a certificate in the handshake, and takes it if either authority has signed it; none will do.
    ///
    /// # Errors
    /// When the authorities are none.
    pub fn handshake(&self) -> anyhow::Result<Option<Verifier>> {
        verifier(&self.authorities)
    }

    /// Whether a client is a front proxy, by its certificates.
    pub fn is_front(&self, certificates: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let Some(subject) = verified(self.front.as_ref(), certificates, now) else { return false };
        self.names.is_empty() || self.names.contains(&subject.name)
    }

    /// Which user a client is, by its certificates.
    pub fn user(&self, certificates: &[CertificateDer<'_>], now: UnixTime) -> Option<Subject> {
        verified(self.clients.as_ref(), certificates, now)
    }
}

/// Takes whom one of these authorities vouches for, and nobody else.
///
/// # Errors
/// When they are none.
pub(super) fn required(authorities: &[CertificateDer<'static>]) -> anyhow::Result<Verifier> {
    ensure!(!authorities.is_empty(), "there is no authority");
    Ok(builder(authorities).build()?)
}

fn verifier(authorities: &[CertificateDer<'static>]) -> anyhow::Result<Option<Verifier>> {
    if authorities.is_empty() {
        return Ok(None);
    }
    Ok(Some(builder(authorities).allow_unauthenticated().build()?))
}

fn builder(authorities: &[CertificateDer<'static>]) -> ClientCertVerifierBuilder {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities.iter().cloned());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
}

fn verified(
    verifier: Option<&Verifier>,
    certificates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Option<Subject> {
    let (first, others) = certificates.split_first()?;
    verifier?.verify_client_cert(first, others, now).ok()?;
    subject(first)
}

/// Whom a certificate is for.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<Subject> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let text =
        |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let name = certificate.subject().iter_common_name().next().and_then(text)?;
    let organizations = certificate.subject().iter_organization().filter_map(text).collect();
    Some(Subject { name, organizations })
}

#[derive(Clone, Debug, Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// Follows the settings for as long as the program runs. What cannot be read leaves those from before.
pub async fn follow(api: Api, trust: watch::Sender<Arc<Trust>>) {
    let which = Which {
        path: "/api/v1/namespaces/kube-system/configmaps".to_owned(),
        labels: None,
        fields: Some("metadata.name=extension-apiserver-authentication".to_owned()),
        name: "kube-system/extension-apiserver-authentication, which the role extension-apiserver-authentication-reader lets read",
    };
    let apply = |change: Change<ConfigMap>| {
        let map = match change {
            Change::All(all) => all.into_iter().next(),
            Change::Set(map) => Some(map),
            Change::Gone(_) => None,
        };
        let Some(map) = map else {
            return warn!(
                "the cluster does not say whom to believe: its API server has no --requestheader-client-ca-file"
            );
        };
        match Trust::new(&map.data) {
            Ok(new) => {
                info!(names = ?new.names, "the cluster says whom to believe");
                trust.send_replace(Arc::new(new));
            }
            Err(error) => warn!("believing whom we believed before: {error:#}"),
        }
    };
    follow_objects(&api, &which, apply).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        date_time_ymd,
    };

    use super::*;

    struct Authority(CertificateParams, KeyPair);

    impl Authority {
        fn new(name: &str) -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            Self(params, KeyPair::generate().unwrap())
        }

        fn pem(&self) -> String {
            self.0.self_signed(&self.1).unwrap().pem()
        }

        fn client(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Vec<CertificateDer<'static>> {
            let mut params = CertificateParams::default();
            params.not_after = date_time_ymd(2030, 1, 1);
            params.distinguished_name.push(DnType::CommonName, name);
            params.distinguished_name.push(DnType::OrganizationName, "readers");
            params.extended_key_usages = vec![usage];
            let issuer = Issuer::from_params(&self.0, &self.1);
            vec![params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()]
        }
    }

    fn at(year: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_556_952 + 1_000_000))
    }

    fn trust(front: &Authority, clients: &Authority, names: &str) -> Trust {
        let data = [
            ("requestheader-client-ca-file", front.pem()),
            ("client-ca-file", clients.pem()),
            ("requestheader-allowed-names", names.to_owned()),
            ("requestheader-username-headers", "[\"X-Remote-User\"]".to_owned()),
        ];
        Trust::new(&data.map(|(key, value)| (key.to_owned(), value)).into()).unwrap()
    }

    #[test]
    fn a_front_proxy_is_one_by_its_own_authority_and_name_and_in_its_time() {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        let (front, clients, strangers) =
            (Authority::new("front"), Authority::new("clients"), Authority::new("front"));
        let known = trust(&front, &clients, "[\"proxy\"]");
        assert!(known.is_known() && known.headers.user == ["X-Remote-User"]);
        let proxy = front.client("proxy", ClientAuth);
        assert!(known.is_front(&proxy, at(2027)));
        assert!(!known.is_front(&proxy, at(2031)), "expired");
        assert!(!known.is_front(&front.client("other", ClientAuth), at(2027)), "another's name");
        assert!(!known.is_front(&front.client("proxy", ServerAuth), at(2027)), "a server's");
        assert!(!known.is_front(&clients.client("proxy", ClientAuth), at(2027)), "a user of that name");
        assert!(
            !known.is_front(&strangers.client("proxy", ClientAuth), at(2027)),
            "an authority of that name"
        );
        assert!(!known.is_front(&[], at(2027)));
        assert!(
            trust(&front, &clients, "[]").is_front(&front.client("other", ClientAuth), at(2027)),
            "any name"
        );
        let user = known.user(&clients.client("jane", ClientAuth), at(2027)).unwrap();
        assert_eq!((&*user.name, &*user.organizations), ("jane", &["readers".to_owned()][..]));
        assert!(known.user(&proxy, at(2027)).is_none(), "a front proxy is no user");
        assert!(!Trust::default().is_front(&proxy, at(2027)), "nobody is, before the cluster has said so");
    }

    #[test]
    fn settings_that_are_none_are_refused() {
        for (key, value) in
            [("requestheader-allowed-names", "no list"), ("client-ca-file", "-----BEGIN CERTIFICATE-----\n!")]
        {
            assert!(Trust::new(&[(key.to_owned(), value.to_owned())].into()).is_err(), "{key}");
        }
        assert!(!Trust::new(&BTreeMap::new()).unwrap().is_known());
    }
}
