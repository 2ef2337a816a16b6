//! Where a message ends: the same, wherever its bytes are cut.
#![no_main]

use exporter_ebpf::http::{
    framing::{Stream, read},
    table::{BODY, LINE_REST},
};
use libfuzzer_sys::fuzz_target;

/// What is known after these bytes, and how many of them are of the message.
fn after(flags: u8, segments: &[&[u8]]) -> (u8, u8, u64, u64, usize) {
    let mut stream = Stream { state: LINE_REST, flags, ..Stream::NEW };
    let mut taken = 0;
    for segment in segments {
        taken += read(&mut stream, segment);
        if stream.state < BODY {
            break;
        }
    }
    (stream.state, stream.flags, stream.left, stream.body, taken)
}

fuzz_target!(|data: (u8, u8, &[u8])| {
    let (flags, cut, bytes) = data;
    // Only what a first line says: a response, and without a body.
    let flags = flags & 3;
    let (first, rest) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let whole = after(flags, &[bytes]);
    assert_eq!(after(flags, &[first, rest]), whole);
    let single: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(after(flags, &single), whole);
});
