//! Block I/O: bytes, operations and latency per cgroup, device and direction.
//!
//! What: each request that a block device completes, charged to the cgroup that its first bio belongs to.
//! Hooks: `tp_btf/block_rq_complete`, which alone gives all: the request carries its start, and the bio its cgroup. No map
//! keyed by request. Bio-based devices (device-mapper, md) have no requests: their I/O counts at the devices below.
//! Maps: rows of `series`, by cgroup, device and operation.
//! Metrics: `container_fs_{reads,writes}_total`, `container_fs_{reads,writes}_bytes_total`, `container_fs_io_latency_seconds`.
//! Cost: see `cargo xtask bench`; README has the figure.
//!
//! Latency is from the allocation of the request to its completion, so that queueing counts. A device with `iostats` off
//! keeps no start: its operations count, their latency is not known.

use crate::{Field, Hook, Probe, Signal, Source, cgroup::ID_FIELDS};

/// This signal.
pub const SIGNAL: Signal = Signal {
    name: "block_io",
    summary: "Bytes, operations and latency of block devices.",
    probes: &[Probe {
        program: "block_complete",
        hook: Hook::BtfTracepoint("block_rq_complete"),
        fields: &[
            ID_FIELDS[0],
            ID_FIELDS[1],
            // The request_queue argument before it went in 5.11 (a54895fa057c).
            Field { global: "COMPLETE_RQ", source: Source::Argument("block_rq_complete", "request") },
            Field { global: "REQUEST_FLAGS", source: Source::Offset("request", &["cmd_flags"]) },
            Field { global: "REQUEST_DATA_LEN", source: Source::Offset("request", &["__data_len"]) },
            Field { global: "REQUEST_START", source: Source::Offset("request", &["start_time_ns"]) },
            Field { global: "REQUEST_BIO", source: Source::Offset("request", &["bio"]) },
            Field { global: "REQUEST_Q", source: Source::Offset("request", &["q"]) },
            // request.rq_disk became request.q->disk in 5.17 (f3fa33acca9f); the queue has had it since 5.14 (d152c682f03c).
            Field { global: "REQUEST_DISK", source: Source::Perhaps("request", "rq_disk") },
            Field { global: "QUEUE_DISK", source: Source::Perhaps("request_queue", "disk") },
            Field { global: "DISK_MAJOR", source: Source::Offset("gendisk", &["major"]) },
            Field { global: "DISK_MINOR", source: Source::Offset("gendisk", &["first_minor"]) },
            Field { global: "BIO_BLKG", source: Source::Offset("bio", &["bi_blkg"]) },
            Field { global: "BLKG_BLKCG", source: Source::Offset("blkcg_gq", &["blkcg"]) },
            Field { global: "BLKCG_CGROUP", source: Source::Offset("blkcg", &["css.cgroup"]) },
        ],
        required: true,
    }],
    maps: &[],
};

/// What a row of this signal counts: the device in the upper 56 bits, the operation in the lowest 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detail {
    /// Major number of the whole disk.
    pub major: u32,
    /// First minor number of the whole disk.
    pub minor: u32,
    /// `REQ_OP_*` of linux/blk_types.h: 0 read, 1 write, 2 flush, 3 discard, …
    pub operation: u8,
}

impl Detail {
    /// As the `detail` of a series key.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        // 12 bits of major and 20 of minor, as the kernel's dev_t.
        ((self.major as u64 & 0xfff) << 28) | ((self.minor as u64 & 0xf_ffff) << 8) | self.operation as u64
    }

    /// The reverse of [`Self::pack`].
    pub const fn unpack(detail: u64) -> Self {
        Self {
            major: (detail >> 28) as u32 & 0xfff,
            minor: (detail >> 8) as u32 & 0xf_ffff,
            operation: detail as u8,
        }
    }
}

#[cfg(target_arch = "bpf")]
mod probe {
    use aya_ebpf::{
        Global, helpers::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
    };

