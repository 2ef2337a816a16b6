use proptest::{collection::vec, prelude::*};

use super::{
    super::{
        line::{first, line_ends},
        table::*,
    },
    *,
};

/// Reads on in a message, in segments; how many bytes it took in all.
fn read(stream: &mut Stream, segments: &[&[u8]]) -> usize {
    let mut taken = 0;
    for segment in segments {
        taken += super::read(stream, segment);
        if stream.state < BODY {
            break;
        }
    }
    taken
}

fn begun(flags: u8) -> Stream {
    Stream { state: LINE_REST, flags, ..Stream::NEW }
}

/// What is left of a message behind the method, its flags, and how many bytes of a body it has.
fn message() -> impl Strategy<Value = (Vec<u8>, u8, u64)> {
    let field = prop_oneof![
        Just("Host: a".to_owned()),
        Just("Expect-CT: max-age=1".to_owned()),
        Just("Content-Lengthy: 7".to_owned()),
        Just("Transfer-Encodings: chunked".to_owned()),
        Just("X: Content-Length: 9".to_owned()),
        "[A-Za-z-]{1,40}: [ -~]{0,300}".prop_filter("a field of its own", |line| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            !["content-length", "transfer-encoding", "expect"].contains(&name.as_str())
        }),
    ];
    let chunk = (vec(any::<u8>(), 1..600), prop_oneof![Just(""), Just(";a=\"b\""), Just(" ; c")]);
    let body = prop_oneof![
        Just(None),
        vec(any::<u8>(), 0..2000).prop_map(|body| Some(Ok(body))),
        (vec(chunk, 0..8), vec("[A-Z]{1,9}: [a-z]{0,9}", 0..3)).prop_map(|it| Some(Err(it))),
    ];
    let end = prop_oneof![Just("\r\n"), Just("\n")];
    (vec(field, 0..12), body, end, any::<bool>(), any::<bool>()).prop_map(
        |(fields, body, end, is_upper, is_response)| {
            let case = |name: &str| if is_upper { name.to_uppercase() } else { name.to_owned() };
            let mut head = format!("/x HTTP/1.1{end}");
            let half = fields.len() / 2;
            fields[..half].iter().for_each(|line| head += &format!("{line}{end}"));
            let mut tail = Vec::new();
            let mut size = 0;
            match &body {
                // A response would go on to the end of the connection.
                None if is_response => head += &format!("{}:0{end}", case("Content-Length")),
                None => (),
                Some(Ok(bytes)) => {
                    head += &format!("{}: \t{}{end}", case("Content-Length"), bytes.len());
                    tail.extend(bytes);
                    size = bytes.len();
                }
                Some(Err((chunks, trailers))) => {
                    head += &format!("{}: gzip, chunked{end}", case("Transfer-Encoding"));
                    for (bytes, extension) in chunks {
                        tail.extend(format!("{:x}{extension}\r\n", bytes.len()).bytes());
                        tail.extend(bytes);
                        tail.extend(b"\r\n");
                        size += bytes.len();
                    }
                    tail.extend(b"000\r\n");
                    trailers.iter().for_each(|line| tail.extend(format!("{line}\r\n").bytes()));
                    tail.extend(b"\r\n");
                }
            }
            fields[half..].iter().for_each(|line| head += &format!("{line}{end}"));
            head += end;
            ([head.into_bytes(), tail].concat(), if is_response { RESPONSE } else { 0 }, size as u64)
        },
    )
}

proptest! {
    /// Whatever follows, and wherever it is cut.
    #[test]
    fn a_message_ends_where_it_ends((bytes, flags, size) in message(), cuts in vec(any::<prop::sample::Index>(), 0..9), rest: Vec<u8>) {
        let whole = [bytes.as_slice(), &rest].concat();
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
        at.extend([0, whole.len()]);
        at.sort_unstable();
        let segments: Vec<_> = at.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
        let mut stream = begun(flags);
        prop_assert_eq!(read(&mut stream, &segments), bytes.len());
        prop_assert_eq!((stream.state, stream.body), (START, size));
    }

    #[test]
    fn a_response_without_a_body_ends_with_its_head((bytes, _, _) in message()) {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = bytes.windows(2).position(|two| two == b"\n\n").map_or(head, |at| head.min(at + 2));
        let mut stream = begun(RESPONSE | NO_BODY);
        prop_assert_eq!(read(&mut stream, &[&bytes]), head);
        prop_assert_eq!((stream.state, stream.body), (START, 0));
    }

    #[test]
    fn nothing_panics(bytes: Vec<u8>, state in 0..128u8, flags: u8, left: u64) {
        let mut stream = Stream { state, flags, left, ..Stream::NEW };
        prop_assert!(read(&mut stream, &[&bytes]) <= bytes.len());
    }

    #[test]
    fn line_ends_are_found(bytes: [u8; 8]) {
        let ends = line_ends(u64::from_le_bytes(bytes));
        match bytes.iter().position(|byte| *byte == b'\n') {
            Some(at) => prop_assert_eq!(first(ends), at as u32),
            None => prop_assert_eq!(ends, 0),
        }
    }
}

#[test]
fn a_response_without_a_length_goes_on_to_the_end() {
    let mut stream = begun(RESPONSE);
    read(&mut stream, &[b" OK\r\nConnection: close\r\n\r\n"]);
    assert_eq!(stream.state, CLOSE);
}

#[test]
fn the_framing_of_chunks_can_be_lost() {
    for body in ["x", "5\r\nhello!", "5\r\nhello\r\rx", "-1\r\n"] {
        let mut stream = begun(0);
        read(&mut stream, &[b" HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", body.as_bytes()]);
        assert_eq!(stream.state, UNKNOWN, "{body}");
    }
}

#[test]
fn an_expectation_is_noticed() {
    let mut stream = begun(0);
    read(&mut stream, &[b"POST / HTTP/1.1\r\nEXPECT: 100-continue\r\nContent-Length: 5\r\n\r\n"]);
    assert_eq!((stream.state, stream.flags & EXPECTS, stream.left), (BODY, EXPECTS, 5));
}
