//! The commands of a contributor, one module each: `cargo xtask help`.

mod architecture;
mod archive;
mod bench;
mod cache;
mod command;
mod cross;
mod doc;
mod ebpf;
mod go;
mod image;
mod install;
mod lag;
mod programs;
mod test;
mod vm;

use std::process::ExitCode;

use clap::Parser;

/// What a contributor runs; each command installs what it misses, and says so.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
enum Task {
    Ebpf(ebpf::Options),
    Test(test::Options),
    Doc(doc::Options),
    Bench(bench::Options),
    Lag(lag::Options),
    Vm(vm::Task),
    Cross(cross::Options),
    Image(image::Options),
    Programs(programs::Options),
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Ebpf(options) => ebpf::run(&options),
        Task::Test(options) => return test::run(&options),
        Task::Doc(options) => doc::run(&options),
        Task::Image(options) => image::run(&options),
        Task::Programs(options) => programs::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Lag(options) => lag::run(&options),
        Task::Cross(options) => cross::run(&options),
        Task::Vm(task) => match vm::run(&task) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Without the backtrace: the message says what to do.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
