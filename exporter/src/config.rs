//! The command line: what was typed, checked; no I/O.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};

pub use crate::adapter::flags::Adapter;
use crate::{collector::COLLECTORS, kube::PodSource, route::Rule, telemetry::LogFormat};

/// Per-container CPU, memory, block I/O and request latency from eBPF, as Prometheus metrics.
#[derive(Debug, Parser)]
#[command(name = "podmeter", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure this node and serve the metrics over HTTP.
    ///
    /// Needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN. A signal that cannot be had is said so, in the log, on the status
    /// page and in podmeter_probe_state; the others go on.
    Agent(Agent),
    /// Say what this kernel and these privileges allow, signal by signal, and what helps where something is missing.
    ///
    /// It loads and attaches what the agent would, with the agent's flags and environment, and lets go of it again; a running
    /// agent is not disturbed.
    #[command(after_help = crate::doctor::EXIT_CODES)]
    Doctor(Doctor),
    /// Serve the metrics APIs of Kubernetes, for HPA, VPA and kubectl top, from what the agents stream.
    ///
    /// An aggregated API server: metrics.k8s.io (CPU and memory of nodes and pods), custom.metrics.k8s.io (requests per second,
    /// latency, errors, active requests, waits and pressure of pods, Services, Deployments, Ingresses and Namespaces), and
    /// external.metrics.k8s.io (the same by selector). It keeps a window of samples in memory, and nothing else.
    Adapter(Adapter),
}

/// The flags of `podmeter doctor`.
#[derive(Args, Clone, Debug)]
pub struct Doctor {
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,

    /// Say why this container has no request data, by what the agent that serves at --listen says. By its id or the beginning of
    /// it, its cgroup's path, its pod's uid, or its unit.
    #[arg(long, value_name = "NAME")]
    pub container: Option<String>,

    /// What the agent would be started with.
    #[command(flatten)]
    pub agent: Agent,
}

/// The flags of `podmeter agent`.
#[derive(Args, Clone, Debug)]
pub struct Agent {
    /// Where to serve /metrics, /livez, /readyz and the status page.
    #[arg(long, env = "PODMETER_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9690")]
    pub listen: SocketAddr,

    /// The signals to measure, separated by commas.
    #[arg(
        long,
        env = "PODMETER_SIGNALS",
        value_name = "SIGNAL",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(signals()),
        default_values = signals()
    )]
    pub signals: Vec<String>,

    /// Where procfs is mounted; in a container, the host's.
    #[arg(long, env = "PODMETER_PROCFS", value_name = "DIR", default_value = "/proc")]
    pub procfs: PathBuf,

    /// Where sysfs is mounted.
    #[arg(long, env = "PODMETER_SYSFS", value_name = "DIR", default_value = "/sys")]
    pub sysfs: PathBuf,

    /// Where the cgroup hierarchies are mounted.
    #[arg(long, env = "PODMETER_CGROUPFS", value_name = "DIR", default_value = "/sys/fs/cgroup")]
    pub cgroupfs: PathBuf,

    /// How many cgroups can be charged at the same time; 350 bytes of kernel memory each. What more do is counted in the node's
    /// total only, and in podmeter_lost_total.
    #[arg(long, env = "PODMETER_MAX_CGROUPS", value_name = "N", default_value_t = exporter_ebpf::cgroup::DEFAULT_SLOTS,
          value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub max_cgroups: u32,

    /// How many histograms there can be; about 2 KiB of kernel memory each. One for the waits of each cgroup, one for each of its
    /// devices and operations, one for each of its methods, routes and statuses. What more there is counts in
    /// podmeter_lost_total.
    #[arg(long, env = "PODMETER_MAX_HISTOGRAMS", value_name = "N", default_value_t = exporter_ebpf::series::DEFAULT_ROWS,
          value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub max_histograms: u32,

    /// How many HTTP routes one container can have; the requests of further ones count under the route `other`.
    #[arg(long, env = "PODMETER_MAX_ROUTES", value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub max_routes: u32,

    /// HTTP routes of your own, separated by commas or each with a flag: `/users/{name}/links` has any one segment in the place
    /// of {name}, `/files/{path...}` or `/files/*` whatever follows. A request that matches has the pattern for its route, as
    /// you wrote it, whether or not there are --max-routes others. A literal is preferred to a placeholder, then the
    /// first. `nginx.service: /users/{name}` is for the containers, units and cgroups of that name (label name or id) alone, in
    /// which * stands for anything.
    #[arg(long = "route", env = "PODMETER_ROUTE", value_name = "PATTERN", value_delimiter = ',')]
    pub routes: Vec<Rule>,

    /// A file of more routes, one a line; lines that begin with # are comments.
    #[arg(long, env = "PODMETER_ROUTE_FILE", value_name = "FILE")]
    pub route_file: Option<PathBuf>,

    /// How often adapters (`podmeter adapter`) are told what changed, in milliseconds; they may ask to be told less often. Costs
    /// as much as a scrape, and nothing while no adapter listens.
    #[arg(long, env = "PODMETER_STREAM_INTERVAL", value_name = "MILLISECONDS", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(100..=60_000))]
    pub stream_interval: u32,

    /// Flags of Kubernetes.
    #[command(flatten)]
    pub kube: Kube,

    /// Flags of /metrics' security.
    #[command(flatten)]
    pub security: Security,

    /// What to log: a level (error, warn, info, debug, trace), or levels by target, as in `info,podmeter=debug`.
    #[arg(long, env = "PODMETER_LOG", value_name = "FILTER", default_value = "info")]
    pub log_level: String,

    /// How to log: for people, or one JSON object per line; auto tells by whether stderr is a terminal.
    #[arg(long, env = "PODMETER_LOG_FORMAT", value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
}

