//! The files of a cgroup's controllers, and /proc/cgroups.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podmeter::{
    cgroup::layout,
    collector::{cpu, memory::files, pressure},
};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // Files that begin with lines of their own: the first, the second, and the rest.
    let (first, rest) = text.split_once('\n').unwrap_or_default();
    let (second, rest) = rest.split_once('\n').unwrap_or_default();
    let other = |_: &str| Some(second.to_owned());
    for values in [files::v1(first, rest, other), files::v2(Some(first), rest, other)] {
        assert!(values.is_none_or(|values| first.trim().parse() == Ok(values.usage)));
    }
    if let Some(root) = files::v2(None, rest, other) {
        assert_eq!(root.usage, root.anon + root.file);
    }
    _ = cpu::usage(&text);
    if let Some(bandwidth) = cpu::parse_v2(first, rest).or_else(|| cpu::parse_v1(first, second, rest)) {
        assert!(bandwidth.quota % 1000 == 0 && bandwidth.period % 1000 == 0, "{bandwidth:?}");
    }
    for kind in ["some", "full"] {
        if let Some(total) = pressure::total(&text, kind) {
            assert!(text.contains(&format!("total={total}")) || text.contains("total="), "{total}");
        }
    }
    _ = layout::number(&text, "memory");
});
