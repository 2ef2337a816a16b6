//! Which traces requests were of: a few samples for each series, for a histogram to point at.
//!
//! What: the line `traceparent` (W3C Trace Context, level 1) of a request that is traced, with how long it took. The line is found
//! where heads are read, and taken as it stands; user space says what is in it.
//! Maps: `TRACES` (socket storage of the connections that had such a request), `EXEMPLARS` (row and class of latency -> the last).
//! Cost: a comparison for each line of a head; where there is such a line, one load of 68 bytes, and for one request in [`INTERVAL`]
//! on a connection an update of a hash map. A request with such a line is always read: it is never "like the last one".

use crate::{layout::layout, series::SeriesKey};

/// The map of exemplars.
pub const EXEMPLARS: &str = "EXEMPLARS";
/// How many there can be.
pub const DEFAULT_EXEMPLARS: u32 = 4096;
/// How often a class of a series has a new one at most, ns; a connection also.
pub const INTERVAL: u64 = 1_000_000_000;
/// How long the line is: `traceparent: 00-`, 32 digits of the trace, `-`, 16 of the span, `-`, 2 of flags.
pub const LINE: usize = 68;

layout! {
    /// What an exemplar is of.
    pub struct ExemplarKey {
        /// The row that counted the request.
        pub series: SeriesKey,
        /// How long it took, [`class`].
        pub class: u64,
    }
    size 32
}

layout! {
    /// A request that was traced.
    pub struct Exemplar {
        /// When it ended, ns of CLOCK_MONOTONIC.
        pub at: u64,
        /// How long it took, ns.
        pub nanos: u64,
        /// The line of its head, and 4 bytes that are 0.
        pub line: [u8; LINE + 4],
    }
    size 88
}

/// Which class a latency is of, so that slow requests are not driven out by the many that are fast: below 8 ms, 67 ms, 537 ms,
/// and the rest.
#[inline(always)]
pub const fn class(nanos: u64) -> u64 {
    match nanos >> 23 {
        0 => 0,
        1..8 => 1,
        8..64 => 2,
        _ => 3,
    }
}

/// Whether the flags say that the trace is recorded somewhere: bit 0 of the last of the digits.
#[inline(always)]
pub const fn is_recorded(digit: u8) -> bool {
    // Of letters the odd ones are even digits.
    (digit ^ digit >> 6) & 1 != 0
}

#[cfg(target_arch = "bpf")]
pub(super) mod kernel {
    use aya_ebpf::{
        bindings::{__sk_buff, BPF_F_NO_PREALLOC},
        btf_maps::{HashMap, SkStorage},
        macros::btf_map,
    };

    use super::{DEFAULT_EXEMPLARS, Exemplar, ExemplarKey, INTERVAL, LINE, class, is_recorded};
    use crate::{
        http::{
            connection::{Connection, storage},
            framing::{Cursor, Source as _, get, set},
            packet::{Packet, now},
            pipeline::{self, Request},
        },
        kernel::seldom,
        loss::{Loss, count},
        series::kernel as series,
    };

    #[btf_map]
    static TRACES: SkStorage<Trace> = SkStorage::new();
    #[btf_map]
    static EXEMPLARS: HashMap<
        ExemplarKey,
        Exemplar,
        { DEFAULT_EXEMPLARS as usize },
        { BPF_F_NO_PREALLOC as usize },
    > = HashMap::new();

    /// The request of a connection that is followed.
    #[repr(C)]
    struct Trace {
        exemplar: Exemplar,
        /// When the last one began, ns.
        began: u64,
        /// Its number: [`Connection::begun`] before it.
        number: u16,
        reserved: [u16; 3],
    }