impl Agent {
    /// Whether the user wants a signal.
    pub fn wants(&self, signal: &str) -> bool {
        self.signals.iter().any(|wanted| wanted == signal)
    }
}

/// Which pod a container belongs to, and by whom that is told.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Kubernetes")]
pub struct Kube {
    /// Who tells which pod a container belongs to: `api` watches this node's pods, `kubelet` and `cri` are asked when an unknown
    /// container appears. By default api inside a cluster, else none.
    #[arg(long, env = "PODMETER_POD_SOURCE", value_name = "SOURCE")]
    pub pod_source: Option<PodSource>,

    /// This node's name in the cluster; by default the machine's. In a pod: the field spec.nodeName.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Where the API server is.
    #[command(flatten)]
    pub api: Api,

    /// The kubelet's API, for `--pod-source kubelet`.
    #[arg(long, env = "PODMETER_KUBELET_URL", value_name = "URL", default_value = "https://127.0.0.1:10250")]
    pub kubelet_url: String,

    /// Whom the kubelet's certificate must be from; by default the cluster's own authority.
    #[arg(long, env = "PODMETER_KUBELET_CA", value_name = "FILE")]
    pub kubelet_ca: Option<PathBuf>,

    /// Do not look at the kubelet's certificate: where it signs its own. Who then answers in its place gets our token.
    #[arg(long, env = "PODMETER_KUBELET_INSECURE")]
    pub kubelet_insecure: bool,

    /// The container runtime's socket, for `--pod-source cri`; by default the first of the usual ones that is there.
    #[arg(long, env = "PODMETER_CRI_SOCKET", value_name = "FILE")]
    pub cri_socket: Option<PathBuf>,

    /// Labels of the pod that become labels of its containers' series, as `label_NAME`; at most eight, separated by commas.
    #[arg(long, env = "PODMETER_POD_LABELS", value_name = "LABEL", value_delimiter = ',')]
    pub pod_labels: Vec<String>,

    /// Add who made the pod (Deployment, StatefulSet, …) to its containers' series, as `owner_kind` and `owner_name`.
    #[arg(long, env = "PODMETER_POD_OWNER")]
    pub pod_owner: bool,

