//! What is kept per connection, and how a request on it begins and ends.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE},
    btf_maps::{HashMap, SkStorage},
    helpers::generated::{bpf_sk_storage_get, bpf_skb_cgroup_id},
    macros::btf_map,
};

use super::{
    DEFAULT_ROUTES, RouteKey, RouteLine,
    coverage::Reason,
    detail,
    framing::{Cursor, Stream, get, set},
    head::{HEAD, Method},
    table::{START, UNKNOWN},
};
use crate::{
    cgroup::probe::{owner, slot},
    kernel::add,
    loss::{Loss, count},
    series::{Family, SeriesKey, kernel as series},
};

#[btf_map]
pub(super) static CONNECTIONS: SkStorage<Connection> = SkStorage::new();
#[btf_map]
static PIPELINES: SkStorage<Pipeline> = SkStorage::new();
#[btf_map]
static CARRIES: SkStorage<[Carry; 2]> = SkStorage::new();
#[btf_map]
static ROUTES: HashMap<RouteKey, RouteLine, { DEFAULT_ROUTES as usize }> = HashMap::new();

/// How many routes a cgroup may have.
#[unsafe(no_mangle)]
static HTTP_ROUTE_BUDGET: aya_ebpf::Global<u32> = aya_ebpf::Global::new(100);

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
    const NONE: Self = Self { start: 0, route: 0, size: 0, method: 0, reserved: [0; 7] };
}

/// A connection, in its socket's storage: what is left of a cache line beside the kernel's own, and two whole ones. The direction
/// of requests writes `begun`, `epoch` and the requests; that of responses `answered`, `status` and what is measured of them.
/// Both may do so at once, on two CPUs.
#[repr(C)]
pub(super) struct Connection {
    /// The key of the socket's cgroup; 0 before the first payload.
    pub(super) cgroup: u64,
    pub(super) slot: u32,
    pub(super) role: u8,
    /// Why its packets are not looked at, a [`Reason`]; 0 if they are.
    pub(super) opaque: u8,
    /// [`Self::memo`]: the method of the request.
    pub(super) memo_method: u8,
    reserved: u8,
    pub(super) requests: Stream,
    /// The hash of the beginning and the length of the last segment that was a request, whole and of a kind without a body; 0 if
    /// there was none. One like it is the same request again.
    pub(super) memo: u64,
    /// How many requests have begun; it wraps.
    pub(super) begun: u16,
    /// What `begun` was when there was none outstanding.
    pub(super) epoch: u16,
    /// How many have been answered.
    pub(super) answered: u16,
    /// The status of the response that is under way; 0 if none is.
    pub(super) status: u16,

    /// The first request since there was none outstanding.
    pub(super) request: Request,
    /// [`Self::memo`]: its route.
    pub(super) memo_route: u64,
    /// When the response began, and when its last byte so far passed, ns.
    pub(super) first: u64,
    pub(super) last: u64,
    /// The row of the last request.
    pub(super) row: u32,
    /// [`Self::response_memo`]: its status.
    pub(super) memo_status: u16,
    /// Segments seen that were no HTTP, by direction.
    pub(super) strikes: [u8; 2],

    pub(super) responses: Stream,
    /// As [`Self::memo`], of responses, with the digits of the length.
    pub(super) response_memo: u64,
    /// How long its body is, bytes; all of it, if more is to come.
    pub(super) memo_body: u32,
    /// Bytes of payload by direction, and what of them is accounted for already.
    pub(super) bytes: [u32; 2],
    pub(super) settled: [u32; 2],
    /// What arrived before its time: up to where, and from where on; equal if nothing did.
    pub(super) ahead: u32,
    pub(super) hole: u32,
    /// [`Self::response_memo`]: where in the payload the digits are; 0 if there are none, or they are at its beginning.
    pub(super) memo_at: u16,
    /// How long its head is, bytes.
    pub(super) memo_head: u16,
}
const _: () = assert!(size_of::<Connection>() == 184);

impl Connection {
    /// As socket storage begins.
    pub(super) const NEW: Self = Self {
        cgroup: 0,
        slot: 0,
        role: 0,
        opaque: 0,
        memo_method: 0,
        reserved: 0,
        requests: Stream::NEW,
        memo: 0,
        begun: 0,
        epoch: 0,
        answered: 0,
        status: 0,
        request: Request::NONE,
        memo_route: 0,
        first: 0,
        last: 0,
        row: 0,
        memo_status: 0,
        strikes: [0; 2],
        responses: Stream::NEW,
        response_memo: 0,
        memo_body: 0,
        bytes: [0; 2],
        settled: [0; 2],
        ahead: 0,
        hole: 0,
        memo_at: 0,
        memo_head: 0,
    };
}

/// `Connection::role`: which way requests go.
pub(super) const SERVER: u8 = 1;
pub(super) const CLIENT: u8 = 2;

