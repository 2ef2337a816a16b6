//! The command line: what was typed, checked; no I/O.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, builder::PossibleValuesParser};

use crate::{collector::COLLECTORS, route::Rule, telemetry::LogFormat};

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
    }

    #[test]
    fn the_command_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
