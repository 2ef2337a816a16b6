//! The command line of `podmeter adapter`.

use std::{net::SocketAddr, path::PathBuf};

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

    /// After how many seconds without a word from a node's agent its pods are absent: an HPA then does not scale down by them.
    #[arg(long, env = "PODMETER_ADAPTER_MAX_AGE", value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=600))]
    pub max_age: u32,

    /// How often agents are asked to tell what changed, in milliseconds; they may allow less.
    #[arg(long, env = "PODMETER_ADAPTER_INTERVAL", value_name = "MILLISECONDS", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(100..=60_000))]
    pub interval: u32,

    /// Where agents are.
    #[command(flatten)]
    pub agents: Agents,

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

/// Who may ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Access {
    /// Whom the API server vouches for, and its rules let.
    #[default]
    Delegated,
    /// Anyone.
    None,
}
