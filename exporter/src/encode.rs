//! The exposition formats: Prometheus text 0.0.4 and OpenMetrics 1.0.0; and, by `protobuf.rs`, the one of messages.
//!
//! The `prometheus` crate renders text only, from families whose labels it owns and escapes anew on each of a sample's
//! lines. Here the labels come rendered, and the bounds of the buckets, which the histograms of a family share, are
//! rendered once. The text is the same as the crate's, byte for byte.

use std::io::Write;

use crate::{
    format::Format,
    protobuf,
    snapshot::{Histogram, Kind, Metric, Snapshot, Value},
};

/// The base units by which a family's name may end; OpenMetrics states them apart.
const UNITS: [&str; 2] = ["seconds", "bytes"];

/// Up to here every integer has a float of its own, so the digits of the one are those of the other.
const EXACT_INTEGERS: f64 = (1_u64 << 53) as f64;

/// How large a piece is, bytes, more or less: what a sample may have comes on top.
const PIECE: usize = 64 * 1024;

/// The exposition of a snapshot, piece by piece: the whole of a large one is megabytes that each scrape would have the kernel
/// map anew.
pub struct Exposition {
    snapshot: Snapshot,
    format: Format,
    encoder: Encoder,
    /// The next sample: its family, and its place there.
    next: (usize, usize),
    is_ended: bool,
}

impl Exposition {
    /// Nothing is rendered yet.
    pub fn new(snapshot: Snapshot, format: Format) -> Self {
        let openmetrics = format == Format::OpenMetrics;
        let encoder = Encoder { out: Vec::new(), openmetrics, bounds: Vec::new(), series: 0 };
        Self { snapshot, format, encoder, next: (0, 0), is_ended: false }
    }

    /// How many series (sample lines; of messages, metrics) have been rendered so far.
    pub fn series(&self) -> usize {
        self.encoder.series
    }
}

impl Iterator for Exposition {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let encoder = &mut self.encoder;
        encoder.out.reserve(PIECE + PIECE / 8);
        for family in self.snapshot.families().skip(self.next.0) {
            if self.format == Format::Protobuf {
                encoder.series += protobuf::encode(family, &mut encoder.out);
                self.next.0 += 1;
                if encoder.out.len() >= PIECE {
                    return Some(std::mem::take(&mut encoder.out));
                }
                continue;
            }
            if self.next.1 == 0 {
                encoder.head(family.metric());
            }
            for (container, own, value) in family.samples().skip(self.next.1) {
                encoder.sample(family.metric(), (container, own), value);
                self.next.1 += 1;
                if encoder.out.len() >= PIECE {
                    return Some(std::mem::take(&mut encoder.out));
                }
            }
            self.next = (self.next.0 + 1, 0);
        }
        if encoder.openmetrics && !std::mem::replace(&mut self.is_ended, true) {
            encoder.push("# EOF\n");
        }
        Some(std::mem::take(&mut encoder.out)).filter(|out| !out.is_empty())
    }
}

struct Encoder {
    out: Vec<u8>,
    /// Or else Prometheus text.
    openmetrics: bool,
    /// The bounds of the last histogram, as bits and as they stand in `le`: mostly those of the next one as well.
    bounds: Vec<(u64, Vec<u8>)>,
    series: usize,
}

/// The labels of a sample: the container's and the metric's.
type Labels<'a> = (&'a str, &'a str);

impl Encoder {
    /// The name of a family, and what a sample adds to it: an OpenMetrics counter is named without `_total`, its samples with
    /// it, whether the declaration had it or not.
    fn name(&self, metric: &Metric) -> (&'static str, &'static str) {
        match metric.kind {
            Kind::Counter if self.openmetrics => {
                (metric.name.strip_suffix("_total").unwrap_or(metric.name), "_total")
            }
            _ => (metric.name, ""),
        }
    }

    fn head(&mut self, metric: &Metric) {
        let (name, _) = self.name(metric);
        let openmetrics = self.openmetrics;
        if !metric.help.is_empty() {
            self.push_all(["# HELP ", name, " "]);
            help(&mut self.out, metric.help, openmetrics);
            self.push("\n");
        }
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.push_all(["# TYPE ", name, " ", kind, "\n"]);
        if openmetrics
            && let Some(unit) =
                UNITS.iter().find(|unit| name.strip_suffix(**unit).is_some_and(|rest| rest.ends_with('_')))
        {
            self.push_all(["# UNIT ", name, " ", unit, "\n"]);
        }
    }

