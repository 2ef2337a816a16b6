//! The requests of a connection that are not answered yet, first in, first out: how one begins, and how it ends.

use aya_ebpf::{bindings::__sk_buff, btf_maps::SkStorage, macros::btf_map};

use super::{
    connection::{Connection, SERVER, http_blind, storage},
    coverage::Reason,
    detail,
    framing::{Cursor, get, set},
    table::{CLOSE, START, UNKNOWN},
};
use crate::{
    cgroup::probe::owner,
    kernel::add,
    loss::{Loss, count},
    series::{Family, SeriesKey, kernel as series},
};

#[btf_map]
static PIPELINES: SkStorage<Pipeline> = SkStorage::new();

/// A request that is not answered yet.
#[repr(C)]
pub(super) struct Request {
    /// When it began, ns.
    pub(super) start: u64,
    /// The hash of the route; 0 is `other`.
    pub(super) route: u64,
    /// Bytes of its body so far.
    pub(super) size: u64,
    pub(super) method: u8,
    reserved: [u8; 7],
}

impl Request {
    pub(super) const NONE: Self = Self { start: 0, route: 0, size: 0, method: 0, reserved: [0; 7] };
}

/// How many requests can be outstanding on a connection.
const DEPTH: usize = 32;

/// The requests that wait behind others. In the storage of those sockets only that have ever had one.
#[repr(C)]
struct Pipeline([Request; DEPTH]);

/// How many requests are outstanding.
///
/// # Safety
/// `this` is a connection.
#[inline(always)]
pub(super) unsafe fn depth(this: *const Connection) -> u16 {
    // SAFETY: the caller's.
    unsafe { get(&raw const (*this).begun).wrapping_sub(get(&raw const (*this).answered)) }
}

/// Where a request is among those outstanding: 0 is in the connection itself.
///
/// # Safety
/// `this` is a connection.
#[inline(always)]
pub(super) unsafe fn place(this: *const Connection, number: u16) -> u32 {
    // SAFETY: the caller's.
    unsafe { u32::from(number.wrapping_sub(get(&raw const (*this).epoch))) & (DEPTH as u32 - 1) }
}

/// A request by its number; null if there is no room for it.
///
/// # Safety
/// `this` is of the socket of `skb`, which is the context of the program.
#[inline(always)]
pub(super) unsafe fn request(
    this: *mut Connection,
    skb: *mut __sk_buff,
    number: u16,
    create: bool,
) -> *mut Request {
    // SAFETY: the caller's; the place is within the array.
    unsafe {
        let place = place(this, number);
        if place == 0 {
            return &raw mut (*this).request;
        }
        let pipeline: *mut Request = storage(&PIPELINES, skb, create).cast();
        if pipeline.is_null() {
            return pipeline;
        }
        pipeline.add(super::framing::opaque(place) as usize & (DEPTH - 1))
    }
}

/// Begins a request; `false` if the connection has become opaque.
///
/// # Safety
/// As [`request`]; `cursor` is valid.
#[inline(always)]
pub(super) unsafe fn begin(
    this: *mut Connection,
    skb: *mut __sk_buff,
    cursor: *const Cursor,
    method: u8,
    route: u64,
    start: u64,
) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let depth = depth(this);
        if depth == 0 {
            set(&raw mut (*this).epoch, get(&raw const (*this).begun));
            expect_response(this, get(&raw const (*cursor).ack));
        }
        if depth as usize >= DEPTH - 1 || (depth > 0 && get(&raw const (*cursor).shared) != 0) {
            http_blind(this, Reason::Pipeline as u32, Loss::RequestPipelined as u32);
            return false;
        }
        let number = get(&raw const (*this).begun);
        let request = request(this, skb, number, true);
        if request.is_null() {
            http_blind(this, Reason::Pipeline as u32, Loss::SocketStorage as u32);
            return false;
        }
        (*request).start = start;
        (*request).route = route;
        (*request).size = 0;
        (*request).method = method;
        set(&raw mut (*this).begun, number.wrapping_add(1));
    }
    true
}

