//! Bytes per second through one connection that is no HTTP, with the agent against without.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    Effort,
    beside::Beside,
    container::{Container, Containers},
    machine::{Process, pause},
    report::{Report, Samples},
};
use crate::command::output;

/// iperf3, on CPU 0 the end that receives, on CPU 1 the one that sends.
struct Iperf {
    _server: Process,
    server: Container,
    client: Container,
    address: SocketAddr,
}

/// Measures.
pub(super) fn run(podmeter: &Path, effort: Effort, report: &mut Report) -> Result<()> {
    let mut containers = Containers::new()?;
    let iperf = Iperf::start(&mut containers)?;
    iperf.run(1)?;
    let mut rounds = Vec::new();
    for round in 0..effort.rounds {
        let mut rates = [0.0; Beside::COUNT];
        for beside in Beside::order(round) {
            let running = beside.start(podmeter, &iperf.server)?;
            let rate = iperf.run(effort.seconds)?;
            running.stop()?;
            eprintln!(
                "transfer, round {} of {}, {beside:?}: {:.2} Gbit/s",
                round + 1,
                effort.rounds,
                rate / 1e9
            );
            rates[beside as usize] = rate;
        }
        rounds.push(rates);
    }
    for (who, aim) in [(Beside::ServerSide, ""), (Beside::BothEnds, "0.99"), (Beside::Sleep, "1")] {
        let row = format!("bulk transfer: bytes per second {} / without", who.text());
        report.row(row, who.ratio(&rounds, |rate| *rate).show(3, ""), aim, "");
    }
    let nothing: Samples = rounds.iter().map(|rates| rates[Beside::Nothing as usize] / 1e9).collect();
    report.row("bulk transfer without the agent", nothing.show(1, "Gbit/s"), "", "");
    report.note(format!(
        "Bulk transfer: iperf3, one connection over loopback, each end on a CPU of its own; with / without in the same \
         round, medians of {} rounds of {} s (range).",
        effort.rounds, effort.seconds
    ));
    Ok(())
}

impl Iperf {
    fn start(containers: &mut Containers) -> Result<Self> {
        let (server, client) = (containers.add()?, containers.add()?);
        // The port is free a moment later, too: the kernel gives out others first.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address = address.context("no free port on loopback")?;
        let port = address.port().to_string();
        let mut command =
            server.command(&["taskset", "-c", "0", "iperf3", "-s", "-B", "127.0.0.1", "-p", &port]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let this =
            Self { _server: Process(process.context("cannot start iperf3")?), server, client, address };
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = TcpStream::connect(address) {
            if error.kind() != ErrorKind::ConnectionRefused || Instant::now() > deadline {
                return Err(error).context("iperf3 does not listen");
            }
            pause(Duration::from_millis(20))?;
        }
        Ok(this)
    }

    /// Bits per second that arrived.
    fn run(&self, seconds: u32) -> Result<f64> {
        let (port, seconds) = (self.address.port().to_string(), seconds.to_string());
        let command =
            ["taskset", "-c", "1", "iperf3", "-c", "127.0.0.1", "-p", &port, "-t", &seconds, "--json"];
        let text = output(&mut self.client.command(&command))?;
        pause(Duration::ZERO)?;
        rate(&text).with_context(|| format!("iperf3 printed something new:\n{text}"))
    }
}

fn rate(text: &str) -> Result<f64> {
    let said: Value = serde_json::from_str(text)?;
    match said.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64) {
        Some(rate) if rate > 0.0 => Ok(rate),
        _ => bail!("there is no rate"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_iperf3_prints() {
        let text =
            r#"{"end": {"sum_sent": {"bits_per_second": 2}, "sum_received": {"bits_per_second": 1.5}}}"#;
        assert_eq!(rate(text).unwrap(), 1.5);
        assert!(rate(r#"{"error": "unable to connect"}"#).is_err());
    }
}
