//! What is kept per connection, whose it is, and which routes there are.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE},
    btf_maps::{HashMap, SkStorage},
    helpers::generated::{bpf_sk_storage_get, bpf_skb_cgroup_id},
    macros::btf_map,
};

use super::{
    DEFAULT_ROUTES, RouteKey, RouteLine,
    framing::{Stream, get, set},
    head::{HEAD, Method},
    pipeline::Request,
};
use crate::{
    cgroup::probe::{owner, slot},
    kernel::add,
    loss::{Loss, count},
};

#[btf_map]
pub(super) static CONNECTIONS: SkStorage<Connection> = SkStorage::new();
#[btf_map]
static CARRIES: SkStorage<[Carry; 2]> = SkStorage::new();
#[btf_map]
static ROUTES: HashMap<RouteKey, RouteLine, { DEFAULT_ROUTES as usize }> = HashMap::new();

/// How many routes a cgroup may have.
#[unsafe(no_mangle)]
static HTTP_ROUTE_BUDGET: aya_ebpf::Global<u32> = aya_ebpf::Global::new(100);

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
    /// Whether one of its requests is followed: see [`super::exemplar`].
    pub(super) traced: u8,
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
        traced: 0,
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
pub(super) unsafe fn storage<T>(map: &SkStorage<T>, skb: *mut __sk_buff, create: bool) -> *mut T {
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

/// A method as [`Request`] has it.
#[inline(always)]
pub(super) const fn is(method: u8, which: Method) -> bool {
    method == which as u8
}
