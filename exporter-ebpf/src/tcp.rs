//! TCP: bytes, connections made and refused, retransmits, resets and round-trip times per cgroup.
//!
//! What: what the sockets of a cgroup sent and received, whatever they speak, in every network namespace and the host's.
//! Hooks: `tp_btf/inet_sock_set_state`, `tcp_send_reset`, `tcp_receive_reset` (4.16+): nothing in them happens per packet. The
//! kernel counts bytes and retransmits and smooths round-trip times per socket by itself; what a socket has more than when it was
//! last read is added when it closes and, by an iterator over the sockets' storage, before a scrape (socket storage in tracing
//! programs: 5.11+; where a kernel refuses that iterator, see [`crate::socket`]). Sockets that are older than the agent get their
//! storage from `iter/task_file`, once.
//! Maps: `TCP` (by slot), `TCP_SOCKETS` (socket storage), rows of `series`.
//! Metrics: `container_tcp_*`.
//! Cost: see `cargo xtask bench`; README has the figure.
//!
//! Bytes are payload, once each: `bytes_sent` less `bytes_retrans`, and `bytes_received` less the sequence number that a FIN
//! takes. A socket that no process has open when the agent starts (in a queue for accept, or on its way between two
//! processes) is not counted, nor is any from before if the agent has a PID namespace of its own. A connection that fails before
//! a packet was sent (no route, no port) is no failed connection here: `connect` says so at once.

use crate::{Field, Hook, Probe, Signal, Source, cgroup::ID_FIELDS, layout::layout, socket};

/// This signal.
pub const SIGNAL: Signal = Signal {
    name: "tcp",
    summary: "Bytes, connections, failures, retransmits, resets and round-trip times.",
    probes: &[
        Probe {
            program: "tcp_state",
            hook: Hook::BtfTracepoint("inet_sock_set_state"),
            fields: SOCKET_FIELDS,
            required: true,
        },
        Probe {
            program: "tcp_reset_out",
            hook: Hook::BtfTracepoint("tcp_send_reset"),
            fields: OWNER_FIELDS,
            required: false,
        },
        Probe {
            program: "tcp_reset_in",
            hook: Hook::BtfTracepoint("tcp_receive_reset"),
            fields: OWNER_FIELDS,
            required: false,
        },
        // Without it a connection counts when it closes.
        WALK,
        // Without it what was open before does not count.
        Probe { program: ADOPT, hook: Hook::IterTaskFile, fields: SOCKET_FIELDS, required: false },
    ],
    maps: &[TCP, SOCKETS],
};

const OWNER_FIELDS: &[Field] = &[
    ID_FIELDS[0],
    ID_FIELDS[1],
    Field { global: "SOCK_CGROUP", source: Source::Offset("sock", &["sk_cgrp_data.cgroup"]) },
    Field { global: "SOCK_STATE", source: Source::Offset("sock", &["__sk_common.skc_state"]) },
];

const SOCKET_FIELDS: &[Field] = &[
    OWNER_FIELDS[0],
    OWNER_FIELDS[1],
    OWNER_FIELDS[2],
    OWNER_FIELDS[3],
    socket::FIELDS[0],
    socket::FIELDS[1],
    Field { global: "SOCK_ERR", source: Source::Offset("sock", &["sk_err"]) },
    Field { global: "SOCK_FLAGS", source: Source::Offset("sock", &["__sk_common.skc_flags"]) },
    Field { global: "SOCK_DONE", source: Source::Enumerator("sock_flags", "SOCK_DONE") },
    // Of 4.18 and 4.19.
    Field { global: "TCP_BYTES_RECEIVED", source: Source::Offset("tcp_sock", &["bytes_received"]) },
    Field { global: "TCP_BYTES_SENT", source: Source::Offset("tcp_sock", &["bytes_sent"]) },
    Field { global: "TCP_BYTES_RETRANS", source: Source::Offset("tcp_sock", &["bytes_retrans"]) },
    Field { global: "TCP_TOTAL_RETRANS", source: Source::Offset("tcp_sock", &["total_retrans"]) },
    Field { global: "TCP_SRTT", source: Source::Offset("tcp_sock", &["srtt_us"]) },
];

/// The map of [`Tcp`], by slot.
pub const TCP: &str = "TCP";
/// The sockets' storage.
const SOCKETS: &str = "TCP_SOCKETS";
/// Adds what open connections have moved.
pub const WALK: Probe = Probe {
    program: "tcp_walk",
    hook: Hook::IterSockets { storage: SOCKETS, by_file: "tcp_walk_files" },
    fields: SOCKET_FIELDS,
    required: false,
};
/// The program that gives storage to connections that are open already.
pub const ADOPT: &str = "tcp_adopt";

/// Why a connection could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Failure {
    /// The other end answered with a reset.
    Refused,
    /// No answer came.
    Timeout,
    /// A router or the other host said that there is no way.
    Unreachable,
    /// The application gave up before there was an answer.
    Aborted,
    /// Anything else.
    Other,
}

impl Failure {
    /// Every reason, in the order of [`Tcp::failed`].
    pub const ALL: [Self; 5] = [Self::Refused, Self::Timeout, Self::Unreachable, Self::Aborted, Self::Other];

    /// The value of the label `reason`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Aborted => "aborted",
            Self::Other => "other",
        }
    }

    /// What `sk_err` says of a socket that went from SYN_SENT to CLOSE.
    pub const fn of(error: u32) -> Self {
        match error {
            111 => Self::Refused,
            110 => Self::Timeout,
            // ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH.
            100 | 101 | 112 | 113 => Self::Unreachable,
            0 => Self::Aborted,
            _ => Self::Other,
        }
    }
}

layout! {
    /// What the sockets of a cgroup did.
    pub struct Tcp {
        /// Payload received in order, bytes.
        pub received: u64,
        /// Payload sent, bytes, retransmissions not among them.
        pub sent: u64,
        /// Handshakes completed that the other end began.
        pub accepted: u64,
        /// Handshakes completed that this end began.
        pub opened: u64,
        /// Handshakes that this end began in vain, by [`Failure`].
        pub failed: [u64; 5],
        /// Segments sent again.
        pub retransmits: u64,
        /// Resets sent.
        pub resets_sent: u64,
        /// Resets received.
        pub resets_received: u64,
        /// The row of its round-trip times; 0 before the first.
        pub row: u32,
        /// Keeps the size explicit.
        pub reserved: u32,
    }
    size 104
}

#[cfg(target_arch = "bpf")]
mod probe;

#[cfg(test)]
mod tests {
    use super::Failure;

    #[test]
    fn failures_are_in_the_order_of_their_counters() {
        for (at, failure) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, at, "{}", failure.name());
        }
    }
}
