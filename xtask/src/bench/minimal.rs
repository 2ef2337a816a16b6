//! The least that can know a request, and the least that can time one: what podmeter's packet programs are compared with.
//!
//! The first gets the socket's storage, copies 64 bytes from where the payload begins over loopback, and adds one to a bucket of a
//! histogram. It knows neither where a head is nor what is in it, measures no time, and so does not do the job: but no program
//! that does can do less for a packet with a head.
//!
//! The second finds the payload by the packet's headers, passes ACKs and what continues a body, reads the clock when a request
//! arrives, and counts what has gone by when the response is sent. It takes for a body what is long, reads nothing of a head, and
//! would be wrong of any other traffic: what it costs above the first is what time costs, with which podmeter's can be compared.

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

/// Offsets in `struct __sk_buff`.
const SKB_DATA: i16 = 76;
const SKB_DATA_END: i16 = 80;
const SKB_TSTAMP: i16 = 152;
const SKB_SK: i16 = 168;
/// Helpers.
const KTIME_GET_NS: i32 = 5;
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
    attach(cgroup, [&passes(1); 2])
}

/// Attaches the least that can know a request: to what arrives, and to what is sent.
pub(super) fn attach_minimal(cgroup: &Path) -> Result<[Attached; 2]> {
    // The programs keep their maps.
    let (storage, histogram) = maps()?;
    attach(cgroup, [&least(&storage, &histogram); 2])
}

/// Attaches the least that can time a request: to what arrives, and to what is sent.
pub(super) fn attach_timed(cgroup: &Path) -> Result<[Attached; 2]> {
    let (storage, histogram) = maps()?;
    let [arrives, sent] = [true, false].map(|arrives| timed(&storage, &histogram, arrives));
    attach(cgroup, [&arrives, &sent])
}

fn maps() -> Result<(OwnedFd, OwnedFd)> {
    let storage = storage().context("cannot make socket storage")?;
    let histogram = sys::map(MapCreate {
        map_type: 2, // BPF_MAP_TYPE_ARRAY, whose one value the program has the address of.
        key_size: 4,
        value_size: 8 * BUCKETS,
        max_entries: 1,
        ..MapCreate::default()
    });
    Ok((storage, histogram.context("cannot make an array")?))
}

