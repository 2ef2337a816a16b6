//! The binary: parses, starts, decides nothing.

use std::{process::ExitCode, time::Duration};

use podmeter::{
    adapter, agent,
    config::{self, Command},
    doctor, sys, telemetry,
};

fn main() -> ExitCode {
    sys::frugal_allocator();
    let cli = match config::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(mistake) => {
            eprintln!("{mistake}");
            return ExitCode::from(2);
        }
    };
    let (log_format, log_level) = match &cli.command {
        Command::Agent(config) => (config.log_format, &config.log_level),
        Command::Adapter(config) => (config.log_format, &config.log_level),
        Command::Doctor(config) => return doctor::run(config),
    };
    if let Err(error) = telemetry::init(log_format, log_level) {
        eprintln!("error: {error:#}");
        return ExitCode::from(2);
    }
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    // Before there are other threads: they would keep the rights that it gives up.
    let ready = match &command {
        Command::Agent(config) => Some(agent::prepare(config.clone())?),
        _ => None,
    };
    // Scrapes run on the blocking pool; two workers serve everything else.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        match (ready, command) {
            (Some(ready), _) => agent::run(ready).await,
            (_, Command::Adapter(config)) => adapter::run(config).await,
            _ => Ok(()),
        }
    });
    // A scrape that hangs cannot be aborted: it is left behind.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}
