//! The workload of a cgroup's path, which whoever makes a cgroup names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use podmeter::cgroup::path::workload;

fuzz_target!(|data: &[u8]| {
    let path = String::from_utf8_lossy(data);
    let found = workload(&path);
    // A prefix of the path, by components, or the root.
    let rest = path.strip_prefix(found.path);
    assert!(
        found.path == "/" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        "{found:?}"
    );
    let again = workload(found.path);
    assert_eq!(again, found, "a workload's own path is its own");
    if let Some(id) = found.container_id {
        assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{found:?}");
        assert_eq!(found.unit, None);
    }
    assert!(found.unit.is_none_or(|unit| !unit.is_empty()), "{found:?}");
});
