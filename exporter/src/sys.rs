//! The system calls that no safe library makes for us, fenced here: everything else in the daemon is safe code.
//!
//! aya 0.14 has no mapping of arrays, no link for an iterator with a target, and no run of a raw tracepoint program on a
//! chosen CPU.
#![expect(
    unsafe_code,
    reason = "the one place: see the module's documentation; the crate denies it elsewhere"
)]

use std::{
    fs::File,
    io::{self, Read as _},
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr::NonNull,
};

use aya::Pod;
use tokio::io::{Interest, unix::AsyncFd};

/// A BPF array, made with `BPF_F_MMAPABLE`, as memory: reading an element is a load, not a system call.
pub struct MappedArray<T> {
    base: NonNull<u8>,
    bytes: usize,
    len: u32,
    element: PhantomData<T>,
}

// SAFETY: the mapping is shared memory that any thread may read and write; accesses are volatile, word by word.
unsafe impl<T: Pod> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Pod> Sync for MappedArray<T> {}

impl<T: Pod> MappedArray<T> {
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps the `len` elements of the array behind `fd`.
    ///
    /// # Errors
    /// When the kernel refuses, e.g. because the map was made without `BPF_F_MMAPABLE`.
    pub fn new(fd: BorrowedFd<'_>, len: u32) -> io::Result<Self> {
        let bytes = Self::STRIDE * len as usize;
        // SAFETY: a new mapping at an address of the kernel's choice; the length is that of the map, whose end the kernel
        // checks.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { base, bytes, len, element: PhantomData })
    }

    /// How many elements there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element at `index`, as the kernel left it a moment ago; `None` beyond the end. Words are read whole, the element
    /// is not: a counter and its neighbour may differ by an event.
    pub fn get(&self, index: u32) -> Option<T> {
        // SAFETY: pointer() checks the bounds; T is Pod, and the memory is aligned to 8 bytes.
        Some(unsafe { self.pointer(index)?.read_volatile() })
    }

    /// The first member of the element at `index`: cheaper than the whole where elements are large.
    pub fn first<F: Pod>(&self, index: u32) -> Option<F> {
        assert!(size_of::<F>() <= size_of::<T>(), "a member is no larger than its struct");
        // SAFETY: as in get(); F fits into the element.
        Some(unsafe { self.pointer(index)?.cast::<F>().read_volatile() })
    }

    /// Overwrites the element at `index`, if there is one.
    pub fn set(&self, index: u32, value: T) {
        if let Some(pointer) = self.pointer(index) {
            // SAFETY: as in get().
            unsafe { pointer.write_volatile(value) };
        }
    }