    use super::Detail;
    use crate::{
        cgroup::{
            IO_HIERARCHY,
            probe::{id, slot},
        },
        kernel::{add, argument, load},
        loss::{Loss, count},
        series::{
            Family, SeriesKey,
            kernel::{find, observe, row},
        },
    };

    #[unsafe(no_mangle)]
    static COMPLETE_RQ: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static REQUEST_FLAGS: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static REQUEST_DATA_LEN: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static REQUEST_START: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static REQUEST_BIO: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static REQUEST_Q: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static REQUEST_DISK: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static QUEUE_DISK: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static DISK_MAJOR: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static DISK_MINOR: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static BIO_BLKG: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static BLKG_BLKCG: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static BLKCG_CGROUP: Global<u32> = Global::new(0);
    /// Whether the block controller is on a v1 hierarchy, whose ids are not those of v2.
    #[unsafe(no_mangle)]
    static IO_ON_V1: Global<u32> = Global::new(0);

    /// The id of a hierarchy's root, which is charged for I/O without a bio (a flush).
    const ROOT: u64 = 1;

    /// match-proto:v5.11:void block_rq_complete(struct request *rq, blk_status_t error, unsigned int nr_bytes)
    #[btf_tracepoint(function = "block_rq_complete")]
    fn block_complete(ctx: BtfTracePointContext) -> i32 {
        // A constant to the verifier, which drops the other branch.
        // SAFETY: the tracepoint has these arguments, as BTF said.
        let (request, done): (*const u8, u32) = unsafe {
            if COMPLETE_RQ.load() == 1 {
                (argument::<1>(&ctx) as *const u8, argument::<3>(&ctx) as u32)
            } else {
                (argument::<0>(&ctx) as *const u8, argument::<2>(&ctx) as u32)
            }
        };
        // SAFETY: the request is a BTF pointer, and so is all that is loaded from it.
        let (key, start, last) = unsafe {
            let bio: *const u8 = load(request, &REQUEST_BIO);
            let cgroup = load(load(load(bio, &BIO_BLKG), &BLKG_BLKCG), &BLKCG_CGROUP);
            // A load through null gives 0.
            let mut id = id(cgroup);
            if id == 0 {
                id = ROOT;
            }
            if IO_ON_V1.load() != 0 {
                id |= IO_HIERARCHY;
            }
            let disk: *const u8 = if REQUEST_DISK.load() != 0 {
                load(request, &REQUEST_DISK)
            } else {
                load(load(request, &REQUEST_Q), &QUEUE_DISK)
            };
            let detail = Detail {
                major: load(disk, &DISK_MAJOR),
                minor: load(disk, &DISK_MINOR),
                operation: load::<u32>(request, &REQUEST_FLAGS) as u8,
            };
            let key =
                SeriesKey { slot: slot(id), family: Family::BlockIo as u32, detail: detail.pack(), route: 0 };
            // A request may complete in parts; the last has all that remains.
            (key, load::<u64>(request, &REQUEST_START), load::<u32>(request, &REQUEST_DATA_LEN) == done)
        };
        let Some(row) = row(find(&key)) else { return 0 };
        // SAFETY: row() gave it.
        unsafe {
            add(&raw mut (*row).bytes, u64::from(done));
            if !last {
                return 0;
            }
            let now = bpf_ktime_get_ns();
            if start == 0 {
                add(&raw mut (*row).unmeasured, 1);
            } else if now < start {
                add(&raw mut (*row).unmeasured, 1);
                count(Loss::NegativeDelta);
            } else {
                observe(row, now - start);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Detail;

    proptest! {
        #[test]
        fn detail_round_trips(major in 0u32..4096, minor in 0u32..1 << 20, operation: u8) {
            let detail = Detail { major, minor, operation };
            prop_assert_eq!(Detail::unpack(detail.pack()), detail);
        }
    }
}