    /// Also show the requests and limits of this node's pods, under the names of kube-state-metrics. Where that runs too, a sum
    /// over both counts twice.
    #[arg(long, env = "PODMETER_POD_RESOURCES")]
    pub pod_resources: bool,
}

/// Where the API server is, and how it knows us.
#[derive(Args, Clone, Debug, Default)]
pub struct Api {
    /// The API server; inside a cluster, the cluster tells.
    #[arg(long, env = "PODMETER_API_SERVER", value_name = "URL")]
    pub api_server: Option<String>,

    /// Whom the API server's certificate must be from (PEM); by default the authority that the cluster names to its pods.
    #[arg(long, env = "PODMETER_API_CA", value_name = "FILE")]
    pub api_ca: Option<PathBuf>,

    /// The token by which the API server and the kubelet know us, read for every request; by default the pod's.
    #[arg(long, env = "PODMETER_API_TOKEN_FILE", value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,
}

/// Who may read the metrics.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Security")]
pub struct Security {
    /// Serve over TLS with this certificate (PEM, with its chain); it is read again when it changes.
    #[arg(long, env = "PODMETER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's key (PEM).
    #[arg(long, env = "PODMETER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Who may read /metrics and the status page: anyone (none), who has the token of --auth-token-file (token), or whom the
    /// cluster lets `get` the path /metrics (kubernetes: TokenReview and SubjectAccessReview, both kept for a while).
    /// /livez, /readyz and /healthz are for anyone.
    #[arg(long, env = "PODMETER_AUTH", value_name = "MODE", default_value = "none")]
    pub auth: Auth,

    /// The file with the bearer token, for `--auth token`; it is read again when it changes.
    #[arg(long, env = "PODMETER_AUTH_TOKEN_FILE", value_name = "FILE")]
    pub auth_token_file: Option<PathBuf>,
}

/// How a client shows that it may read the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// Anyone may.
    #[default]
    None,
    /// By the token in a file.
    Token,
    /// By a token that the API server knows, and its rules.
    Kubernetes,
}

/// The signals that can be wanted.
fn signals() -> impl Iterator<Item = &'static str> {
    COLLECTORS.iter().map(|entry| entry.signal.name)
}

/// Parses the command line. Help and version are printed and end the program; so does a mistake, with one line that says what
/// is allowed, and exit code 2.
///
/// # Errors
/// The line to print, for a mistake.
pub fn parse(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Cli, String> {
    use clap::error::ErrorKind;
    Cli::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => one_line(&error.to_string()),
    })
}

/// clap's message without its usage and hints.
fn one_line(message: &str) -> String {
    let kept = message.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let kept = kept.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    format!("{}; see podmeter --help", kept.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        super::parse(line.split(' ').map(Into::into))
    }

    #[test]
    fn a_mistake_is_one_line_that_says_what_is_allowed() {
        let error = parse("podmeter agent --signals cpu,dns").unwrap_err();
        assert!(error.contains("dns") && error.contains("block_io") && !error.contains('\n'), "{error}");
        let error = parse("podmeter agent --max-cgroups 3").unwrap_err();
        assert!(error.contains("16..=1000000"), "{error}");
        let error = parse("podmeter agent --listen localhost").unwrap_err();
        assert!(error.contains("--listen <ADDRESS:PORT>"), "{error}");
        assert!(parse("podmeter agnt").is_err());
        let error = parse("podmeter agent --route /a,/b/{id").unwrap_err();
        assert!(error.contains("'/b/{id' for '--route <PATTERN>'") && error.contains("{name...}"), "{error}");
    }

    #[test]
    fn defaults_measure_everything() {
        let Command::Agent(agent) = parse("podmeter agent").unwrap().command else {
            panic!("another command")
        };
        assert_eq!(agent.signals, ["cpu", "memory", "pressure", "block_io", "http", "tcp"]);
        assert!(agent.listen.ip().is_loopback());
        assert!(agent.routes.is_empty());
        assert_eq!((agent.kube.pod_source, agent.security.auth), (None, Auth::None));
    }

    #[test]
    fn the_command_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