    fn pointer(&self, index: u32) -> Option<*mut T> {
        (index < self.len).then(|| {
            // SAFETY: within the mapping.
            unsafe { self.base.as_ptr().add(Self::STRIDE * index as usize).cast() }
        })
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, unmapped once.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// bpf(2) commands and attach types of linux/bpf.h.
mod uapi {
    pub(super) const BPF_PROG_TEST_RUN: libc::c_int = 10;
    pub(super) const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    pub(super) const BPF_PROG_QUERY: libc::c_int = 16;
    pub(super) const BPF_LINK_CREATE: libc::c_int = 28;
    pub(super) const BPF_ITER_CREATE: libc::c_int = 33;
    pub(super) const BPF_TRACE_ITER: u32 = 28;
    pub(super) const BPF_CGROUP_ITER_SELF_ONLY: u32 = 1;
    pub(super) const BPF_CGROUP_ITER_DESCENDANTS_PRE: u32 = 2;
    pub(super) const BPF_F_TEST_RUN_ON_CPU: u32 = 1;

    /// `union bpf_attr`, `link_create`.
    #[repr(C)]
    #[derive(Default)]
    pub(super) struct LinkCreate {
        pub(super) prog_fd: u32,
        pub(super) target_fd: u32,
        pub(super) attach_type: u32,
        pub(super) flags: u32,
        pub(super) iter_info: u64,
        pub(super) iter_info_len: u32,
        pub(super) reserved: [u32; 9],
    }

    /// `union bpf_attr`, `iter_create`.
    #[repr(C)]
    #[derive(Default)]
    pub(super) struct IterCreate {
        pub(super) link_fd: u32,
        pub(super) flags: u32,
    }

    /// `union bpf_attr`, `query`, as far as kernels before 6.6 know it.
    #[repr(C)]
    #[derive(Default)]
    pub(super) struct Query {
        pub(super) target_fd: u32,
        pub(super) attach_type: u32,
        pub(super) query_flags: u32,
        pub(super) attach_flags: u32,
        pub(super) prog_ids: u64,
        pub(super) prog_cnt: u32,
        pub(super) reserved: u32,
    }

    /// `union bpf_attr`, `test`.
    #[repr(C)]
    #[derive(Default)]
    pub(super) struct TestRun {
        pub(super) prog_fd: u32,
        pub(super) retval: u32,
        pub(super) data_size_in: u32,
        pub(super) data_size_out: u32,
        pub(super) data_in: u64,
        pub(super) data_out: u64,
        pub(super) repeat: u32,
        pub(super) duration: u32,
        pub(super) ctx_size_in: u32,
        pub(super) ctx_size_out: u32,
        pub(super) ctx_in: u64,
        pub(super) ctx_out: u64,
        pub(super) flags: u32,
        pub(super) cpu: u32,
        pub(super) batch_size: u32,
        pub(super) reserved: u32,
    }
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is a prefix of union bpf_attr, whose other members the kernel takes as 0; the buffers that it
    // points to live in the callers until the call returns.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

/// A link of an iterator program to what it walks; dropped, it is gone.
pub struct IterLink(OwnedFd);

impl IterLink {
    /// Links an `iter/cgroup` program to the hierarchy of the directory `root` (6.1+), parents before children.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cgroup(program: BorrowedFd<'_>, root: BorrowedFd<'_>) -> io::Result<Self> {
        Self::create(program, &mut [uapi::BPF_CGROUP_ITER_DESCENDANTS_PRE, root.as_raw_fd() as u32, 0, 0])
    }

    /// Links an `iter/cgroup` program to the one cgroup of the directory.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn one_cgroup(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> io::Result<Self> {
        Self::create(program, &mut [uapi::BPF_CGROUP_ITER_SELF_ONLY, cgroup.as_raw_fd() as u32, 0, 0])
    }

    /// Links an iterator over map elements to the map (5.9+).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<Self> {
        Self::create(program, &mut [map.as_raw_fd() as u32])
    }

    /// Links an iterator over the open files of all tasks (5.8+).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn files(program: BorrowedFd<'_>) -> io::Result<Self> {
        Self::create(program, &mut [])
    }

    /// `info` is `union bpf_iter_link_info`, or nothing.
    fn create(program: BorrowedFd<'_>, info: &mut [u32]) -> io::Result<Self> {
        let mut attributes = uapi::LinkCreate {
            prog_fd: program.as_raw_fd() as u32,
            attach_type: uapi::BPF_TRACE_ITER,
            // The kernel wants no pointer where there is nothing.
            iter_info: if info.is_empty() { 0 } else { info.as_mut_ptr() as u64 },
            iter_info_len: size_of_val(info) as u32,
            ..Default::default()
        };
        let fd = bpf(uapi::BPF_LINK_CREATE, &mut attributes)?;
        // SAFETY: a new descriptor that is nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Walks once, with a program that writes its records to maps.
    ///
    /// # Errors
    /// When the kernel refuses or the read fails.
    pub fn walk(&self) -> io::Result<()> {
        self.read(&mut Vec::new())
    }

    /// Walks once, and appends what the program wrote to `out`. Over cgroups, no more than 32 KiB: the kernel cannot read on.
    ///
    /// # Errors
    /// When the kernel refuses or the read fails.
    pub fn read(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut attributes =
            uapi::IterCreate { link_fd: self.0.as_fd().as_raw_fd() as u32, ..Default::default() };
        let fd = bpf(uapi::BPF_ITER_CREATE, &mut attributes)?;
        // SAFETY: a new descriptor that is nobody else's.
        let mut file = unsafe { File::from_raw_fd(fd) };
        let mut chunk = vec![0; 64 * 1024];
        loop {
            // Not read_to_end: its small probing reads would restart the iterator's page for nothing.
            match file.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(n) => out.extend_from_slice(&chunk[..n]),
                // The kernel gives way after a million objects in one read.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Runs a raw tracepoint program once on `cpu`, in an interrupt there (5.10+).
///
/// # Errors
/// ENXIO when that CPU is offline; otherwise when the kernel refuses.
pub fn run_on_cpu(program: BorrowedFd<'_>, cpu: u32) -> io::Result<()> {
    let mut attributes = uapi::TestRun {
        prog_fd: program.as_raw_fd() as u32,
        flags: uapi::BPF_F_TEST_RUN_ON_CPU,
        cpu,
        ..Default::default()
    };
    bpf(uapi::BPF_PROG_TEST_RUN, &mut attributes).map(drop)
}

/// Runs a packet program once on `packet`, which it takes for an Ethernet frame; what the program returned.
///
/// # Errors
/// When the kernel refuses, e.g. a packet that is too short.
pub fn run_on_packet(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
    let mut attributes = uapi::TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        ..Default::default()
    };
    bpf(uapi::BPF_PROG_TEST_RUN, &mut attributes)?;
    Ok(attributes.retval)
}

/// Where packet programs attach: `BPF_CGROUP_INET_INGRESS` and its like.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum PacketHook {
    /// What arrives.
    Ingress = 0,
    /// What leaves.
    Egress = 1,
}

/// The numbers of the packet programs that are attached to a cgroup, the first 64.
///
/// # Errors
/// When the kernel refuses.
pub fn packet_programs(cgroup: BorrowedFd<'_>, hook: PacketHook) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; 64];
    let mut attributes = uapi::Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: hook as u32,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..Default::default()
    };
    bpf(uapi::BPF_PROG_QUERY, &mut attributes)?;
    ids.truncate(attributes.prog_cnt as usize);
    Ok(ids)
}

