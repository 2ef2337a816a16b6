//! The direction of requests: where they begin, and what they ask for.

use aya_ebpf::bindings::__sk_buff;

use super::{
    RouteLine,
    connection::{self, Connection, http_admit},
    coverage::{Reason, charge},
    exemplar::kernel::http_trace,
    framing::{Cursor, Source as _, Stream, WINDOW, at_most, fill, get, opaque, scan, set},
    head::{HEAD, METHOD, Method, Start, is_bodiless, method_end, start},
    packet::{MEMO, Packet, now},
    pattern::kernel::pattern,
    pipeline::{self, begin, depth},
    route::{Hash, Route},
    table::{BODY, CHUNKED, EXPECTS, HAS_LENGTH, LINE_REST, NO_BODY, PARTIAL, START, UNKNOWN},
};
use crate::{
    kernel::seldom,
    loss::{Loss, count},
};

/// How often one segment may be read on in: 32 requests, or a head of 8 KiB in lines of 32 bytes and more.
pub(super) const ROUNDS: u32 = 128;

/// [`http_find`] and [`http_begin`]: there is nothing more to read.
const ENOUGH: u32 = 0;
/// A request line was read as far as it matters.
const MORE: u32 = 1;
/// A line end before it was skipped, or there is more of it.
const AGAIN: u32 = 2;

/// Takes a payload in the direction of requests: whether it was one request and nothing else.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_requests(
    skb: *mut __sk_buff,
    this: *mut Connection,
    cursor: *mut Cursor,
) -> u32 {
    if this.is_null() || cursor.is_null() {
        return 0;
    }
    // SAFETY: the verifier's: both have the size of their types, and `skb` is the context.
    unsafe {
        let stream = &raw mut (*this).requests;
        let before = get(&raw const (*stream).state);
        if !is_in_step(skb, this, cursor, before) {
            charge(this, Reason::Unmatched as u8, u64::from(get(&raw const (*cursor).end)));
            return 0;
        }
        let begun = get(&raw const (*this).begun);
        let mut round = 0;
        while round < ROUNDS && !is_over(cursor) {
            let state = get(&raw const (*stream).state);
            if state == START || state == PARTIAL {
                let found = http_find(skb, cursor, stream);
                if found == ENOUGH {
                    break;
                }
                if found == MORE {
                    let line = (&raw const (*cursor).target).cast::<RouteLine>();
                    let mut route = pattern((*this).cgroup, line, get(&raw const (*cursor).filled));
                    let own = get(&raw const (*cursor).route);
                    // What the user named needs no line, and takes nothing of the budget.
                    if route == 0 && own != 0 {
                        route = http_admit((*this).slot, own, line);
                    }
                    if http_begin(skb, this, cursor, route) == ENOUGH {
                        break;
                    }
                }
            } else {
                let goes_on = http_scan(skb, cursor, stream) != 0;
                if get(&raw const (*cursor).trace_at) != 0 {
                    seldom();
                    http_trace(skb, this, cursor);
                }
                if !goes_on && get(&raw const (*stream).body) != 0 {
                    http_note(skb, this);
                }
                if !goes_on && get(&raw const (*stream).state) != START {
                    break;
                }
            }
            round += 1;
        }
        let state = get(&raw const (*stream).state);
        if (state == UNKNOWN || !is_over(cursor)) && get(&raw const (*this).opaque) == 0 {
            set(&raw mut (*stream).state, UNKNOWN);
            if get(&raw const (*this).begun) == 0 {
                // What seemed to be a method was none: back to not knowing.
                (*this).role = 0;
                set(&raw mut (*stream).state, START);
                return 0;
            }
            count(Loss::FramingLost);
        }
        let only = get(&raw const (*this).begun).wrapping_sub(begun) == 1 && before == START;
        // What has a length may have another one next time, behind the bytes that are compared.
        let is_plain =
            get(&raw const (*stream).flags) & (HAS_LENGTH | CHUNKED) == 0 && (*this).memo_method != 0;
        let whole = state == START && is_plain && u32::from(get(&raw const (*cursor).route_end)) < MEMO;
        u32::from(only && whole)
    }
}

/// Whether all of the payload has been read.
///
/// # Safety
/// `cursor` is valid.
#[inline(always)]
pub(super) unsafe fn is_over(cursor: *const Cursor) -> bool {
    // SAFETY: the caller's.
    unsafe { get(&raw const (*cursor).at) == get(&raw const (*cursor).end) }
}

