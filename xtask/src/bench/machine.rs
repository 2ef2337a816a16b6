//! What the kernel says of the machine and of a process, and one of its settings, changed for a while.

use std::{
    fs,
    path::PathBuf,
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::sys;

/// Reads a file of /proc or /sys.
pub(super) fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// How many CPUs are online.
pub(super) fn cpus() -> Result<usize> {
    Ok(read("/proc/cpuinfo")?.lines().filter(|line| line.starts_with("processor")).count())
}

/// The machine in a line, and how busy it is without us.
pub(super) fn describe(cpus: usize) -> Result<String> {
    let info = read("/proc/cpuinfo")?;
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("CPU of an unknown model", |(_, model)| model);
    let gib = kib(&read("/proc/meminfo")?, "MemTotal:") / 1024.0 / 1024.0;
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let (busy_before, all_before) = cpu_time()?;
    pause(Duration::from_secs(2))?;
    let (busy, all) = cpu_time()?;
    let percent = 100.0 * (busy - busy_before) / (all - all_before).max(1.0);
    let verdict = if percent > 10.0 { ": TOO BUSY, the figures are noise" } else { "" };
    Ok(format!(
        "Linux {}, {cpus} CPUs ({model}), {gib:.0} GiB; {percent:.0} % busy before the start{verdict}",
        kernel.trim()
    ))
}

/// Of all CPUs since the boot: the ticks that they worked, and all ticks.
fn cpu_time() -> Result<(f64, f64)> {
    let stat = read("/proc/stat")?;
    let first = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; what follows is in user already.
    let ticks: Vec<f64> =
        first.split_whitespace().skip(1).take(8).filter_map(|tick| tick.parse().ok()).collect();
    let [.., idle, iowait, _, _, _] = ticks[..] else { bail!("/proc/stat does not begin as proc(5) says") };
    let all: f64 = ticks.iter().sum();
    Ok((all - idle - iowait, all))
}

/// The value of a line such as `VmRSS:   123 kB`; 0 without it.
fn kib(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

/// Memory of a process, MiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) rss: f64,
    pub(super) peak: f64,
    pub(super) pss: f64,
}

/// The memory of a process now.
pub(super) fn memory(pid: u32) -> Result<Memory> {
    let (status, smaps) =
        (read(&format!("/proc/{pid}/status"))?, read(&format!("/proc/{pid}/smaps_rollup"))?);
    Ok(Memory {
        rss: kib(&status, "VmRSS:") / 1024.0,
        peak: kib(&status, "VmHWM:") / 1024.0,
        pss: kib(&smaps, "Pss:") / 1024.0,
    })
}

/// The memory of the kernel's own that it cannot reclaim, MiB.
pub(super) fn slab() -> Result<f64> {
    Ok(kib(&read("/proc/meminfo")?, "SUnreclaim:") / 1024.0)
}

/// Waits, unless we are told to stop.
pub(super) fn pause(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        if sys::interrupted() {
            bail!("interrupted; what was started is stopped, and what was changed is restored");
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// A kernel setting that has its old value again when this is dropped.
pub(super) struct Setting {
    path: PathBuf,
    old: String,
}

impl Setting {
    /// Sets it; `name` is a path below /proc/sys.
    pub(super) fn set(name: &str, value: &str) -> Result<Self> {
        let path = PathBuf::from("/proc/sys").join(name);
        let old =
            fs::read_to_string(&path).with_context(|| format!("this kernel has no {}", path.display()))?;
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, old })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.old) {
            eprintln!("write {} into {} by hand: {error}", self.old.trim(), self.path.display());
        }
    }
}

/// A process that is killed when this is dropped.
pub(super) struct Process(pub(super) Child);

impl Process {
    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either fails only for a process that is gone.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_amounts() {
        assert_eq!(kib("VmHWM:\t 20 kB\nVmRSS:\t  12 kB\n", "VmRSS:"), 12.0);
        assert_eq!(kib("", "VmRSS:"), 0.0);
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.rss > 0.0 && memory.peak >= memory.rss && memory.pss > 0.0, "{memory:?}");
        assert!(cpus().unwrap() > 0);
        let (busy, all) = cpu_time().unwrap();
        assert!(busy > 0.0 && all > busy);
    }
}