/// Makes something that owns a descriptor awaitable.
///
/// # Errors
/// When the reactor refuses the descriptor.
pub fn readable<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `owner` keeps its descriptor open for as long as it lives, and the AsyncFd owns it.
    unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) }.map_err(Into::into)
}

/// Lifts the limit on locked memory, which kernels before 5.11 charge maps to; later ones charge the memory cgroup.
///
/// # Errors
/// Without CAP_SYS_RESOURCE.
pub fn lift_memlock() -> io::Result<()> {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a pointer to a struct that lives through the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether the kernel lets this thread call bpf(2), for what is not refused for another reason.
pub fn may_call_bpf() -> bool {
    // Of no descriptor: EBADF is the answer of one that listens. `union bpf_attr`, `info`.
    let answer = bpf(uapi::BPF_OBJ_GET_INFO_BY_FD, &mut [u32::MAX, 0, 0, 0]);
    !answer.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

/// Sets the capabilities of this thread, each a bit: those in effect, and those that could be; none is for a program to inherit.
///
/// # Errors
/// When `permitted` has one that the thread has not.
pub fn set_capabilities(effective: u64, permitted: u64) -> io::Result<()> {
    // linux/capability.h, version 3: the low and the high halves of effective, permitted and inheritable.
    let header = [0x2008_0522_u32, 0];
    let half = |shift: u32| [effective >> shift, permitted >> shift, 0].map(|mask| mask as u32);
    let halves = [half(0), half(32)];
    // SAFETY: a header and two structs of the sizes that this version has, which live through the call.
    if unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), halves.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// No program that this thread becomes has more rights than the thread.
///
/// # Errors
/// When the kernel refuses.
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Holds SIGINT and SIGTERM back in this thread and in those that it makes; or lets them come in this thread.
pub fn hold_signals(hold: bool) {
    let how = if hold { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: a set of signals is plain bits, and lives through the calls.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

/// Has the allocator give back what a scrape no longer needs: an agent is idle between scrapes, and its start and each
/// exposition take megabytes for a moment. One arena (a scrape runs alone), and large blocks as mappings of their own, a size
/// that glibc would otherwise raise each time such a block is freed. Other C libraries do so by themselves.
pub fn frugal_allocator() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, 512 * 1024)] {
        // SAFETY: sets a number in the allocator; called before there are other threads.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives back what the allocator holds and nothing uses.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: releases free pages under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The size of a page, bytes.
pub fn page_size() -> u64 {
    // SAFETY: no pointers.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

/// Takes fixed-size records, as an iterator program wrote them, out of bytes; a torn rest is left out.
pub fn records<T: Pod>(bytes: &[u8]) -> impl Iterator<Item = T> + '_ {
    bytes.chunks_exact(size_of::<T>()).map(|record| {
        // SAFETY: T is Pod: any bytes are a value, and the chunk has its size; the read needs no alignment.
        unsafe { record.as_ptr().cast::<T>().read_unaligned() }
    })
}
