use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn feed<S: Sink>(sink: S, bytes: &[u8], truncated: bool) -> S {
    let mut route = Route::new(sink);
    let ended = bytes.iter().any(|&byte| !route.push(byte));
    route.finish(truncated && !ended)
}

fn text(bytes: &[u8], truncated: bool) -> String {
    feed(Text::new(), bytes, truncated).as_str().to_owned()
}

fn route(target: &str) -> String {
    text(target.as_bytes(), false)
}

fn hash(target: &[u8]) -> u64 {
    feed(Hash::new(), target, false).value()
}

/// The rules once more, as a reader would write them down.
fn is_data(segment: &[u8]) -> bool {
    let number = |kind: fn(&u8) -> bool| segment.iter().filter(|byte| kind(byte)).count();
    let (length, digits) = (segment.len(), number(u8::is_ascii_digit));
    let (lower, upper) = (number(u8::is_ascii_lowercase), number(u8::is_ascii_uppercase));
    let (dots, hyphens) = (number(|&byte| byte == b'.'), number(|byte| b"-~$".contains(byte)));
    let underscores = number(|&byte| byte == b'_');
    let mixed = lower > 0 && upper > 0;
    if digits >= 4 || length > 63 || digits + lower + upper + dots + hyphens + underscores < length {
        return true;
    }
    if mixed && dots > 0 && hyphens == 0 {
        return false;
    }
    length > 32
        || digits > 0
            && (lower + upper == 0 && (dots == 0 || length > 3)
                || length >= 8 && number(u8::is_ascii_hexdigit) == length
                || length >= 10 && digits > 1
                || length >= 16 && mixed)
}

fn expected(target: &[u8], cut: bool) -> String {
    let end = target.iter().position(|byte| b"?# \r\n".contains(byte));
    let (cut, target) = (cut && end.is_none(), &target[..end.unwrap_or(target.len())]);
    let path = if target.is_empty() || target[0] == b'/' {
        target
    } else if target == b"*" && !cut {
        return "*".to_owned();
    } else {
        let slash = target.iter().position(|&byte| byte == b'/').unwrap_or(target.len());
        let (scheme, rest) = target.split_at(slash);
        let special = |&byte: &u8| !byte.is_ascii_alphanumeric() && !b"._-~$".contains(&byte);
        if !rest.starts_with(b"//") || !scheme.iter().any(special) {
            return "{authority}".to_owned();
        }
        let host = rest[2..].iter().position(|&byte| byte == b'/').map_or(rest.len(), |at| at + 2);
        &rest[host..]
    };
    let mut segments: Vec<_> = path.split(|&byte| byte == b'/').collect();
    // Whatever the last one may become, it is data.
    let last = segments.pop().map(|last| if cut { b"\0" } else { last });
    let segments = segments.into_iter().chain(last).filter(|segment| !segment.is_empty()).take(9).enumerate();
    let route: String = segments
        .map(|(n, segment)| match str::from_utf8(segment) {
            _ if n == 8 => "/{rest}".to_owned(),
            Ok(word) if !is_data(segment) => format!("/{word}"),
            _ => "/{id}".to_owned(),
        })
        .collect();
    if route.is_empty() { "/".to_owned() } else { route }
}

#[test]
fn words_stay() {
    let words = "users v1 v2beta1 oauth2 s3 getUserById app.js index.html utf-8 sha256 1.0 .. _ $metadata ~root mp3 log4j decade \
                 facade api-keys .well-known C ServerReflectionInfo a_word_that_is_as_long_as_may_be Check grpc.health.v1.Health \
                 v1beta1.Registration opentelemetry.proto.collector.metrics.v1.MetricsService";
    for word in words.split(' ') {
        let target = format!("/{word}");
        assert_eq!(route(&target), target);
        assert_eq!(route(&format!("{target}/more")), format!("{target}/more"));
    }
}

#[test]
fn data_does_not() {
    let data = "0 7 42 1234567 123e4567-e89b-12d3-a456-426614174000 deadbeef1 d41d8cd98f00b204e9800998ecf8427e 2024-01-31 \
                192.168.0.1 img_2031.png main.3f2a1b.js nginx-7d9c5f6b8-x2x9z a%20b %2e%2e a=b a;v=1 a,b me@example.com host:80 \
                dGVzdA== dGVzdCBkYXRhIG1vcmU5 caf\u{e9} \u{1} \0 \" \\ ' {id} { * a* Products(5) a+b -5 1_2 12.5 order12345 \
                eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP a-slug-of-words-without-any-digit 01ARZ3NDEKTSV4RRFFQ69G5FAV";
    for data in data.split(' ') {
        assert_eq!(route(&format!("/{data}")), "/{id}", "{data}");
        assert_eq!(route(&format!("/users/{data}/posts")), "/users/{id}/posts", "{data}");
    }
}