/// Whether the payload can be read on from where the stream is. What is behind a message whose end is not known, and a body
/// that the answer made superfluous, is read only if a request line begins with it.
#[inline(always)]
unsafe fn is_in_step(skb: *mut __sk_buff, this: *mut Connection, cursor: *mut Cursor, state: u8) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let stream = &raw mut (*this).requests;
        let (depth, is_answered) = (depth(this), get(&raw const (*this).status) != 0);
        let unwanted = state == BODY
            && get(&raw const (*stream).flags) & EXPECTS != 0
            && get(&raw const (*stream).body) == 0
            && depth == 0;
        if state != UNKNOWN && !unwanted {
            return true;
        }
        if state == UNKNOWN && depth != 0 && !is_answered {
            return false;
        }
        let packet = Packet { skb, offset: get(&raw const (*cursor).offset) };
        let head = (&raw const (*cursor).window).cast::<[u8; 16]>();
        if fill(&packet, cursor) && matches!(start(&*head), Start::Request(..)) {
            set(&raw mut (*stream).state, START);
            return true;
        }
        unwanted
    }
}

/// Notes how much of the body has been read of the request that is under way.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_note(skb: *mut __sk_buff, this: *mut Connection) -> u32 {
    if this.is_null() {
        return 0;
    }
    // SAFETY: the verifier's.
    unsafe {
        // A request that was answered before is no more ours to write to.
        if depth(this) != 0 {
            let last = get(&raw const (*this).begun).wrapping_sub(1);
            let request = pipeline::request(this, skb, last, false);
            if !request.is_null() {
                (*request).size = get(&raw const (*this).requests.body);
            }
        }
    }
    0
}

/// Reads on in a message: see [`scan`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_scan(skb: *mut __sk_buff, cursor: *mut Cursor, stream: *mut Stream) -> u32 {
    if cursor.is_null() || stream.is_null() {
        return 0;
    }
    // SAFETY: the verifier's.
    unsafe {
        let packet = Packet { skb, offset: get(&raw const (*cursor).offset) };
        u32::from(scan(&packet, cursor, stream))
    }
}

/// [`http_line`]: the bytes are not to be had.
pub(super) const FAILED: u64 = u64::MAX;

/// Fills the window with a first line from its beginning; when it began, if other segments had a part of it, and 0 if not.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_line(
    skb: *mut __sk_buff,
    cursor: *mut Cursor,
    state: u32,
    responses: u32,
) -> u64 {
    if cursor.is_null() {
        return FAILED;
    }
    // SAFETY: the verifier's; `kept` is at most HEAD, and with what is loaded behind it within the window.
    unsafe {
        let packet = Packet { skb, offset: get(&raw const (*cursor).offset) };
        if state != u32::from(PARTIAL) {
            let is_there = get(&raw const (*cursor).at) == get(&raw const (*cursor).base);
            // One less, so that there is one bound to check, and the verifier sees it.
            let last = opaque(get(&raw const (*cursor).filled).wrapping_sub(1));
            if is_there && last < WINDOW as u64 {
                set((&raw mut (*cursor).window).cast::<u8>().add(last as usize + 1), b'\n');
                return 0;
            }
            return if fill(&packet, cursor) { 0 } else { FAILED };
        }
        let carry = connection::carry(skb, responses != 0, false);
        if carry.is_null() {
            return FAILED;
        }
        let window = (&raw mut (*cursor).window).cast::<u8>();
        let mut i = 0;
        while i < HEAD / 8 {
            set(window.cast::<u64>().add(i), get((&raw const (*carry).bytes).cast::<u64>().add(i)));
            i += 1;
        }
        let kept = opaque(get(&raw const (*carry).len));
        let at = get(&raw const (*cursor).at);
        let rest = get(&raw const (*cursor).end).wrapping_sub(at);
        let len = at_most(rest, (WINDOW - HEAD) as u32);
        if kept > HEAD as u64 || rest == 0 {
            return FAILED;
        }
        if !packet.load(at, window.add(kept as usize), len as u32) {
            return FAILED;
        }
        let from = at.wrapping_sub(kept as u32);
        set(&raw mut (*cursor).base, from);
        set(&raw mut (*cursor).at, from);
        set(&raw mut (*cursor).filled, (kept + len) as u32);
        set(window.add((kept + len) as usize), b'\n');
        (*carry).start
    }
}

/// Keeps a first line that goes on behind the window, as a rule in the next segment; 0 if that cannot be.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_keep(
    skb: *mut __sk_buff,
    cursor: *mut Cursor,
    responses: u32,
    start: u64,
) -> u32 {
    if cursor.is_null() || start == FAILED {
        return 0;
    }
    // SAFETY: the verifier's.
    unsafe {
        if get(&raw const (*cursor).shared) != 0 {
            return 0;
        }
        let carry = connection::carry(skb, responses != 0, true);
        if carry.is_null() {
            return 0;
        }
        let window = (&raw const (*cursor).window).cast::<u64>();
        let mut i = 0;
        while i < HEAD / 8 {
            set((&raw mut (*carry).bytes).cast::<u64>().add(i), get(window.add(i)));
            i += 1;
        }
        let filled = get(&raw const (*cursor).filled);
        (*carry).len = filled;
        (*carry).start = start;
        set(&raw mut (*cursor).at, get(&raw const (*cursor).base).wrapping_add(filled));
    }
    1
}

