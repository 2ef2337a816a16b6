//! One agent: asked for its stream, for as long as it is an agent of ours.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, client::Resumption, crypto::ring};
use tonic::{
    Request,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Channel, Endpoint, Uri},
};
use tonic_prost::ProstCodec;
use tower::{Service as _, service_fn};
use tracing::{info, warn};

use super::{
    flags::Adapter,
    pod::is_name,
    store::{Store, lock},
};
use crate::{
    backoff::Backoff,
    kube::client::authorities,
    stream::{
        VERSION, WATCH,
        message::{Update, Watch},
    },
};

const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait after a failure, at first and at most; each time between half of it and all.
const WAIT: Duration = Duration::from_millis(500);
const WAIT_MOST: Duration = Duration::from_secs(10);
/// Of how many kinds of failure is told, until an agent has been well for a while.
const ERRORS: usize = 8;
/// No node tells more at once.
const MOST: usize = 32 << 20;
/// How much of what an agent says may wait for us, bytes: it waits itself before it says more. Thousands may speak at once.
const UNREAD: u32 = 64 << 10;

/// Streams have numbers: of two that speak for a node, the later one counts.
static STREAMS: AtomicU64 = AtomicU64::new(1);

/// The number of a stream that begins now.
pub(super) fn number() -> u64 {
    STREAMS.fetch_add(1, Ordering::Relaxed)
}

/// How to reach agents, whom to trust that it is they, and how they know us.
pub struct Ways {
    interval: Duration,
    authority: Option<PathBuf>,
    name: Option<ServerName<'static>>,
    token: Option<PathBuf>,
}

impl Ways {
    /// As the user says.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn new(config: &Adapter) -> anyhow::Result<Self> {
        let agents = &config.agents;
        let name = agents.agent_server_name.clone().map(ServerName::try_from).transpose();
        let this = Self {
            interval: Duration::from_millis(config.interval.into()),
            authority: agents.agent_ca.clone(),
            name: name.context("--agent-server-name is no name of a server")?,
            token: agents.agent_token_file.clone(),
        };
        this.connector()?;
        Ok(this)
    }

    fn connector(&self) -> anyhow::Result<HttpsConnector<HttpConnector>> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.authority {
            roots.add_parsable_certificates(authorities(file)?);
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // There is a configuration for each connection, so that none is ever resumed; the room for it is 15 KB.
        config.resumption = Resumption::disabled();
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(PATIENCE));
        http.set_nodelay(true);
        http.enforce_http(false);
        let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        Ok(match &self.name {
            Some(name) => builder
                .with_server_name_resolver(FixedServerNameResolver::new(name.clone()))
                .enable_http2()
                .wrap_connector(http),
            None => builder.enable_http2().wrap_connector(http),
        })
    }

    async fn connect(&self, url: &str) -> anyhow::Result<Channel> {
        let address: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
        let connector = self.connector()?;
        // The connector knows where to.
        let connect = service_fn(move |_: Uri| {
            let (mut connector, address) = (connector.clone(), address.clone());
            async move {
                std::future::poll_fn(|context| connector.poll_ready(context)).await?;
                connector.call(address).await
            }
        });
        Ok(Endpoint::from_static("http://agent")
            .initial_stream_window_size(UNREAD)
            .initial_connection_window_size(UNREAD)
            .connect_timeout(PATIENCE)
            .connect_with_connector(connect)
            .await?)
    }
}

/// An agent, and the node that it is on, where the cluster says so: it speaks for no other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Agent {
    /// Where it is.
    pub url: String,
    /// Its node.
    pub node: Option<String>,
}

