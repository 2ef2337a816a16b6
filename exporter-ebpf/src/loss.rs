//! What the kernel half could not count, and why: every loss has a counter, so that a gap is seen as one.

/// Why something was not counted where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Loss {
    /// No free cgroup slot: charged to the `unattributed` slot.
    CgroupSlots,
    /// No free histogram row, or the cgroup's budget of routes is spent: counted in the total, or under `other`.
    SeriesRows,
    /// The event ring was full: a cgroup's birth or death was not reported, so user space walks the tree again.
    CgroupEvents,
    /// The scheduler clock stood behind the start of the slice or wait.
    NegativeDelta,
    /// The kernel did not report that a task got its CPU: it is charged by the clock, what ran before it is not.
    SwitchUnseen,
    /// No socket storage could be had: the connection is not measured.
    SocketStorage,
    /// A connection speaks TLS.
    ConnectionTls,
    /// A connection speaks HTTP/2.
    ConnectionHttp2,
    /// A connection speaks neither HTTP/1 nor a protocol that is told apart.
    ConnectionUnknown,
    /// A connection became something else by `101 Switching Protocols` or `CONNECT`.
    ConnectionUpgraded,
    /// More requests were outstanding on a connection than are kept: it is not measured any more.
    RequestPipelined,
    /// A connection ended before its request was answered.
    RequestUnanswered,
    /// A response began whose request was not seen (the connection is older than the agent).
    ResponseUnmatched,
    /// A request line came in several segments, and its beginning could not be kept: counted under `other`.
    RequestLineSplit,
    /// Where a message ended could not be told, for want of a segment of its head or chunks in order, or for their length: it ends with
    /// the next request, with the connection, or when nothing comes for a while.
    FramingLost,
    /// The cgroup of a socket is gone: its last requests have no owner.
    CgroupGone,
    /// No room for another exemplar: a request is counted, and its trace is not told.
    ExemplarsFull,
}

impl Loss {
    /// Every loss, in the order of the kernel's counters.
    pub const ALL: [Self; 17] = [
        Self::CgroupSlots,
        Self::SeriesRows,
        Self::CgroupEvents,
        Self::NegativeDelta,
        Self::SwitchUnseen,
        Self::SocketStorage,
        Self::ConnectionTls,
        Self::ConnectionHttp2,
        Self::ConnectionUnknown,
        Self::ConnectionUpgraded,
        Self::RequestPipelined,
        Self::RequestUnanswered,
        Self::ResponseUnmatched,
        Self::RequestLineSplit,
        Self::FramingLost,
        Self::CgroupGone,
        Self::ExemplarsFull,
    ];

    /// The name in the `reason` label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CgroupSlots => "cgroup_slots_full",
            Self::SeriesRows => "series_full",
            Self::CgroupEvents => "cgroup_events_full",
            Self::NegativeDelta => "negative_delta",
            Self::SwitchUnseen => "switch_unseen",
            Self::SocketStorage => "socket_storage_failed",
            Self::ConnectionTls => "connection_tls",
            Self::ConnectionHttp2 => "connection_http2",
            Self::ConnectionUnknown => "connection_unknown",
            Self::ConnectionUpgraded => "connection_upgraded",
            Self::RequestPipelined => "request_pipelined",
            Self::RequestUnanswered => "request_unanswered",
            Self::ResponseUnmatched => "response_unmatched",
            Self::RequestLineSplit => "request_line_split",
            Self::FramingLost => "framing_lost",
            Self::CgroupGone => "cgroup_gone",
            Self::ExemplarsFull => "exemplars_full",
        }
    }
}

/// The map of the counters, indexed by [`Loss`].
pub const LOSSES: &str = "LOSSES";

#[cfg(target_arch = "bpf")]
pub(crate) mod kernel {
    use aya_ebpf::{btf_maps::Array, macros::btf_map};

    use super::Loss;
    use crate::kernel::{MMAPABLE, add, seldom};

    #[btf_map]
    static LOSSES: Array<u64, { Loss::ALL.len() }, MMAPABLE> = Array::new();

    /// Counts one loss.
    #[inline(always)]
    pub(crate) fn count(loss: Loss) {
        count_many(loss, 1);
    }

    /// Counts losses of a kind.
    #[inline(always)]
    pub(crate) fn count_many(loss: Loss, losses: u64) {
        count_by_index(loss as u32, losses);
    }

    /// The same, where a [`Loss`] came through what the verifier checks by itself as a number.
    #[inline(always)]
    pub(crate) fn count_by_index(loss: u32, losses: u64) {
        seldom();
        if let Some(counter) = LOSSES.get_ptr_mut(loss) {
            // SAFETY: an element of a BPF array, which lives as long as the program.
            unsafe { add(counter, losses) }
        }
    }
}
#[cfg(target_arch = "bpf")]
pub(crate) use kernel::{count, count_by_index, count_many};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_counter_order() {
        for (i, loss) in Loss::ALL.iter().enumerate() {
            assert_eq!(*loss as usize, i);
        }
    }
}