#[test]
fn forms_of_targets() {
    for (target, expected) in [
        ("", "/"),
        ("//", "/"),
        ("/?q=1", "/"),
        ("/users/", "/users"),
        ("//users///7//", "/users/{id}"),
        ("/users HTTP/1.1", "/users"),
        ("/users\r\n", "/users"),
        ("*", "*"),
        ("**", "{authority}"),
        ("example.com:443", "{authority}"),
        ("[::1]:443 HTTP/1.1", "{authority}"),
        ("{authority}", "{authority}"),
        ("users/7", "{authority}"),
        ("http://example.com", "/"),
        ("http://example.com?q=/a", "/"),
        ("http://me:pw@example.com:80/users/7/posts?q=/a", "/users/{id}/posts"),
        ("http:///users", "/users"),
        ("/a/b/c/d/e/f/g/h", "/a/b/c/d/e/f/g/h"),
        ("/a/b/c/d/e/f/g/h/", "/a/b/c/d/e/f/g/h"),
        ("/a/b/c/d/e/f/g/h/i", "/a/b/c/d/e/f/g/h/{rest}"),
        ("/1/2/3/4/5/6/7/8/9/0", "/{id}/{id}/{id}/{id}/{id}/{id}/{id}/{id}/{rest}"),
    ] {
        assert_eq!(route(target), expected, "{target}");
    }
}

#[test]
fn the_unknown_is_a_placeholder() {
    for (target, expected) in [
        ("", "/{id}"),
        ("/", "/{id}"),
        ("/us", "/{id}"),
        ("/users/", "/users/{id}"),
        ("http://exam", "/{id}"),
        ("htt", "{authority}"),
        ("*", "{authority}"),
        ("/a/b/c/d/e/f/g/h/", "/a/b/c/d/e/f/g/h/{rest}"),
        ("/a/b/c/d/e/f/g/h/i/j", "/a/b/c/d/e/f/g/h/{rest}"),
    ] {
        assert_eq!(text(target.as_bytes(), true), expected, "{target}");
    }
}

#[test]
fn as_long_as_can_be() {
    let name = format!("a.B{}", "c".repeat(NAME as usize - 3));
    assert_eq!(route(&format!("/{name}").repeat(9)), format!("{}/{{rest}}", format!("/{name}").repeat(8)));
    assert_eq!(route(&format!("/{name}").repeat(9)).len(), MAX_TEXT);
    for length in [33, 64, 65, 128, 600, 4096, 8191] {
        assert_eq!(route(&format!("/{}/x", "z".repeat(length))), "/{id}/x", "{length}");
    }
}

/// SplitMix64: the same sequence on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn string(&mut self, alphabet: &str, length: usize) -> String {
        (0..length).map(|_| char::from(alphabet.as_bytes()[self.below(alphabet.len())])).collect()
    }
}

