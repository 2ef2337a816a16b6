//! The exposition formats: Prometheus text 0.0.4 and OpenMetrics 1.0.0.
//!
//! The `prometheus` crate renders text only, and renders a sample's labels anew on each of its lines. Here they are
//! rendered once for each metric and copied to each bucket of a histogram, and so are the bounds of its buckets, which
//! all histograms of a family share. The text is the same as the crate's, byte for byte.

use std::io::Write;

use prometheus::proto::{Histogram, Metric, MetricFamily, MetricType, Summary};

/// The base units by which a family's name may end; OpenMetrics states them apart.
const UNITS: [&str; 2] = ["seconds", "bytes"];

/// Up to here every integer has a float of its own, so the digits of the one are those of the other.
const EXACT_INTEGERS: f64 = (1_u64 << 53) as f64;

/// An exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text, version 0.0.4.
    Text,
    /// OpenMetrics text, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The value of the `Content-Type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Picks the format that a client's `Accept` header rates highest: text when it rates both alike, names neither or
    /// is absent. Parameters other than the version (such as `escaping`) change nothing: every name that the agent
    /// exports is a legacy name, the same under each escaping.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let accept = accept.unwrap_or_default();
        let openmetrics = rating(accept, "application/*", "application/openmetrics-text", "1.0.0");
        let text = rating(accept, "text/*", "text/plain", "0.0.4");
        if openmetrics > text { Self::OpenMetrics } else { Self::Text }
    }
}

/// The weight that `accept` gives to a media type, by the most specific of the ranges that cover it; 0 without one.
fn rating(accept: &str, group: &str, name: &str, version: &str) -> f64 {
    let covering = weighted(accept).filter_map(|(range, params, weight)| {
        let specificity = if range.eq_ignore_ascii_case(name) {
            let wanted = params.clone().find(|(key, _)| key.eq_ignore_ascii_case("version"));
            match wanted {
                None => 2,
                Some((_, wanted)) if wanted == version => 3,
                Some(_) => return None,
            }
        } else if range.eq_ignore_ascii_case(group) {
            1
        } else if range == "*/*" {
            0
        } else {
            return None;
        };
        Some((specificity, weight))
    });
    covering.max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))).map_or(0.0, |(_, weight)| weight)
}

/// Splits a header of weighted alternatives (`Accept`, `Accept-Encoding`) into value, parameters and weight. One whose
/// weight is malformed weighs nothing.
pub(crate) fn weighted(
    header: &str,
) -> impl Iterator<Item = (&str, impl Iterator<Item = (&str, &str)> + Clone, f64)> {
    header.split(',').map(|alternative| {
        let mut parts = alternative.split(';').map(str::trim);
        let value = parts.next().unwrap_or_default();
        let params = parts.map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (key.trim(), value.trim().trim_matches('"'))
        });
        let weight =
            params.clone().find(|(key, _)| key.eq_ignore_ascii_case("q")).map_or(1.0, |(_, weight)| {
                weight.parse().ok().filter(|weight| (0.0..=1.0).contains(weight)).unwrap_or(0.0)
            });
        (value, params, weight)
    })
}

/// Appends the exposition of `families` to `out` and returns how many series (sample lines) it has. Families without a
/// name or a metric are left out.
pub fn encode(families: &[MetricFamily], format: Format, out: &mut Vec<u8>) -> usize {
    let mut encoder = Encoder { out, format, labels: Vec::new(), bounds: Vec::new(), series: 0 };
    for family in families {
        if !family.name().is_empty() && !family.get_metric().is_empty() {
            encoder.family(family);
        }
    }
    if format == Format::OpenMetrics {
        encoder.push("# EOF\n");
    }
    encoder.series
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    format: Format,
    /// The labels of the metric at hand, as they stand between the braces.
    labels: Vec<u8>,
    /// The bounds of the last histogram, as bits and as they stand in `le`: mostly those of the next one as well.
    bounds: Vec<(u64, Vec<u8>)>,
    series: usize,
}

