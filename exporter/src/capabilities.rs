//! The process's capabilities: what it has, and how it gives them up once everything is attached.

use std::fs;

use anyhow::Context as _;

use crate::sys;

/// By their numbers in linux/capability.h.
pub const DAC_READ_SEARCH: u32 = 2;
/// Attaching to packets.
pub const NET_ADMIN: u32 = 12;
/// Attaching to tracepoints, and reading the kernel's structures.
pub const PERFMON: u32 = 38;
/// Loading programs and making maps.
pub const BPF: u32 = 39;

/// The effective capabilities of this thread, a bit each.
pub fn effective() -> Option<u64> {
    mask("CapEff:")
}

fn mask(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Gives up, in this thread and in those that it makes from now on, every capability that reading does not take, and the ways to get
/// them back; which are left.
///
/// # Errors
/// When the kernel refuses: then all are left.
pub fn drop_all() -> anyhow::Result<u64> {
    sys::no_new_privileges().context("no_new_privs")?;
    let own = mask("CapPrm:").context("no CapPrm in /proc/thread-self/status")?;
    // Files of cgroups that are delegated, keys and tokens may be another user's.
    let mut kept = own & 1 << DAC_READ_SEARCH;
    sys::set_capabilities(kept, own).context("capset")?;
    // Kernels before 5.19 let nobody else call bpf(2) at all, where unprivileged_bpf_disabled is set: not even to read a map.
    if !sys::may_call_bpf() {
        kept |= own & 1 << BPF;
    }
    sys::set_capabilities(kept, kept).context("capset")?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own: the others keep what they have.
    #[test]
    fn nothing_but_reading_is_left() {
        let before = effective();
        let after =
            std::thread::spawn(|| (drop_all().unwrap(), effective(), mask("CapPrm:"), mask("CapInh:")));
        let (kept, effective_after, permitted, inheritable) = after.join().unwrap();
        assert_eq!((effective_after, permitted, inheritable), (Some(kept), Some(kept), Some(0)));
        assert_eq!(kept & !(1 << DAC_READ_SEARCH | 1 << BPF), 0, "{kept:x}");
        assert_eq!(effective(), before);
    }
}
