use exporter_ebpf::http::{
    RouteLine,
    head::{HEAD, TARGET},
};
use proptest::prelude::*;

use super::{pattern::Segment, *};

fn rules(patterns: &[&str]) -> Vec<Rule> {
    patterns.iter().map(|pattern| pattern.parse().unwrap()).collect()
}

/// The line as the kernel has it, and how many bytes of it.
fn line(text: &str) -> (RouteLine, u32) {
    let (mut bytes, len) = ([0; HEAD], text.len().min(HEAD));
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    (RouteLine { bytes, target: 4, reserved: 0 }, len as u32)
}

fn find<'a>(table: &'a Table, target: &str) -> Option<&'a str> {
    let (line, available) = line(&format!("GET {target} HTTP/1.1\r\n"));
    table.find(table.patterns.everyone, &line, available)
}

#[track_caller]
fn check(patterns: &[&str], targets: &[(&str, Option<&str>)]) {
    let table = Table::new(&rules(patterns));
    for (target, expected) in targets {
        assert_eq!(find(&table, target), *expected, "{target} among {patterns:?}");
    }
}

#[test]
fn what_a_pattern_matches() {
    check(
        &[
            "/users/{id}/links",
            "/v1/12345/health",
            "/files/{path...}",
            "/static/*",
            "/",
            "/users/{name}",
            "/a,b(c)",
        ],
        &[
            ("/users/17/links", Some("/users/{id}/links")),
            ("/users/17/links/", Some("/users/{id}/links")),
            ("//users//17/links?tab=2", Some("/users/{id}/links")),
            ("/users/bob", Some("/users/{name}")),
            ("/users/bob#x", Some("/users/{name}")),
            ("/users", None),
            ("/Users/bob", None),
            ("/users/17/links/3", None),
            ("/v1/12345/health", Some("/v1/12345/health")),
            ("/v1/12346/health", None),
            ("/files", None),
            ("/files/", None),
            ("/files/a", Some("/files/{path...}")),
            ("/files/a/b/c/d/e/f/g/h/i/j/k/l", Some("/files/{path...}")),
            ("/static/a/b", Some("/static/*")),
            ("/", Some("/")),
            ("//?q", Some("/")),
            ("", None),
            ("*", None),
            ("users/bob", None),
            ("example.com:443", None),
            ("http://example.com", Some("/")),
            ("http://example.com/users/bob", Some("/users/{name}")),
            ("HTTPS://me@example.com:1/users/bob?q", Some("/users/{name}")),
            ("http:///users/bob", Some("/users/{name}")),
            ("ftp://example.com/users/bob", None),
            ("/a,b(c)", Some("/a,b(c)")),
        ],
    );
}

#[test]
fn a_literal_is_preferred_then_the_first() {
    check(
        &["/{a...}", "/{a}/{b}", "/a/{x}", "/a/{y}", "/{a}/b", "/a/c", "/{x}/b"],
        &[
            ("/a/c", Some("/a/c")),
            ("/a/b", Some("/a/{x}")),
            ("/z/b", Some("/{a}/b")),
            ("/z/z", Some("/{a}/{b}")),
            ("/z", Some("/{a...}")),
            ("/a/c/d", Some("/{a...}")),
        ],
    );
    // A choice that comes to nothing is taken back.
    check(&["/a/{x}/c", "/a/b/d", "/{a}/b/c"], &[("/a/b/c", Some("/a/{x}/c")), ("/z/b/c", Some("/{a}/b/c"))]);
}

#[test]
fn a_target_that_is_cut_off_matches_what_is_sure() {
    let long = |start: &str| format!("{start}{}", "x".repeat(100));
    check(
        &["/files/{a}/meta", "/files/{path...}", "/logs/today", "/logs/{rest...}", "/x/{a}"],
        &[
            // It may go on with /meta, or as today's.
            (&long("/files/"), None),
            (&long("/files/a/"), None),
            (&long("/logs/"), None),
            (&long("/x/"), None),
            (&long("/files/a/b/"), Some("/files/{path...}")),
            (&long("/logs/a/b"), Some("/logs/{rest...}")),
            (&format!("/logs/{}/", "a/".repeat(41)), Some("/logs/{rest...}")),
            (&"/".repeat(100), None),
        ],
    );
    let table = Table::new(&rules(&["/files/*"]));
    let (split, available) = line("GET /files/a");
    assert_eq!(
        table.find(table.patterns.everyone, &split, available),
        None,
        "the rest is in another segment"
    );
}

