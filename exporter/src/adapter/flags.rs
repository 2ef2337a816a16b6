//! The command line of `podmeter adapter`.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum};

use crate::{config::Api, telemetry::LogFormat};

/// The flags of `podmeter adapter`.
#[derive(Args, Clone, Debug)]
pub struct Adapter {
    /// Where to serve the APIs, over TLS.
    #[arg(
        long,
        env = "PODMETER_ADAPTER_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "0.0.0.0:10250"
    )]
    pub listen: SocketAddr,

    /// The certificate to serve with (PEM, with its chain), for the name SERVICE.NAMESPACE.svc; it is read again when it changes.
    /// Without one, the adapter signs itself one by an authority of its own, which it keeps in the Secret SERVICE-authority and has
    /// the API server trust, in the APIServices that are this Service's.
    #[arg(long, env = "PODMETER_ADAPTER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's key (PEM).
    #[arg(long, env = "PODMETER_ADAPTER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// The Service by which the API server reaches the adapter, as NAMESPACE/NAME.
    #[arg(
        long,
        env = "PODMETER_ADAPTER_SERVICE",
        value_name = "SERVICE",
        default_value = "podmeter/podmeter-adapter"
    )]
    pub service: String,

    /// Who may ask: whom the cluster lets (delegated), or anyone (none, on loopback only).
    #[arg(long, env = "PODMETER_ADAPTER_AUTH", value_name = "MODE", default_value = "delegated")]
    pub auth: Access,

    /// Over how long rates are measured, in seconds. About the HPA's sync period: shorter is noisier, longer is later.
    #[arg(long, env = "PODMETER_ADAPTER_WINDOW", value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u32).range(1..=600))]
    pub window: u32,

    /// Metrics of your own: a file (YAML) with a list `metrics`, each with a `name` and a `query`, which is a small part of PromQL over
    /// what agents stream; deploy/autoscaling/adapter/README.md has it. It is read at start, and a change needs a restart.
    #[arg(long, env = "PODMETER_ADAPTER_METRICS", value_name = "FILE")]
    pub metrics: Option<PathBuf>,

    /// After how many seconds without a word from a node's agent its pods are absent: an HPA then does not scale down by them. By
    /// default 10, and 60 from Prometheus.
    #[arg(long, env = "PODMETER_ADAPTER_MAX_AGE", value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(1..=600))]
    pub max_age: Option<u32>,

    /// Where the numbers come from: `agents`, which are asked for a stream each, or `prometheus=URL`, a Prometheus that scrapes them.
    /// Agents are sooner, by a scrape; with Prometheus no agent need be reached, and --agent and its like say nothing.
    #[arg(long, env = "PODMETER_ADAPTER_SOURCE", value_name = "SOURCE", default_value = "agents")]
    pub source: Origin,

    /// How often agents are asked to tell what changed, in milliseconds; they may allow less.
    #[arg(long, env = "PODMETER_ADAPTER_INTERVAL", value_name = "MILLISECONDS", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(100..=60_000))]
    pub interval: u32,

    /// Where agents are.
    #[command(flatten)]
    pub agents: Agents,

    /// Prometheus.
    #[command(flatten)]
    pub prometheus: Prometheus,

    /// The adapter behind this one.
    #[command(flatten)]
    pub upstream: Upstream,

    /// KEDA.
    #[command(flatten)]
    pub keda: Keda,

    /// Where the API server is.
    #[command(flatten, next_help_heading = "Kubernetes")]
    pub api: Api,

    /// What to log: a level (error, warn, info, debug, trace), or levels by target, as in `info,podmeter=debug`.
    #[arg(long, env = "PODMETER_LOG", value_name = "FILTER", default_value = "info")]
    pub log_level: String,

    /// How to log: for people, or one JSON object per line; auto tells by whether stderr is a terminal.
    #[arg(long, env = "PODMETER_LOG_FORMAT", value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
}

/// Where agents are, and how they know the adapter.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Agents")]
pub struct Agents {
    /// An agent's address, as http://10.0.0.7:9690; repeated, or separated by commas. Without any, the agents are the endpoints
    /// of --agent-service.
    #[arg(long = "agent", env = "PODMETER_AGENT", value_name = "URL", value_delimiter = ',')]
    pub urls: Vec<String>,

    /// The Service whose endpoints are the agents, as NAMESPACE/NAME; its EndpointSlices are watched.
    #[arg(long, env = "PODMETER_AGENT_SERVICE", value_name = "SERVICE", default_value = "podmeter/podmeter")]
    pub agent_service: String,

