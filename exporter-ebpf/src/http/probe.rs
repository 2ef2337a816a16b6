//! The packet programs, and those that end what connections leave behind.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::Array,
    helpers::{bpf_ktime_get_ns, generated::bpf_sk_storage_get},
    macros::{btf_map, btf_tracepoint, cgroup_skb},
    programs::{BtfTracePointContext, SkBuffContext},
};
use aya_log_ebpf::debug;

use super::{
    Active,
    connection::{self, CLIENT, CONNECTIONS, Connection, SERVER, adopt, depth, http_blind, http_end, place},
    coverage::{self, Reason},
    deferred,
    framing::{Cursor, Source as _, Stream, WINDOW, get, pass, set},
    head::{Method, Start, may_begin, start},
    packet::{FIN, MEMO, Packet, RST, Segment, mix},
    request::http_requests,
    response::{self, http_responses},
    table::{BODY, CHUNKED, CLOSE, DATA, EXPECTS, NO_BODY, START, UNKNOWN},
};
use crate::{
    cgroup::{DEFAULT_SLOTS, probe::owner},
    kernel::{MMAPABLE, SkStorageIter},
    loss::{Loss, count},
};

#[btf_map]
static ACTIVE: Array<Active, { DEFAULT_SLOTS as usize }, MMAPABLE> = Array::new();

/// A connection is not looked at any more when it had this many segments that are no HTTP in both directions,
const STRIKES: u8 = 2;
/// or this many in one: one that is older than the agent may be amid a long message.
const ONE_WAY_STRIKES: u8 = u8::MAX;
/// How short a segment is that may have less than a method and its space.
const SHORT: u32 = 8;
/// Bytes are accounted for before their count wraps.
const UNSETTLED: u32 = 1 << 30;
/// How many bytes of a length are compared, from its first digit on.
const DIGITS: u32 = 8;
/// What tells a response to HEAD from others: it has the same head, and no body.
const BODILESS: u64 = 1 << 63;

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
        let mut this = connection::of(segment.skb, segment.len != 0);
        if this.is_null() {
            if segment.len != 0 {
                count(Loss::SocketStorage);
            }
            return;
        }
        let mut shared = false;
        if segment.len != 0 && (*this).role == 0 && (*this).opaque == 0 {
            if ingress && deferred::listens(segment.skb) {
                shared = true;
                this = deferred::make(segment.skb, segment.tcp);
                if this.is_null() {
                    return count(Loss::SocketStorage);
                }
            } else if (*this).cgroup == 0 {
                deferred::http_take(segment.skb, segment.tcp, u32::from(ingress), this);
            }
        }
        if segment.len != 0 {
            segment.count(this);
        }
        if (*this).opaque == 0 && segment.len != 0 {
            let mut cursor = MaybeUninit::<Cursor>::uninit();
            let cursor = cursor.as_mut_ptr();
            segment.point(cursor, shared);
            if (*this).role != 0 || segment.first(this, cursor) {
                segment.payload(this, cursor);
            }
            if (*this).opaque != 0 {
                debug!(ctx, "connection of cgroup {} is opaque: {}", (*this).cgroup, (*this).opaque);
            }
        }
        if closing {
            segment.close(this);
        }
    }
}

impl Segment {
    /// Which way it goes, as an index.
    #[inline(always)]
    const fn direction(&self) -> usize {
        self.ingress as usize
    }

    /// Counts the bytes.
    ///
    /// # Safety
    /// `this` is of the socket of the segment.
    #[inline(always)]
    unsafe fn count(&self, this: *mut Connection) {
        // SAFETY: the caller's; within the arrays.
        unsafe {
            let bytes = (&raw mut (*this).bytes).cast::<u32>().add(self.direction());
            *bytes = (*bytes).wrapping_add(self.len);
            let settled = *(&raw const (*this).settled).cast::<u32>().add(self.direction());
            if (*bytes).wrapping_sub(settled) > UNSETTLED {
                coverage::settle(this);
            }
        }
    }

    /// Puts the cursor at the payload's first byte.
    ///
    /// # Safety
    /// `cursor` has room.
    #[inline(always)]
    unsafe fn point(&self, cursor: *mut Cursor, shared: bool) {
        // SAFETY: the caller's.
        unsafe {
            set(&raw mut (*cursor).at, 0);
            set(&raw mut (*cursor).end, self.len);
            set(&raw mut (*cursor).offset, self.offset);
            set(&raw mut (*cursor).ack, self.ack);
            set(&raw mut (*cursor).now, 0);
            set(&raw mut (*cursor).ingress, u16::from(self.ingress));
            set(&raw mut (*cursor).shared, u16::from(shared));
        }
    }

