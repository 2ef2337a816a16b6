//! How many replicas Kubernetes' autoscaler wants, by its own code, of what the adapter says.

use std::path::PathBuf;

use anyhow::Result;

use super::{programs::kubernetes, report::Tally, steps};
use crate::{
    command::{cargo, run},
    go::Module,
};

/// The autoscaler's calculator and its clients, of the release that the live tests run.
const PROGRAM: Module = kubernetes("replicas", "./replicas");

const TESTS: [&str; 4] = ["test", "--package=podmeter-tests", "--test=replicas", "--no-fail-fast"];

/// Its path, after building it if it is not there; minutes where no other program of Kubernetes was built.
pub(super) fn program() -> Result<PathBuf> {
    PROGRAM.ensure("by the tests of replicas")
}

/// Runs the tests, which start the adapter.
pub(super) fn tests(filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    run(&mut cargo(["build", "--package=podmeter", "--bins"])?)?;
    let mut command = cargo(TESTS)?;
    command.env("PODMETER_REPLICAS", program()?).arg("--").args(filter);
    steps::watched(&mut command, &TESTS, tally)
}
