//! The hooks, and the walks over the sockets.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::{Array, SkStorage},
    helpers::generated::{bpf_sk_storage_get, bpf_skc_to_tcp_sock},
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};

use super::{Failure, Tcp};
use crate::{
    cgroup::{
        DEFAULT_SLOTS,
        probe::{id, owner, slot},
    },
    kernel::{MMAPABLE, SkStorageIter, add, load},
    loss::{Loss, count},
    series::{self, Family, SeriesKey},
    socket::kernel::{TaskFile, is_tcp},
};

#[unsafe(no_mangle)]
static SOCK_CGROUP: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SOCK_STATE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SOCK_ERR: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SOCK_FLAGS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SOCK_DONE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TCP_BYTES_RECEIVED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TCP_BYTES_SENT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TCP_BYTES_RETRANS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TCP_TOTAL_RETRANS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TCP_SRTT: Global<u32> = Global::new(0);

#[btf_map]
static TCP: Array<Tcp, { DEFAULT_SLOTS as usize }, MMAPABLE> = Array::new();

/// A connection: whose it is, and what of it has been counted.
#[repr(C)]
struct Socket {
    /// The key of its cgroup; 0 before it is adopted.
    cgroup: u64,
    received: u64,
    sent: u64,
    retransmits: u32,
    slot: u32,
}

#[btf_map]
static TCP_SOCKETS: SkStorage<Socket> = SkStorage::new();

// include/net/tcp_states.h, and part of the API to user space.
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const SYN_RECV: u32 = 3;
const TIME_WAIT: u8 = 6;
const CLOSE: u32 = 7;
const LISTEN: u8 = 10;
const NEW_SYN_RECV: u8 = 12;

/// The cgroup of a socket: its creator's, or that of the listener that it comes from.
///
/// # Safety
/// `sk` is a BTF pointer to a full struct sock.
#[inline(always)]
unsafe fn cgroup(sk: *const u8) -> u64 {
    // SAFETY: the caller's.
    unsafe { id(load(sk, &SOCK_CGROUP)) }
}

/// The account of a socket's cgroup.
///
/// # Safety
/// `sk` is a BTF pointer to a full struct sock.
#[inline(always)]
unsafe fn account(sk: *const u8) -> Option<*mut Tcp> {
    // SAFETY: the caller's.
    TCP.get_ptr_mut(slot(unsafe { cgroup(sk) }))
}

/// The storage of a socket, made if `create`; null without.
///
/// # Safety
/// `sk` is a BTF pointer to a full struct sock.
#[inline(always)]
unsafe fn storage(sk: *const u8, create: bool) -> *mut Socket {
    let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
    let map = core::ptr::from_ref(&TCP_SOCKETS).cast_mut().cast();
    // SAFETY: the caller's.
    unsafe {
        let sk = sk.cast_mut().cast();
        bpf_sk_storage_get(map, sk, core::ptr::null_mut::<c_void>(), flags).cast()
    }
}

/// What a socket has done so far.
struct Done {
    /// Payload, bytes.
    received: u64,
    sent: u64,
    /// Segments.
    retransmits: u32,
    /// The smoothed round-trip time, ns; 0 before the first measurement.
    rtt: u64,
}

/// # Safety
/// `sk` is a BTF pointer to a struct sock.
#[inline(always)]
unsafe fn done(sk: *const u8) -> Option<Done> {
    // SAFETY: the caller's; the helper gives a BTF pointer to struct tcp_sock, or null.
    unsafe {
        let tcp: *const u8 = bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast_const().cast();
        if tcp.is_null() {
            return None;
        }
        // The FIN takes a sequence number, and the kernel counts it (tcp_rcv_nxt_update), just before it sets SOCK_DONE.
        let fin = load::<u64>(sk, &SOCK_FLAGS) >> (SOCK_DONE.load() & 63) & 1;
        Some(Done {
            received: load::<u64>(tcp, &TCP_BYTES_RECEIVED).wrapping_sub(fin),
            sent: load::<u64>(tcp, &TCP_BYTES_SENT).wrapping_sub(load(tcp, &TCP_BYTES_RETRANS)),
            retransmits: load(tcp, &TCP_TOTAL_RETRANS),
            // In eighths of a microsecond (tcp_rtt_estimator).
            rtt: u64::from(load::<u32>(tcp, &TCP_SRTT) >> 3) * 1000,
        })
    }
}