    fn sample(&mut self, metric: &Metric, labels: Labels<'_>, value: &Value) {
        let (name, suffix) = self.name(metric);
        match value {
            Value::Number(value) => self.number(name, suffix, labels, *value),
            Value::Histogram(histogram) => self.histogram(name, labels, histogram),
        }
    }

    fn number(&mut self, name: &str, suffix: &str, labels: Labels<'_>, value: f64) {
        self.bare(name, suffix, labels);
        self.float(value);
        self.finish();
    }

    fn histogram(&mut self, name: &str, labels: Labels<'_>, histogram: &Histogram) {
        let start = self.out.len();
        self.push_all([name, "_bucket{"]);
        self.labels(labels);
        if self.out.last() != Some(&b'{') {
            self.push(",");
        }
        self.push("le=\"");
        // Each further line begins as the first does.
        let opening = start..self.out.len();
        let mut is_opened = true;
        let mut infinity_seen = false;
        let mut above = f64::NEG_INFINITY;
        for (index, &(bound, count)) in histogram.buckets.iter().enumerate() {
            infinity_seen |= bound == f64::INFINITY;
            if !std::mem::take(&mut is_opened) {
                self.out.extend_from_within(opening.clone());
            }
            self.bound(index, bound);
            self.push("\"} ");
            self.count(count);
            self.exemplar(histogram, above, bound);
            self.finish();
            above = bound;
        }
        if !infinity_seen {
            if !is_opened {
                self.out.extend_from_within(opening);
            }
            self.push("+Inf\"} ");
            self.count(histogram.count);
            self.exemplar(histogram, above, f64::INFINITY);
            self.finish();
        }
        self.number(name, "_sum", labels, histogram.sum);
        self.bare(name, "_count", labels);
        self.count(histogram.count);
        self.finish();
    }

    /// An observation in a bucket, if one is known: only OpenMetrics has a place for it.
    fn exemplar(&mut self, histogram: &Histogram, above: f64, bound: f64) {
        if let Some(exemplar) = histogram.exemplar(above, bound).filter(|_| self.openmetrics) {
            self.push_all([" # {trace_id=\"", &exemplar.trace, "\"} "]);
            self.float(exemplar.value);
            // In full, and not with an exponent: a reader need not take that for a time.
            write_fmt(&mut self.out, format_args!(" {:.3}", exemplar.at));
        }
    }

    /// The bound of a bucket, rendered anew only where the last histogram had another in its place.
    fn bound(&mut self, index: usize, bound: f64) {
        match self.bounds.get(index) {
            Some((bits, text)) if *bits == bound.to_bits() => self.out.extend_from_slice(text),
            _ => {
                let start = self.out.len();
                self.label_float(bound);
                self.bounds.truncate(index);
                self.bounds.push((bound.to_bits(), self.out[start..].to_vec()));
            }
        }
    }

    /// A line up to its value.
    fn bare(&mut self, name: &str, suffix: &str, labels: Labels<'_>) {
        self.push_all([name, suffix]);
        if labels != ("", "") {
            self.push("{");
            self.labels(labels);
            self.push("}");
        }
        self.push(" ");
    }

    fn labels(&mut self, (container, own): Labels<'_>) {
        let comma = if container.is_empty() || own.is_empty() { "" } else { "," };
        self.push_all([container, comma, own]);
    }

    fn finish(&mut self) {
        self.push("\n");
        self.series += 1;
    }

    /// A count of observations. The crate renders it as a float, which above 2^53 rounds it.
    fn count(&mut self, count: u64) {
        if self.openmetrics { integer(&mut self.out, count) } else { self.float(count as f64) }
    }

    fn float(&mut self, value: f64) {
        if self.openmetrics {
            return canonical(&mut self.out, value);
        }
        let Some(magnitude) = whole(value) else { return display(&mut self.out, value) };
        if value < 0.0 {
            self.push("-");
        }
        integer(&mut self.out, magnitude);
    }

    /// A float as a label's value.
    fn label_float(&mut self, value: f64) {
        let render = if self.openmetrics { canonical } else { display };
        render(&mut self.out, value);
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

/// Escapes a help; the text format keeps its quotes as they are.
fn help(out: &mut Vec<u8>, text: &str, quotes: bool) {
    for &byte in text.as_bytes() {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'"' if quotes => out.extend_from_slice(b"\\\""),
            _ => out.push(byte),
        }
    }
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

fn display(out: &mut Vec<u8>, value: f64) {
    write_fmt(out, format_args!("{value}"));
}

fn write_fmt(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = out.write_fmt(arguments);
}

#[cfg(test)]
mod tests;
