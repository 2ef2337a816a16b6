//! The normaliser of routes: the same hash for the same text and for no other, as the kernel and user space see a target.
#![no_main]

use exporter_ebpf::http::route::{Hash, MAX_TEXT, Route, Sink, Text};
use libfuzzer_sys::fuzz_target;

fn feed<S: Sink>(sink: S, target: &[u8], cut: bool) -> S {
    let mut route = Route::new(sink);
    let ended = target.iter().any(|&byte| !route.push(byte));
    route.finish(cut && !ended)
}

fn text(target: &[u8], cut: bool) -> String {
    feed(Text::new(), target, cut).as_str().to_owned()
}

fn hash(target: &[u8], cut: bool) -> u64 {
    feed(Hash::new(), target, cut).value()
}

fuzz_target!(|data: &[u8]| {
    // Two targets, so that it can be seen that different texts differ in their hash; segments of 8 KiB are not promised.
    let data = &data[..data.len().min(4096)];
    let (cut, data) = data.split_first().map_or((false, data), |(first, rest)| (first & 1 == 1, rest));
    let mut parts = data.splitn(2, |&byte| byte == b'\n');
    let (one, other) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let route = text(one, cut);
    assert!(!route.is_empty() && route.len() <= MAX_TEXT, "{route}");
    assert!(route.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\?#%".contains(&byte)), "{route}");
    assert_eq!(text(route.as_bytes(), false), route, "idempotent");
    assert_eq!(hash(one, cut), hash(route.as_bytes(), false), "{route}");
    assert_ne!(hash(one, cut), 0);
    assert_eq!(text(other, cut) == route, hash(other, cut) == hash(one, cut), "{route}");
});