/// Reads a request line, or what there is of it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn http_find(skb: *mut __sk_buff, cursor: *mut Cursor, stream: *mut Stream) -> u32 {
    if stream.is_null() || cursor.is_null() {
        return ENOUGH;
    }
    // SAFETY: the verifier's: both have the size of their types, and `skb` is the context.
    unsafe {
        let mut began = http_line(skb, cursor, u32::from(get(&raw const (*stream).state)), 0);
        if began == FAILED {
            set(&raw mut (*stream).state, UNKNOWN);
            return ENOUGH;
        }
        if began == 0 {
            began = now(skb, cursor);
        }
        set(&raw mut (*cursor).began, began);
        let filled = get(&raw const (*cursor).filled);
        let window = (&raw const (*cursor).window).cast::<u8>();
        let first = get(window);
        if first == b'\r' || first == b'\n' {
            // To be ignored before a request line (RFC 9112, 2.2).
            set(&raw mut (*cursor).at, get(&raw const (*cursor).base).wrapping_add(1));
            set(&raw mut (*stream).state, START);
            return AGAIN;
        }
        let (mut method, mut target) = (Method::Other, 0);
        if let Start::Request(known, at) = start(&*window.cast::<[u8; 16]>()) {
            (method, target) = (known, at as u32);
        }
        if target == 0 {
            target = method_end(|i| get(window.add(i))) as u32 + 1;
        }
        set(&raw mut (*cursor).method, method as u16);
        set(&raw mut (*cursor).route_end, filled as u16);
        let is_whole = target <= METHOD as u32 && target <= filled && is_blank(window, target);
        if is_whole {
            set(&raw mut (*cursor).target, target);
            set(&raw mut (*cursor).route, http_route(cursor));
        } else if filled >= METHOD as u32 || target != filled + 1 {
            // No request line.
            set(&raw mut (*stream).state, UNKNOWN);
            return ENOUGH;
        }
        if u32::from(get(&raw const (*cursor).route_end)) == filled && filled < HEAD as u32 {
            if http_keep(skb, cursor, 0, began) != 0 {
                set(&raw mut (*stream).state, PARTIAL);
                return if is_over(cursor) { ENOUGH } else { AGAIN };
            }
            count(Loss::RequestLineSplit);
            set(&raw mut (*cursor).route, 0);
            if !is_whole {
                set(&raw mut (*stream).state, UNKNOWN);
                return ENOUGH;
            }
        }
    }
    MORE
}

/// Begins the request whose line is in the window.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn http_begin(skb: *mut __sk_buff, this: *mut Connection, cursor: *mut Cursor, route: u64) -> u32 {
    if this.is_null() || cursor.is_null() {
        return ENOUGH;
    }
    // SAFETY: as of http_find().
    unsafe {
        let method = get(&raw const (*cursor).method) as u8;
        if !begin(this, skb, cursor, method, route, get(&raw const (*cursor).began)) {
            return ENOUGH;
        }
        (*this).memo = 0;
        (*this).memo_route = route;
        (*this).memo_method = if is_bodiless(method) { method } else { 0 };
        let stream = &raw mut (*this).requests;
        set(&raw mut (*stream).state, LINE_REST);
        set(&raw mut (*stream).flags, if connection::is(method, Method::Connect) { NO_BODY } else { 0 });
        set(&raw mut (*stream).left, 0);
        set(&raw mut (*stream).body, 0);
        let read = u32::from(get(&raw const (*cursor).route_end));
        set(&raw mut (*cursor).at, get(&raw const (*cursor).base).wrapping_add(read));
    }
    MORE
}

/// Whether the byte before the target is a space.
#[inline(always)]
unsafe fn is_blank(window: *const u8, target: u32) -> bool {
    let place = opaque(target.wrapping_sub(1));
    // SAFETY: within the window.
    place < METHOD as u64 && unsafe { get(window.add(place as usize)) } == b' '
}

/// The hash of the route of the request line in the window; `route_end` says where it ended.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn http_route(cursor: *mut Cursor) -> u64 {
    if cursor.is_null() {
        return 0;
    }
    // SAFETY: the verifier's; the place is within HEAD.
    unsafe {
        let target = get(&raw const (*cursor).target);
        let window = (&raw const (*cursor).window).cast::<u8>();
        let mut route = Route::new(Hash::new());
        let mut i = 0;
        while i < HEAD as u32 {
            let place = opaque(target.wrapping_add(i));
            if place >= HEAD as u64 {
                break;
            }
            if !route.push(get(window.add(place as usize))) {
                set(&raw mut (*cursor).route_end, place as u16);
                return route.finish(false).value();
            }
            i += 1;
        }
        set(&raw mut (*cursor).route_end, HEAD as u16);
        route.finish(true).value()
    }
}
