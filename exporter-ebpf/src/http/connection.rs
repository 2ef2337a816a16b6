//! What is kept per connection, and how a request on it begins and ends.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE},
    btf_maps::{Array, HashMap, SkStorage},
    helpers::generated::{bpf_sk_storage_get, bpf_skb_cgroup_id},
    macros::btf_map,
};

use super::{
    Active, DEFAULT_ROUTES, RouteKey, RouteLine, detail,
    head::{HEAD, Method, TARGET},
    pattern::kernel::pattern,
    route::{Hash, Route},
};
use crate::{
    cgroup::{
        DEFAULT_SLOTS,
        probe::{owner, slot},
    },
    kernel::{MMAPABLE, add},
    loss::{Loss, count},
    series::{Family, SeriesKey, kernel as series},
};

#[btf_map]
pub(super) static CONNECTIONS: SkStorage<Connection> = SkStorage::new();
#[btf_map]
static ACTIVE: Array<Active, { DEFAULT_SLOTS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static ROUTES: HashMap<RouteKey, RouteLine, { DEFAULT_ROUTES as usize }> = HashMap::new();

/// How many routes a cgroup may have.
#[unsafe(no_mangle)]
static HTTP_ROUTE_BUDGET: aya_ebpf::Global<u32> = aya_ebpf::Global::new(100);

/// A connection, in its socket's storage: one cache line. The direction of requests writes `start`, `route`, `method`,
/// `request_next`; that of responses writes `last`, `status`, `response_next`; `phase` passes from one to the other.
#[repr(C)]
pub(super) struct Connection {
    /// When the request began, ns.
    pub(super) start: u64,
    /// When the last byte of the response so far passed, ns.
    pub(super) last: u64,
    /// The hash of the route; 0 is `other`.
    route: u64,
    /// The key of the socket's cgroup; 0 before the first request.
    cgroup: u64,
    slot: u32,
    /// The row of the last request.
    row: u32,
    /// The sequence number after the last byte seen, by direction.
    pub(super) request_next: u32,
    pub(super) response_next: u32,
    pub(super) status: u16,
    pub(super) method: u8,
    pub(super) role: u8,
    pub(super) phase: u8,
    /// Segments seen that were no HTTP.
    pub(super) strikes: u8,
    /// Where the target begins in the request line that is being read.
    target: u8,
    /// Whether an interim response came whose final one may be in the same segment.
    pub(super) interim: bool,
    /// Always 0, which the verifier does not know: what is computed with it is unknown to it, and a loop is then verified once
    /// rather than once for every value that it could tell.
    zero: u64,
}
const _: () = assert!(size_of::<Connection>() == 64);

impl Connection {
    /// As socket storage begins.
    pub(super) const NEW: Self = Self {
        start: 0,
        last: 0,
        route: 0,
        cgroup: 0,
        slot: 0,
        row: 0,
        request_next: 0,
        response_next: 0,
        status: 0,
        method: 0,
        role: 0,
        phase: IDLE,
        strikes: 0,
        target: 0,
        interim: false,
        zero: 0,
    };
}

/// `Connection::role`: which way requests go.
pub(super) const SERVER: u8 = 1;
pub(super) const CLIENT: u8 = 2;

/// `Connection::phase`.
pub(super) const IDLE: u8 = 0;
/// A request was seen, its response was not.
pub(super) const AWAITING: u8 = 1;
/// A response is under way, or complete without our knowing yet.
pub(super) const RESPONDING: u8 = 2;
/// Not HTTP/1, or no longer: its packets are not looked at.
pub(super) const OPAQUE: u8 = 3;

/// The state of the socket of a packet; made if `create`. Null without a full socket.
///
/// # Safety
/// `skb` is the context of the program.
#[inline(always)]
pub(super) unsafe fn get(skb: *mut __sk_buff, create: bool) -> *mut Connection {
    // SAFETY: the caller's; the helper checks the socket itself.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return core::ptr::null_mut();
        }
        let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
        let map = core::ptr::from_ref(&CONNECTIONS).cast_mut().cast();
        bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut::<c_void>(), flags).cast()
    }
}