impl Encoder<'_> {
    fn family(&mut self, family: &MetricFamily) {
        let kind = family.get_field_type();
        let openmetrics = self.format == Format::OpenMetrics;
        // An OpenMetrics counter is named without `_total`, its samples with it, whether the name had it or not.
        let (name, suffix) = match (kind, openmetrics) {
            (MetricType::COUNTER, true) => {
                (family.name().strip_suffix("_total").unwrap_or(family.name()), "_total")
            }
            _ => (family.name(), ""),
        };
        if !family.help().is_empty() {
            self.push_all(["# HELP ", name, " "]);
            escape(self.out, family.help(), openmetrics);
            self.push("\n");
        }
        let kind_name = match kind {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::UNTYPED if openmetrics => "unknown",
            MetricType::UNTYPED => "untyped",
        };
        self.push_all(["# TYPE ", name, " ", kind_name, "\n"]);
        if openmetrics
            && let Some(unit) =
                UNITS.iter().find(|unit| name.strip_suffix(**unit).is_some_and(|rest| rest.ends_with('_')))
        {
            self.push_all(["# UNIT ", name, " ", unit, "\n"]);
        }
        for metric in family.get_metric() {
            self.labels.clear();
            for label in metric.get_label() {
                if !self.labels.is_empty() {
                    self.labels.push(b',');
                }
                self.labels.extend_from_slice(label.name().as_bytes());
                self.labels.extend_from_slice(b"=\"");
                escape(&mut self.labels, label.value(), true);
                self.labels.push(b'"');
            }
            match kind {
                MetricType::COUNTER => self.simple(name, suffix, metric, metric.get_counter().get_value()),
                MetricType::GAUGE => self.simple(name, suffix, metric, metric.get_gauge().get_value()),
                MetricType::HISTOGRAM => self.histogram(name, metric, metric.get_histogram()),
                MetricType::SUMMARY => self.summary(name, metric, metric.get_summary()),
                // The crate dropped their values along with protobuf: a metric of unknown type holds a gauge.
                MetricType::UNTYPED => self.simple(name, suffix, metric, metric.get_gauge().get_value()),
            }
        }
    }

    /// A line with the metric's labels only.
    fn simple(&mut self, name: &str, suffix: &str, metric: &Metric, value: f64) {
        self.bare(name, suffix);
        self.float(value);
        self.finish(metric);
    }

    fn histogram(&mut self, name: &str, metric: &Metric, histogram: &Histogram) {
        let mut infinity_seen = false;
        for (index, bucket) in histogram.get_bucket().iter().enumerate() {
            let bound = bucket.upper_bound();
            infinity_seen |= bound == f64::INFINITY;
            self.open(name, "_bucket", "le");
            match self.bounds.get(index) {
                Some((bits, text)) if *bits == bound.to_bits() => self.out.extend_from_slice(text),
                _ => {
                    let start = self.out.len();
                    self.label_float(bound);
                    self.bounds.truncate(index);
                    self.bounds.push((bound.to_bits(), self.out[start..].to_vec()));
                }
            }
            self.push("\"} ");
            self.count(bucket.cumulative_count());
            self.finish(metric);
        }
        if !infinity_seen {
            self.open(name, "_bucket", "le");
            self.push("+Inf\"} ");
            self.count(histogram.get_sample_count());
            self.finish(metric);
        }
        self.simple(name, "_sum", metric, histogram.get_sample_sum());
        self.bare(name, "_count");
        self.count(histogram.get_sample_count());
        self.finish(metric);
    }

    fn summary(&mut self, name: &str, metric: &Metric, summary: &Summary) {
        for quantile in summary.get_quantile() {
            self.open(name, "", "quantile");
            self.label_float(quantile.quantile());
            self.push("\"} ");
            self.float(quantile.value());
            self.finish(metric);
        }
        self.simple(name, "_sum", metric, summary.sample_sum());
        self.bare(name, "_count");
        self.count(summary.sample_count());
        self.finish(metric);
    }

    /// A line up to the opening quote of the one label that its metric does not have.
    fn open(&mut self, name: &str, suffix: &str, label: &str) {
        self.push_all([name, suffix, "{"]);
        self.out.extend_from_slice(&self.labels);
        if !self.labels.is_empty() {
            self.push(",");
        }
        self.push_all([label, "=\""]);
    }

    /// A line up to its value, with no labels but the metric's.
    fn bare(&mut self, name: &str, suffix: &str) {
        self.push_all([name, suffix]);
        if !self.labels.is_empty() {
            self.push("{");
            self.out.extend_from_slice(&self.labels);
            self.push("}");
        }
        self.push(" ");
    }

    /// The end of a line: the timestamp (in ms; 0 is none), which OpenMetrics wants in seconds.
    fn finish(&mut self, metric: &Metric) {
        let timestamp = metric.timestamp_ms();
        if timestamp != 0 {
            self.push(" ");
            match self.format {
                Format::Text => display(self.out, timestamp),
                Format::OpenMetrics => display(self.out, timestamp as f64 / 1e3),
            }
        }
        self.push("\n");
        self.series += 1;
    }

    /// A count of observations. The crate renders it as a float, which above 2^53 rounds it.
    fn count(&mut self, count: u64) {
        match self.format {
            Format::Text => self.float(count as f64),
            Format::OpenMetrics => integer(self.out, count),
        }
    }

    fn float(&mut self, value: f64) {
        match self.format {
            Format::Text => match whole(value) {
                Some(magnitude) => {
                    if value < 0.0 {
                        self.push("-");
                    }
                    integer(self.out, magnitude);
                }
                None => display(self.out, value),
            },
            Format::OpenMetrics => canonical(self.out, value),
        }
    }

    /// A float as a label's value.
    fn label_float(&mut self, value: f64) {
        match self.format {
            Format::Text => display(self.out, value),
            Format::OpenMetrics => canonical(self.out, value),
        }
    }

    fn push(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn push_all<const N: usize>(&mut self, parts: [&str; N]) {
        for part in parts {
            self.push(part);
        }
    }
}

