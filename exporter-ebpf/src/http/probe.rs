//! The packet programs.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_ktime_get_ns, generated::bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use aya_log_ebpf::debug;

use super::{
    RouteLine,
    connection::{self, AWAITING, CLIENT, Connection, IDLE, OPAQUE, RESPONDING, SERVER},
    deferred,
    head::{HEAD, Method, Start, start, status},
};
use crate::{
    kernel::SkStorageIter,
    loss::{Loss, count},
};

const FIN: u8 = 1;
const RST: u8 = 4;
/// A connection whose first segments are no HTTP is not looked at any more after this many.
const STRIKES: u8 = 4;
/// The length of `HTTP/1.1 100 Continue\r\n\r\n`.
const CONTINUE: u32 = 25;

/// A TCP segment.
struct Segment {
    skb: *mut __sk_buff,
    ingress: bool,
    /// Where the TCP header begins in the packet.
    tcp: u32,
    /// Where the payload begins, and how long it is.
    offset: u32,
    len: u32,
    seq: u32,
    flags: u8,
}

#[cgroup_skb]
fn http_ingress(ctx: SkBuffContext) -> i32 {
    packet(&ctx, true);
    1
}

#[cgroup_skb]
fn http_egress(ctx: SkBuffContext) -> i32 {
    packet(&ctx, false);
    1
}

#[inline(always)]
fn packet(ctx: &SkBuffContext, ingress: bool) {
    let Some(segment) = Segment::parse(ctx.skb.skb, ingress) else { return };
    let closing = segment.flags & (FIN | RST) != 0;
    if segment.len == 0 && !closing {
        return;
    }
    // SAFETY: the context of the program, and the storage of its socket.
    unsafe {
        let mut this = connection::get(segment.skb, segment.len != 0);
        if this.is_null() {
            if segment.len != 0 {
                count(Loss::SocketStorage);
            }
            return;
        }
        if (*this).phase == OPAQUE {
            return;
        }
        if segment.len != 0 && (*this).role == 0 {
            if ingress && deferred::listens(segment.skb) {
                this = deferred::make(segment.skb, segment.tcp);
                if this.is_null() {
                    return count(Loss::SocketStorage);
                }
            } else {
                deferred::take(segment.skb, segment.tcp, ingress, this);
            }
            if (*this).phase == OPAQUE {
                return;
            }
        }
        if segment.len != 0 {
            let requests = match (*this).role {
                SERVER => ingress,
                CLIENT => !ingress,
                _ => segment.first(this),
            };
            if requests { segment.request(this) } else { segment.response(this) }
        }
        if closing {
            segment.close(this);
        }
        if (*this).phase == OPAQUE {
            debug!(ctx, "connection of cgroup skb is opaque");
        }
    }
}

impl Segment {
    #[inline(always)]
    fn parse(skb: *mut __sk_buff, ingress: bool) -> Option<Self> {
        // SAFETY: the verifier checks each load against `data_end`. TCP has pulled the headers into the linear part.
        unsafe {
            let data = (*skb).data as usize as *const u8;
            let end = (*skb).data_end as usize as *const u8;
            if data.add(40) > end {
                return None;
            }
            let first = *data;
            let ip = if first >> 4 == 4 {
                if *data.add(9) != 6 {
                    return None;
                }
                usize::from(first & 15) * 4
            } else {
                if *data.add(6) != 6 {
                    return None;
                }
                40
            };
            let tcp = data.add(ip);
            if tcp.add(20) > end {
                return None;
            }
            let seq = u32::from_be(tcp.add(4).cast::<u32>().read_unaligned());
            let offset = ip as u32 + u32::from(*tcp.add(12) >> 4) * 4;
            let len = (*skb).len;
            let len = if len > offset { len - offset } else { 0 };
            Some(Self { skb, ingress, tcp: ip as u32, offset, len, seq, flags: *tcp.add(13) })
        }
    }