    /// Writes what [`Self::point`] and [`Segment::peek`] left out, so that functions that are verified apart may have it.
    ///
    /// # Safety
    /// As [`Self::point`].
    #[inline(always)]
    unsafe fn complete(&self, cursor: *mut Cursor, from: usize) {
        // SAFETY: the caller's.
        unsafe {
            set(&raw mut (*cursor).base, 0);
            set(&raw mut (*cursor).filled, 0);
            set(&raw mut (*cursor).began, 0);
            set(&raw mut (*cursor).route, 0);
            set(&raw mut (*cursor).route_end, 0);
            set(&raw mut (*cursor).method, 0);
            set(&raw mut (*cursor).target, 0);
            set(&raw mut (*cursor).reserved, 0);
            let window = (&raw mut (*cursor).window).cast::<u64>();
            let mut i = from / 8;
            while i < WINDOW / 8 + 1 {
                set(window.add(i), 0);
                i += 1;
            }
        }
    }

    /// A payload on a connection whose role is not known: finds it.
    ///
    /// # Safety
    /// `this` is of the socket of the segment, `cursor` valid.
    #[inline(always)]
    unsafe fn first(&self, this: *mut Connection, cursor: *mut Cursor) -> bool {
        // SAFETY: the caller's.
        unsafe {
            adopt(this, self.skb);
            if !self.peek(cursor) {
                return false;
            }
            match start(&*(&raw const (*cursor).window).cast::<[u8; 16]>()) {
                Start::Request(..) => {
                    (*this).role = if self.ingress { SERVER } else { CLIENT };
                    (*this).requests.next = self.seq;
                    return true;
                }
                Start::Response => count(Loss::ResponseUnmatched),
                Start::Http2 => give_up(this, Reason::Http2, Loss::ConnectionHttp2),
                Start::Tls => give_up(this, Reason::Tls, Loss::ConnectionTls),
                // It may be a method of which there is no more yet.
                Start::Other if self.len < SHORT && http_may_begin(cursor, self.len) != 0 => {
                    (*this).role = if self.ingress { SERVER } else { CLIENT };
                    (*this).requests.next = self.seq;
                    return true;
                }
                Start::Other => {
                    let strikes = (&raw mut (*this).strikes).cast::<u8>();
                    let own = strikes.add(self.direction());
                    *own = (*own).saturating_add(1);
                    if *own == ONE_WAY_STRIKES || (*strikes >= STRIKES && *strikes.add(1) >= STRIKES) {
                        give_up(this, Reason::Unknown, Loss::ConnectionUnknown);
                    }
                }
            }
        }
        false
    }

    /// A payload on a connection that speaks HTTP.
    ///
    /// # Safety
    /// As [`Self::first`].
    #[inline(always)]
    unsafe fn payload(&self, this: *mut Connection, cursor: *mut Cursor) {
        // SAFETY: the caller's.
        unsafe {
            let requests = ((*this).role == SERVER) == self.ingress;
            let stream = if requests { &raw mut (*this).requests } else { &raw mut (*this).responses };
            let other = if requests { &raw mut (*this).responses } else { &raw mut (*this).requests };
            self.notice_missed(this, cursor, other, requests);
            let next = self.seq.wrapping_add(self.len);
            let known = self.seq.wrapping_sub((*stream).next);
            let state = (*stream).state;
            if known == 0 && (*this).hole == (*this).ahead {
                if state == BODY && (*stream).flags & EXPECTS == 0 && (*stream).left > u64::from(self.len) {
                    // Within a body: nothing to see.
                    pass(stream, BODY, (*stream).left, u64::from(self.len));
                    (*stream).next = next;
                    return;
                }
                if state == START && self.peek(cursor) {
                    let memo = self.memo(cursor);
                    let done =
                        if requests { self.again(this, cursor, memo) } else { self.answer(this, memo) };
                    if done {
                        (*stream).next = next;
                        return;
                    }
                    self.complete(cursor, MEMO as usize);
                    self.read(this, cursor, requests, memo);
                    (*stream).next = next;
                    return;
                }
            }
            self.complete(cursor, 0);
            let behind = (known as i32) < 0;
            if behind {
                let seen = known.wrapping_neg();
                if seen >= self.len {
                    // A retransmission.
                    return;
                }
                set(&raw mut (*cursor).at, seen);
            } else if known != 0 && state != UNKNOWN {
                if self.ingress && state != CLOSE {
                    self.hold(this);
                    return;
                }
                // It left unseen, or it is what goes on to the end of the connection.
                http_cross(self.skb, this, cursor, u32::from(requests), known);
            }
            self.read(this, cursor, requests, 0);
            if state == UNKNOWN && get(&raw const (*stream).state) == UNKNOWN && (*this).status == 0 {
                // It may be the rest of a message whose beginning is still to come.
                return;
            }
            (*stream).next = next;
            if self.ingress && (*this).hole != (*this).ahead {
                self.catch_up(this, cursor, stream, requests);
            }
        }
    }

