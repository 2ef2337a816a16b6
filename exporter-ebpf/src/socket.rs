//! From the open files of all tasks to their TCP sockets: `iter/task_file` (5.8+).
//!
//! It finds connections that are older than the agent, which nothing else has a list of in every network namespace. And it does
//! what `iter/bpf_sk_storage_map` does where a kernel refuses that: some hardened ones forbid iterators over the elements of maps
//! (EPERM before a first instruction is verified). It finds less then: a socket that no process has open, as one in a queue for
//! accept, has no file; and it takes longer: 30 ms for 60,000 open files, sockets or not (6.18, 2 CPUs, busy). The kernel walks the
//! tasks of the reader's own PID namespace (`init_seq_pidns()`, kernel/bpf/task_iter.c).

use crate::{Field, Source};

/// What it reads.
pub const FIELDS: [Field; 2] = [
    // From an open file to its socket.
    Field { global: "SOCKET_SK", source: Source::Offset("socket", &["sk"]) },
    Field { global: "SOCK_PROTOCOL", source: Source::Offset("sock", &["sk_protocol"]) },
];

#[cfg(target_arch = "bpf")]
pub(crate) mod kernel {
    use aya_ebpf::{Global, helpers::generated::bpf_sock_from_file};

    use crate::kernel::{IterMeta, load};

    #[unsafe(no_mangle)]
    static SOCKET_SK: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static SOCK_PROTOCOL: Global<u32> = Global::new(0);

    const IPPROTO_TCP: u16 = 6;

    /// The context of `iter/task_file`: `struct bpf_iter__task_file`.
    #[repr(C)]
    pub(crate) struct TaskFile {
        meta: *const IterMeta,
        task: *const u8,
        fd: u64,
        /// Null once, after the last.
        file: *mut u8,
    }

    impl TaskFile {
        /// The TCP socket that the file is, a BTF pointer to struct sock; null if it is none.
        ///
        /// # Safety
        /// `self` is the context of the iterator.
        #[inline(always)]
        pub(crate) unsafe fn sock(&self) -> *const u8 {
            // SAFETY: the helper gives a BTF pointer to struct socket, or null.
            unsafe {
                if self.file.is_null() {
                    return core::ptr::null();
                }
                let socket: *const u8 = bpf_sock_from_file(self.file.cast()).cast_const().cast();
                if socket.is_null() {
                    return core::ptr::null();
                }
                let sk: *const u8 = load(socket, &SOCKET_SK);
                if sk.is_null() || !is_tcp(sk) { core::ptr::null() } else { sk }
            }
        }

        /// The walk that this is a part of: no other has the number.
        ///
        /// # Safety
        /// As [`Self::sock`].
        #[inline(always)]
        pub(crate) unsafe fn walk(&self) -> u64 {
            // SAFETY: the caller's.
            unsafe { (*self.meta).session_id }
        }
    }

    /// # Safety
    /// `sk` is a BTF pointer to a full struct sock.
    #[inline(always)]
    pub(crate) unsafe fn is_tcp(sk: *const u8) -> bool {
        // SAFETY: the caller's.
        unsafe { load::<u16>(sk, &SOCK_PROTOCOL) == IPPROTO_TCP }
    }
}
