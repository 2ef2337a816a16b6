//! `cargo xtask lag`: how long after a step of the load the autoscaler knows, beside metrics-server.

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    command::{cargo, is_root, run as run_command},
    go::Module,
    test::programs::BUILT,
};

/// Measure how long after a step of a pod's load the metrics API says so, and the autoscaler decides: podmeter from its agents,
/// podmeter from a Prometheus, and metrics-server, at the same time.
///
/// Needs root and about a minute for each step. Starts three control planes and a kubelet on loopback, and removes them.
#[derive(Args)]
pub(crate) struct Options {
    /// How many steps, up and down in turns.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: u32,
}

/// The one that podmeter takes the place of.
const METRICS_SERVER: Module = Module {
    name: "metrics-server",
    package: "sigs.k8s.io/metrics-server/cmd/metrics-server",
    version: "v0.9.0",
    tags: "",
    list: Some("tests/kubernetes/metrics-server"),
    copies: None,
    link: "-s -w",
};

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !is_root() {
        bail!(
            "this loads programs into the kernel and starts containers: run it as root, `sudo cargo xtask lag`"
        );
    }
    run_command(&mut cargo(["build", "--package=podmeter", "--bins"])?)?;
    let mut command =
        cargo(["test", "--package=podmeter-tests", "--test=live", "--", "--ignored", "--nocapture"])?;
    command.arg("adapter::lag::").env("PODMETER_STEPS", options.steps.to_string());
    command.env("PODMETER_METRICS_SERVER", METRICS_SERVER.ensure("to be compared with")?);
    for (variable, module) in BUILT {
        command.env(variable, module.ensure("to measure with")?);
    }
    run_command(&mut command)
}