/// Begins a request.
///
/// # Safety
/// `this` is of the socket of `skb`, which is the context of the program.
#[inline(always)]
pub(super) unsafe fn begin(
    this: *mut Connection,
    skb: *mut __sk_buff,
    line: &RouteLine,
    method: Method,
    available: u32,
    now: u64,
) {
    // SAFETY: the caller's.
    unsafe {
        if (*this).cgroup == 0 {
            (*this).cgroup = bpf_skb_cgroup_id(skb);
            (*this).slot = slot((*this).cgroup);
        }
        (*this).start = now;
        (*this).method = method as u8;
        (*this).interim = false;
        // By way of memory, for the same reason.
        core::ptr::write_volatile(&raw mut (*this).target, line.target as u8);
        let target = core::ptr::read_volatile(&raw const (*this).target);
        let target = usize::from(target);
        let zero = core::ptr::read_volatile(&raw const (*this).zero);
        let pattern = pattern((*this).cgroup, line, target, available, zero);
        if pattern != 0 {
            // The user named it: it needs no line, and takes nothing of the budget.
            (*this).route = pattern;
        } else {
            let route = route(line, target, available, zero);
            if route != (*this).route {
                (*this).route = if route == 0 { 0 } else { admit((*this).slot, route, line) };
            }
        }
        (*this).phase = AWAITING;
    }
}

/// The hash of the route of a request line of which `available` bytes are there; 0 if its target goes on in another segment.
///
/// Not inlined: the verifier then takes 84,000 instructions for a packet program rather than 135,000.
#[inline(never)]
fn route(line: &RouteLine, target: usize, available: u32, zero: u64) -> u64 {
    let mut route = Route::opaque(Hash::opaque(zero), zero);
    if target > HEAD - TARGET {
        return 0;
    }
    let mut i = 0;
    while i < TARGET {
        if !route.push(line.bytes[target + i]) {
            return route.finish(false).value();
        }
        i += 1;
    }
    if (available as usize) < HEAD {
        count(Loss::RequestLineSplit);
        return 0;
    }
    route.finish(true).value()
}

/// Makes sure that user space can name the route; 0 (`other`) when its cgroup's budget of routes is spent.
#[inline(always)]
fn admit(slot: u32, route: u64, line: &RouteLine) -> u64 {
    let key = RouteKey { route, slot, reserved: 0 };
    if ROUTES.get_ptr(&key).is_some() {
        return route;
    }
    let Some(owner) = owner(slot) else { return 0 };
    // SAFETY: an array element. Several CPUs may pass at once: the budget can be exceeded by their number.
    unsafe {
        if (*owner).routes >= u64::from(HTTP_ROUTE_BUDGET.load()) || ROUTES.insert(&key, line, 0).is_err() {
            count(Loss::SeriesRows);
            return 0;
        }
        add(&raw mut (*owner).routes, 1);
    }
    route
}

/// Counts a request whose response has not begun. Only the walk before a scrape does, and one at a time.
///
/// # Safety
/// `this` points to a connection.
#[inline(always)]
pub(super) unsafe fn waits(this: *const Connection) {
    // SAFETY: the caller's; an array element.
    unsafe {
        match owner((*this).slot) {
            Some(owner) if (*owner).key == (*this).cgroup || (*this).slot == 0 => (),
            _ => return,
        }
        let Some(active) = ACTIVE.get_ptr_mut((*this).slot) else { return };
        if (*this).role == SERVER {
            (*active).server += 1;
        } else {
            (*active).client += 1;
        }
    }
}

/// Ends a request: one histogram observation.
///
/// # Safety
/// `this` points to a connection in phase `RESPONDING`.
#[inline(always)]
pub(super) unsafe fn end(this: *mut Connection) {
    // SAFETY: the caller's; rows come from the pool, whose indices are checked.
    unsafe {
        (*this).phase = IDLE;
        let (start, last) = ((*this).start, (*this).last);
        if last < start {
            count(Loss::NegativeDelta);
            return;
        }
        match owner((*this).slot) {
            Some(owner) if (*owner).key == (*this).cgroup || (*this).slot == 0 => (),
            _ => return count(Loss::CgroupGone),
        }
        let family = if (*this).role == SERVER { Family::HttpServer } else { Family::HttpClient };
        let key = SeriesKey {
            slot: (*this).slot,
            family: family as u32,
            detail: detail((*this).method, (*this).status),
            route: (*this).route,
        };
        let mut row = series::row((*this).row);
        if !row.is_some_and(|row| series::counts(row, &key)) {
            (*this).row = series::find(&key);
            row = series::row((*this).row);
        }
        if let Some(row) = row {
            series::observe(row, last - start);
        }
    }
}
