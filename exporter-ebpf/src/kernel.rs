//! What every program needs of the kernel, in one place: typed loads, atomic adds.

use aya_ebpf::Global;

/// `BPF_F_MMAPABLE` (5.5+): user space reads the array as memory, without a system call per element.
pub(crate) const MMAPABLE: usize = 1 << 10;

/// Adds to a shared counter: a relaxed atomic, since several CPUs write.
///
/// # Safety
/// `counter` points into a map value.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, value: u64) {
    use core::intrinsics::{AtomicOrdering, atomic_xadd};
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

/// Tells the compiler that this branch is seldom taken: what comes seldom is laid out behind what comes often, since a program
/// that runs between two of the kernel's own finds little of itself in the instruction cache.
#[inline(always)]
pub(crate) const fn seldom() {
    core::hint::cold_path();
}

/// Loads a member of the struct that `base` points to, at an offset that BTF gave.
///
/// `base` is a BTF pointer (a tracepoint argument or what such a load gave): the verifier knows its type, checks the offset
/// against it at load time, and turns the load into one that yields 0 on a fault. Measured on 6.18: 3 ns each, against
/// 35 ns for `bpf_probe_read_kernel`.
///
/// # Safety
/// `base` is a BTF pointer.
#[inline(always)]
pub(crate) unsafe fn load<T>(base: *const u8, offset: &Global<u32>) -> T {
    // SAFETY: the verifier proves it.
    unsafe { core::ptr::read_volatile(base.add(offset.load() as usize).cast()) }
}

/// Copies a member through `bpf_probe_read_kernel`, for a pointer whose type the verifier does not know; `None` on a fault.
///
/// # Safety
/// None beyond that `base` is a kernel address: the helper checks it.
#[inline(always)]
pub(crate) unsafe fn read<T>(base: *const u8, offset: &Global<u32>) -> Option<T> {
    // SAFETY: the helper faults safely.
    unsafe { aya_ebpf::helpers::bpf_probe_read_kernel(base.add(offset.load() as usize).cast::<T>()).ok() }
}

/// An argument of a BTF tracepoint, by index.
///
/// Assembly, so that the offset stands in the load: LLVM merges the loads of two branches into one at a computed offset,
/// which the verifier refuses.
///
/// # Safety
/// The tracepoint has that many arguments.
#[inline(always)]
pub(crate) unsafe fn argument<const INDEX: usize>(ctx: &aya_ebpf::programs::BtfTracePointContext) -> u64 {
    use aya_ebpf::EbpfContext as _;
    let value: u64;
    // SAFETY: the caller's; the context is an array of words.
    unsafe {
        core::arch::asm!(
            "{value} = *(u64 *)({ctx} + {offset})",
            value = out(reg) value,
            ctx = in(reg) ctx.as_ptr(),
            offset = const 8 * INDEX,
            options(nostack)
        );
    }
    value
}

/// The context of `iter/bpf_sk_storage_map`: `struct bpf_iter__bpf_sk_storage_map`.
#[repr(C)]
pub(crate) struct SkStorageIter<T> {
    meta: *const u8,
    map: *const u8,
    /// The socket, a BTF pointer; null once, after the last.
    pub(crate) sk: *const u8,
    /// What the map has of it; null once, after the last.
    pub(crate) value: *mut T,
}

/// The context of `iter/cgroup`: `struct bpf_iter__cgroup`.
#[repr(C)]
pub(crate) struct Iter {
    meta: *const IterMeta,
    /// The cgroup; null once, after the last.
    pub(crate) object: *const u8,
}

/// `struct bpf_iter_meta`.
#[repr(C)]
pub(crate) struct IterMeta {
    seq: *mut core::ffi::c_void,
    /// Unique to each walk.
    pub(crate) session_id: u64,
}

impl Iter {
    /// Appends a record to what user space reads; the value to return from the program: 1 makes the kernel call again for
    /// the same object with room for the record.
    ///
    /// # Safety
    /// `self` is the context of an iterator program.
    #[inline(always)]
    pub(crate) unsafe fn write<T>(&self, record: &T) -> i32 {
        // SAFETY: the caller's; the helper copies the record.
        let written = unsafe {
            aya_ebpf::helpers::generated::bpf_seq_write(
                (*self.meta).seq.cast(),
                core::ptr::from_ref(record).cast_mut().cast(),
                size_of::<T>() as u32,
            )
        };
        i32::from(written != 0)
    }
}
