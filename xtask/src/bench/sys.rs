//! The system calls that no library of ours makes, fenced here: bpf(2), the CPU clock of another process, signals.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on, signals to stop only show in [`interrupted`], so that there is time to clean up.
pub(super) fn catch_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, interrupt as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

/// Whether we were told to stop.
pub(super) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Stops a process and lets it go on, so that the scheduler switches to it once; it notices nothing.
pub(super) fn wake(pid: u32) {
    for signal in [libc::SIGSTOP, libc::SIGCONT] {
        // SAFETY: no pointers; the process is our child, which we have not waited for, so the number is its own.
        unsafe { libc::kill(pid.cast_signed(), signal) };
    }
}

/// Asks a process to end.
pub(super) fn terminate(pid: u32) {
    // SAFETY: as in wake().
    unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
}

/// The CPU time of a process so far, exact to the nanosecond, with that of threads that have ended.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut clock = 0;
    // SAFETY: a pointer to a value that lives through the call.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error))
            .with_context(|| format!("no CPU clock of process {pid}"));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("process {pid} has ended"));
    }
    Ok(Duration::from_secs(time.tv_sec.cast_unsigned()) + Duration::from_nanos(time.tv_nsec.cast_unsigned()))
}

/// Commands, types and attach types of linux/bpf.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const BPF_BTF_LOAD: libc::c_int = 18;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_TRACE_RAW_TP: u32 = 23;

/// `BPF_CGROUP_INET_INGRESS`.
pub(super) const INGRESS: u32 = 0;
/// `BPF_CGROUP_INET_EGRESS`.
pub(super) const EGRESS: u32 = 1;

/// `union bpf_attr` of `BPF_PROG_LOAD`, up to `attach_btf_id`.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u64; 2],
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    btf: [u64; 4],
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// `union bpf_attr` of `BPF_MAP_CREATE`, up to `btf_value_type_id`.
#[repr(C)]
#[derive(Default)]
pub(super) struct MapCreate {
    pub(super) map_type: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) map_flags: u32,
    pub(super) inner: [u32; 2],
    pub(super) map_name: [u8; 16],
    pub(super) map_ifindex: u32,
    pub(super) btf_fd: u32,
    pub(super) btf_key_type_id: u32,
    pub(super) btf_value_type_id: u32,
}

/// Makes a map.
pub(super) fn map(mut attributes: MapCreate) -> io::Result<OwnedFd> {
    bpf(BPF_MAP_CREATE, &mut attributes)
}

/// Hands types to the kernel, in the format of BTF.
pub(super) fn btf(types: &[u8]) -> io::Result<OwnedFd> {
    // Where the types are, no log, their size.
    bpf(BPF_BTF_LOAD, &mut [types.as_ptr().addr() as u64, 0, types.len() as u64, 0])
}

/// An instruction: `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u8,
    /// The target in the lower four bits, the source in the upper.
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// A program of ours, attached until this is dropped.
pub(super) struct Attached {
    program: OwnedFd,
    _link: OwnedFd,
}

impl Attached {
    /// At the tracepoint whose typedef `btf_trace_NAME` has this id in the kernel's BTF.
    pub(super) fn tracepoint(btf_id: u32, code: &[Instruction]) -> io::Result<Self> {
        let program = load(BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP, btf_id, code)?;
        // The name, of which a typed program has none, and the program.
        let link = bpf(BPF_RAW_TRACEPOINT_OPEN, &mut [0, 0, program.as_raw_fd().cast_unsigned(), 0])?;
        Ok(Self { program, _link: link })
    }

    /// At the packets of a cgroup.
    pub(super) fn packets(
        cgroup: BorrowedFd<'_>,
        attach_type: u32,
        code: &[Instruction],
    ) -> io::Result<Self> {
        let program = load(BPF_PROG_TYPE_CGROUP_SKB, attach_type, 0, code)?;
        let (own, target) = (program.as_raw_fd().cast_unsigned(), cgroup.as_raw_fd().cast_unsigned());
        let link = bpf(BPF_LINK_CREATE, &mut [own, target, attach_type, 0])?;
        Ok(Self { program, _link: link })
    }

    /// The nanoseconds that it ran, and how often, while kernel.bpf_stats_enabled was 1.
    pub(super) fn cost(&self) -> Result<(f64, f64)> {
        let path = format!("/proc/self/fdinfo/{}", self.program.as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let value = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            found.with_context(|| format!("no {name} of the program: this kernel is older than 5.1"))
        };
        Ok((value("run_time_ns:")?, value("run_cnt:")?))
    }
}

fn load(kind: u32, attach_type: u32, attach_btf_id: u32, code: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = ProgLoad {
        prog_type: kind,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        prog_name: *b"podmeter_bench\0\0",
        expected_attach_type: attach_type,
        attach_btf_id,
        ..ProgLoad::default()
    };
    bpf(BPF_PROG_LOAD, &mut attributes)
}

/// A command that makes a descriptor.
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is a prefix of union bpf_attr, whose rest the kernel takes as 0; what it points to lives in the
    // callers until the call returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<ProgLoad>(), 112);
        assert_eq!(std::mem::offset_of!(ProgLoad, prog_name), 48);
        assert_eq!(std::mem::offset_of!(ProgLoad, expected_attach_type), 68);
        assert_eq!(std::mem::offset_of!(ProgLoad, attach_btf_id), 108);
        assert_eq!(size_of::<MapCreate>(), 60);
        assert_eq!(std::mem::offset_of!(MapCreate, btf_fd), 48);
        assert_eq!(size_of::<Instruction>(), 8);
    }

    #[test]
    fn the_clock_of_a_process_goes_on() {
        let before = cpu_time(std::process::id()).unwrap();
        while cpu_time(std::process::id()).unwrap() == before {}
        assert!(cpu_time(std::process::id()).unwrap() > before);
        // The largest that a process can have is 4194304.
        assert!(cpu_time(4_194_305).is_err());
    }
}
