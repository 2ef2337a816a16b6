//! The direction of responses: which request they answer, and when they end.

use aya_ebpf::bindings::__sk_buff;

use super::{
    connection::{self, Connection, http_blind},
    coverage::{Reason, charge},
    exemplar::kernel::end,
    framing::{Cursor, Stream, fill, get, set},
    head::{Method, STATUS, status},
    packet::{Packet, now},
    pipeline::{self, depth},
    request::{FAILED, ROUNDS, http_keep, http_line, http_scan, is_over},
    table::{CLOSE, LINE_REST, NO_BODY, PARTIAL, RESPONSE, START, UNKNOWN},
};
use crate::loss::{Loss, count};

/// Takes a payload in the direction of responses; always 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_responses(
    skb: *mut __sk_buff,
    this: *mut Connection,
    cursor: *mut Cursor,
) -> u32 {
    if this.is_null() || cursor.is_null() {
        return 0;
    }
    // SAFETY: the verifier's: both have the size of their types, and `skb` is the context.
    unsafe {
        let stream = &raw mut (*this).responses;
        let before = get(&raw const (*stream).state);
        if before == UNKNOWN && !is_in_step(skb, this, cursor) {
            return 0;
        }
        let mut round = 0;
        while round < ROUNDS && !is_over(cursor) {
            let state = get(&raw const (*stream).state);
            if state == START || state == PARTIAL {
                if http_respond(skb, this, cursor) == 0 {
                    break;
                }
            } else if http_scan(skb, cursor, stream) == 0 && settle(skb, this, cursor) != START {
                break;
            }
            round += 1;
        }
        if !is_over(cursor) && round == ROUNDS {
            set(&raw mut (*stream).state, UNKNOWN);
            settle(skb, this, cursor);
        }
    }
    0
}

/// What follows from where the stream has got to, which it returns.
///
/// # Safety
/// As [`http_responses`].
#[inline(always)]
pub(super) unsafe fn settle(skb: *mut __sk_buff, this: *mut Connection, cursor: *mut Cursor) -> u8 {
    // SAFETY: the caller's.
    unsafe {
        let stream = &raw mut (*this).responses;
        let state = get(&raw const (*stream).state);
        let status = get(&raw const (*this).status);
        if status == 0 {
            return state;
        }
        if state == CLOSE {
            // All of it is the body.
            let end = get(&raw const (*cursor).end);
            let rest = end.wrapping_sub(get(&raw const (*cursor).at));
            set(&raw mut (*stream).body, get(&raw const (*stream).body) + u64::from(rest));
            set(&raw mut (*cursor).at, end);
        }
        if state == START || state == CLOSE || state == UNKNOWN {
            (*this).last = now(skb, cursor);
        }
        if state == UNKNOWN {
            count(Loss::FramingLost);
        }
        if state == START {
            let request = pipeline::request(this, skb, get(&raw const (*this).answered), false);
            if request.is_null() {
                return state;
            }
            let tunnel = connection::is((*request).method, Method::Connect) && status < 300;
            (*this).response_memo = 0;
            (*this).memo_status = status;
            end(skb, this, request);
            if status == 101 || tunnel {
                http_blind(this, Reason::Upgraded as u32, Loss::ConnectionUpgraded as u32);
                return UNKNOWN;
            }
        }
        state
    }
}

/// Whether a payload whose place in a message is not known is read all the same, because a response begins with it.
#[inline(always)]
unsafe fn is_in_step(skb: *mut __sk_buff, this: *mut Connection, cursor: *mut Cursor) -> bool {
    // SAFETY: the caller's.
    unsafe {
        if get(&raw const (*this).status) != 0 {
            (*this).last = now(skb, cursor);
            return false;
        }
        let packet = Packet { skb, offset: get(&raw const (*cursor).offset) };
        let head = (&raw const (*cursor).window).cast::<[u8; 16]>();
        if depth(this) == 0 || !fill(&packet, cursor) || status(&*head) == 0 {
            charge(this, Reason::Unmatched as u8, u64::from(get(&raw const (*cursor).end)));
            return false;
        }
        set(&raw mut (*this).responses.state, START);
    }
    true
}

/// Reads a status line, or what there is of it; 0 if there is nothing more to read.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn http_respond(skb: *mut __sk_buff, this: *mut Connection, cursor: *mut Cursor) -> u32 {
    if this.is_null() || cursor.is_null() {
        return 0;
    }
    // SAFETY: the verifier's: both have the size of their types, and `skb` is the context.
    unsafe {
        let stream = &raw mut (*this).responses;
        let head = (&raw const (*cursor).window).cast::<[u8; 16]>();
        let mut began = http_line(skb, cursor, u32::from(get(&raw const (*stream).state)), 1);
        if began == FAILED {
            return lost(stream, Loss::FramingLost);
        }
        if began == 0 {
            began = now(skb, cursor);
        }
        let filled = get(&raw const (*cursor).filled);
        let code = status(&*head);
        if code == 0 {
            let is_short = filled < STATUS as u32 && get((&raw const (*cursor).window).cast::<u8>()) == b'H';
            if is_short && depth(this) != 0 && http_keep(skb, cursor, 1, began) != 0 {
                set(&raw mut (*stream).state, PARTIAL);
                return 0;
            }
            return lost(stream, Loss::FramingLost);
        }
        if depth(this) == 0 {
            return lost(stream, Loss::ResponseUnmatched);
        }
        let request = pipeline::request(this, skb, get(&raw const (*this).answered), false);
        if request.is_null() {
            return lost(stream, Loss::ResponseUnmatched);
        }
        let method = (*request).method;
        let tunnel = connection::is(method, Method::Connect) && code < 300;
        let bare = code < 200 || code == 204 || code == 304 || tunnel || connection::is(method, Method::Head);
        set(&raw mut (*stream).state, LINE_REST);
        set(&raw mut (*stream).flags, if bare { RESPONSE | NO_BODY } else { RESPONSE });
        set(&raw mut (*stream).left, 0);
        set(&raw mut (*stream).body, 0);
        let at = get(&raw const (*cursor).base);
        set(&raw mut (*cursor).at, at.wrapping_add(STATUS as u32));
        if code >= 200 || code == 101 {
            (*this).first = began;
            set(&raw mut (*this).status, code);
        }
    }
    1
}

#[inline(always)]
unsafe fn lost(stream: *mut Stream, loss: Loss) -> u32 {
    // SAFETY: the caller's.
    unsafe { set(&raw mut (*stream).state, UNKNOWN) };
    count(loss);
    0
}