const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[test]
fn a_position_of_data_makes_one_route() {
    let mut random = Random(1);
    let (mut routes, mut hashes) = (HashSet::new(), HashSet::new());
    for n in 0..100_000 {
        let length = 1 + random.below(40);
        let id = match n % 6 {
            0 => (random.next() >> random.below(64)).to_string(),
            1 => {
                let hex = random.string("0123456789abcdef", 32);
                [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
            }
            2 => random.string("0123456789abcdef", 16 + length),
            3 => random.string("0123456789ABCDEF", 16 + length),
            4 => random.string(BASE64, 33 + length),
            _ => format!("01{}", random.string("0123456789ABCDEFGHJKMNPQRSTVWXYZ", 24)),
        };
        let target = format!("/api/users/{id}/posts");
        routes.insert(route(&target));
        hashes.insert(hash(target.as_bytes()));
    }
    assert_eq!((routes, hashes.len()), (HashSet::from(["/api/users/{id}/posts".to_owned()]), 1));
}

#[test]
fn short_tokens_make_few_routes() {
    // Without a digit they cannot be told from words in camel case.
    let mut random = Random(2);
    let stay = (0..100_000).filter(|_| route(&format!("/{}", random.string(BASE64, 22))) != "/{id}").count();
    assert!(stay < 3_000, "{stay}");
    let hex = "0123456789abcdef";
    let stay = (0..100_000).filter(|_| route(&format!("/{}", random.string(hex, 8))) != "/{id}").count();
    assert!(stay < 100, "{stay}");
}

#[test]
fn the_hash_tells_texts_apart() {
    let mut random = Random(3);
    let words = ["users", "user", "v1", "v2", "a", "b", "c", "ab", "ba", "7", "", "{id}", "*", "x.y"];
    let (mut by_text, mut by_hash) = (HashMap::new(), HashMap::new());
    for n in 0..200_000 {
        let mut target = String::new();
        for _ in 0..random.below(10) {
            let length = random.below(5);
            let random_word = random.string("abcAB01._-", length);
            target += "/";
            target += if n % 2 == 0 { words[random.below(words.len())] } else { &random_word };
        }
        let (text, hash) = (route(&target), hash(target.as_bytes()));
        assert_ne!(hash, 0);
        assert_eq!(*by_text.entry(text.clone()).or_insert(hash), hash, "{target}");
        assert_eq!(*by_hash.entry(hash).or_insert(text.clone()), text, "{target}");
    }
    assert!(by_text.len() > 100_000, "{}", by_text.len());
}

#[test]
fn the_hash_spreads() {
    let pairs = (b'a'..=b'z').flat_map(|a| (b'a'..=b'z').map(move |b| [b'/', a, b]));
    let hashes: Vec<u64> = pairs.map(|target| hash(&target)).collect();
    let low: HashSet<_> = hashes.iter().map(|hash| hash >> 1 & 0xfff).collect();
    let high: HashSet<_> = hashes.iter().map(|hash| hash >> 52).collect();
    // 676 balls in 4096 bins fill 623 of them on average.
    assert!(low.len() > 590 && high.len() > 590, "{} {}", low.len(), high.len());
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    let segment = prop_oneof![
        "[a-z]{1,12}",
        "[A-Za-z0-9._~$-]{0,40}",
        "[a-f0-9]{1,12}",
        "[A-Za-z0-9.]{1,70}",
        "[ -~]{0,6}",
        Just(String::new()),
    ];
    let path = proptest::collection::vec(segment, 0..12).prop_map(|segments| segments.join("/"));
    let start = proptest::sample::select(vec!["/", "/", "/", "/", "http://h:1/", "http://h", "*", ""]);
    prop_oneof![
        8 => (start, path).prop_map(|(start, path)| format!("{start}{path}").into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..200),
        1 => proptest::collection::vec(proptest::sample::select(b"/a1:*{} ?.\xff".to_vec()), 0..40),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn follows_the_rules(target in target(), cut: bool) {
        prop_assert_eq!(text(&target, cut), expected(&target, cut));
    }

    #[test]
    fn is_idempotent_and_a_plain_label(target in target(), truncated: bool) {
        let route = text(&target, truncated);
        prop_assert_eq!(&text(route.as_bytes(), false), &route);
        prop_assert!(!route.is_empty() && route.len() <= MAX_TEXT);
        prop_assert!(route.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\'`?#%".contains(&byte)), "{}", route);
    }

    #[test]
    fn text_and_hash_agree(a in target(), b in target(), truncated: bool) {
        let hash_of = |target: &[u8]| feed(Hash::new(), target, truncated).value();
        prop_assert_eq!(text(&a, truncated) == text(&b, truncated), hash_of(&a) == hash_of(&b));
        prop_assert_eq!(hash_of(&a), hash(text(&a, truncated).as_bytes()));
    }

    #[test]
    fn the_query_does_not_leak(target in target(), end in proptest::sample::select(b"?# \r\n".to_vec()), query in target()) {
        let whole = [&target[..], &[end], &query[..]].concat();
        prop_assert_eq!(text(&whole, false), text(&target, false));
        prop_assert_eq!(text(&whole, true), text(&target, false));
    }

    #[test]
    fn a_cut_hides_only_the_last_segment(target in target(), at in any::<proptest::sample::Index>()) {
        let (whole, part) = (text(&target, false), text(&target[..at.index(target.len() + 1)], true));
        if let Some(known) = part.strip_suffix("/{id}").or_else(|| part.strip_suffix("/{rest}")) {
            prop_assert!(whole.starts_with(known), "{} {}", part, whole);
        } else if part != "{authority}" {
            prop_assert_eq!(part, whole);
        }
    }
}