/// Nothing is outstanding: the response to the next request begins where its sender has got to.
///
/// # Safety
/// `this` is a connection.
#[inline(always)]
pub(super) unsafe fn expect_response(this: *mut Connection, ack: u32) {
    // SAFETY: the caller's.
    unsafe {
        let responses = &raw mut (*this).responses;
        let is_behind = (ack.wrapping_sub(get(&raw const (*responses).next)) as i32) < 0;
        if get(&raw const (*responses).state) != START || !is_behind || get(&raw const (*this).begun) == 0 {
            set(&raw mut (*responses).next, ack);
            set(&raw mut (*responses).state, START);
        }
    }
}

/// Ends the oldest request: one observation, or two if the response took more than one segment.
///
/// A function of its own to the verifier, like the others that it knows by name: it is verified once, whoever calls it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_end(this: *mut Connection, request: *mut Request) -> u32 {
    if this.is_null() || request.is_null() {
        return 0;
    }
    // SAFETY: the verifier's: both have the size of their types.
    unsafe {
        let (first, last, status) = ((*this).first, (*this).last, (*this).status);
        let (start, route) = ((*request).start, (*request).route);
        set(&raw mut (*this).status, 0);
        set(&raw mut (*this).answered, get(&raw const (*this).answered).wrapping_add(1));
        if last < first || first < start {
            count(Loss::NegativeDelta);
            return 0;
        }
        let slot = (*this).slot;
        match owner(slot) {
            Some(owner) if (*owner).key == (*this).cgroup || slot == 0 => (),
            _ => {
                count(Loss::CgroupGone);
                return 0;
            }
        }
        let (whole, long, begun) = if (*this).role == SERVER {
            (Family::HttpServer, Family::HttpServerLong, Family::HttpServerFirst)
        } else {
            (Family::HttpClient, Family::HttpClientLong, Family::HttpClientFirst)
        };
        let family = if first == last { whole } else { long };
        let method = get(&raw const (*request).method);
        let mut key = SeriesKey { slot, family: family as u32, detail: detail(method, status), route };
        let mut row = series::row((*this).row);
        if !row.is_some_and(|row| series::counts(row, &key)) {
            (*this).row = series::find(&key);
            row = series::row((*this).row);
        }
        if let Some(row) = row {
            series::observe(row, last - start);
            // Read where it is used, as the method is: what is kept until then takes stack, and there is none left (tests/stack.rs).
            let size = get(&raw const (*request).size);
            if size != 0 {
                add(&raw mut (*row).received, size);
            }
            let body = (*this).responses.body;
            if body != 0 {
                add(&raw mut (*row).bytes, body);
            }
        }
        if first != last {
            key.family = begun as u32;
            key.detail = detail(get(&raw const (*request).method), 0);
            if let Some(row) = series::row(series::find(&key)) {
                series::observe(row, first - start);
            }
        }
    }
    1
}

/// Ends what is under way on a connection that has ended; what was not answered is lost.
///
/// # Safety
/// `this` is a connection, and `request` its oldest request, or null.
#[inline(always)]
pub(super) unsafe fn finish(this: *mut Connection, request: *mut Request, now: u64) {
    // SAFETY: the caller's.
    unsafe {
        if depth(this) == 0 {
            return;
        }
        if get(&raw const (*this).status) != 0 && !request.is_null() {
            let state = get(&raw const (*this).responses.state);
            if state != UNKNOWN && state != CLOSE {
                // Cut off.
                (*this).last = now;
            }
            http_end(this, request);
        }
        let unanswered = depth(this);
        if unanswered != 0 {
            crate::loss::count_many(Loss::RequestUnanswered, u64::from(unanswered));
            set(&raw mut (*this).answered, get(&raw const (*this).begun));
        }
    }
}
