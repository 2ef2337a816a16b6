//! Reads a query.
//!
//! There is a parser of all of PromQL, `promql-parser` (0.11). The expressions that it reads have no places in the text, so that of what
//! is PromQL and cannot be answered no error could tell where it is; and it brings 29 crates that nothing else here needs.

use std::time::Duration;

use super::{
    Expression, Query,
    matcher::{Matcher, failed},
    part::{Of, Only, Part},
    series::{self, CONTAINER, Kind, ROUTE, STATUS, Series},
    text::{Parsed, Text},
};
use crate::adapter::window::Span;

/// No query is longer, bytes, or deeper.
const LONGEST: usize = 4096;
const DEEPEST: usize = 32;
/// The longest window.
const WIDEST: Duration = Duration::from_secs(600);

/// Reads a query.
pub(super) fn query(text: &str, shortest: Duration) -> Parsed<Query> {
    let mut parser = Parser { text: Text::new(text), depth: 0, shortest, parts: Vec::new() };
    if text.len() > LONGEST {
        return parser.text.fail(format!("a query has no more than {LONGEST} characters"));
    }
    let expression = parser.sum()?;
    if !parser.text.rest().is_empty() {
        return parser.text.fail("here it should end, or go on with + - * /");
    }
    if parser.parts.is_empty() {
        parser.text.at = 0;
        return parser.text.fail("this is a number, and of no series");
    }
    Ok(Query { parts: parser.parts, expression })
}

struct Parser<'a> {
    text: Text<'a>,
    depth: usize,
    shortest: Duration,
    parts: Vec<Part>,
}

