//! The user's patterns: what is no pattern is refused, and what is one matches what it says, as one bit of a set as well as alone.
#![no_main]

use exporter_ebpf::http::{RouteLine, head::HEAD};
use libfuzzer_sys::fuzz_target;
use podmeter::route::{Rule, Table};

/// Segment by segment; `None` where the line does not tell.
fn matches(pattern: &str, path: &[&[u8]]) -> bool {
    let mut path = path.iter();
    for segment in pattern.split('/').filter(|segment| !segment.is_empty()) {
        let Some(own) = path.next() else { return false };
        if segment == "*" || segment.ends_with("...}") {
            return true;
        }
        if !segment.starts_with('{') && segment.as_bytes() != *own {
            return false;
        }
    }
    path.next().is_none()
}

fuzz_target!(|data: &[u8]| {
    // A target, then a pattern a line.
    let mut lines = data.split(|&byte| byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let text = lines.filter_map(|line| str::from_utf8(line).ok());
    let rules: Vec<Rule> = text.filter_map(|line| line.parse().ok()).take(300).collect();
    let table = Table::new(&rules);
    let (mut bytes, len) = ([0; HEAD], target.len().min(HEAD - 4));
    bytes[4..4 + len].copy_from_slice(&target[..len]);
    let line = RouteLine { bytes, target: 4, reserved: 0 };
    let found = table.find(table.patterns.everyone, &line, 4 + len as u32);
    let ended = target[..len].iter().position(|byte| b"?# \r\n".contains(byte));
    let Some(b"/") = target.get(..1) else { return };
    let path: Vec<_> =
        target[..ended.unwrap_or(len)].split(|&byte| byte == b'/').filter(|it| !it.is_empty()).collect();
    let own = rules.iter().take(256).filter(|rule| rule.scope.is_none()).map(|rule| rule.pattern.as_str());
    if let Some(found) = found {
        // Of a target that is cut off, that it matches by what is there.
        assert!(matches(found, &path), "{found}");
    } else if ended.is_some() {
        for pattern in own {
            assert!(!matches(pattern, &path), "{pattern}");
        }
    }
});