    /// Now, ns of CLOCK_MONOTONIC: TCP stamps what it sends, so that only arrivals cost a clock read.
    #[inline(always)]
    fn now(&self) -> u64 {
        if !self.ingress {
            // SAFETY: a field of the context.
            let stamp = unsafe { (*self.skb).tstamp };
            if stamp != 0 {
                return stamp;
            }
        }
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    /// Copies the payload's first bytes; the rest stays 0.
    #[inline(always)]
    fn load(&self, line: &mut RouteLine) -> bool {
        let words = line.bytes.as_mut_ptr().cast::<u64>();
        let mut i = 0;
        while i < HEAD / 8 {
            // SAFETY: within the array. Volatile, or LLVM calls a memset that goes byte by byte.
            unsafe { words.add(i).write_volatile(0) };
            i += 1;
        }
        let mut len = self.len;
        // SAFETY: nothing: it keeps LLVM from proving away the check that the verifier needs.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) len, options(nomem, nostack)) };
        if len == 0 {
            return false;
        }
        if len > HEAD as u32 {
            len = HEAD as u32;
        }
        // SAFETY: `len` is at most the size of the array.
        unsafe { bpf_skb_load_bytes(self.skb.cast(), self.offset, line.bytes.as_mut_ptr().cast(), len) == 0 }
    }

    /// A payload on a connection whose role is not known: finds it; whether requests go this way.
    ///
    /// # Safety
    /// `this` is of the socket of the segment.
    #[inline(always)]
    unsafe fn first(&self, this: *mut Connection) -> bool {
        let mut line = MaybeUninit::<RouteLine>::uninit();
        // SAFETY: load() fills what is read; the caller's.
        unsafe {
            let line = &mut *line.as_mut_ptr();
            if !self.load(line) {
                return false;
            }
            match start(&line.bytes) {
                Start::Request(..) => {
                    (*this).role = if self.ingress { SERVER } else { CLIENT };
                    (*this).request_next = self.seq;
                    return true;
                }
                Start::Response => count(Loss::ResponseUnmatched),
                Start::Http2 => opaque(this, Loss::ConnectionHttp2),
                Start::Tls => opaque(this, Loss::ConnectionTls),
                Start::Other => {
                    (*this).strikes += 1;
                    if (*this).strikes >= STRIKES {
                        opaque(this, Loss::ConnectionUnknown);
                    }
                }
            }
        }
        false
    }

    /// A payload in the direction of requests.
    ///
    /// # Safety
    /// `this` is of the socket of the segment.
    #[inline(always)]
    unsafe fn request(&self, this: *mut Connection) {
        // SAFETY: load() fills what is read; the caller's.
        unsafe {
            let next = self.seq.wrapping_add(self.len);
            if next.wrapping_sub((*this).request_next) as i32 <= 0 {
                // A retransmission: already counted.
                return;
            }
            let waiting = (*this).phase == AWAITING;
            if waiting && !bodiless((*this).method) && !(*this).interim {
                // The body of the request: not looked at.
                (*this).request_next = next;
                return;
            }
            let mut line = MaybeUninit::<RouteLine>::uninit();
            let line = &mut *line.as_mut_ptr();
            if !self.load(line) {
                return;
            }
            // What is no head may have overtaken its head, which then comes with a lower number.
            let Start::Request(method, target) = start(&line.bytes) else { return };
            (*this).request_next = next;
            if waiting && !(*this).interim {
                count(Loss::RequestPipelined);
                return;
            }
            if waiting {
                // The final response was in the segment of the interim one, where it is not looked for.
                count(Loss::RequestUnanswered);
            }
            if (*this).phase == RESPONDING {
                connection::end(this);
            }
            line.target = target as u32;
            line.reserved = 0;
            connection::begin(this, self.skb, line, method, self.len, self.now());
        }
    }

    /// A payload in the direction of responses.
    ///
    /// # Safety
    /// `this` is of the socket of the segment.
    #[inline(always)]
    unsafe fn response(&self, this: *mut Connection) {
        // SAFETY: the caller's.
        unsafe {
            let next = self.seq.wrapping_add(self.len);
            let phase = (*this).phase;
            if phase == AWAITING {
                if (self.seq.wrapping_sub((*this).response_next) as i32) < 0 && (*this).response_next != 0 {
                    // A retransmission of the response before.
                    return;
                }
                let mut code = self.status(0);
                if code == 100 && self.len > CONTINUE {
                    // The final response came in the same segment.
                    code = self.status(CONTINUE);
                }
                if code == 0 {
                    return;
                }
                (*this).response_next = next;
                if code < 200 && code != 101 {
                    (*this).interim = code != 100;
                    return;
                }
                (*this).last = self.now();
                (*this).status = code;
                (*this).phase = RESPONDING;
                if code == 101 || ((*this).method == Method::Connect as u8 && code < 300) {
                    connection::end(this);
                    opaque(this, Loss::ConnectionUpgraded);
                }
            } else if phase == RESPONDING && next.wrapping_sub((*this).response_next) as i32 > 0 {
                (*this).response_next = next;
                (*this).last = self.now();
            }
        }
    }

    /// The status of a response head that begins `skip` bytes into the payload.
    #[inline(always)]
    fn status(&self, skip: u32) -> u16 {
        let mut head = [0; 16];
        // SAFETY: a status line has at least 12 bytes, and no more are looked at.
        unsafe {
            if bpf_skb_load_bytes(self.skb.cast(), self.offset + skip, head.as_mut_ptr().cast(), 12) != 0 {
                return 0;
            }
            status(&head)
        }
    }

    /// A FIN or a RST.
    ///
    /// # Safety
    /// `this` is of the socket of the segment.
    #[inline(always)]
    unsafe fn close(&self, this: *mut Connection) {
        // SAFETY: the caller's.
        unsafe {
            if (*this).role == SERVER && self.ingress && self.flags & RST == 0 {
                // The client has no more requests: the response may still be under way.
                return;
            }
            match (*this).phase {
                RESPONDING => connection::end(this),
                AWAITING => {
                    (*this).phase = IDLE;
                    count(Loss::RequestUnanswered);
                }
                _ => (),
            }
        }
    }
}

#[inline(always)]
fn bodiless(method: u8) -> bool {
    method != Method::Post as u8
        && method != Method::Put as u8
        && method != Method::Patch as u8
        && method != Method::Connect as u8
}

/// # Safety
/// `this` is a connection.
#[inline(always)]
unsafe fn opaque(this: *mut Connection, why: Loss) {
    // SAFETY: the caller's.
    unsafe { (*this).phase = OPAQUE };
    count(why);
}

/// Ends the last requests of connections that have been idle. A packet of such a connection in the very same nanoseconds
/// could end the request a second time; it would have to arrive after two idle seconds, within the few instructions below.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn http_flush(ctx: *const SkStorageIter<Connection>) -> i32 {
    // SAFETY: the context of the iterator; `value` is null once, at the end.
    unsafe {
        let this = (*ctx).value;
        if this.is_null() {
            return 0;
        }
        if (*this).phase == AWAITING {
            connection::waits(this);
        }
        if (*this).phase == RESPONDING && bpf_ktime_get_ns().saturating_sub((*this).last) > super::IDLE {
            connection::end(this);
        }
    }
    0
}