/// How many requests can be outstanding on a connection.
const DEPTH: usize = 32;

/// The requests that wait behind others. In the storage of those sockets only that have ever had one.
#[repr(C)]
struct Pipeline([Request; DEPTH]);

/// The beginning of a first line that came in several segments.
#[repr(C)]
pub(super) struct Carry {
    pub(super) bytes: [u8; HEAD],
    pub(super) len: u32,
    reserved: u32,
    /// When it began, ns.
    pub(super) start: u64,
}

/// What a map of socket storage has of the socket of a packet; made if `create`. Null without a full socket.
///
/// # Safety
/// `skb` is the context of the program.
#[inline(always)]
unsafe fn storage<T>(map: &SkStorage<T>, skb: *mut __sk_buff, create: bool) -> *mut T {
    // SAFETY: the caller's; the helper checks the socket itself.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return core::ptr::null_mut();
        }
        let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
        let map = core::ptr::from_ref(map).cast_mut().cast();
        bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut::<c_void>(), flags).cast()
    }
}

/// The state of the socket of a packet; made if `create`. Null without a full socket.
///
/// # Safety
/// `skb` is the context of the program.
#[inline(always)]
pub(super) unsafe fn of(skb: *mut __sk_buff, create: bool) -> *mut Connection {
    // SAFETY: the caller's.
    unsafe { storage(&CONNECTIONS, skb, create) }
}

/// What is kept of the first lines that are under way on the socket of a packet; null without.
///
/// # Safety
/// `skb` is the context of the program.
#[inline(always)]
pub(super) unsafe fn carry(skb: *mut __sk_buff, responses: bool, create: bool) -> *mut Carry {
    // SAFETY: the caller's; an element of the array.
    unsafe {
        let both: *mut Carry = storage(&CARRIES, skb, create).cast();
        if both.is_null() { both } else { both.add(usize::from(responses)) }
    }
}

/// Finds out whose connection it is.
///
/// # Safety
/// `this` is of the socket of `skb`, which is the context of the program.
#[inline(always)]
pub(super) unsafe fn adopt(this: *mut Connection, skb: *mut __sk_buff) {
    // SAFETY: the caller's.
    unsafe {
        if (*this).cgroup == 0 {
            (*this).cgroup = bpf_skb_cgroup_id(skb);
            (*this).slot = slot((*this).cgroup);
        }
    }
}

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

/// Gives a connection up; for a [`Reason`] and a [`Loss`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_blind(this: *mut Connection, reason: u32, loss: u32) -> u32 {
    if this.is_null() {
        return 0;
    }
    // SAFETY: the verifier's.
    unsafe {
        super::coverage::settle(this);
        set(&raw mut (*this).opaque, reason as u8);
    }
    crate::loss::count_by_index(loss, 1);
    0
}

/// Makes sure that user space can name the route of a request line; 0 (`other`) when its cgroup's budget of routes is spent.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn http_admit(slot: u32, route: u64, line: *const RouteLine) -> u64 {
    let key = RouteKey { route, slot, reserved: 0 };
    if ROUTES.get_ptr(&key).is_some() {
        return route;
    }
    let Some(owner) = owner(slot) else { return 0 };
    if line.is_null() {
        return 0;
    }
    // SAFETY: the verifier's; an array element. Several CPUs may pass at once: the budget can be exceeded by their number.
    unsafe {
        // Verifiers before 6.2 take no value from memory of whose kind they know nothing: it is copied to the stack, by words.
        let mut copy = core::mem::MaybeUninit::<[u64; size_of::<RouteLine>() / 8]>::uninit();
        let (from, to) = (line.cast::<u64>(), copy.as_mut_ptr().cast::<u64>());
        let mut i = 0;
        while i < size_of::<RouteLine>() / 8 {
            set(to.add(i), get(from.add(i)));
            i += 1;
        }
        let is_spent = (*owner).routes >= u64::from(HTTP_ROUTE_BUDGET.load());
        if is_spent || ROUTES.insert(&key, &*copy.as_ptr().cast(), 0).is_err() {
            count(Loss::SeriesRows);
            return 0;
        }
        add(&raw mut (*owner).routes, 1);
    }
    route
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
        let (start, route, size, method) =
            ((*request).start, (*request).route, (*request).size, (*request).method);
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
        let mut key = SeriesKey { slot, family: family as u32, detail: detail(method, status), route };
        let mut row = series::row((*this).row);
        if !row.is_some_and(|row| series::counts(row, &key)) {
            (*this).row = series::find(&key);
            row = series::row((*this).row);
        }
        if let Some(row) = row {
            series::observe(row, last - start);
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
            key.detail = detail(method, 0);
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
            if state != UNKNOWN && state != super::table::CLOSE {
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

/// A method as [`Request`] has it.
#[inline(always)]
pub(super) const fn is(method: u8, which: Method) -> bool {
    method == which as u8
}
