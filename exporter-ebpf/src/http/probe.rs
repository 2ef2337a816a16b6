//! The packet programs: whose connection it is, whether there is anything to see, and who reads it.

use core::mem::MaybeUninit;

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use aya_log_ebpf::debug;

use super::{
    closing::http_hang_up,
    connection::{self, Connection, SERVER},
    coverage, deferred,
    disorder::http_cross,
    exemplar::kernel::end,
    framing::{Cursor, WINDOW, at_most, get, pass, set},
    memo::http_remember,
    opening::http_open,
    packet::{FIN, MEMO, RST, Segment},
    pipeline::{self, depth, http_end, place},
    request::{http_note, http_requests},
    response::http_responses,
    table::{BODY, CLOSE, EXPECTS, START, UNKNOWN},
};
use crate::{
    kernel::seldom,
    loss::{Loss, count},
};

/// Bytes are accounted for before their count wraps.
const UNSETTLED: u32 = 1 << 30;

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
            seldom();
            if segment.len != 0 {
                count(Loss::SocketStorage);
            }
            return;
        }
        let mut shared = false;
        if segment.len != 0 && (*this).role == 0 && (*this).opaque == 0 {
            seldom();
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
            // Its cache lines may be another CPU's: they come at the same time rather than one after the other.
            _ = get(&raw const (*this).request.start);
            segment.count(this);
        }
        if (*this).opaque == 0 && segment.len != 0 {
            let mut cursor = MaybeUninit::<Cursor>::uninit();
            let cursor = cursor.as_mut_ptr();
            segment.point(cursor, shared);
            if (*this).role != 0 || segment.opens(this, cursor) {
                segment.payload(this, cursor);
            }
            if (*this).opaque != 0 {
                seldom();
                debug!(ctx, "connection of cgroup {} is opaque: {}", (*this).cgroup, (*this).opaque);
            }
        }
        if closing {
            seldom();
            http_hang_up(segment.skb, this, u32::from(ingress), u32::from(segment.flags & RST));
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
                seldom();
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
            set(&raw mut (*cursor).trace_at, 0);
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
    pub(super) unsafe fn complete(&self, cursor: *mut Cursor, from: usize) {
        // SAFETY: the caller's.
        unsafe {
            let filled = if from == 0 { 0 } else { at_most(self.len, MEMO) as u32 };
            set(&raw mut (*cursor).base, 0);
            set(&raw mut (*cursor).filled, filled);
            set(&raw mut (*cursor).spare, 0);
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

    /// Whether a connection turns out to speak HTTP with this payload.
    ///
    /// # Safety
    /// `this` is of the socket of the segment, `cursor` valid.
    #[inline(always)]
    unsafe fn opens(&self, this: *mut Connection, cursor: *mut Cursor) -> bool {
        // SAFETY: the caller's.
        unsafe {
            seldom();
            self.complete(cursor, 0);
            http_open(self.skb, this, cursor, self.seq) != 0
        }
    }

    /// A payload on a connection that speaks HTTP.
    ///
    /// # Safety
    /// As [`Self::opens`].
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
                if state == BODY && (*stream).flags & EXPECTS == 0 && (*stream).left >= u64::from(self.len) {
                    // Within a body: nothing to see.
                    pass(stream, BODY, (*stream).left, u64::from(self.len));
                    (*stream).next = next;
                    if (*stream).left == 0 {
                        self.end_body(this, requests);
                    }
                    return;
                }
                if state == START && self.peek(cursor) {
                    let memo = self.memo(cursor);
                    let done = if requests {
                        self.again(this, cursor, memo)
                    } else {
                        self.answer(this, cursor, memo)
                    };
                    if done {
                        (*stream).next = next;
                        return;
                    }
                    seldom();
                    self.complete(cursor, MEMO as usize);
                    self.read(this, cursor, requests, memo);
                    (*stream).next = next;
                    return;
                }
            }
            seldom();
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

    /// The body of a message has ended, and with it the segment.
    #[inline(always)]
    unsafe fn end_body(&self, this: *mut Connection, requests: bool) {
        // SAFETY: the caller's.
        unsafe {
            if requests {
                http_note(self.skb, this);
            } else if (*this).status != 0 {
                (*this).last = self.now();
                let request = pipeline::request(this, self.skb, (*this).answered, false);
                end(self.skb, this, request);
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
                let before = (*this).answered;
                let begins = get(&raw const (*this).responses.state) == START;
                http_responses(self.skb, this, cursor);
                if memo != 0 && begins {
                    http_remember(self.skb, this, cursor, memo, u32::from(before));
                }
            }
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
}