/// Adds what a socket has done since it was looked at last. Both who calls this, the end of a connection and the walk
/// before a scrape, may do so at once: within some tens of nanoseconds it could then count twice.
///
/// # Safety
/// `sk` is a BTF pointer to a struct sock, `this` its storage.
#[inline(always)]
unsafe fn settle(sk: *const u8, this: *mut Socket) {
    // SAFETY: the caller's; array elements.
    unsafe {
        let Some(done) = done(sk) else { return };
        let received = done.received.wrapping_sub((*this).received);
        let sent = done.sent.wrapping_sub((*this).sent);
        let retransmits = done.retransmits.wrapping_sub((*this).retransmits);
        if received == 0 && sent == 0 && retransmits == 0 {
            return;
        }
        match owner((*this).slot) {
            Some(owner) if (*owner).key == (*this).cgroup || (*this).slot == 0 => (),
            _ => return count(Loss::CgroupGone),
        }
        let Some(tcp) = TCP.get_ptr_mut((*this).slot) else { return };
        // Negative where the walk met a FIN halfway, or a segment counted as sent again before it was as sent.
        if received as i64 > 0 {
            (*this).received = done.received;
            add(&raw mut (*tcp).received, received);
        }
        if sent as i64 > 0 {
            (*this).sent = done.sent;
            add(&raw mut (*tcp).sent, sent);
        }
        if retransmits != 0 {
            (*this).retransmits = done.retransmits;
            add(&raw mut (*tcp).retransmits, u64::from(retransmits));
        }
        if done.rtt != 0 {
            observe(tcp, (*this).slot, done.rtt);
        }
    }
}

/// As [`settle`], of a socket that may have no storage.
///
/// # Safety
/// `sk` is a BTF pointer to a full struct sock.
#[inline(always)]
unsafe fn settle_if_known(sk: *const u8) {
    // SAFETY: the caller's.
    unsafe {
        let this = storage(sk, false);
        if !this.is_null() && (*this).cgroup != 0 {
            settle(sk, this);
        }
    }
}

/// # Safety
/// `tcp` is the account of the slot.
#[inline(always)]
unsafe fn observe(tcp: *mut Tcp, slot: u32, rtt: u64) {
    // SAFETY: the caller's; rows come from the pool, whose indices are checked.
    unsafe {
        let mut index = (*tcp).row;
        if index == 0 {
            let key = SeriesKey { slot, family: Family::TcpRtt as u32, detail: 0, route: 0 };
            index = series::kernel::find(&key);
            (*tcp).row = index;
        }
        if let Some(row) = series::kernel::row(index) {
            series::kernel::observe(row, rtt);
        }
    }
}

/// Gives a socket its storage. Of one that `is_old`, what it has done counts from now on; what a new one did is its handshake.
///
/// # Safety
/// `sk` is a BTF pointer to a full struct sock.
#[inline(always)]
unsafe fn adopt(sk: *const u8, is_old: bool) {
    // SAFETY: the caller's.
    unsafe {
        let this = storage(sk, true);
        if this.is_null() {
            return count(Loss::SocketStorage);
        }
        if (*this).cgroup != 0 {
            return;
        }
        if is_old && let Some(done) = done(sk) {
            (*this).received = done.received;
            (*this).sent = done.sent;
            (*this).retransmits = done.retransmits;
        }
        let cgroup = cgroup(sk);
        (*this).slot = slot(cgroup);
        (*this).cgroup = cgroup;
    }
}

