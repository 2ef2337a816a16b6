//! A packet: its TCP header, its payload, its time.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_ktime_get_ns, generated::bpf_skb_load_bytes},
};

use super::framing::{Cursor, Source, at_most, get, set};
use crate::kernel::seldom;

pub(super) const FIN: u8 = 1;
const SYN: u8 = 2;
pub(super) const RST: u8 = 4;

/// How many bytes of a payload tell whether it is the same as another.
pub(super) const MEMO: u32 = 128;

/// The payload of a packet.
pub(super) struct Packet {
    /// The context of the program.
    pub(super) skb: *mut __sk_buff,
    /// Where the payload begins.
    pub(super) offset: u32,
}

impl Source for Packet {
    #[inline(always)]
    unsafe fn load(&self, at: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's.
        unsafe { bpf_skb_load_bytes(self.skb.cast(), self.offset.wrapping_add(at), to.cast(), len) == 0 }
    }
}

/// A TCP segment.
pub(super) struct Segment {
    pub(super) skb: *mut __sk_buff,
    pub(super) ingress: bool,
    /// Where the TCP header begins in the packet.
    pub(super) tcp: u32,
    /// Where the payload begins, and how long it is.
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
}

impl Segment {
    #[inline(always)]
    pub(super) fn parse(skb: *mut __sk_buff, ingress: bool) -> Option<Self> {
        // SAFETY: the verifier checks each load against `data_end`. TCP has pulled the headers into the linear part.
        unsafe {
            let data = (*skb).data as usize as *const u8;
            let end = (*skb).data_end as usize as *const u8;
            if data.add(40) > end {
                seldom();
                return None;
            }
            let first = *data;
            let ip = if first >> 4 == 4 {
                if *data.add(9) != 6 {
                    seldom();
                    return None;
                }
                usize::from(first & 15) * 4
            } else {
                seldom();
                match *data.add(6) {
                    6 => 40,
                    0 if is_jumbo(data, end) => 48,
                    _ => return None,
                }
            };
            let tcp = data.add(ip);
            if tcp.add(20) > end {
                seldom();
                return None;
            }
            let (offset, flags) = (word(tcp.add(12)) >> 28, word(tcp.add(12)) >> 16);
            let flags = flags as u8;
            // A SYN takes a sequence number before the payload.
            let seq = word(tcp.add(4)).wrapping_add(u32::from(flags & SYN) >> 1);
            let ack = word(tcp.add(8));
            let offset = ip as u32 + offset * 4;
            let len = (*skb).len;
            let len = if len > offset { len - offset } else { 0 };
            Some(Self { skb, ingress, tcp: ip as u32, offset, len, seq, ack, flags })
        }
    }

    /// Now, ns of CLOCK_MONOTONIC.
    #[inline(always)]
    pub(super) fn now(&self) -> u64 {
        // SAFETY: the context of the program.
        unsafe { clock(self.skb, self.ingress) }
    }

    /// See [`peek`].
    ///
    /// # Safety
    /// `cursor` is valid.
    #[inline(always)]
    pub(super) unsafe fn peek(&self, cursor: *mut Cursor) -> bool {
        // SAFETY: the caller's.
        unsafe { peek(self.skb, cursor, self.offset, self.len) }
    }
}

/// Whether TCP follows a hop-by-hop header of 8 bytes. Kernels since 5.19 put one into packets over IPv6 that are larger than
/// 65,535 bytes (`ip6_xmit()`, "BIG TCP"): on this machine alone, and over the loopback these are common.
///
/// # Safety
/// `end` is the packet's, and IPv6's own header is there.
#[inline(always)]
unsafe fn is_jumbo(data: *const u8, end: *const u8) -> bool {
    // SAFETY: checked against the end.
    unsafe { data.add(48) <= end && *data.add(40) == 6 && *data.add(41) == 0 }
}

/// Copies the first bytes of a payload of `len` bytes to the window, and zeroes what is missing of [`MEMO`] bytes.
///
/// # Safety
/// `skb` is the context of the program, `cursor` valid.
#[inline(always)]
pub(super) unsafe fn peek(skb: *mut __sk_buff, cursor: *mut Cursor, offset: u32, len: u32) -> bool {
    // SAFETY: within the window.
    unsafe {
        let window = (&raw mut (*cursor).window).cast::<u64>();
        let mut i = 0;
        while i < MEMO as usize / 8 {
            // Volatile, or LLVM calls a memset that goes byte by byte.
            set(window.add(i), 0);
            i += 1;
        }
        if len == 0 {
            return false;
        }
        let len = at_most(len, MEMO);
        bpf_skb_load_bytes(skb.cast(), offset, window.cast(), len as u32) == 0
    }
}

/// Four bytes of a header, which the machines that BPF runs on load however they are aligned.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn word(place: *const u8) -> u32 {
    let value: u64;
    // SAFETY: the caller's. Rust would load what may not be aligned byte by byte.
    unsafe {
        core::arch::asm!(
            "{value} = *(u32 *)({place} + 0)",
            value = out(reg) value,
            place = in(reg) place,
            options(nostack, readonly, pure)
        );
    }
    u32::from_be(value as u32)
}

/// TCP stamps what it sends, so that only arrivals cost a clock read.
///
/// # Safety
/// `skb` is the context of the program.
#[inline(always)]
pub(super) unsafe fn clock(skb: *mut __sk_buff, ingress: bool) -> u64 {
    // SAFETY: the caller's; a helper without arguments.
    unsafe {
        if !ingress {
            let stamp = (*skb).tstamp;
            if stamp != 0 {
                return stamp;
            }
        }
        bpf_ktime_get_ns()
    }
}

/// Now, read once for a packet.
///
/// # Safety
/// `skb` is the context of the program, `cursor` valid.
#[inline(always)]
pub(super) unsafe fn now(skb: *mut __sk_buff, cursor: *mut Cursor) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        let known = get(&raw const (*cursor).now);
        if known != 0 {
            return known;
        }
        let now = clock(skb, get(&raw const (*cursor).ingress) != 0);
        set(&raw mut (*cursor).now, now);
        now
    }
}
