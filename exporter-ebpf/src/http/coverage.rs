//! How much of what connections carried could be parsed, and why the rest could not.

use crate::layout::layout;

/// Why the bytes of a connection are not parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// It speaks TLS.
    Tls = 1,
    /// It speaks HTTP/2.
    Http2 = 2,
    /// It speaks neither HTTP/1 nor a protocol that is told apart.
    Unknown = 3,
    /// It became something else by `101 Switching Protocols` or `CONNECT`.
    Upgraded = 4,
    /// It had more requests outstanding than are kept.
    Pipeline = 5,
    /// It is HTTP, of a message whose beginning was not seen.
    Unmatched = 6,
}

impl Reason {
    /// Every reason, in the order of [`Coverage::unparsed`].
    pub const ALL: [Self; 6] =
        [Self::Tls, Self::Http2, Self::Unknown, Self::Upgraded, Self::Pipeline, Self::Unmatched];

    /// The value of the label `reason`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http2 => "http2",
            Self::Unknown => "unknown",
            Self::Upgraded => "upgraded",
            Self::Pipeline => "pipeline",
            Self::Unmatched => "unmatched",
        }
    }
}

/// The map of [`Coverage`], by slot.
pub const COVERAGE: &str = "COVERAGE";

layout! {
    /// Bytes of payload that the sockets of a cgroup sent and received.
    pub struct Coverage {
        /// Those of messages that were parsed.
        pub parsed: u64,
        /// The others, by [`Reason`].
        pub unparsed: [u64; Reason::ALL.len()],
    }
    size 56
}

#[cfg(target_arch = "bpf")]
mod kernel {
    use aya_ebpf::{btf_maps::Array, macros::btf_map};

    use super::{Coverage, Reason};
    use crate::{
        cgroup::{DEFAULT_SLOTS, probe::owner},
        http::{
            connection::Connection,
            framing::{get, opaque},
        },
        kernel::{MMAPABLE, add},
        loss::{Loss, count},
    };

    #[btf_map]
    static COVERAGE: Array<Coverage, { DEFAULT_SLOTS as usize }, MMAPABLE> = Array::new();

    /// Accounts for the bytes that a connection has carried since it was looked at last. The walk before a scrape and the end of
    /// the connection may do so at once: within some tens of nanoseconds bytes could then count twice.
    ///
    /// # Safety
    /// `this` is a connection.
    #[inline(always)]
    pub(in crate::http) unsafe fn settle(this: *mut Connection) {
        // SAFETY: the caller's; array elements.
        unsafe {
            let (role, opaque) = ((*this).role, get(&raw const (*this).opaque));
            if role == 0 && opaque == 0 {
                // Not known yet what it is.
                return;
            }
            let mut sum = 0;
            let mut direction = 0;
            while direction < 2 {
                let bytes = get((&raw const (*this).bytes).cast::<u32>().add(direction));
                let settled = (&raw mut (*this).settled).cast::<u32>().add(direction);
                sum += u64::from(bytes.wrapping_sub(get(settled)));
                *settled = bytes;
                direction += 1;
            }
            charge(this, opaque, sum);
        }
    }

    /// Adds bytes to the account of a connection's cgroup; `reason` is 0 or a [`Reason`].
    ///
    /// # Safety
    /// `this` is a connection.
    #[inline(always)]
    pub(in crate::http) unsafe fn charge(this: *const Connection, reason: u8, bytes: u64) {
        // SAFETY: the caller's; array elements.
        unsafe {
            let slot = (*this).slot;
            if bytes == 0 {
                return;
            }
            match owner(slot) {
                Some(owner) if (*owner).key == (*this).cgroup || slot == 0 => (),
                _ => return count(Loss::CgroupGone),
            }
            let Some(coverage) = COVERAGE.get_ptr_mut(slot) else { return };
            // Compared as it is used, so that every verifier sees the bound.
            let place = opaque(u32::from(reason));
            if place < (1 + Reason::ALL.len()) as u64 {
                // What is parsed comes first, then the others in their order.
                add(coverage.cast::<u64>().add(place as usize), bytes);
            }
        }
    }

    const _: () = assert!(Reason::Unmatched as usize == Reason::ALL.len());
}
#[cfg(target_arch = "bpf")]
pub(super) use kernel::{charge, settle};

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn reasons_are_in_the_order_of_their_counters() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at + 1, "{}", reason.name());
        }
    }
}
