//! The answers' bodies, of all groups.

pub mod custom;
pub mod discovery;
pub mod resource;
mod table;

use std::{
    convert::Infallible,
    fmt::Write as _,
    iter, mem,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    body::Body,
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use jiff::Timestamp;
use serde_json::Value;

/// How long a piece of a list is at least, bytes; but for the last.
const PIECE: usize = 64 << 10;

/// Whether Kubernetes has a quantity for a number.
fn is_quantity(number: f64) -> bool {
    (0.0..=9e18).contains(&number)
}

/// A number as Kubernetes writes quantities, to a part in a thousand million; none for what is no number, or below zero.
pub fn quantity(number: f64) -> Option<String> {
    const UNITS: [(f64, &str); 4] = [(1.0, ""), (1e3, "m"), (1e6, "u"), (1e9, "n")];
    if !is_quantity(number) {
        return None;
    }
    // As many digits as the number has to say.
    let finest = UNITS.iter().rev().find(|(factor, _)| number * factor < 9e15).unwrap_or(&UNITS[0]);
    let scaled = (number * finest.0).round();
    let coarser =
        UNITS.iter().find(|(factor, _)| *factor <= finest.0 && (scaled * factor / finest.0).fract() == 0.0);
    let (factor, unit) = coarser.unwrap_or(finest);
    Some(format!("{}{unit}", (scaled * factor / finest.0).round() as i64))
}

/// A date as the API has it: whole seconds, in UTC; that of 1970 for what no calendar has.
pub fn date(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let moment = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.unwrap_or_default().to_string()
}

/// A length of time as Go writes it, to the millisecond.
pub fn duration(nanos: u64) -> String {
    let millis = nanos / 1_000_000;
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", rest / 1000);
    match minutes {
        0 => seconds,
        1..60 => format!("{minutes}m{seconds}"),
        _ => format!("{}h{}m{seconds}", minutes / 60, minutes % 60),
    }
}

/// An answer in JSON.
pub fn json(body: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// A list: an object, with these items under that name. A long one is written while it is sent, as all pods of a large cluster are
/// some 40 MB of text, and as objects ten times as much.
pub fn list(object: &Value, name: &str, items: impl Iterator<Item = Value> + Send + 'static) -> Response {
    let mut pieces = pieces(object, name, items);
    let first = pieces.next().unwrap_or_default();
    let Some(second) = pieces.next() else { return json(first) };
    let all = [first, second].into_iter().chain(pieces);
    json(Body::from_stream(stream::iter(all.map(Ok::<_, Infallible>))))
}

fn pieces<Items: Iterator<Item = Value>>(
    object: &Value,
    name: &str,
    items: Items,
) -> impl Iterator<Item = String> + use<Items> {
    let mut head = object.to_string();
    head.truncate(head.len() - "}".len());
    _ = write!(head, r#","{name}":["#);
    let (mut items, mut is_done) = (items.enumerate(), false);
    iter::from_fn(move || {
        if is_done {
            return None;
        }
        let mut text = mem::take(&mut head);
        while text.len() < PIECE {
            let Some((at, item)) = items.next() else {
                text.push_str("]}");
                is_done = true;
                break;
            };
            let comma = if at > 0 { "," } else { "" };
            _ = write!(text, "{comma}{item}");
        }
        Some(text)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_list_has_its_items() {
        let long = vec![json!("x".repeat(1000)); 200];
        for items in [vec![], vec![json!({"a": 1})], vec![json!({"a": "]}"}), json!([]), json!(3)], long] {
            let answer = list(&json!({"kind": "List", "metadata": {}}), "items", items.clone().into_iter());
            let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            let wanted = json!({"kind": "List", "metadata": {}, "items": items});
            assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), wanted);
        }
    }

    #[test]
    fn a_long_list_is_written_piece_by_piece() {
        let mut written = 0;
        let items = (0..1000).inspect(|_| written += 1).map(|_| json!("x".repeat(999)));
        let first = pieces(&json!({"kind": "List"}), "items", items).next().unwrap();
        assert!((PIECE..PIECE + 1100).contains(&first.len()), "{}", first.len());
        assert!(written < 100, "{written}");
    }

    #[test]
    fn writes_quantities() {
        for (number, wanted) in [
            (0.0, "0"),
            (30.0, "30"),
            (2.5, "2500m"),
            (0.004_3, "4300u"),
            (1e-9, "1n"),
            (0.123_456_789, "123456789n"),
            (1e15, "1000000000000000"),
            (1e10 + 0.5, "10000000000500m"),
        ] {
            assert_eq!(quantity(number).as_deref(), Some(wanted), "{number}");
        }
        for number in [f64::NAN, f64::INFINITY, -1.0] {
            assert_eq!(quantity(number), None, "{number}");
        }
    }

    #[test]
    fn writes_dates_and_lengths() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_827_696), "2000-02-29T12:34:56Z");
        assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59Z");
        assert_eq!(at(u64::MAX / 2), "1970-01-01T00:00:00Z");
        assert_eq!(duration(15_012_000_000), "15.012s");
        assert_eq!(duration(60_500_000_000), "1m0.5s");
        assert_eq!(duration(7_260_000_000_000), "2h1m0s");
        assert_eq!(duration(0), "0s");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number in prop_oneof![0.0f64..1e-3, 0.0f64..1e3, 0.0f64..1e17]) {
            let read = crate::kube::quantity::parse(&quantity(number).unwrap()).unwrap();
            let tolerance = (number * 1e-9).max(1e-9);
            prop_assert!((read - number).abs() <= tolerance, "{} for {}", read, number);
        }
    }
}
