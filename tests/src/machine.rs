//! What the machine takes from a measurement, by the kernel's own accounts: how far a probe may be off, and no further.

use std::{fs, net::TcpListener};

use crate::process::switches;

/// How often the kernel may have kept an event to itself so far: the sandbox of this project has no tracepoint fire while a
/// thread of its first process is on the CPU, be it in the switch away from it or in an interrupt that completes what
/// others wait for. Elsewhere that process hardly ever runs. What a probe does not count must not be more than this.
pub fn withheld() -> u64 {
    switches(1)
}

/// How long tasks were on a CPU so far without having it, seconds: the hypervisor had it, or an interrupt. The scheduler takes
/// that out of its account of a task where it knows of it.
///
/// # Panics
/// Without procfs.
pub fn stolen() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("procfs");
    let line = text.lines().next().expect("the line of all CPUs");
    // cpu user nice system idle iowait irq softirq steal, in units of 1/100 s on every architecture.
    line.split_whitespace().skip(6).take(3).map(|field| field.parse::<f64>().expect("a number") / 100.0).sum()
}

/// Asserts that CPU time is the kernel's own account of it, within 0.1 %, and up to what was stolen meanwhile above it.
///
/// # Panics
/// When it is not.
pub fn assert_cpu_time(own: f64, least: f64, most: f64, stolen: f64) {
    // Each CPU's share is rounded down to a hundredth of a second.
    let cpus = std::thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64);
    let is_within = own >= least * 0.999 && own <= most * 1.001 + stolen + cpus * 0.01;
    assert!(is_within, "{own} s, the kernel says {least} s to {most} s, and {stolen} s were stolen");
}

/// A port of loopback that nobody listens on, for a program that wants to be told one.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port()
}