/// match-proto:v4.16:void inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)
#[btf_tracepoint(function = "inet_sock_set_state")]
fn tcp_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const u8 = ctx.arg(0);
    let (old, new): (u32, u32) = (ctx.arg(1), ctx.arg(2));
    // SAFETY: argument 0 is a BTF pointer to a full struct sock.
    unsafe {
        if !is_tcp(sk) {
            return 0;
        }
        if new == ESTABLISHED && (old == SYN_SENT || old == SYN_RECV) {
            adopt(sk, false);
            if let Some(tcp) = account(sk) {
                add(if old == SYN_SENT { &raw mut (*tcp).opened } else { &raw mut (*tcp).accepted }, 1);
            }
        } else if new == CLOSE && old == SYN_SENT {
            let failure = Failure::of(load(sk, &SOCK_ERR)) as usize;
            if let (Some(tcp), Some(done)) = (account(sk), done(sk)) {
                add((&raw mut (*tcp).failed).cast::<u64>().add(failure), 1);
                add(&raw mut (*tcp).retransmits, u64::from(done.retransmits));
            }
        } else if new == CLOSE {
            settle_if_known(sk);
        }
    }
    0
}

/// The account of a socket; none of what is not yet, or no longer, a full one.
///
/// # Safety
/// `sk` is null or a BTF pointer to struct sock.
#[inline(always)]
unsafe fn of(sk: *const u8) -> Option<*mut Tcp> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the caller's; the state is in what all kinds of sockets have in common.
    unsafe {
        let state: u8 = load(sk, &SOCK_STATE);
        if state == TIME_WAIT || state == NEW_SYN_RECV { None } else { account(sk) }
    }
}

/// `sk` is null where a packet has no socket here (6.8+).
/// match-proto:v4.16:void tcp_send_reset(const struct sock *sk, const struct sk_buff *skb)
#[btf_tracepoint(function = "tcp_send_reset")]
fn tcp_reset_out(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: argument 0 is null or a BTF pointer to struct sock.
    unsafe {
        if let Some(tcp) = of(ctx.arg(0)) {
            add(&raw mut (*tcp).resets_sent, 1);
        }
    }
    0
}

/// match-proto:v4.16:void tcp_receive_reset(struct sock *sk)
#[btf_tracepoint(function = "tcp_receive_reset")]
fn tcp_reset_in(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: argument 0 is a BTF pointer to struct sock.
    unsafe {
        if let Some(tcp) = of(ctx.arg(0)) {
            add(&raw mut (*tcp).resets_received, 1);
        }
    }
    0
}

/// Before a scrape: adds what the open connections have moved since the last one.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn tcp_walk(ctx: *const SkStorageIter<Socket>) -> i32 {
    // SAFETY: the context of the iterator; both are null once, at the end.
    unsafe {
        let (sk, this) = ((*ctx).sk, (*ctx).value);
        if !sk.is_null() && !this.is_null() && (*this).cgroup != 0 {
            settle(sk, this);
        }
    }
    0
}

/// As [`tcp_walk`], where the kernel refuses that. A socket that is met twice has nothing more the second time.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn tcp_walk_files(ctx: *const TaskFile) -> i32 {
    // SAFETY: the context of the iterator.
    unsafe {
        let sk = (*ctx).sock();
        if !sk.is_null() {
            settle_if_known(sk);
        }
    }
    0
}

/// Once, after attaching: gives storage to the connections that are open.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
extern "C" fn tcp_adopt(ctx: *const TaskFile) -> i32 {
    // SAFETY: the context of the iterator.
    unsafe {
        let sk = (*ctx).sock();
        if sk.is_null() {
            return 0;
        }
        let state: u8 = load(sk, &SOCK_STATE);
        if state != LISTEN && u32::from(state) != CLOSE && u32::from(state) != SYN_SENT {
            adopt(sk, true);
        }
    }
    0
}