/// To what arrives, and to what is sent.
fn attach(cgroup: &Path, code: [&[Instruction]; 2]) -> Result<[Attached; 2]> {
    let directory = File::open(cgroup).with_context(|| format!("cannot open {}", cgroup.display()))?;
    let one = |attach_type, code| {
        Attached::packets(directory.as_fd(), attach_type, code)
            .with_context(|| format!("cannot attach a program to the packets of {}", cgroup.display()))
    };
    Ok([one(INGRESS, code[0])?, one(EGRESS, code[1])?])
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

/// Where a jump goes that leaves the program.
const OUT: i16 = i16::MAX;

/// The program that knows a request.
fn least(storage: &OwnedFd, histogram: &OwnedFd) -> Vec<Instruction> {
    let mut code = vec![
        instruction(0xbf, 6, 1, 0, 0),       // r6 = r1: the packet
        instruction(0xb7, 9, 0, 0, PAYLOAD), // r9 = where the payload begins
    ];
    code.extend(state(storage));
    code.extend(head());
    code.extend([
        instruction(0x71, 1, 10, -HEAD, 0), // r1 = the first byte
    ]);
    code.extend(bucket(histogram));
    leave(code)
}

/// The program that times a request: one for what arrives, and one for what is sent.
fn timed(storage: &OwnedFd, histogram: &OwnedFd, arrives: bool) -> Vec<Instruction> {
    /// Of what is longer no head is looked for.
    const LONG: i32 = 2048;
    // In the state: when the request arrived, and the next sequence number of each direction.
    let next = if arrives { 8 } else { 12 };
    let mut code = vec![
        instruction(0xbf, 6, 1, 0, 0),            // r6 = r1: the packet
        instruction(0x61, 7, 6, SKB_DATA, 0),     // r7 = its bytes
        instruction(0x61, 8, 6, SKB_DATA_END, 0), // r8 = their end
        instruction(0xbf, 1, 7, 0, 0),            // r1 = r7
        instruction(0x07, 1, 0, 0, 40),           // r1 += 40: the headers of IPv4 and TCP
        instruction(0x2d, 1, 8, OUT, 0),          // if r1 > r8 goto out
        instruction(0x71, 1, 7, 0, 0),            // r1 = the first byte
        instruction(0x55, 1, 0, OUT, 0x45),       // if it is not IPv4 without options goto out
        instruction(0x71, 9, 7, 32, 0),           // r9 = the length of TCP's header
        instruction(0x77, 9, 0, 0, 4),            // r9 >>= 4
        instruction(0x67, 9, 0, 0, 2),            // r9 <<= 2
        instruction(0x07, 9, 0, 0, 20),           // r9 += 20: where the payload begins
        instruction(0x61, 8, 6, 0, 0),            // r8 = the length of the packet
        instruction(0x1f, 8, 9, 0, 0),            // r8 -= r9: of the payload
        instruction(0x15, 8, 0, OUT, 0),          // if r8 == 0 goto out
        instruction(0x61, 7, 7, 24, 0),           // r7 = the sequence number
        instruction(0xdc, 7, 0, 0, 32),           // from its byte order
    ];
    code.extend(state(storage));
    code.extend([
        instruction(0x61, 2, 0, next, 0),   // r2 = the number that is next
        instruction(0xbf, 1, 7, 0, 0),      // r1 = r7
        instruction(0x0c, 1, 8, 0, 0),      // r1 += r8, of 32 bits
        instruction(0x63, 0, 1, next, 0),   // and next is that
        instruction(0x5d, 2, 7, OUT, 0),    // if r2 != r7 goto out: out of order
        instruction(0x25, 8, 0, OUT, LONG), // if r8 > LONG goto out
        instruction(0xbf, 7, 0, 0, 0),      // r7 = the state
    ]);
    code.extend(head());
    if arrives {
        code.extend([
            instruction(0x85, 0, 0, 0, KTIME_GET_NS), // r0 = now
            instruction(0x7b, 7, 0, 0, 0),            // is when the request arrived
        ]);
    } else {
        code.extend([
            instruction(0x79, 1, 6, SKB_TSTAMP, 0), // r1 = when TCP sent it
            instruction(0x79, 2, 7, 0, 0),          // r2 = when the request arrived
            instruction(0x1f, 1, 2, 0, 0),          // r1 -= r2
            instruction(0x77, 1, 0, 0, 12),         // r1 >>= 12: four microseconds a bucket
        ]);
        code.extend(bucket(histogram));
    }
    leave(code)
}

/// r0 = the state of the socket of the packet r6.
fn state(storage: &OwnedFd) -> [Instruction; 8] {
    [
        instruction(0x79, 2, 6, SKB_SK, 0),              // r2 = its socket
        instruction(0x15, 2, 0, OUT, 0),                 // if r2 == 0 goto out
        instruction(0x18, 1, 1, 0, storage.as_raw_fd()), // r1 = the storage's map
        instruction(0x00, 0, 0, 0, 0),
        instruction(0xb7, 3, 0, 0, 0),              // r3 = 0: begins as zeros
        instruction(0xb7, 4, 0, 0, 1),              // r4 = 1: made if there is none
        instruction(0x85, 0, 0, 0, SK_STORAGE_GET), // r0 = the state
        instruction(0x15, 0, 0, OUT, 0),            // if r0 == 0 goto out
    ]
}

/// Copies the first bytes of the payload of r6, which begins at r9, to the stack.
fn head() -> [Instruction; 7] {
    [
        instruction(0xbf, 1, 6, 0, 0),                // r1 = the packet
        instruction(0xbf, 2, 9, 0, 0),                // r2 = from where
        instruction(0xbf, 3, 10, 0, 0),               // r3 = the stack
        instruction(0x07, 3, 0, 0, -i32::from(HEAD)), // r3 -= 64
        instruction(0xb7, 4, 0, 0, HEAD.into()),      // r4 = 64
        instruction(0x85, 0, 0, 0, SKB_LOAD_BYTES),   // copies
        instruction(0x55, 0, 0, OUT, 0),              // if there are fewer goto out
    ]
}

/// Adds one to the bucket r1.
fn bucket(histogram: &OwnedFd) -> [Instruction; 7] {
    [
        instruction(0x57, 1, 0, 0, BUCKETS.cast_signed() - 1), // r1 &= 63
        instruction(0x67, 1, 0, 0, 3),                         // r1 *= 8
        instruction(0x18, 2, 2, 0, histogram.as_raw_fd()),     // r2 = the array's value
        instruction(0x00, 0, 0, 0, 0),
        instruction(0x0f, 2, 1, 0, 0), // r2 += r1
        instruction(0xb7, 1, 0, 0, 1), // r1 = 1
        instruction(0xdb, 2, 1, 0, 0), // lock *r2 += r1
    ]
}

/// Gives jumps that leave their distance, and lets the packet pass.
fn leave(mut code: Vec<Instruction>) -> Vec<Instruction> {
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
        let programs = [least(&any(), &any()), timed(&any(), &any(), true), timed(&any(), &any(), false)];
        for (code, count) in programs.into_iter().zip([3, 8, 8]) {
            let jumps = code
                .iter()
                .enumerate()
                .filter(|(_, one)| matches!(one.code, 0x15 | 0x25 | 0x2d | 0x55 | 0x5d));
            let ends: Vec<_> = jumps.map(|(at, one)| at + 1 + one.offset as usize).collect();
            assert_eq!(ends, vec![code.len() - 2; count]);
            assert_eq!(code[code.len() - 2..], passes(1), "every packet passes");
        }
    }
}
