//! Segments that come before their time, twice, or not at all.

use aya_ebpf::bindings::__sk_buff;

use super::{
    connection::Connection,
    framing::{Cursor, Stream, get, pass, set},
    packet::Segment,
    response,
    table::{BODY, CLOSE, DATA, UNKNOWN},
};
use crate::{
    kernel::seldom,
    loss::{Loss, count},
};

impl Segment {
    /// Keeps in mind what arrived before its time.
    #[inline(always)]
    pub(super) unsafe fn hold(&self, this: *mut Connection) {
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
    pub(super) unsafe fn catch_up(
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
    pub(super) unsafe fn notice_missed(
        &self,
        this: *mut Connection,
        cursor: *mut Cursor,
        other: *mut Stream,
        requests: bool,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let missed = self.ack.wrapping_sub((*other).next);
            // One alone is no byte, but the number that an end takes.
            if self.ingress || (missed as i32) <= 1 || (*this).begun == 0 {
                return;
            }
            seldom();
            self.complete(cursor, 0);
            (*this).hole = (*this).ahead;
            http_cross(self.skb, this, cursor, u32::from(!requests), missed);
            (*other).next = self.ack;
        }
    }
}

/// Crosses bytes of a stream that cannot be looked at any more: as a body, if they are of one.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_cross(
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