    /// Reads the payload; remembers it as `memo` if it is a message, and one alone.
    #[inline(always)]
    unsafe fn read(&self, this: *mut Connection, cursor: *mut Cursor, requests: bool, memo: u64) {
        // SAFETY: the caller's.
        unsafe {
            if requests {
                self.end_unknown(this);
                if http_requests(self.skb, this, cursor) != 0 && memo != 0 {
                    (*this).memo = memo;
                }
            } else {
                let whole = http_responses(self.skb, this, cursor) != 0;
                let flags = (*this).responses.flags;
                // The method that tells responses apart is that of the first place.
                if whole
                    && memo != 0
                    && flags & CHUNKED == 0
                    && place(this, (*this).answered.wrapping_sub(1)) == 0
                {
                    let at = if flags & NO_BODY != 0 { 0 } else { (*this).responses.length_at };
                    (*this).memo_at = if u32::from(at) + DIGITS <= MEMO { 0 } else { at };
                    (*this).memo_body = (*this).responses.body as u32;
                    (*this).response_memo = self.response_memo(this, memo);
                }
            }
        }
    }

    /// The hash of a response: of its beginning, of whether it has a body, and of the digits of its length.
    #[inline(always)]
    unsafe fn response_memo(&self, this: *const Connection, memo: u64) -> u64 {
        // SAFETY: the caller's; DIGITS bytes are loaded.
        unsafe {
            let is_bodiless = connection::is((*this).request.method, Method::Head);
            let memo = if is_bodiless { memo ^ BODILESS } else { memo };
            let mut at = u32::from((*this).memo_at);
            if at == 0 || self.len < DIGITS {
                return memo;
            }
            if at > self.len - DIGITS {
                at = self.len - DIGITS;
            }
            let mut digits = 0_u64;
            let packet = Packet { skb: self.skb, offset: self.offset };
            if !packet.load(at, (&raw mut digits).cast(), DIGITS) {
                return 0;
            }
            mix(memo, digits)
        }
    }

    /// A response whose end could not be told ends with the next request.
    #[inline(always)]
    unsafe fn end_unknown(&self, this: *mut Connection) {
        // SAFETY: the caller's.
        unsafe {
            let is_next = get(&raw const (*this).requests.state) == START;
            let is_unknown = (*this).status != 0 && get(&raw const (*this).responses.state) == UNKNOWN;
            if is_next && is_unknown && depth(this) == 1 && place(this, (*this).answered) == 0 {
                http_end(this, &raw mut (*this).request);
            }
        }
    }

    /// A request like the one before.
    #[inline(always)]
    unsafe fn again(&self, this: *mut Connection, cursor: *mut Cursor, memo: u64) -> bool {
        // SAFETY: the caller's.
        unsafe {
            if memo != (*this).memo || depth(this) != 0 {
                return false;
            }
            let now = self.now();
            connection::begin(this, self.skb, cursor, (*this).memo_method, (*this).memo_route, now)
        }
    }

    /// A response like the one before.
    #[inline(always)]
    unsafe fn answer(&self, this: *mut Connection, memo: u64) -> bool {
        // SAFETY: the caller's.
        unsafe {
            if (*this).status != 0 || depth(this) == 0 || place(this, (*this).answered) != 0 {
                return false;
            }
            if (*this).response_memo == 0 || self.response_memo(this, memo) != (*this).response_memo {
                return false;
            }
            let now = self.now();
            (*this).first = now;
            (*this).last = now;
            (*this).status = (*this).memo_status;
            (*this).responses.body = u64::from((*this).memo_body);
            http_end(this, &raw mut (*this).request);
        }
        true
    }

    /// Keeps in mind what arrived before its time.
    #[inline(always)]
    unsafe fn hold(&self, this: *mut Connection) {
        // SAFETY: the caller's.
        unsafe {
            let end = self.seq.wrapping_add(self.len);
            if (*this).hole == (*this).ahead {
                (*this).hole = self.seq;
                (*this).ahead = end;
                return;
            }
            if (self.seq.wrapping_sub((*this).hole) as i32) < 0 {
                (*this).hole = self.seq;
            }
            if end.wrapping_sub((*this).ahead) as i32 > 0 {
                (*this).ahead = end;
            }
        }
    }

