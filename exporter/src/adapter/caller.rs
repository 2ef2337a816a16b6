//! Who asks.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use percent_encoding::percent_decode_str;
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tracing::warn;

use super::{
    refusal::Refusal,
    trust::{Headers, Trust},
};
use crate::kube::{
    remembered::Remembered,
    review::{Questions, User},
};

/// How long the API server's word on a token holds, and of how many tokens.
const HOLDS: Duration = Duration::from_secs(10);
const KEPT: usize = 4096;
/// How long one may think about it.
const PATIENCE: Duration = Duration::from_secs(5);

const ANONYMOUS: &str = "system:anonymous";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Finds out who asks.
pub struct Callers {
    trust: watch::Receiver<Arc<Trust>>,
    questions: Arc<Questions>,
    tokens: Remembered<String, Option<User>>,
}

impl Callers {
    /// Believes whom the settings say.
    pub fn new(trust: watch::Receiver<Arc<Trust>>, questions: Arc<Questions>) -> Self {
        Self { trust, questions, tokens: Remembered::new(KEPT) }
    }

    /// Who sends a request, over a connection with these certificates of the client's. Nothing that a header says is believed
    /// but of a front proxy.
    ///
    /// # Errors
    /// When there is a token that nobody has, or when nobody can tell.
    pub async fn who(
        &self,
        certificates: &[CertificateDer<'_>],
        headers: &HeaderMap,
    ) -> Result<User, Refusal> {
        let user = self.certified(certificates, headers);
        if let Some(user) = user {
            return Ok(authenticated(user));
        }
        if let Some(token) = bearer(headers) {
            return self.token(token).await?.map(authenticated).ok_or_else(Refusal::unauthorized);
        }
        let groups = vec![UNAUTHENTICATED.to_owned()];
        Ok(User { name: ANONYMOUS.to_owned(), groups, ..User::default() })
    }

    /// By the certificates of the connection. They are looked at for every request: they expire, and the authorities change.
    fn certified(&self, certificates: &[CertificateDer<'_>], headers: &HeaderMap) -> Option<User> {
        if certificates.is_empty() {
            return None;
        }
        let (trust, now) = (self.trust.borrow().clone(), UnixTime::now());
        if trust.is_front(certificates, now)
            && let Some(user) = forwarded(&trust.headers, headers)
        {
            return Some(user);
        }
        let subject = trust.user(certificates, now)?;
        Some(User { name: subject.name, groups: subject.organizations, ..User::default() })
    }

    async fn token(&self, token: &str) -> Result<Option<User>, Refusal> {
        let known = || self.tokens.get(token, |_| HOLDS);
        if let Some(user) = known() {
            return Ok(user);
        }
        let _turn = self.questions.turn().await;
        // Another may have asked the same meanwhile.
        if let Some(user) = known() {
            return Ok(user);
        }
        let asked = tokio::time::timeout(PATIENCE, self.questions.who(token)).await;
        let user = match asked {
            Ok(Ok(user)) => user,
            Ok(Err(error)) => {
                warn!("cannot tell who asks: {error:#}");
                return Err(Refusal::internal("nobody can tell who you are"));
            }
            Err(_) => return Err(Refusal::internal("the API server does not tell who you are")),
        };
        self.tokens.keep(token.to_owned(), user.clone(), |_| HOLDS);
        Ok(user)
    }
}

/// The discovery by kube-apiserver comes without any group, and goes by the rules for all who are known.
fn authenticated(mut user: User) -> User {
    let is_known = user.name != ANONYMOUS && user.groups.iter().all(|group| group != UNAUTHENTICATED);
    if is_known && user.groups.iter().all(|group| group != AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// Who asks, as a front proxy says.
fn forwarded(names: &Headers, headers: &HeaderMap) -> Option<User> {
    let first = |names: &[String]| {
        let values = names.iter().filter_map(|name| headers.get(name.to_ascii_lowercase())?.to_str().ok());
        values.into_iter().find(|value| !value.is_empty()).map(str::to_owned)
    };
    let mut user =
        User { name: first(&names.user)?, uid: first(&names.uid).unwrap_or_default(), ..User::default() };
    let groups = names.group.iter().flat_map(|name| headers.get_all(name.to_ascii_lowercase()));
    user.groups = groups.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
    for (name, value) in headers {
        let prefixes = names.extra.iter().map(|prefix| prefix.to_ascii_lowercase());
        let key =
            prefixes.filter_map(|prefix| name.as_str().strip_prefix(&*prefix).map(str::to_owned)).next();
        let (Some(key), Ok(value)) = (key, value.to_str()) else { continue };
        let key = percent_decode_str(&key).decode_utf8_lossy().into_owned();
        user.extra.entry(key).or_default().push(value.to_owned());
    }
    Some(user)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_front_proxy_says_who_asks() {
        let one = |name: &str| vec![name.to_owned()];
        let names = Headers {
            user: one("X-Remote-User"),
            uid: one("X-Remote-Uid"),
            group: one("X-Remote-Group"),
            extra: one("X-Remote-Extra-"),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "jane"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-example.org%2fscope", "x"),
            ("x-remote-uid", "7"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let user = authenticated(forwarded(&names, &headers).unwrap());
        assert_eq!((&*user.name, &*user.uid), ("jane", "7"));
        assert_eq!(user.groups, ["a", "b", AUTHENTICATED]);
        assert_eq!(user.extra["example.org/scope"], ["x"]);
        headers.remove("x-remote-user");
        assert_eq!(forwarded(&names, &headers), None, "who has no name is nobody");
        let nobody = User { name: ANONYMOUS.to_owned(), groups: one(UNAUTHENTICATED), ..User::default() };
        assert_eq!(authenticated(nobody.clone()), nobody);
    }
}