/// The magnitude of a float that is an integer and renders as one; minus zero does not.
fn whole(value: f64) -> Option<u64> {
    let magnitude = value.abs();
    let integer = magnitude as u64;
    let exact = magnitude < EXACT_INTEGERS && integer as f64 == magnitude;
    (exact && (integer != 0 || value.is_sign_positive())).then_some(integer)
}

/// The canonical number of OpenMetrics: Go's `%g` with the fewest digits that give the same float, and `.0` after an
/// integer, so that a bound is the same label whichever agent renders it.
fn canonical(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    }
    let magnitude = value.abs();
    // Go's `%g` turns to exponents outside this range.
    if magnitude == 0.0 || (1e-4..1e6).contains(&magnitude) {
        display(out, value);
        if magnitude.fract() == 0.0 {
            out.extend_from_slice(b".0");
        }
        return;
    }
    let start = out.len();
    // `-1.5e-7`: the digits of `%g`, but an exponent without a plus and with one digit where Go writes two.
    write_fmt(out, format_args!("{value:e}"));
    let Some(at) = out[start..].iter().position(|&byte| byte == b'e').map(|at| start + at + 1) else {
        return;
    };
    let negative = out[at] == b'-';
    let digits = at + usize::from(negative);
    let pad: &[u8] = if out.len() - digits < 2 { b"0" } else { b"" };
    let sign: &[u8] = if negative { b"-" } else { b"+" };
    out.splice(at..digits, sign.iter().chain(pad).copied());
}

/// Escapes a label's value or a help; the help of the text format keeps its quotes as they are.
fn escape(out: &mut Vec<u8>, text: &str, quotes: bool) {
    let special = |byte: &u8| matches!(byte, b'\\' | b'\n') || (quotes && *byte == b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(special) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            b'\n' => b"\\n",
            b'"' => b"\\\"",
            _ => b"\\\\",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Decimal digits, without the detour over the formatting machinery.
fn integer(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write_fmt(out, format_args!("{value}"));
}

fn write_fmt(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = out.write_fmt(arguments);
}

#[cfg(test)]
mod tests;
