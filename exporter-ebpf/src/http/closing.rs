//! What connections leave behind when they are closed, and what has to end without an event of their own.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE},
    btf_maps::{Array, SkStorage},
    helpers::{bpf_ktime_get_ns, generated::bpf_sk_storage_get},
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

use super::{
    Active,
    connection::{CONNECTIONS, Connection, SERVER},
    coverage::{self, Reason},
    packet::clock,
    pipeline::{self, depth, http_end, place},
    table::UNKNOWN,
};
use crate::{
    cgroup::{DEFAULT_SLOTS, probe::owner},
    kernel::{MMAPABLE, SkStorageIter},
    loss::{Loss, count},
    socket::kernel::TaskFile,
};

#[btf_map]
static ACTIVE: Array<Active, { DEFAULT_SLOTS as usize }, MMAPABLE> = Array::new();
/// The last walk over open files that met a connection with requests that wait.
#[btf_map]
static WALKED: SkStorage<u64> = SkStorage::new();

/// A FIN, or a RST if `reset`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_hang_up(
    skb: *mut __sk_buff,
    this: *mut Connection,
    ingress: u32,
    reset: u32,
) -> u32 {
    if this.is_null() {
        return 0;
    }
    // SAFETY: the verifier's: it has the size of its type, and `skb` is the context.
    unsafe {
        let requests = ((*this).role == SERVER) == (ingress != 0);
        if (*this).role == 0 || (requests && reset == 0) {
            // There are no more requests: the response may still be under way.
            return 0;
        }
        if depth(this) != 0 {
            let request = pipeline::request(this, skb, (*this).answered, false);
            pipeline::finish(this, request, clock(skb, ingress != 0));
        }
    }
    0
}

/// Before a scrape: ends the last requests of connections that have been idle in the midst of a response whose end could not be
/// told, counts those that are not answered, and accounts for what was carried.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn http_flush(ctx: *const SkStorageIter<Connection>) -> i32 {
    // SAFETY: the context of the iterator; `value` is null once, at the end.
    unsafe {
        let this = (*ctx).value;
        if !this.is_null() {
            let waiting = flush(this);
            if waiting != 0 {
                wait(this, waiting);
            }
        }
    }
    0
}

/// As [`http_flush`], where the kernel refuses that.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn http_flush_files(ctx: *const TaskFile) -> i32 {
    // SAFETY: the context of the iterator; the helper gives the storage of a socket, or null.
    unsafe {
        let sk = (*ctx).sock();
        if sk.is_null() {
            return 0;
        }
        let this = connection(sk.cast_mut().cast());
        if this.is_null() {
            return 0;
        }
        let waiting = flush(this);
        if waiting == 0 {
            return 0;
        }
        // Several processes may have it open, or one more than once.
        let map = core::ptr::from_ref(&WALKED).cast_mut().cast();
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        let walked: *mut u64 =
            bpf_sk_storage_get(map, sk.cast_mut().cast(), core::ptr::null_mut(), create).cast();
        if walked.is_null() {
            count(Loss::SocketStorage);
        } else if *walked != (*ctx).walk() {
            *walked = (*ctx).walk();
            wait(this, waiting);
        }
    }
    0
}

/// What a connection has to have done before a scrape; how many of its requests are not answered.
///
/// # Safety
/// `this` is the storage of a socket.
#[inline(always)]
unsafe fn flush(this: *mut Connection) -> u32 {
    // SAFETY: the caller's.
    unsafe {
        coverage::settle(this);
        let waiting = u32::from(depth(this));
        if waiting == 0 || (*this).opaque != 0 {
            return 0;
        }
        if (*this).status == 0 || (*this).responses.state != UNKNOWN {
            return waiting;
        }
        let is_idle = bpf_ktime_get_ns().saturating_sub((*this).last) > super::IDLE;
        if is_idle && place(this, (*this).answered) == 0 {
            http_end(this, &raw mut (*this).request);
        }
        waiting - 1
    }
}

/// The storage of a socket; null without.
///
/// # Safety
/// `sk` is a BTF pointer to a full struct sock.
#[inline(always)]
unsafe fn connection(sk: *mut core::ffi::c_void) -> *mut Connection {
    let map = core::ptr::from_ref(&CONNECTIONS).cast_mut().cast();
    // SAFETY: the caller's.
    unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), 0).cast() }
}

/// Counts requests that are not answered. Only the walk before a scrape does, and one at a time.
#[inline(always)]
unsafe fn wait(this: *const Connection, requests: u32) {
    // SAFETY: the caller's; an array element.
    unsafe {
        match owner((*this).slot) {
            Some(owner) if (*owner).key == (*this).cgroup || (*this).slot == 0 => (),
            _ => return,
        }
        let Some(active) = ACTIVE.get_ptr_mut((*this).slot) else { return };
        if (*this).role == SERVER {
            (*active).server += requests;
        } else {
            (*active).client += requests;
        }
    }
}

/// A connection is no more: what it had under way ends.
///
/// match-proto:v4.16:void tcp_destroy_sock(struct sock *sk)
#[btf_tracepoint(function = "tcp_destroy_sock")]
fn http_closed(ctx: BtfTracePointContext) -> i32 {
    let sk: *mut core::ffi::c_void = ctx.arg(0);
    // SAFETY: argument 0 is a BTF pointer to a full struct sock; the helper gives the storage, or null.
    unsafe {
        let this = connection(sk);
        if this.is_null() {
            return 0;
        }
        if (*this).role == 0 && (*this).opaque == 0 {
            // What it was is not known, and no more to be.
            (*this).opaque = Reason::Unknown as u8;
            count(Loss::ConnectionUnknown);
        }
        coverage::settle(this);
        if (*this).role != 0 && (*this).opaque == 0 && depth(this) != 0 {
            let is_own = place(this, (*this).answered) == 0;
            let request = if is_own { &raw mut (*this).request } else { core::ptr::null_mut() };
            pipeline::finish(this, request, bpf_ktime_get_ns());
        }
    }
    0
}