    /// What was missing has come: goes on behind what came before its time.
    #[inline(always)]
    unsafe fn catch_up(
        &self,
        this: *mut Connection,
        cursor: *mut Cursor,
        stream: *mut Stream,
        requests: bool,
    ) {
        // SAFETY: the caller's.
        unsafe {
            if ((*stream).next.wrapping_sub((*this).hole) as i32) < 0 {
                return;
            }
            let missed = (*this).ahead.wrapping_sub((*stream).next);
            (*this).hole = (*this).ahead;
            if missed as i32 > 0 {
                http_cross(self.skb, this, cursor, u32::from(requests), missed);
                (*stream).next = (*stream).next.wrapping_add(missed);
            }
        }
    }

    /// What leaves says what has arrived: bytes of the other direction that it acknowledges and that were not seen, or were taken
    /// for early, are not waited for any longer.
    #[inline(always)]
    unsafe fn notice_missed(
        &self,
        this: *mut Connection,
        cursor: *mut Cursor,
        other: *mut Stream,
        requests: bool,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let missed = self.ack.wrapping_sub((*other).next);
            if self.ingress || (missed as i32) <= 0 || (*this).begun == 0 {
                return;
            }
            self.complete(cursor, 0);
            (*this).hole = (*this).ahead;
            http_cross(self.skb, this, cursor, u32::from(!requests), missed);
            (*other).next = self.ack;
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
            let requests = ((*this).role == SERVER) == self.ingress;
            if (*this).role == 0 || (requests && self.flags & RST == 0) {
                // There are no more requests: the response may still be under way.
                return;
            }
            if depth(this) != 0 {
                let request = connection::request(this, self.skb, (*this).answered, false);
                connection::finish(this, request, self.now());
            }
        }
    }
}

/// Whether what [`Segment::peek`] loaded, which is shorter than a method, may be the beginning of one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn http_may_begin(cursor: *const Cursor, len: u32) -> u32 {
    if cursor.is_null() {
        return 0;
    }
    // SAFETY: the verifier's.
    let word = unsafe { get((&raw const (*cursor).window).cast::<u64>()) };
    u32::from(may_begin(word, len))
}

/// Crosses bytes of a stream that cannot be looked at any more: as a body, if they are of one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn http_cross(
    skb: *mut __sk_buff,
    this: *mut Connection,
    cursor: *mut Cursor,
    requests: u32,
    bytes: u32,
) -> u32 {
    if this.is_null() || cursor.is_null() {
        return 0;
    }
    // SAFETY: the verifier's: both have the size of their types, and `skb` is the context.
    unsafe {
        let stream = if requests != 0 { &raw mut (*this).requests } else { &raw mut (*this).responses };
        let state = get(&raw const (*stream).state);
        let left = get(&raw const (*stream).left);
        if state == UNKNOWN {
            return 0;
        }
        if state == CLOSE {
            set(&raw mut (*stream).body, get(&raw const (*stream).body) + u64::from(bytes));
            return 0;
        }
        if (state == BODY || state == DATA) && left >= u64::from(bytes) {
            pass(stream, state, left, u64::from(bytes));
        } else {
            set(&raw mut (*stream).state, UNKNOWN);
            if requests != 0 || get(&raw const (*this).status) == 0 {
                count(Loss::FramingLost);
            }
        }
        if requests == 0 {
            response::settle(skb, this, cursor);
        }
    }
    0
}

#[inline(always)]
fn give_up(this: *mut Connection, reason: Reason, loss: Loss) {
    http_blind(this, reason as u32, loss as u32);
}

/// Before a scrape: ends the last requests of connections that have been idle in the midst of a response whose end could not be
/// told, counts those that are not answered, and accounts for what was carried.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn http_flush(ctx: *const SkStorageIter<Connection>) -> i32 {
    // SAFETY: the context of the iterator; `value` is null once, at the end.
    unsafe {
        let this = (*ctx).value;
        if this.is_null() {
            return 0;
        }
        coverage::settle(this);
        let mut waiting = depth(this);
        if waiting == 0 || (*this).opaque != 0 {
            return 0;
        }
        if (*this).status != 0 && (*this).responses.state == UNKNOWN {
            waiting -= 1;
            let is_idle = bpf_ktime_get_ns().saturating_sub((*this).last) > super::IDLE;
            if is_idle && place(this, (*this).answered) == 0 {
                http_end(this, &raw mut (*this).request);
            }
        }
        wait(this, u32::from(waiting));
    }
    0
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
        let map = core::ptr::from_ref(&CONNECTIONS).cast_mut().cast();
        let this: *mut Connection = bpf_sk_storage_get(map, sk, core::ptr::null_mut(), 0).cast();
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
            connection::finish(this, request, bpf_ktime_get_ns());
        }
    }
    0
}