/// Follows an agent until the task is ended.
pub async fn follow(agent: Agent, ways: Arc<Ways>, store: Arc<Store>) {
    let (mut backoff, mut said) = (Backoff::new(WAIT, WAIT_MOST), Said::default());
    loop {
        let begin = Instant::now();
        let ended = stream(&agent, &ways, &store, &mut said).await;
        // One that tells for a moment, and then nonsense, or nothing, is no news each time that it does so.
        if said.is_told && begin.elapsed() >= WAIT_MOST {
            backoff.reset();
            said = Said::default();
        }
        match ended {
            // Its turn has come.
            Ok(()) => continue,
            Err(error) => {
                let message = format!("{error:#}");
                if said.errors.len() < ERRORS && said.errors.insert(message.clone()) {
                    warn!(agent = agent.url, "no news of an agent: {message}");
                }
            }
        }
        backoff.pause().await;
    }
}

/// What was said of an agent, so that it is said once.
#[derive(Default)]
struct Said {
    /// That it tells of its node.
    is_told: bool,
    /// Why it does not.
    errors: BTreeSet<String>,
    /// Who tells of its node instead.
    other: Option<String>,
}

/// A stream, until it fails, or until it would be heard where another agent was.
async fn stream(agent: &Agent, ways: &Ways, store: &Store, said: &mut Said) -> anyhow::Result<()> {
    let url = &*agent.url;
    let channel = ways.connect(url).await.context("cannot connect")?;
    let mut client = Grpc::new(channel).max_decoding_message_size(MOST);
    client.ready().await?;
    let mut request =
        Request::new(Watch { version: VERSION, interval_millis: ways.interval.as_millis() as u32 });
    if let Some(file) = &ways.token {
        ensure!(
            is_private(url),
            "our token would go there in plain text: agents serve over TLS with --tls-cert"
        );
        let token = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut header = MetadataValue::try_from(format!("Bearer {}", token.trim()))?;
        header.set_sensitive(true);
        request.metadata_mut().insert("authorization", header);
    }
    let codec = ProstCodec::<Watch, Update>::default();
    let path = Uri::from_static(WATCH).into_parts().path_and_query.context("a path")?;
    let asked = timeout(PATIENCE, client.server_streaming(request, path, codec));
    let mut updates = asked.await.context("no answer in time")??.into_inner();
    // A connection of which the other end is gone is silent for ever.
    let silence = PATIENCE.max(4 * ways.interval);
    let mut next = async || {
        let update = timeout(silence, updates.message()).await.context("it says nothing any more")??;
        update.context("it has hung up")
    };
    let mut update = next().await?;
    ensure!(update.full, "a stream does not begin with everything");
    ensure!(is_name(&update.node), "a node has no name");
    if let Some(node) = agent.node.as_ref().filter(|node| **node != update.node) {
        let says = &update.node;
        bail!(
            "it says that it is of the node {says:?}, and its endpoint is of {node:?}: is its NODE_NAME right?"
        );
    }
    let (number, name) = (number(), update.node.clone());
    let node = store.node(&name);
    // Whom the stream belongs to, for as long as there is the stream.
    let speaker: Arc<str> = url.into();
    loop {
        let handed = lock(&node).hand_to(&speaker);
        let Err(other) = handed else { break };
        // A name, and not what it is known by that it speaks.
        let other = other.to_string();
        if said.other.as_ref() != Some(&other) {
            warn!(
                agent = url,
                node = name,
                other,
                "another agent tells of this node: not listening to this one while it does"
            );
            said.other = Some(other);
        }
        next().await?;
        if lock(&node).is_free() {
            return Ok(());
        }
    }
    said.other = None;
    loop {
        store.apply(&node, number, update).context("it says what no agent says")?;
        if !said.is_told {
            info!(agent = url, node = name, "an agent tells of its node");
            said.is_told = true;
        }
        update = next().await?;
    }
}

/// Whether nobody can listen in: over TLS, or on this machine.
fn is_private(url: &str) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    url.scheme_str() == Some("https") || is_here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_nowhere_in_plain_text() {
        for url in
            ["https://10.0.0.7:9690", "http://127.0.0.1:9690", "http://[::1]:9690", "http://localhost:1"]
        {
            assert!(is_private(url), "{url}");
        }
        for url in ["http://10.0.0.7:9690", "http://[fd00::1]:9690", "http://agent:9690", ""] {
            assert!(!is_private(url), "{url}");
        }
    }
}