    /// Ask the Service's agents over TLS, and trust whom this authority vouches for (PEM).
    #[arg(long, env = "PODMETER_AGENT_CA", value_name = "FILE")]
    pub agent_ca: Option<PathBuf>,

    /// Whom agents' certificates must be for, where they are not for the addresses.
    #[arg(long, env = "PODMETER_AGENT_SERVER_NAME", value_name = "NAME", requires = "agent_ca")]
    pub agent_server_name: Option<String>,

    /// The token by which agents know us, read for every stream; without it none is sent.
    #[arg(long, env = "PODMETER_AGENT_TOKEN_FILE", value_name = "FILE")]
    pub agent_token_file: Option<PathBuf>,
}

impl Adapter {
    /// After how many seconds of silence a node's pods are absent.
    pub fn max_age(&self) -> u32 {
        let by_source = if self.source == Origin::Agents { 10 } else { 60 };
        self.max_age.unwrap_or(by_source)
    }
}

/// Where the numbers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the agents.
    Agents,
    /// From Prometheus, at this URL.
    Prometheus(String),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "agents" => Ok(Self::Agents),
            Some(("prometheus", url)) if url.starts_with("http://") || url.starts_with("https://") => {
                Ok(Self::Prometheus(url.trim_end_matches('/').to_owned()))
            }
            _ => Err("give agents, or prometheus=http://HOST:PORT".to_owned()),
        }
    }
}

/// How to ask Prometheus.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Prometheus")]
pub struct Prometheus {
    /// How often Prometheus is asked what it has scraped since, in seconds.
    #[arg(long, env = "PODMETER_PROMETHEUS_INTERVAL", value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=300))]
    pub prometheus_interval: u32,

    /// Which series are of this cluster's agents, as matchers between the braces of a query: `cluster="here"`.
    #[arg(long, env = "PODMETER_PROMETHEUS_SELECTOR", value_name = "MATCHERS", default_value = "")]
    pub prometheus_selector: String,

    /// Trust whom this authority vouches for (PEM). Needed for an https URL.
    #[arg(long, env = "PODMETER_PROMETHEUS_CA", value_name = "FILE")]
    pub prometheus_ca: Option<PathBuf>,

    /// The token by which it knows us, read for every question; over https alone.
    #[arg(long, env = "PODMETER_PROMETHEUS_TOKEN_FILE", value_name = "FILE")]
    pub prometheus_token_file: Option<PathBuf>,
}

/// Another adapter, which serves the metrics that are not ours.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Another adapter behind this one")]
pub struct Upstream {
    /// An adapter that is asked for the custom and external metrics that are not podmeter's, as prometheus-adapter:
    /// https://prometheus-adapter.monitoring.svc. Each API has one server in a cluster: that is this one then.
    #[arg(long, env = "PODMETER_UPSTREAM", value_name = "URL")]
    pub upstream: Option<String>,

    /// Trust whom this authority vouches for (PEM). Needed for an https URL.
    #[arg(long, env = "PODMETER_UPSTREAM_CA", value_name = "FILE", requires = "upstream")]
    pub upstream_ca: Option<PathBuf>,

    /// The token by which it knows us, read for every question; over https alone. It must let us get what others ask for here: who
    /// they are and whether they may is found out here.
    #[arg(long, env = "PODMETER_UPSTREAM_TOKEN_FILE", value_name = "FILE", requires = "upstream")]
    pub upstream_token_file: Option<PathBuf>,
}

/// An external scaler for KEDA.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "KEDA")]
pub struct Keda {
    /// Where to serve KEDA's triggers of type `external`, over gRPC: the same metrics, for pods by their labels. Nowhere by default.
    #[arg(long, env = "PODMETER_KEDA_LISTEN", value_name = "ADDRESS:PORT")]
    pub keda_listen: Option<SocketAddr>,

    /// Let in whom this authority vouches for (PEM), over TLS with the adapter's certificate; it is read again when it changes. Whoever
    /// is let in may read the metrics of every namespace. Without it only on a loopback address, in plain text.
    #[arg(long, env = "PODMETER_KEDA_CLIENT_CA", value_name = "FILE", requires = "keda_listen")]
    pub keda_client_ca: Option<PathBuf>,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Access {
    /// Whom the API server vouches for, and its rules let.
    #[default]
    Delegated,
    /// Anyone.
    None,
}
