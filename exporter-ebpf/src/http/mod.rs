//! HTTP/1.x requests, at the server and at the client, in plaintext.
//!
//! What: each request with its method, route, status and latency, in histograms that the kernel fills: no event per request.
//! Hooks: `cgroup_skb` ingress and egress at the root of cgroup v2. Every path returns 1: a 0 would drop the packet.
//! `tp_btf/tcp_destroy_sock` (4.16+) ends what a connection leaves behind; `iter/bpf_sk_storage_map` (5.9+), when scraped, counts the
//! requests that wait and accounts for what connections carried (where a kernel refuses it, see [`crate::socket`]). Functions that are
//! verified by themselves: 5.12+.
//! Maps: `CONNECTIONS` (socket storage, 184 bytes), `PIPELINES`, `CARRIES`, `TRACES` and `WALKED` (socket storage of the few that need it),
//! `DEFERRED` (connections that have no socket yet), `ACTIVE` (by slot: the requests that wait), `COVERAGE` (by slot: bytes), `ROUTES`
//! (slot and route hash -> the request line), `PATTERNS`, `LITERALS` and `SCOPES` (see [`pattern`]), `EXEMPLARS` (see [`exemplar`]),
//! rows of `series`.
//! Metrics: `http_{server,client}_*`, `podmeter_http_coverage_*`.
//! Cost: see `cargo xtask bench`; README has the figure.
//!
//! Latency is from the first byte of the request at the socket to the last byte of the response: the server's view with its
//! queueing included. Each direction of a connection is followed byte by byte of its sequence numbers: first lines and heads
//! are read (`request`, `response`, `framing`), bodies are crossed by arithmetic. A segment that begins like the last one that
//! was a whole message, or the beginning of one whose length it told, and is as long, is not read again. What arrives out of order within a body is waited for; within a head,
//! or where the head was not seen, the end of the message is not known, and is taken to be the next request, the end
//! of the connection, or [`IDLE`] without a byte.

pub mod coverage;
pub mod exemplar;
pub mod framing;
pub mod head;
mod line;
pub mod pattern;
pub mod route;
pub mod table;

use crate::{Field, Hook, Probe, Signal, layout::layout, socket};

/// This signal.
pub const SIGNAL: Signal = Signal {
    name: "http",
    summary: "Requests and latency by method, route and status, at server and client.",
    probes: &[
        Probe { program: "http_ingress", hook: Hook::CgroupSkbIngress, fields: NONE, required: true },
        Probe { program: "http_egress", hook: Hook::CgroupSkbEgress, fields: NONE, required: true },
        Probe {
            program: "http_closed",
            hook: Hook::BtfTracepoint("tcp_destroy_sock"),
            fields: NONE,
            required: false,
        },
        FLUSH,
    ],
    maps: &[
        CONNECTIONS,
        "PIPELINES",
        "CARRIES",
        "TRACES",
        "WALKED",
        exemplar::EXEMPLARS,
        "DEFERRED",
        ACTIVE,
        coverage::COVERAGE,
        ROUTES,
        PATTERNS,
        LITERALS,
        SCOPES,
    ],
};

const NONE: &[Field] = &[];

/// Ends the last requests of idle connections, and counts the requests that wait.
pub const FLUSH: Probe = Probe {
    program: "http_flush",
    hook: Hook::IterSockets { storage: CONNECTIONS, by_file: "http_flush_files" },
    fields: &socket::FIELDS,
    required: false,
};
/// The socket storage.
const CONNECTIONS: &str = "CONNECTIONS";
/// The map of [`Active`], by slot: user space sets it to 0 before a walk.
pub const ACTIVE: &str = "ACTIVE";
/// The map of routes.
pub const ROUTES: &str = "ROUTES";
/// The map of [`pattern::Patterns`], of one element.
pub const PATTERNS: &str = "PATTERNS";
/// The map of [`pattern::Literal`].
pub const LITERALS: &str = "LITERALS";
/// The map of the patterns of the cgroups that have their own.
pub const SCOPES: &str = "SCOPES";

/// After how long without a byte a response whose end is not known counts as complete, ns.
pub const IDLE: u64 = 2_000_000_000;
/// How many routes all cgroups together can have unless a flag says otherwise.
pub const DEFAULT_ROUTES: u32 = 4096;

layout! {
    /// Requests of a cgroup whose response has not ended.
    pub struct Active {
        /// Those that it has to answer.
        pub server: u32,
        /// Those that it made.
        pub client: u32,
    }
    size 8
}

layout! {
    /// A route of a cgroup.
    pub struct RouteKey {
        /// The hash of the normalised route.
        pub route: u64,
        /// The cgroup's slot.
        pub slot: u32,
        /// Keeps the size explicit.
        pub reserved: u32,
    }
    size 16
}

layout! {
    /// The request line that a route was first seen with.
    pub struct RouteLine {
        /// Where the target begins.
        pub target: u32,
        /// Keeps the size explicit.
        pub reserved: u32,
        /// Its first bytes.
        pub bytes: [u8; head::HEAD],
    }
    size head::HEAD + 8
}

/// What a row counts: the status in the upper bytes, the method in the lowest.
#[inline(always)]
pub const fn detail(method: u8, status: u16) -> u64 {
    (status as u64) << 8 | method as u64
}

/// The method and the status of a row's detail.
pub fn parse_detail(detail: u64) -> (Option<head::Method>, u16) {
    let method = head::Method::ALL.into_iter().find(|method| *method as u64 == detail & 0xff);
    (method, (detail >> 8) as u16)
}

#[cfg(target_arch = "bpf")]
mod closing;
#[cfg(target_arch = "bpf")]
mod connection;
#[cfg(target_arch = "bpf")]
mod deferred;
#[cfg(target_arch = "bpf")]
mod disorder;
#[cfg(target_arch = "bpf")]
mod memo;
#[cfg(target_arch = "bpf")]
mod opening;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod pipeline;
#[cfg(target_arch = "bpf")]
mod probe;
#[cfg(target_arch = "bpf")]
mod request;
#[cfg(target_arch = "bpf")]
mod response;
