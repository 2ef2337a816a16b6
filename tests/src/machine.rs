//! What the machine takes from a measurement, by the kernel's own accounts: how far a probe may be off, and no further.

use std::{
    fs,
    net::TcpListener,
    panic::{self, AssertUnwindSafe},
};

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

/// How many segments have overtaken another on their way to a TCP socket of this network namespace so far, by the kernel's count.
///
/// # Panics
/// Without procfs.
pub fn overtaken() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").expect("procfs");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, numbers) = (lines.next().expect("names"), lines.next().expect("numbers"));
    let of = |name: &str| {
        names.split(' ').zip(numbers.split(' ')).find(|(own, _)| *own == name).expect("the counter").1
    };
    of("TCPOFOQueue").parse().expect("a number")
}

/// Runs a test that takes it that segments come in the order in which they were sent: once more if it fails and some did not. The
/// kernel says so where TCP had to put them in order; where two CPUs had neighbouring segments of a connection at the same time, as on
/// loopback when a busy sender changes its CPU, only podmeter does (`framing_lost`), so that this is believed twice, and no oftener.
///
/// # Panics
/// When it fails otherwise, or three times.
pub fn in_order(test: impl Fn()) {
    for _ in 0..2 {
        let before = overtaken();
        let Err(failure) = panic::catch_unwind(AssertUnwindSafe(&test)) else { return };
        let text = failure.downcast_ref::<String>().map_or("", String::as_str);
        if overtaken() == before && !text.contains("framing_lost") {
            panic::resume_unwind(failure);
        }
        println!("a segment overtook another: once more");
    }
    test();
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
