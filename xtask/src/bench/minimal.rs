//! The least that can know a request: what podmeter's packet programs are compared with.
//!
//! It gets the socket's storage, copies 64 bytes from where the payload begins over loopback, and adds one to a bucket of a
//! histogram. It knows neither where a head is nor what is in it, measures no time, and so does not do the job: but no program
//! that does can do less for a packet with a head.

use std::{
    fs::File,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::sys::{self, Attached, EGRESS, INGRESS, Instruction, MapCreate};

/// What podmeter keeps for a connection has as many bytes, or more.
const STATE: u32 = 64;
/// How many bytes are copied, and from where: behind IPv4 without options, and TCP with timestamps.
const HEAD: i16 = 64;
const PAYLOAD: i32 = 52;
/// The buckets of the histogram.
const BUCKETS: u32 = 64;

/// Offset in `struct __sk_buff`.
const SKB_SK: i16 = 168;
/// Helpers.
const SKB_LOAD_BYTES: i32 = 26;
const SK_STORAGE_GET: i32 = 107;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

/// `r0 = result; exit`.
pub(super) const fn passes(result: i32) -> [Instruction; 2] {
    [instruction(0xb7, 0, 0, 0, result), instruction(0x95, 0, 0, 0, 0)]
}

/// Attaches programs that do nothing: to what arrives, and to what is sent.
pub(super) fn attach_empty(cgroup: &Path) -> Result<[Attached; 2]> {
    attach(cgroup, &passes(1))
}

/// Attaches the least that can know a request: to what arrives, and to what is sent.
pub(super) fn attach_minimal(cgroup: &Path) -> Result<[Attached; 2]> {
    let storage = storage().context("cannot make socket storage")?;
    let histogram = sys::map(MapCreate {
        map_type: 2, // BPF_MAP_TYPE_ARRAY, whose one value the program has the address of.
        key_size: 4,
        value_size: 8 * BUCKETS,
        max_entries: 1,
        ..MapCreate::default()
    });
    let histogram = histogram.context("cannot make an array")?;
    // The programs keep their maps.
    attach(cgroup, &least(&storage, &histogram))
}

fn attach(cgroup: &Path, code: &[Instruction]) -> Result<[Attached; 2]> {
    let directory = File::open(cgroup).with_context(|| format!("cannot open {}", cgroup.display()))?;
    let one = |attach_type| {
        Attached::packets(directory.as_fd(), attach_type, code)
            .with_context(|| format!("cannot attach a program to the packets of {}", cgroup.display()))
    };
    Ok([one(INGRESS)?, one(EGRESS)?])
}

/// Socket storage, of which the kernel wants to know the type.
fn storage() -> std::io::Result<OwnedFd> {
    let types = sys::btf(&types())?;
    sys::map(MapCreate {
        map_type: 24, // BPF_MAP_TYPE_SK_STORAGE
        key_size: 4,
        value_size: STATE,
        map_flags: 1, // BPF_F_NO_PREALLOC, as it must be
        btf_fd: types.as_raw_fd().cast_unsigned(),
        btf_key_type_id: 1,
        btf_value_type_id: 3,
        ..MapCreate::default()
    })
}

/// BTF (Documentation/bpf/btf.rst) with 1: `int` of 32 bits, 2: `u64`, 3: an array of `u64`.
fn types() -> Vec<u8> {
    const INT: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    const SIGNED: u32 = 1 << 24;
    let strings = b"\0int\0u64\0";
    let types: [u32; 14] = [1, INT, 4, SIGNED | 32, 5, INT, 8, 64, 0, ARRAY, 0, 2, 1, STATE / 8];
    let size = size_of_val(&types) as u32;
    // The magic and version, then the header's size and where types and strings are in what follows it.
    let header = [0x0001_eb9f, 24, 0, size, size, strings.len() as u32];
    let words = header.into_iter().chain(types).flat_map(u32::to_ne_bytes);
    words.chain(strings.iter().copied()).collect()
}

/// The program.
fn least(storage: &OwnedFd, histogram: &OwnedFd) -> Vec<Instruction> {
    const OUT: i16 = i16::MAX;
    let mut code = vec![
        instruction(0xbf, 6, 1, 0, 0),                   // r6 = r1: the packet
        instruction(0x79, 2, 6, SKB_SK, 0),              // r2 = its socket
        instruction(0x15, 2, 0, OUT, 0),                 // if r2 == 0 goto out
        instruction(0x18, 1, 1, 0, storage.as_raw_fd()), // r1 = the storage's map
        instruction(0x00, 0, 0, 0, 0),
        instruction(0xb7, 3, 0, 0, 0),                // r3 = 0: begins as zeros
        instruction(0xb7, 4, 0, 0, 1),                // r4 = 1: made if there is none
        instruction(0x85, 0, 0, 0, SK_STORAGE_GET),   // r0 = the state
        instruction(0x15, 0, 0, OUT, 0),              // if r0 == 0 goto out
        instruction(0xbf, 1, 6, 0, 0),                // r1 = the packet
        instruction(0xb7, 2, 0, 0, PAYLOAD),          // r2 = from where
        instruction(0xbf, 3, 10, 0, 0),               // r3 = the stack
        instruction(0x07, 3, 0, 0, -i32::from(HEAD)), // r3 -= 64
        instruction(0xb7, 4, 0, 0, HEAD.into()),      // r4 = 64
        instruction(0x85, 0, 0, 0, SKB_LOAD_BYTES),   // copies
        instruction(0x55, 0, 0, OUT, 0),              // if there are fewer goto out
        instruction(0x71, 1, 10, -HEAD, 0),           // r1 = the first byte
        instruction(0x57, 1, 0, 0, BUCKETS.cast_signed() - 1), // r1 &= 63
        instruction(0x67, 1, 0, 0, 3),                // r1 *= 8
        instruction(0x18, 2, 2, 0, histogram.as_raw_fd()), // r2 = the array's value
        instruction(0x00, 0, 0, 0, 0),
        instruction(0x0f, 2, 1, 0, 0), // r2 += r1
        instruction(0xb7, 1, 0, 0, 1), // r1 = 1
        instruction(0xdb, 2, 1, 0, 0), // lock *r2 += r1
    ];
    let out = code.len();
    for (at, one) in code.iter_mut().enumerate().filter(|(_, one)| one.offset == OUT) {
        one.offset = (out - at - 1) as i16;
    }
    code.extend(passes(1));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_end_at_the_end() {
        let any = || OwnedFd::from(File::open("/dev/null").unwrap());
        let code = least(&any(), &any());
        let jumps = code.iter().enumerate().filter(|(_, one)| matches!(one.code, 0x15 | 0x55));
        let ends: Vec<_> = jumps.map(|(at, one)| at + 1 + one.offset as usize).collect();
        assert_eq!(ends, [code.len() - 2; 3]);
        assert_eq!(code[code.len() - 2..], passes(1), "every packet passes");
    }
}
