//! Who may read the metrics, and over what.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, ensure};
use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use tracing::warn;

use super::tls::Tls;
use crate::{
    config::{self, Auth},
    kube::review::{Reviewer, Verdict},
    snapshot::{Kind, Labels, Metric, Snapshot},
};

static REFUSED: Metric = Metric::agent(
    "podmeter_http_refused_total",
    Kind::Counter,
    &["code"],
    "Requests that were refused: without a token that is known (401), without the right (403), or because nobody could tell (503).",
);

/// The metrics of this file.
pub static METRICS: &[&Metric] = &[&REFUSED];

/// What they have in common.
pub const SUMMARY: &str = "Who was refused. Only with `--auth`.";

/// Those that probes ask for, who have no token.
const OPEN: [&str; 3] = ["/livez", "/readyz", "/healthz"];

const CODES: [StatusCode; 3] =
    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE];

/// Lets requests pass, or not.
#[derive(Debug, Default)]
pub struct Guard {
    /// Over TLS only, if there is a certificate.
    pub tls: Option<Tls>,
    policy: Policy,
    /// In the order of [`CODES`].
    refused: [AtomicU64; 3],
}

#[derive(Debug, Default)]
enum Policy {
    #[default]
    Open,
    Token(PathBuf),
    Kubernetes(Box<Reviewer>),
}

impl Guard {
    /// As the user wants it.
    ///
    /// # Errors
    /// When a file is missing that it needs.
    pub fn new(config: &config::Agent) -> anyhow::Result<Self> {
        let security = &config.security;
        let files = security.tls_cert.as_ref().zip(security.tls_key.as_ref());
        let tls = files.map(|(certificate, key)| Tls::new(certificate, key)).transpose()?;
        let policy = match security.auth {
            Auth::None => Policy::Open,
            Auth::Token => {
                let file = security.auth_token_file.clone();
                let file = file.context("--auth token needs --auth-token-file")?;
                ensure!(!token(&file)?.is_empty(), "there is no token in {}", file.display());
                Policy::Token(file)
            }
            Auth::Kubernetes => Policy::Kubernetes(Box::new(Reviewer::new(config.kube.clone())?)),
        };
        if tls.is_none() && !matches!(policy, Policy::Open) && !config.listen.ip().is_loopback() {
            warn!(listen = %config.listen, "tokens come in plain text: give --tls-cert and --tls-key");
        }
        Ok(Self { tls, policy, refused: Default::default() })
    }

    /// Whether a request may pass.
    ///
    /// # Errors
    /// The answer, if it may not.
    pub async fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(), Response> {
        if matches!(self.policy, Policy::Open) || OPEN.contains(&path) {
            return Ok(());
        }
        let Some(given) = bearer(headers) else {
            return Err(self.refuse(StatusCode::UNAUTHORIZED, "a bearer token is needed"));
        };
        let verdict = match &self.policy {
            Policy::Open => Verdict::Allowed,
            Policy::Token(file) => match token(file) {
                Ok(known) if !known.is_empty() && is_same(known.as_bytes(), given.as_bytes()) => {
                    Verdict::Allowed
                }
                Ok(_) => Verdict::Unknown,
                Err(error) => {
                    warn!("nobody can be let in: {error:#}");
                    Verdict::Undecided
                }
            },
            Policy::Kubernetes(reviewer) => reviewer.review(given).await,
        };
        match verdict {
            Verdict::Allowed => Ok(()),
            Verdict::Unknown => Err(self.refuse(StatusCode::UNAUTHORIZED, "this token is not known")),
            Verdict::Denied(user) => {
                let why = format!(
                    "{user} may not `get` the path /metrics: a ClusterRole with nonResourceURLs would let it"
                );
                Err(self.refuse(StatusCode::FORBIDDEN, &why))
            }
            Verdict::Undecided => Err(self
                .refuse(StatusCode::SERVICE_UNAVAILABLE, "nobody can tell who you are; see the agent's log")),
        }
    }

    fn refuse(&self, code: StatusCode, why: &str) -> Response {
        if let Some(at) = CODES.iter().position(|known| *known == code) {
            self.refused[at].fetch_add(1, Ordering::Relaxed);
        }
        let challenge = (code == StatusCode::UNAUTHORIZED).then_some([(header::WWW_AUTHENTICATE, "Bearer")]);
        (code, challenge, format!("{why}\n")).into_response()
    }

    /// Emits what was refused.
    pub fn collect(&self, out: &mut Snapshot) {
        if matches!(self.policy, Policy::Open) {
            return;
        }
        let family = out.family(&REFUSED);
        for (code, count) in CODES.iter().zip(&self.refused) {
            family.value(&Labels::NONE, &[code.as_str()], count.load(Ordering::Relaxed) as f64);
        }
    }
}

/// The token in a file. Read for every request: those are seconds apart, and whoever replaces it need not tell us.
fn token(file: &PathBuf) -> anyhow::Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// The token of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Takes as long for a token that differs early as for one that differs late.
fn is_same(known: &[u8], given: &[u8]) -> bool {
    let differing = known.iter().zip(given).fold(0, |bits, (known, given)| bits | (known ^ given));
    std::hint::black_box(differing) == 0 && known.len() == given.len()
}

#[cfg(test)]
mod tests;
