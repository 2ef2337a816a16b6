//! Histogram rows: one bounded pool for every signal, filled by the kernel and read by user space as memory.
//!
//! Maps: `SERIES` (key -> row), `SERIES_CACHE` (a direct-mapped cache of it), `ROWS` (the rows), `FREE_ROWS` (a queue that user space fills: it owns allocation, and takes a
//! row back only after its cgroup has died and been read).

use crate::{histogram::BUCKETS, layout::layout};

/// How many rows there are unless a flag says otherwise; 1.8 KiB each.
pub const DEFAULT_ROWS: u32 = 4096;

/// The map of keys to rows.
pub const SERIES: &str = "SERIES";
/// The map of rows.
pub const ROWS: &str = "ROWS";
/// The queue of free rows.
pub const FREE_ROWS: &str = "FREE_ROWS";

layout! {
    /// What a row counts.
    pub struct SeriesKey {
        /// The cgroup's slot.
        pub slot: u32,
        /// A [`Family`].
        pub family: u32,
        /// The family's own: device and operation, or method and status.
        pub detail: u64,
        /// The hash of an HTTP route; 0 elsewhere, and for the route `other`.
        pub route: u64,
    }
    size 24
}

/// The family of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Family {
    /// A free row.
    Free = 0,
    /// Run-queue waits.
    CpuWait = 1,
    /// Block I/O completions.
    BlockIo = 2,
    /// Requests served.
    HttpServer = 3,
    /// Requests made.
    HttpClient = 4,
    /// Smoothed round-trip times.
    TcpRtt = 5,
    /// Those requests served whose response took more than one segment; [`Self::HttpServer`] has the others.
    HttpServerLong = 6,
    /// Requests made, likewise.
    HttpClientLong = 7,
    /// Times to the first byte of the responses of [`Self::HttpServerLong`]; of the others it is the last as well.
    HttpServerFirst = 8,
    /// Requests made, likewise.
    HttpClientFirst = 9,
}

layout! {
    /// A histogram in nanoseconds, with what goes along with it.
    pub struct Row {
        /// What it counts; `family` is written last, so that a row is never seen half made.
        pub key: SeriesKey,
        /// The sum of the observations, ns.
        pub sum: u64,
        /// Bytes moved (block I/O), or of the bodies of responses (HTTP).
        pub bytes: u64,
        /// Bytes of the bodies of requests (HTTP).
        pub received: u64,
        /// Events whose latency is not known, and which are in no bucket.
        pub unmeasured: u64,
        /// Keeps the buckets on their own cache lines.
        pub reserved: u64,
        /// Observations by [`crate::histogram::index`].
        pub buckets: [u64; BUCKETS],
    }
    size 64 + 8 * BUCKETS
}

#[cfg(target_arch = "bpf")]
pub(crate) mod kernel {
    use aya_ebpf::{
        btf_maps::{Array, HashMap, Queue},
        macros::btf_map,
    };

    use super::{DEFAULT_ROWS, Family, Row, SeriesKey};
    use crate::{
        histogram,
        kernel::{MMAPABLE, add},
        loss::{Loss, count},
    };

    #[btf_map]
    static SERIES: HashMap<SeriesKey, u32, { DEFAULT_ROWS as usize }> = HashMap::new();
    #[btf_map]
    static ROWS: Array<Row, { DEFAULT_ROWS as usize }, MMAPABLE> = Array::new();
    #[btf_map]
    static FREE_ROWS: Queue<u32, { DEFAULT_ROWS as usize }> = Queue::new();

    /// Row indices by a hash of the key; whether a row is the key's stands in the row.
    #[btf_map]
    static SERIES_CACHE: Array<u32, CACHE_ENTRIES> = Array::new();

    const BPF_NOEXIST: u64 = 1;
    const CACHE_ENTRIES: usize = 4096;

    /// The row of a key, made at first sight; 0 (never a row) when there is none left.
    #[inline(always)]
    pub(crate) fn find(key: &SeriesKey) -> u32 {
        let mixed =
            (key.route ^ key.detail ^ (u64::from(key.slot) << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let at = (mixed >> 52) as u32 & (CACHE_ENTRIES as u32 - 1);
        let Some(cached) = SERIES_CACHE.get_ptr_mut(at) else { return 0 };
        // SAFETY: an array element, one word, which is read and written whole.
        unsafe {
            let index = core::ptr::read_volatile(cached);
            if row(index).is_some_and(|row| counts(row, key)) {
                return index;
            }
            let index = make(key);
            core::ptr::write_volatile(cached, index);
            index
        }
    }

    /// The row of a key by the map itself.
    ///
    /// Two CPUs may make the same row at once: the map decides, and the loser gives its row back.
    #[inline(never)]
    fn make(key: &SeriesKey) -> u32 {
        // SAFETY: the value is copied out at once.
        if let Some(&row) = unsafe { SERIES.get(key) } {
            return row;
        }
        let Ok(Some(row)) = FREE_ROWS.pop() else {
            count(Loss::SeriesRows);
            return 0;
        };
        let Some(fresh) = ROWS.get_ptr_mut(row) else { return 0 };
        // SAFETY: an array element that nobody else uses before it is in SERIES.
        unsafe {
            (*fresh).key.slot = key.slot;
            (*fresh).key.detail = key.detail;
            (*fresh).key.route = key.route;
        }
        if SERIES.insert(key, row, BPF_NOEXIST).is_ok() {
            // SAFETY: as above; volatile, so that it is not moved before the others.
            unsafe { core::ptr::write_volatile(&raw mut (*fresh).key.family, key.family) };
            return row;
        }
        _ = FREE_ROWS.push(row, 0);
        // SAFETY: the value is copied out at once.
        match unsafe { SERIES.get(key) } {
            Some(&row) => row,
            None => {
                count(Loss::SeriesRows);
                0
            }
        }
    }

    /// The row with this index, if it is one.
    #[inline(always)]
    pub(crate) fn row(index: u32) -> Option<*mut Row> {
        if index == 0 { None } else { ROWS.get_ptr_mut(index) }
    }

    /// Adds one observation.
    ///
    /// # Safety
    /// `row` came from [`row`].
    #[inline(always)]
    pub(crate) unsafe fn observe(row: *mut Row, nanos: u64) {
        let bucket = histogram::index(nanos);
        // SAFETY: index() is below BUCKETS.
        unsafe {
            add((&raw mut (*row).buckets).cast::<u64>().add(bucket), 1);
            add(&raw mut (*row).sum, nanos);
        }
    }

    /// Whether the row counts this key: rows are used again.
    ///
    /// # Safety
    /// `row` came from [`row`].
    #[inline(always)]
    pub(crate) unsafe fn counts(row: *const Row, key: &SeriesKey) -> bool {
        // SAFETY: an array element.
        unsafe {
            (*row).key.family == key.family
                && (*row).key.slot == key.slot
                && (*row).key.detail == key.detail
                && (*row).key.route == key.route
        }
    }

    const _: () = assert!(Family::Free as u32 == 0, "a zeroed row is free");
}
