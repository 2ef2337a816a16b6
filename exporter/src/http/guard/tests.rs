use axum::http::HeaderValue;

use super::*;

fn with(authorization: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap())])
}

#[test]
fn reads_bearer_tokens() {
    assert_eq!(bearer(&with("Bearer abc")), Some("abc"));
    assert_eq!(bearer(&with("bearer  abc ")), Some("abc"));
    for wrong in ["Basic abc", "Bearer", "Bearer ", "abc", ""] {
        assert_eq!(bearer(&with(wrong)), None, "{wrong}");
    }
    assert_eq!(bearer(&HeaderMap::new()), None);
}

#[test]
fn only_the_same_is_the_same() {
    assert!(is_same(b"abc", b"abc"));
    for other in [&b"abd"[..], b"ab", b"abcd", b""] {
        assert!(!is_same(b"abc", other));
    }
}

#[tokio::test]
async fn a_token_in_a_file_lets_in_and_can_be_replaced() {
    let file = std::env::temp_dir().join(format!("podmeter-token-{}", std::process::id()));
    fs::write(&file, "first\n").unwrap();
    let guard = Guard { policy: Policy::Token(file.clone()), ..Guard::default() };
    let code = |refusal: Result<(), Response>| refusal.err().map(|response| response.status().as_u16());
    let try_with = async |path: &str, headers: HeaderMap| code(guard.admit(path, &headers).await);
    assert_eq!(try_with("/metrics", HeaderMap::new()).await, Some(401));
    assert_eq!(try_with("/livez", HeaderMap::new()).await, None, "probes have no token");
    assert_eq!(try_with("/metrics", with("Bearer first")).await, None);
    assert_eq!(try_with("/", with("Bearer second")).await, Some(401));
    fs::write(&file, "second").unwrap();
    assert_eq!(try_with("/metrics", with("Bearer second")).await, None);
    assert_eq!(try_with("/metrics", with("Bearer first")).await, Some(401));
    fs::write(&file, "").unwrap();
    assert_eq!(try_with("/metrics", with("Bearer x")).await, Some(401), "an empty file lets in nobody");
    fs::remove_file(&file).unwrap();
    assert_eq!(try_with("/metrics", with("Bearer second")).await, Some(503), "nor does none");
    let mut snapshot = Snapshot::default();
    guard.collect(&mut snapshot);
    let counts: Vec<_> = snapshot
        .families()
        .flat_map(|family| {
            family.samples().map(|(_, own, value)| format!("{own} {value:?}")).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(
        counts,
        [r#"code="401" Number(4.0)"#, r#"code="403" Number(0.0)"#, r#"code="503" Number(1.0)"#]
    );
}
