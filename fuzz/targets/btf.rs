//! The kernel's BTF, which a file may also hold that is none.
#![no_main]

use exporter_ebpf::{SIGNALS, Source};
use libfuzzer_sys::fuzz_target;
use podmeter::btf::Btf;

fuzz_target!(|data: &[u8]| {
    let Ok(btf) = Btf::parse(data.to_vec()) else { return };
    // What podmeter asks for, and the names of the corpus.
    let fields = SIGNALS.iter().flat_map(|signal| signal.probes).flat_map(|probe| probe.fields);
    for field in fields {
        _ = btf.resolve(&field.source);
    }
    for source in [
        Source::Offset("a", &["x"]),
        Source::Offset("a", &["y"]),
        Source::Offset("a", &["z.w"]),
        Source::Enumerator("e", "E"),
        Source::Argument("t", "a"),
    ] {
        _ = btf.resolve(&source);
    }
    _ = btf.has_tracepoint("t");
});
