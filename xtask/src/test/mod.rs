//! `cargo xtask test`: everything that must hold, on a fresh machine too.

mod beside;
mod deploy;
mod fuzz;
mod live;
pub(crate) mod programs;
mod replicas;
mod report;
mod steps;

use std::process::ExitCode;

use clap::Args;

use report::Report;
pub(crate) use report::Tally;

/// Run every check and every test, on a fresh machine too.
///
/// Installs what is missing, rebuilds the kernel object from source, checks format, lints, licences and documents, then
/// runs the unit tests, fuzzes for a minute and, as root, runs the live tests on this kernel and, in virtual machines, on
/// others. Stops at the first step that fails and closes with
/// one line that counts the tests. With CI set in the environment a stale checked-in object is a failure too.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave out the live tests, which need root and load programs into this kernel.
    #[arg(long)]
    no_live: bool,
    /// Leave out the live tests on other kernels, in virtual machines.
    #[arg(long)]
    no_vm: bool,
    /// Run only the tests whose name contains this, and no other check.
    filter: Option<String>,
}

/// Runs the steps and prints the closing line, the last whatever happened.
pub(crate) fn run(options: &Options) -> ExitCode {
    let mut report = Report::default();
    let outcome = steps::run(&mut report, options);
    if let Err(error) = &outcome {
        eprintln!("\nerror: {error:#}");
    }
    println!("\n{}", report.tally);
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