impl Parser<'_> {
    fn sum(&mut self) -> Parsed<Expression> {
        let mut left = self.product()?;
        loop {
            let apply = match () {
                () if self.text.takes("+") => |one, other| one + other,
                () if self.text.takes("-") => |one, other| one - other,
                () => return Ok(left),
            };
            left = Expression::Operation(apply, Box::new([left, self.product()?]));
        }
    }

    fn product(&mut self) -> Parsed<Expression> {
        let mut left = self.operand()?;
        loop {
            let apply = match () {
                () if self.text.takes("*") => |one, other| one * other,
                () if self.text.takes("/") => |one, other| one / other,
                () => return Ok(left),
            };
            left = Expression::Operation(apply, Box::new([left, self.operand()?]));
        }
    }

    fn operand(&mut self) -> Parsed<Expression> {
        if self.text.takes("(") {
            self.depth += 1;
            if self.depth > DEEPEST {
                return self.text.fail("these are too many parentheses");
            }
            let inner = self.sum()?;
            self.depth -= 1;
            self.text.expect(")")?;
            return Ok(inner);
        }
        if self.text.rest().starts_with(|char: char| char.is_ascii_digit() || char == '.') {
            return Ok(Expression::Number(self.text.number()?));
        }
        let part = self.part()?;
        self.parts.push(part);
        Ok(Expression::Part(self.parts.len() - 1))
    }

    /// What is of containers.
    fn part(&mut self) -> Parsed<Part> {
        self.text.rest();
        let at = self.text.at;
        let Some(word) = self.text.word() else {
            return self
                .text
                .fail("here should be a number, a series, rate(), histogram_quantile(), sum() or avg()");
        };
        match word {
            "histogram_quantile" => self.quantile(),
            "sum" => self.wrapped(Of::Sum),
            "avg" => self.wrapped(Of::Mean),
            _ => {
                self.text.at = at;
                self.added_up()
            }
        }
    }

    /// A rate or a gauge, which may be added up as it is.
    fn added_up(&mut self) -> Parsed<Part> {
        self.text.rest();
        let at = self.text.at;
        let part = self.numbers()?;
        if part.series.kind == Kind::Buckets {
            return Text::fail_at(at, "of buckets there is histogram_quantile(0.9, rate(...)) alone");
        }
        Ok(part)
    }

    /// What is between the parentheses of a function.
    fn wrapped(&mut self, of: Of) -> Parsed<Part> {
        if self.text.rest().starts_with(|char: char| char.is_ascii_alphabetic()) {
            return self.text.fail("what is asked of pods is one number, by nothing");
        }
        self.text.expect("(")?;
        let part = self.added_up()?;
        if !self.text.takes(")") {
            return self
                .text
                .fail("sum() and avg() are of one series: write sum(A) / sum(B), and not sum(A / B)");
        }
        Ok(Part { of, ..part })
    }

    fn quantile(&mut self) -> Parsed<Part> {
        self.text.expect("(")?;
        self.text.rest();
        let at = self.text.at;
        let q = self.text.number()?;
        if !(0.0..=1.0).contains(&q) {
            return Text::fail_at(at, "a quantile is from 0 to 1");
        }
        self.text.expect(",")?;
        self.text.rest();
        let at = self.text.at;
        let is_summed = self.text.word() == Some("sum");
        let part = if is_summed {
            self.by_bucket()?;
            self.text.expect("(")?;
            let part = self.numbers()?;
            self.text.expect(")")?;
            self.by_bucket()?;
            part
        } else {
            self.text.at = at;
            self.numbers()?
        };
        if part.series.kind != Kind::Buckets {
            return Text::fail_at(
                at,
                "histogram_quantile() is of the rate of a series that ends with _bucket",
            );
        }
        self.text.expect(")")?;
        Ok(Part { of: Of::Quantile(q), ..part })
    }

    /// `by (le)`, which is so anyway.
    fn by_bucket(&mut self) -> Parsed<()> {
        let at = self.text.at;
        match self.text.word() {
            None => Ok(()),
            Some("by") => {
                self.text.expect("(")?;
                self.text.expect("le")?;
                self.text.expect(")")
            }
            Some(_) => Text::fail_at(at, "buckets are added up by (le)"),
        }
    }

    /// The rate of a counter or of buckets, or a gauge.
    fn numbers(&mut self) -> Parsed<Part> {
        self.text.rest();
        let at = self.text.at;
        let word = self.text.word();
        let is_rate = word == Some("rate");
        if is_rate {
            self.text.expect("(")?;
        } else {
            if self.text.rest().starts_with('(') {
                return Text::fail_at(
                    at,
                    format!(
                        "there is no {}() here; there are rate(), histogram_quantile(), sum() and avg()",
                        word.unwrap_or_default()
                    ),
                );
            }
            self.text.at = at;
        }
        let (series, only) = self.series()?;
        let name = series.name();
        if !is_rate {
            if series.kind != Kind::Gauge {
                return Text::fail_at(at, format!("{name} only ever grows: write rate({name}[60s])"));
            }
            if self.text.rest().starts_with('[') {
                return self.text.fail(format!("{name} is so in a moment, and has no window"));
            }
            return Ok(Part { series, of: Of::Sum, span: None, only });
        }
        if series.kind == Kind::Gauge {
            return Text::fail_at(at, format!("{name} is so in a moment, and has no rate"));
        }
        let window = self.window()?;
        self.text.expect(")")?;
        Ok(Part { series, of: Of::Sum, span: Some(Span::new(window)), only })
    }

    fn window(&mut self) -> Parsed<Duration> {
        self.text.expect("[")?;
        self.text.rest();
        let at = self.text.at;
        let seconds = self.text.seconds()?;
        self.text.expect("]")?;
        let (least, most) = (self.shortest.as_secs_f64(), WIDEST.as_secs_f64());
        if !(least..=most).contains(&seconds) {
            return Text::fail_at(at, format!("a window is from {least} s to {most} s"));
        }
        Ok(Duration::from_secs_f64(seconds))
    }

    fn series(&mut self) -> Parsed<(Series, Only)> {
        self.text.rest();
        let at = self.text.at;
        let name = self.text.word().unwrap_or_default();
        let Some(series) = series::find(name) else {
            let all: Vec<_> = series::all().iter().map(Series::name).collect();
            return Text::fail_at(
                at,
                format!("agents stream no {name:?}; they do\n      {}", all.join("\n      ")),
            );
        };
        let (mut only, mut status) = (Only::default(), Vec::new());
        let begin = self.text.at;
        if self.text.takes("{") {
            while !self.text.takes("}") {
                self.matcher(&series, &mut only, &mut status)?;
                if !self.text.takes(",") && !self.text.rest().starts_with('}') {
                    return self.text.fail("here should be , or }");
                }
            }
        }
        only.failed = match failed(&status) {
            Ok(failed) => failed,
            Err(message) => return Text::fail_at(begin, message),
        };
        Ok((series, only))
    }

    fn matcher(&mut self, series: &Series, only: &mut Only, status: &mut Vec<Matcher>) -> Parsed<()> {
        self.text.rest();
        let at = self.text.at;
        let label = self.text.word().unwrap_or_default();
        if !series.labels().contains(&label) {
            let message = match label {
                "namespace" | "pod" => format!("{label} is what the metric is asked of, and no label here"),
                _ => {
                    format!("{} has no label {label:?}; it has {}", series.name(), series.labels().join(", "))
                }
            };
            return Text::fail_at(at, message);
        }
        let Some(operator) = ["=~", "!~", "!=", "="].into_iter().find(|operator| self.text.takes(operator))
        else {
            return self.text.fail("here should be one of = != =~ !~");
        };
        self.text.rest();
        let at = self.text.at;
        let value = self.text.string()?;
        let matcher = Matcher::new(operator, &value).or_else(|message| Text::fail_at(at, message))?;
        match label {
            CONTAINER => only.containers.push(matcher),
            ROUTE => only.routes.push(matcher),
            STATUS => status.push(matcher),
            _ => return Text::fail_at(at, "this is no label"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHORTEST: Duration = Duration::from_secs(5);
    const COUNT: &str = "http_server_request_duration_seconds_count";
    const BUCKET: &str = "http_server_request_duration_seconds_bucket";

    fn fault(text: &str) -> String {
        query(text, SHORTEST).expect_err(text).shown(text)
    }

    #[test]
    fn reads_queries() {
        for text in [
            &format!("rate({COUNT}[30s])"),
            &format!(" rate ( {COUNT} {{ http_route = \"/checkout/{{id}}\" , }} [ 1m30s ] ) "),
            &format!(
                "sum(rate({COUNT}{{http_response_status_code=~\"5..\"}}[30s])) / sum(rate({COUNT}[30s]))"
            ),
            &format!("rate({COUNT}{{http_response_status_code=~'5[0-9]{{2}}'}}[30s])"),
            &format!("rate({COUNT}{{http_response_status_code!~`5\\d\\d`}}[30s])"),
            &format!("histogram_quantile(.95, rate({BUCKET}{{http_route=~\"/a|/b\"}}[5m]))"),
            &format!("histogram_quantile(9.5e-1, sum(rate({BUCKET}[60s])) by (le))"),
            &format!(
                "histogram_quantile(0.5, sum by (le) (rate({BUCKET}{{container!=\"proxy\"}}[60s]))) * 1e3"
            ),
            "avg(http_server_active_requests)\n  + 2 * (container_memory_working_set_bytes - 1)",
        ] {
            query(text, SHORTEST).unwrap_or_else(|fault| panic!("{}", fault.shown(text)));
        }
        assert!(query(&format!("rate({COUNT}[1s])"), Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let shown = fault(&format!("1 +\n  rate({COUNT}{{http_rout=\"/\"}}[60s])"));
        let wanted = format!(
            "{COUNT} has no label \"http_rout\"; it has container, http_route, http_response_status_code
      rate({COUNT}{{http_rout=\"/\"}}[60s])
      {}^",
            " ".repeat("rate({".len() + COUNT.len())
        );
        assert_eq!(shown, wanted);
        for (text, why) in [
            ("", "here should be a number, a series,"),
            ("1 + 1", "this is a number, and of no series"),
            ("up", "agents stream no \"up\"; they do"),
            (&format!("irate({COUNT}[60s])"), "there is no irate() here; there are rate(),"),
            (&format!("rate({COUNT})"), "here should be ["),
            (&format!("rate({COUNT}[4s])"), "a window is from 5 s to 600 s"),
            (&format!("rate({COUNT}[11m])"), "a window is from 5 s to 600 s"),
            (&format!("rate({COUNT}[60])"), "a window is written as 90s"),
            (&format!("rate({COUNT}[60s:5s])"), "here should be ]"),
            (&format!("rate({COUNT}[60s] offset 1m)"), "here should be )"),
            (COUNT, "only ever grows: write rate("),
            (&format!("rate({COUNT}[60s]) > 1"), "here it should end, or go on with + - * /"),
            (&format!("rate({COUNT}{{pod=\"web\"}}[60s])"), "pod is what the metric is asked of"),
            (
                &format!("rate({COUNT}{{http_response_status_code=\"503\"}}[60s])"),
                "agents tell only whether a request failed",
            ),
            (
                &format!("rate({COUNT}{{http_response_status_code!=\"503\"}}[60s])"),
                "agents tell only whether a request failed",
            ),
            (&format!("rate({COUNT}{{http_route=~\"(\"}}[60s])"), "is no regular expression"),
            (&format!("rate({COUNT}{{http_route==\"/\"}}[60s])"), "here should be a value in quotes"),
            (&format!("rate({COUNT}{{http_route=\"/}}[60s])"), "this value has no end"),
            (&format!("rate({COUNT}{{http_route=\"\\d\"}}[60s])"), "is nothing; a \\ is written"),
            (&format!("rate({BUCKET}[60s])"), "of buckets there is histogram_quantile"),
            (&format!("histogram_quantile(2, rate({BUCKET}[60s]))"), "a quantile is from 0 to 1"),
            (&format!("histogram_quantile(0.9, rate({COUNT}[60s]))"), "ends with _bucket"),
            (&format!("histogram_quantile(0.9, sum by (pod) (rate({BUCKET}[60s])))"), "here should be le"),
            (&format!("sum by (pod) (rate({COUNT}[60s]))"), "by nothing"),
            (&format!("sum(rate({COUNT}[60s]) / 2)"), "sum() and avg() are of one series"),
            ("http_server_active_requests[60s]", "has no window"),
            ("rate(http_server_active_requests[60s])", "has no rate"),
            ("1.2.3 * http_server_active_requests", "this is no number"),
            (&format!("{}1", "(".repeat(100)), "too many parentheses"),
            (&"1+".repeat(3000), "no more than 4096"),
        ] {
            let shown = fault(text);
            assert!(shown.contains(why), "{text}: {shown}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in prop_oneof![
            "\\PC{0,60}",
            prop::collection::vec(prop::sample::select(vec![
                "rate(", "sum", "avg", "histogram_quantile(", "0.9", ",", "(", ")", "[", "60s", "]", "{", "}", "=~", "\"5..\"",
                "http_route", "http_response_status_code", COUNT, BUCKET, "http_server_active_requests", "+", "/", " ", "é", "`",
            ]), 0..20).prop_map(|tokens| tokens.concat()),
        ]) {
            if let Err(fault) = query(&text, SHORTEST) {
                prop_assert!(text.is_char_boundary(fault.at), "{} of {:?}", fault.at, text);
                fault.shown(&text);
            }
        }
    }
}