    /// Takes a line `traceparent` that was found in the head of the request that began last, if it is to be followed.
    #[unsafe(no_mangle)]
    #[inline(never)]
    pub(in crate::http) extern "C" fn http_trace(
        skb: *mut __sk_buff,
        this: *mut Connection,
        cursor: *mut Cursor,
    ) -> u32 {
        if this.is_null() || cursor.is_null() {
            return 0;
        }
        // SAFETY: the verifier's: both have the size of their types, and `skb` is the context.
        unsafe {
            let line = get(&raw const (*cursor).trace_at).wrapping_sub(1);
            set(&raw mut (*cursor).trace_at, 0);
            (*this).memo_method = 0;
            // The storage of a socket that listens is of no connection.
            let is_shared = get(&raw const (*cursor).shared) != 0;
            if (*this).traced != 0 || pipeline::depth(this) == 0 || is_shared {
                return 0;
            }
            let trace = storage(&TRACES, skb, true);
            if trace.is_null() {
                return 0;
            }
            let now = now(skb, cursor);
            if now.wrapping_sub((*trace).began) < INTERVAL {
                return 0;
            }
            let packet = Packet { skb, offset: get(&raw const (*cursor).offset) };
            let to = (&raw mut (*trace).exemplar.line).cast::<u8>();
            // A line that goes on in the next segment is left.
            if !packet.load(line, to, LINE as u32) || !is_recorded(get(to.add(LINE - 1))) {
                return 0;
            }
            (*trace).began = now;
            (*trace).number = get(&raw const (*this).begun).wrapping_sub(1);
            (*this).traced = 1;
        }
        1
    }

    /// Ends a request: see [`pipeline::http_end`]; and keeps the trace that it was of.
    ///
    /// # Safety
    /// `this` is of the socket of `skb`, which is the context of the program; `request` is its oldest, or null.
    #[inline(always)]
    pub(in crate::http) unsafe fn end(skb: *mut __sk_buff, this: *mut Connection, request: *mut Request) {
        // SAFETY: the caller's.
        unsafe {
            let is_counted = pipeline::http_end(this, request);
            if (*this).traced != 0 {
                seldom();
                http_exemplar(skb, this, request, is_counted);
            }
        }
    }

    /// Keeps the trace of the request that was answered last, if it is the one that is followed.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn http_exemplar(
        skb: *mut __sk_buff,
        this: *mut Connection,
        request: *mut Request,
        is_counted: u32,
    ) -> u32 {
        if this.is_null() || request.is_null() {
            return 0;
        }
        // SAFETY: the verifier's: all have the size of their types, and `skb` is the context.
        unsafe {
            let trace = storage(&TRACES, skb, false);
            if trace.is_null() {
                (*this).traced = 0;
                return 0;
            }
            let answered = get(&raw const (*this).answered).wrapping_sub(1);
            let ahead = (*trace).number.wrapping_sub(answered) as i16;
            if ahead > 0 {
                return 0;
            }
            (*this).traced = 0;
            let Some(row) = series::row((*this).row) else { return 0 };
            if ahead < 0 || is_counted == 0 {
                return 0;
            }
            let (at, start) = ((*this).last, (*request).start);
            if at < start {
                // The next request has taken its place, on another CPU.
                return 0;
            }
            let nanos = at - start;
            let key = ExemplarKey { series: (*row).key, class: class(nanos) };
            if let Some(last) = EXEMPLARS.get_ptr(&key)
                && at.wrapping_sub((*last).at) < INTERVAL
            {
                return 0;
            }
            (*trace).exemplar.at = at;
            (*trace).exemplar.nanos = nanos;
            // The whole value is replaced: a reader has the old one or the new one.
            if EXEMPLARS.insert(&key, &(*trace).exemplar, 0).is_err() {
                count(Loss::ExemplarsFull);
            }
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_by_latency() {
        let classes = [0, 8_388_607, 8_388_608, 67_108_863, 67_108_864, 536_870_912, u64::MAX].map(class);
        assert_eq!(classes, [0, 0, 1, 1, 2, 3, 3]);
    }

    #[test]
    fn the_lowest_bit_of_a_digit_is_told() {
        for digit in 0..16_u8 {
            let [small, large] = [format!("{digit:x}"), format!("{digit:X}")];
            let odd = digit % 2 == 1;
            assert_eq!([is_recorded(small.as_bytes()[0]), is_recorded(large.as_bytes()[0])], [odd; 2]);
        }
    }
}
