//! The commands of a contributor, one module each: `cargo xtask help`.

mod command;
mod doc;
mod ebpf;
mod install;
mod test;

use anyhow::Result;
use clap::Parser;

/// What a contributor runs; each command installs what it misses, and says so.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
enum Task {
    Ebpf(ebpf::Options),
    Test(test::Options),
    Doc(doc::Options),
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Ebpf(options) => ebpf::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Doc(options) => doc::run(&options),
    }
}
