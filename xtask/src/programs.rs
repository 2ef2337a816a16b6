//! `cargo xtask programs`: what the tests take and what is long to build.

use std::{
    fs,
    io::{self, Read as _},
    process::{self, Command},
    thread,
};

use anyhow::Result;
use clap::Args;

use crate::test;

/// Build every program that the tests take: Kubernetes', Prometheus', Helm's and others', and the image of podmeter.
///
/// `cargo xtask test` builds what is missing by itself. This is for a machine that is to be ready before. The programs stay in the
/// user's cache; the image is below `target`.
#[derive(Args)]
pub(crate) struct Options {
    /// Leave the CPUs to everything else, and end when the standard input does: as `cargo xtask test` does beside tests that wait.
    #[arg(long)]
    beside: bool,
}

/// Builds them.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.beside {
        // Where sessions are scheduled as groups, a process is nice within its own alone.
        _ = fs::write("/proc/self/autogroup", "19");
        thread::spawn(end_with_input);
    }
    test::programs::ensure()
}

/// Whoever started us holds the other end, and is gone when it is closed, however it ended. What we have started ends with us.
fn end_with_input() {
    _ = io::stdin().read_to_end(&mut Vec::new());
    let group = format!("kill -TERM -- -{}", process::id());
    _ = Command::new("sh").args(["-c", &group]).status();
    // Started by hand we may lead no group.
    process::exit(1);
}
