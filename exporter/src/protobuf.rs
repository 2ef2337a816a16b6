//! Prometheus' protobuf format: the only one with native histograms.
//!
//! The messages are those of `io/prometheus/client/metrics.proto`; what we do not fill is left out.

use std::iter;

use exporter_ebpf::histogram::{BUCKETS, ZERO_THRESHOLD, native_index};
use prost::Message;

use crate::snapshot::{self, Family, Kind, Value, pairs};

/// 8 buckets per doubling.
const SCHEMA: i32 = 3;
/// The bucket of what is above every number: `schema 3` ends at 2^1024 with bucket 8192.
const INFINITE: i32 = 8193;

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    /// 0 is a counter, 1 a gauge, 4 a histogram. Always written: proto2 has no default for a reader to assume.
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// `Gauge` and `Counter`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Number {
    #[prost(double, tag = "1")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    sample_count: u64,
    #[prost(double, tag = "2")]
    sample_sum: f64,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, tag = "6")]
    zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    zero_count: u64,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    /// Each bucket's count, less that of the one before it.
    #[prost(sint64, repeated, tag = "13")]
    positive_delta: Vec<i64>,
    /// Of the native histogram, by time.
    #[prost(message, repeated, tag = "16")]
    exemplars: Vec<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, tag = "1")]
    cumulative_count: u64,
    #[prost(double, tag = "2")]
    upper_bound: f64,
    #[prost(message, optional, tag = "3")]
    exemplar: Option<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Timestamp>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct BucketSpan {
    /// Buckets left out since the last span; of the first, the index of its first bucket.
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

/// Appends a family, its length before it; how many metrics it has.
pub fn encode(family: &Family, out: &mut Vec<u8>) -> usize {
    let kind = family.metric().kind;
    let message = MetricFamily {
        name: family.metric().name.to_owned(),
        help: family.metric().help.to_owned(),
        kind: Some(match kind {
            Kind::Counter => 0,
            Kind::Gauge => 1,
            Kind::Histogram => 4,
        }),
        metric: family.samples().map(|sample| metric(kind, sample)).collect(),
    };
    // A vector grows as needed: it cannot be too short.
    _ = message.encode_length_delimited(out);
    message.metric.len()
}

fn metric(kind: Kind, (container, own, value): (&str, &str, &Value)) -> Metric {
    let label = pairs(container).chain(pairs(own));
    let label = label.map(|(name, value)| LabelPair { name: name.to_owned(), value: value.into_owned() });
    let mut metric = Metric { label: label.collect(), ..Metric::default() };
    match value {
        Value::Number(value) if kind == Kind::Counter => metric.counter = Some(Number { value: *value }),
        Value::Number(value) => metric.gauge = Some(Number { value: *value }),
        Value::Histogram(histogram) => metric.histogram = Some(both(histogram)),
    }
    metric
}

/// The classic histogram and, where there are the fine buckets, the native one.
fn both(histogram: &snapshot::Histogram) -> Histogram {
    let classic = histogram.buckets.iter().copied().chain(iter::once((f64::INFINITY, histogram.count)));
    let mut above = f64::NEG_INFINITY;
    let bucket = classic.map(|(upper_bound, cumulative_count)| {
        let exemplar = histogram.exemplar(above, upper_bound).map(exemplar);
        above = upper_bound;
        Bucket { cumulative_count, upper_bound, exemplar }
    });
    let mut both = Histogram {
        sample_count: histogram.count,
        sample_sum: histogram.sum,
        bucket: bucket.collect(),
        ..Histogram::default()
    };
    if let Some(fine) = &histogram.fine {
        let (positive_span, positive_delta) = spans(native(fine));
        both.schema = Some(SCHEMA);
        both.zero_threshold = ZERO_THRESHOLD;
        both.zero_count = fine[0];
        both.positive_span = positive_span;
        both.positive_delta = positive_delta;
        both.exemplars = histogram.exemplars.iter().map(exemplar).collect();
    }
    both
}

fn exemplar(of: &snapshot::Exemplar) -> Exemplar {
    let label = LabelPair { name: "trace_id".to_owned(), value: of.trace.clone() };
    let (seconds, nanos) = (of.at.floor(), of.at.fract() * 1e9);
    let timestamp = Timestamp { seconds: seconds as i64, nanos: nanos as i32 };
    Exemplar { label: vec![label], value: of.value, timestamp: Some(timestamp) }
}

/// The native buckets that have observations, by index, ascending. What is above the last bound is only known to be that.
fn native(fine: &[u64; BUCKETS]) -> Vec<(i32, u64)> {
    let mut buckets: Vec<(i32, u64)> = Vec::new();
    for (at, &count) in fine.iter().enumerate().skip(1).filter(|(_, count)| **count > 0) {
        let index = native_index(at).unwrap_or(INFINITE);
        match buckets.last_mut() {
            Some((last, sum)) if *last == index => *sum += count,
            _ => buckets.push((index, count)),
        }
    }
    buckets
}

/// Runs of buckets, and the differences of their counts.
fn spans(buckets: Vec<(i32, u64)>) -> (Vec<BucketSpan>, Vec<i64>) {
    let (mut spans, mut deltas): (Vec<BucketSpan>, Vec<i64>) = Default::default();
    let (mut next, mut before) = (0, 0);
    for (index, count) in buckets {
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(BucketSpan { offset: index - next, length: 1 }),
        }
        deltas.push(count as i64 - before);
        (next, before) = (index + 1, count as i64);
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests;
