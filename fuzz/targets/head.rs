//! The first line of a request and of a response.
#![no_main]

use exporter_ebpf::http::head::{Method, Start, start, status};
use libfuzzer_sys::fuzz_target;

/// Whether this is the beginning of a request line, as RFC 9112 has it.
fn request(data: &[u8]) -> Option<(Method, usize)> {
    let named = Method::ALL.into_iter().filter(|method| *method != Method::Other);
    let method = named.into_iter().find(|method| {
        data.strip_prefix(method.as_str().as_bytes()).is_some_and(|rest| rest.first() == Some(&b' '))
    })?;
    let target = method.as_str().len() + 1;
    // What is not there yet is 0, or a line end.
    let first = data.get(target).copied().unwrap_or(0);
    (first > b'!' || first == 0 || first == b'\n').then_some((method, target))
}

fuzz_target!(|data: &[u8]| {
    let (mut head, len) = ([0; 16], data.len().min(16));
    head[..len].copy_from_slice(&data[..len]);
    match start(&head) {
        Start::Request(method, target) => assert_eq!(request(&head), Some((method, target))),
        Start::Response => assert!(data.starts_with(b"HTTP/1.")),
        Start::Http2 => assert!(data.starts_with(b"PRI * HT")),
        Start::Tls => assert_eq!(head[..2], [22, 3]),
        Start::Other => assert_eq!(request(&head), None),
    }
    let code = status(&head);
    let digits = data.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(1..5));
    let read = digits.and_then(|digits| str::from_utf8(digits).ok()?.strip_prefix(' ')?.parse().ok());
    match code {
        0 => {
            assert!(!read.is_some_and(|code: u16| (100..600).contains(&code)) || data[9..12].contains(&b'+'))
        }
        code => assert_eq!(Some(code), read),
    }
});
