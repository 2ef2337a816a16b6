//! Requests that come before their connection has a socket: with `TCP_DEFER_ACCEPT` (Apache's default, nginx's `deferred`),
//! or when the ACK that ends the handshake was lost. Their packet is the listener's, and the new socket takes over from here.

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::LruHashMap,
    helpers::generated::{bpf_skb_cgroup_id, bpf_skb_load_bytes},
    macros::btf_map,
};

use super::connection::Connection;

/// How many such connections there can be at once, between their first packet and the server's.
const ENTRIES: usize = 1024;
/// `TCP_LISTEN` (include/net/tcp_states.h).
const LISTEN: u32 = 10;

/// Whose connection it is, and both its ends.
#[repr(C)]
struct Ends {
    cgroup: u64,
    /// The remote address, then the local one.
    addresses: [u32; 8],
    /// The remote port, then the local one.
    ports: [u16; 2],
    reserved: u32,
}

#[btf_map]
static DEFERRED: LruHashMap<Ends, Connection, ENTRIES> = LruHashMap::new();

/// Whether the socket of a packet is a listener.
///
/// # Safety
/// `skb` is the context of the program, with a socket.
#[inline(always)]
pub(super) unsafe fn listens(skb: *mut __sk_buff) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        !sk.is_null() && (*sk).state == LISTEN
    }
}

/// The ends of the connection of a packet whose TCP header is `tcp` bytes into it.
///
/// # Safety
/// `skb` is the context of the program.
#[inline(always)]
unsafe fn ends(skb: *mut __sk_buff, tcp: u32, ingress: bool) -> Option<Ends> {
    let mut ends = Ends { cgroup: 0, addresses: [0; 8], ports: [0; 2], reserved: 0 };
    let [mut source, mut destination] = [[0_u32; 4]; 2];
    let mut ports = [0_u16; 2];
    // SAFETY: the caller's; each buffer has the size that is loaded.
    unsafe {
        ends.cgroup = bpf_skb_cgroup_id(skb);
        let load = |offset: u32, to: *mut u8, size: u32| {
            bpf_skb_load_bytes(skb.cast(), offset, to.cast(), size) == 0
        };
        let mut version = 0_u8;
        if !load(0, &raw mut version, 1) || !load(tcp, (&raw mut ports).cast(), 4) {
            return None;
        }
        let (at, size) = if version >> 4 == 4 { (12, 4) } else { (8, 16) };
        if size == 4 {
            if !load(at, (&raw mut source).cast(), 4) || !load(at + 4, (&raw mut destination).cast(), 4) {
                return None;
            }
        } else if !load(at, (&raw mut source).cast(), 16) || !load(at + 16, (&raw mut destination).cast(), 16)
        {
            return None;
        }
    }
    let (remote, local) = if ingress { (source, destination) } else { (destination, source) };
    let mut i = 0;
    while i < 4 {
        ends.addresses[i] = remote[i];
        ends.addresses[i + 4] = local[i];
        i += 1;
    }
    ends.ports = if ingress { ports } else { [ports[1], ports[0]] };
    Some(ends)
}

/// The state of a connection that has no socket yet; null where none can be had.
///
/// # Safety
/// As [`ends`]: a packet that arrived.
#[inline(never)]
pub(super) unsafe fn make(skb: *mut __sk_buff, tcp: u32) -> *mut Connection {
    // SAFETY: the caller's.
    let Some(ends) = (unsafe { ends(skb, tcp, true) }) else { return core::ptr::null_mut() };
    if let Some(known) = DEFERRED.get_ptr_mut(&ends) {
        return known;
    }
    if DEFERRED.insert(&ends, &Connection::NEW, 0).is_err() {
        return core::ptr::null_mut();
    }
    DEFERRED.get_ptr_mut(&ends).unwrap_or(core::ptr::null_mut())
}

/// Takes over what came before the socket, if anything did.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_take(
    skb: *mut __sk_buff,
    tcp: u32,
    ingress: u32,
    this: *mut Connection,
) -> u32 {
    if this.is_null() {
        return 0;
    }
    // SAFETY: the verifier's: `skb` is the context, and both are values of that type, of words.
    unsafe {
        let Some(ends) = ends(skb, tcp, ingress != 0) else { return 0 };
        let Some(before) = DEFERRED.get_ptr(&ends) else { return 0 };
        let (from, to) = (before.cast::<u64>(), this.cast::<u64>());
        let mut i = 0;
        while i < size_of::<Connection>() / 8 {
            to.add(i).write_volatile(from.add(i).read_volatile());
            i += 1;
        }
        _ = DEFERRED.remove(&ends);
    }
    1
}