#[test]
fn as_many_and_as_long_as_can_be() {
    let patterns: Vec<_> = (0..MAX_PATTERNS).map(|n| format!("/{n}/a/b{n}/c/d{n}/e/f{n}/g")).collect();
    let table = Table::new(&rules(&patterns.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(table.literals.iter().filter(|literal| literal.key != 0).count(), 4 * MAX_PATTERNS + 4);
    for pattern in &patterns {
        assert_eq!(find(&table, pattern), Some(pattern.as_str()));
        assert_eq!(find(&table, &format!("{pattern}g")), None);
    }
    super::check(&rules(&["/"; MAX_PATTERNS])).unwrap();
    let error = super::check(&rules(&["/"; MAX_PATTERNS + 1])).unwrap_err().to_string();
    assert_eq!(error, "there are 257 routes; 256 are allowed");
    let longest = format!("/{}", "x".repeat(TARGET - 2));
    check(&[&longest], &[(&longest, Some(&longest))]);
}

#[test]
fn what_is_no_pattern() {
    use super::pattern::Error;
    for (text, expected) in [
        ("users/{id}", Error::Relative),
        ("", Error::Relative),
        ("nginx: users", Error::Relative),
        ("/users//x", Error::EmptySegment),
        ("/users/", Error::EmptySegment),
        ("//", Error::EmptySegment),
        ("/a b", Error::Byte),
        ("/a?b", Error::Byte),
        ("/caf\u{e9}", Error::Byte),
        ("/a*", Error::Byte),
        ("/\"", Error::Byte),
        ("/a{id}", Error::Placeholder),
        ("/{}", Error::Placeholder),
        ("/{...}", Error::Placeholder),
        ("/{a-b}", Error::Placeholder),
        ("/{a..}", Error::Placeholder),
        ("/*/a", Error::RestNotLast),
        ("/{a...}/{b}", Error::RestNotLast),
        ("/1/2/3/4/5/6/7/8/9", Error::Segments),
    ] {
        assert_eq!(text.parse::<Rule>(), Err(expected), "{text}");
    }
    assert_eq!(format!("/{}", "x".repeat(TARGET - 1)).parse::<Rule>(), Err(Error::Long));
    assert_eq!(format!("/{{{}}}", "x".repeat(600)).parse::<Rule>(), Err(Error::Long));
    let error = parse("# ours\n\n/users/{id}\nnginx: /a/*/b\n").unwrap_err();
    assert!(format!("{error:#}").starts_with("line 4: `nginx: /a/*/b`: what stands for"), "{error:#}");
    assert_eq!(parse(" # ours\n\n /users/{id} \r\n").unwrap(), rules(&["/users/{id}"]));
}

#[test]
fn a_scope_is_some_containers() {
    use crate::cgroup::{layout::Layout, tree::Tree};
    let mut tree = Tree::new(Layout::default());
    for (id, path) in
        ["/system.slice/nginx.service", "/system.slice/nginx.service/worker", "/other"].iter().enumerate()
    {
        tree.add((0, id as u64), path);
    }
    let table =
        Table::new(&rules(&["/users/{all}", "nginx.service: /{x}/bob", "/system*: /users/{bob}", "/o*: /o"]));
    assert_eq!(table.scoped(), 3);
    let of = |id, target: &str| {
        let (line, available) = line(&format!("GET {target} HTTP/1.1"));
        table.find(table.own(tree.get(tree.workload_of((0, id)).unwrap()).unwrap()), &line, available)
    };
    for id in [0, 1] {
        assert_eq!(of(id, "/users/bob"), Some("/users/{all}"));
        assert_eq!(of(id, "/any/bob"), Some("/{x}/bob"));
        assert_eq!(of(id, "/o"), None);
    }
    assert_eq!(of(2, "/any/bob"), None);
    assert_eq!(of(2, "/o"), Some("/o"));
}

/// One pattern against one path.
fn matches(pattern: &[Segment], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        ([Segment::Rest], [_, ..]) => true,
        ([Segment::Any, pattern @ ..], [_, path @ ..]) => matches(pattern, path),
        ([Segment::Literal(text), pattern @ ..], [first, path @ ..]) => {
            text == first && matches(pattern, path)
        }
        _ => false,
    }
}

/// The rules once more: all patterns one by one.
fn expected<'a>(rules: &'a [Rule], target: &str) -> Option<&'a str> {
    let target = target.split(['?', '#', ' ', '\r', '\n']).next().unwrap();
    let path = match target.split_once("://") {
        Some(("http" | "https", rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        _ => target.strip_prefix('/')?,
    };
    let path: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let mut best: Option<&Rule> = None;
    for rule in rules.iter().filter(|rule| matches(rule.pattern.segments(), &path)) {
        let ranks = |rule: &'a Rule| rule.pattern.segments().iter().map(Segment::rank);
        let wins = |other| ranks(rule).zip(ranks(other)).find(|(a, b)| a != b).is_some_and(|(a, b)| a < b);
        if best.is_none_or(wins) {
            best = Some(rule);
        }
    }
    best.map(|rule| rule.pattern.as_str())
}

fn some_rules() -> impl Strategy<Value = Vec<Rule>> {
    let segment = prop::sample::select(vec!["a", "b", "ab", "1234", "{x}", "{y}", "x.y"]);
    let end = prop::sample::select(vec!["", "", "", "/*", "/{rest...}", "/{last}"]);
    let pattern = (prop::collection::vec(segment, 0..7), end).prop_map(|(segments, end)| {
        let text: String =
            segments.iter().map(|segment| format!("/{segment}")).chain([end.to_owned()]).collect();
        if text.is_empty() { "/".to_owned() } else { text }.parse().unwrap()
    });
    prop::collection::vec(pattern, 0..40)
}

fn some_target() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "ab", "1234", "x.y", "", "A", "z", "abc"]);
    let start =
        prop::sample::select(vec!["/", "/", "/", "//", "http://h/", "https://h:1/", "http:///", "h/", ""]);
    let end = prop::sample::select(vec!["", "", "/", "?a/b", "#a", " /a", "\r\n"]);
    (start, prop::collection::vec(segment, 0..12), end)
        .prop_map(|(start, segments, end)| format!("{start}{}{end}", segments.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn follows_the_rules(rules in some_rules(), target in some_target()) {
        let table = Table::new(&rules);
        prop_assert_eq!(find(&table, &target), expected(&rules, &target));
    }

    #[test]
    fn what_is_sure_holds_whatever_follows(rules in some_rules(), start in some_target(), rest in some_target()) {
        let table = Table::new(&rules);
        // 88 bytes, and whatever follows.
        let fill = "a/b/1234/x.y/ab/".repeat(6);
        let seen = format!("{}{fill}", start.trim_end_matches(|byte| "?# \r\n".contains(byte)));
        if seen[..TARGET].contains(['?', '#', ' ', '\r']) { return Ok(()) }
        let whole = format!("{}{rest}", &seen[..TARGET + 4]);
        if let Some(route) = find(&table, &whole) {
            prop_assert_eq!(Some(route), expected(&rules, &whole));
        }
    }

    #[test]
    fn any_text_is_a_rule_or_a_mistake(text in "\\PC*|[/a-z{}.*: ]*") {
        if let Ok(rule) = text.parse::<Rule>() {
            let table = Table::new(std::slice::from_ref(&rule));
            let text = rule.pattern.as_str();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte)));
            // Its own text matches it, unless a placeholder's name makes it too long.
            if text.len() < TARGET {
                prop_assert_eq!(find(&table, text).is_some(), rule.scope.is_none());
            }
        }
    }
}
