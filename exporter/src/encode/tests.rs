use prometheus::Encoder as _;
use prometheus::proto;
use proptest::prelude::*;

use super::*;
use crate::snapshot::{self, Family, Labels};

fn rendered(snapshot: Snapshot, format: Format) -> (String, usize) {
    let mut exposition = Exposition::new(snapshot, format);
    let text = exposition.by_ref().flatten().collect();
    assert_eq!(exposition.next(), None);
    (String::from_utf8(text).unwrap(), exposition.series())
}

/// What the crate makes of the same families.
fn reference(snapshot: &Snapshot) -> String {
    let families: Vec<_> = snapshot.families().map(family).collect();
    let mut out = Vec::new();
    prometheus::TextEncoder::new().encode(&families, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn family(family: &Family) -> proto::MetricFamily {
    let mut to = proto::MetricFamily::default();
    to.set_name(family.metric().name.to_owned());
    to.set_help(family.metric().help.to_owned());
    to.set_field_type(match family.metric().kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
    });
    to.set_metric(family.samples().map(|sample| metric_of(family.metric().kind, sample)).collect());
    to
}

fn metric_of(kind: Kind, (container, own, value): (&str, &str, &Value)) -> proto::Metric {
    let mut to = proto::Metric::default();
    to.set_label([pairs(container), pairs(own)].concat());
    match value {
        Value::Number(value) if kind == Kind::Counter => {
            let mut counter = proto::Counter::default();
            counter.set_value(*value);
            to.set_counter(counter);
        }
        Value::Number(value) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(*value);
            to.set_gauge(gauge);
        }
        Value::Histogram(histogram) => {
            let mut copy = proto::Histogram::default();
            copy.set_sample_count(histogram.count);
            copy.set_sample_sum(histogram.sum);
            let buckets = histogram.buckets.iter().map(|&(bound, count)| {
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                bucket
            });
            copy.set_bucket(buckets.collect());
            to.set_histogram(copy);
        }
    }
    to
}

fn pairs(text: &str) -> Vec<proto::LabelPair> {
    let pairs = snapshot::pairs(text).map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.into_owned());
        pair
    });
    pairs.collect()
}

#[track_caller]
fn assert_as_reference(snapshot: Snapshot) {
    let expected = reference(&snapshot);
    let (text, series) = rendered(snapshot, Format::Text);
    assert_eq!(text, expected);
    assert_eq!(series, text.lines().filter(|line| !line.starts_with('#')).count());
}

fn metric(kind: Kind, name: &'static str, help: &'static str) -> &'static Metric {
    declared(kind, name, help, &[])
}

fn declared(
    kind: Kind,
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
) -> &'static Metric {
    Box::leak(Box::new(Metric { name, kind, help, labels, per_container: true }))
}

const EDGES: [f64; 27] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.1,
    -2.5,
    1e-4,
    0.000_099_999,
    1.5e-7,
    5e-324,
    999_999.0,
    999_999.5,
    1e6,
    -1e6,
    1_234_567.0,
    123_456_789.123,
    9_007_199_254_740_991.0,
    9_007_199_254_740_992.0,
    -9_007_199_254_740_993.0,
    1.8e19,
    1e21,
    1e100,
    f64::MAX,
    f64::MIN_POSITIVE,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

fn histogram(buckets: &[(f64, u64)], sum: f64, count: u64) -> snapshot::Histogram {
    snapshot::Histogram { buckets: buckets.to_vec(), sum, count, fine: None, exemplars: Vec::new() }
}

/// Two in the bucket up to 0.5, and one beyond every bound.
fn exemplars() -> Vec<snapshot::Exemplar> {
    let all = [("aa", 0.1, 1_700_000_000.0), ("bb", 0.5, 1_700_000_001.25), ("cc", 2.0, 1_700_000_002.5)];
    all.map(|(trace, value, at)| snapshot::Exemplar { trace: trace.to_owned(), value, at }).to_vec()
}

const AWKWARD: [(&str, &str); 3] = [("a", ""), ("b", "q\"b\\s\nn"), ("c", "é 漢字 \t{},=")];

fn varied() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let awkward = Labels::new(&AWKWARD);
    for kind in [Kind::Counter, Kind::Gauge] {
        let name = if kind == Kind::Counter { "x_total" } else { "x_bytes" };
        let family = snapshot.family(metric(kind, name, "Help with \"quotes\", \\ and\nline."));
        for value in EDGES {
            family.value(&Labels::NONE, &[], value);
            family.value(&awkward, &[], value);
        }
    }
    let family = snapshot.family(declared(Kind::Gauge, "helpless", "", &["d", "e"]));
    for values in [["", ""], ["\\", ""], ["", "\n"], ["x", "y\""]] {
        family.value(&Labels::new(&AWKWARD[..1]), &values, 1.0);
        family.value(&Labels::NONE, &values, 1.0);
    }
    let family = snapshot.family(declared(Kind::Histogram, "h_seconds", "H.", &["d"]));
    family.histogram(&Labels::NONE, &[""], histogram(&[(0.001, 1), (2.0, 2), (1e-5, 3)], 0.25, 4));
    family.histogram(&Labels::NONE, &["own"], histogram(&[(0.001, 1)], 0.25, 4));
    family.histogram(&awkward, &[""], histogram(&[(0.001, 1), (3.0, 2), (1e-5, 3)], f64::NAN, u64::MAX));
    family.histogram(&awkward, &["own"], histogram(&[(0.001, 1), (f64::INFINITY, 7)], -1.0, 7));
    family.histogram(&Labels::new(&AWKWARD[1..]), &[""], histogram(&[], 0.0, 0));
    snapshot
}

#[test]
fn text_is_that_of_the_crate() {
    assert_as_reference(varied());
    assert_as_reference(Snapshot::default());
}

#[test]
fn pieces_are_small_and_lose_nothing() {
    let labels = Labels::new(&[("pod", &"x".repeat(1000))]);
    let mut snapshot = Snapshot::default();
    for name in ["a_seconds", "b_seconds", "c_seconds"] {
        let family = snapshot.family(metric(Kind::Histogram, name, "Long."));
        for _ in 0..100 {
            family.histogram(&labels, &[], histogram(&[(0.5, 1), (1.0, 2)], 1.5, 2));
        }
        // Of a size that ends a piece exactly, now and then.
        let family = snapshot.family(metric(Kind::Gauge, "g", "Short."));
        (0..500).for_each(|at| family.value(&labels, &[], f64::from(at)));
    }
    let sizes: Vec<_> = Exposition::new(snapshot.clone(), Format::Text).map(|piece| piece.len()).collect();
    assert!(sizes.len() > 30, "{sizes:?}");
    assert!(sizes.iter().all(|size| (1..PIECE + PIECE / 8).contains(size)), "{sizes:?}");
    assert_as_reference(snapshot);
}

#[test]
fn families_without_samples_are_left_out() {
    let mut snapshot = Snapshot::default();
    snapshot.family(metric(Kind::Gauge, "silent", "S."));
    assert_eq!(rendered(snapshot, Format::Text), (String::new(), 0));
    assert_eq!(rendered(Snapshot::default(), Format::OpenMetrics), ("# EOF\n".to_owned(), 0));
}

#[test]
fn openmetrics_golden() {
    let pod = Labels::new(&[("pod", "a\"b\\c\nd")]);
    let mut snapshot = Snapshot::default();
    snapshot.family(metric(Kind::Counter, "cpu_seconds_total", "CPU \"time\".")).value(&pod, &[], 12.5);
    snapshot.family(metric(Kind::Counter, "odd", "Odd.")).value(&Labels::NONE, &[], 1e6);
    snapshot.family(declared(Kind::Gauge, "mem_bytes", "Memory.", &["at"])).value(
        &pod,
        &["x"],
        123_456_789.0,
    );
    snapshot.family(metric(Kind::Gauge, "seconds", "No unit: nothing before it.")).value(
        &Labels::NONE,
        &[],
        -0.0,
    );
    let family = snapshot.family(metric(Kind::Histogram, "lat_seconds", "Latency."));
    let mut latency = histogram(&[(1e-5, 1), (0.5, 2), (1.0, 3)], 0.75, 9_007_199_254_740_993);
    latency.exemplars = exemplars();
    family.histogram(&pod, &[], latency);
    let expected = r#"# HELP cpu_seconds CPU \"time\".
# TYPE cpu_seconds counter
# UNIT cpu_seconds seconds
cpu_seconds_total{pod="a\"b\\c\nd"} 12.5
# HELP odd Odd.
# TYPE odd counter
odd_total 1e+06
# HELP mem_bytes Memory.
# TYPE mem_bytes gauge
# UNIT mem_bytes bytes
mem_bytes{pod="a\"b\\c\nd",at="x"} 1.23456789e+08
# HELP seconds No unit: nothing before it.
# TYPE seconds gauge
seconds -0.0
# HELP lat_seconds Latency.
# TYPE lat_seconds histogram
# UNIT lat_seconds seconds
lat_seconds_bucket{pod="a\"b\\c\nd",le="1e-05"} 1
lat_seconds_bucket{pod="a\"b\\c\nd",le="0.5"} 2 # {trace_id="bb"} 0.5 1700000001.250
lat_seconds_bucket{pod="a\"b\\c\nd",le="1.0"} 3
lat_seconds_bucket{pod="a\"b\\c\nd",le="+Inf"} 9007199254740993 # {trace_id="cc"} 2.0 1700000002.500
lat_seconds_sum{pod="a\"b\\c\nd"} 0.75
lat_seconds_count{pod="a\"b\\c\nd"} 9007199254740993
# EOF
"#;
    assert_eq!(rendered(snapshot, Format::OpenMetrics), (expected.to_owned(), 10));
}

#[test]
fn canonical_numbers_are_those_of_the_specification() {
    let powers = "1e-10 1e-09 1e-08 1e-07 1e-06 1e-05 0.0001 0.001 0.01 0.1 1.0 10.0 100.0 1000.0 10000.0 100000.0 \
                  1e+06 1e+07 1e+08 1e+09 1e+10";
    let others =
        "0.0 0.002 0.01 0.011 9.999 1.5e-100 -1.5e+100 999999.0 999999.5 1.0000005e+06 +Inf -Inf NaN";
    for expected in powers.split_whitespace().chain(others.split_whitespace()) {
        let mut out = Vec::new();
        canonical(&mut out, expected.parse().unwrap());
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

fn labels() -> impl Strategy<Value = Vec<(String, String)>> {
    proptest::collection::vec(("[a-z_]{1,8}", any::<String>()), 0..5)
}

proptest! {
    #[test]
    fn random_values_render_as_the_crate_renders_them(
        samples in proptest::collection::vec((labels(), any::<String>(), any::<f64>(), any::<u64>()), 1..8),
        integers in proptest::collection::vec(any::<i64>(), 1..8),
        bounds in proptest::collection::vec(any::<f64>(), 0..8),
        help in "\\PC{0,20}[\\\\\n\"]{0,3}",
    ) {
        let mut snapshot = Snapshot::default();
        let rendered: Vec<_> = samples.iter().map(|(labels, ..)| {
            let pairs: Vec<_> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            Labels::new(&pairs)
        }).collect();
        for ((given, ..), rendered) in samples.iter().zip(&rendered) {
            let read = pairs(rendered.as_str());
            let read: Vec<_> = read.iter().map(|pair| (pair.name().to_owned(), pair.value().to_owned())).collect();
            prop_assert_eq!(given, &read);
        }
        let family = snapshot.family(declared(Kind::Gauge, "g", Box::leak(help.into_boxed_str()), &["own"]));
        for (labels, (_, own, value, _)) in rendered.iter().zip(&samples) {
            family.value(labels, &[own], *value);
        }
        for (at, integer) in integers.iter().enumerate() {
            family.value(&Labels::NONE, &[""], (*integer >> (at * 8)) as f64);
        }
        let family = snapshot.family(declared(Kind::Histogram, "h", "H.", &["own"]));
        for (at, (labels, (_, own, sum, count))) in rendered.iter().zip(&samples).enumerate() {
            let buckets = bounds.iter().skip(at % 3).map(|&bound| (bound, count >> 8)).collect::<Vec<_>>();
            family.histogram(labels, &[own], histogram(&buckets, *sum, *count));
        }
        assert_as_reference(snapshot);
    }

    #[test]
    fn canonical_numbers_parse_back(value in any::<f64>(), integer in any::<i32>()) {
        for value in [value, f64::from(integer), f64::from(integer) / 1000.0] {
            let mut out = Vec::new();
            canonical(&mut out, value);
            let text = String::from_utf8(out).unwrap();
            let back: f64 = text.parse().unwrap();
            prop_assert!(back == value || back.is_nan() && value.is_nan(), "{value} became {text}");
            prop_assert!(text.contains(['.', 'e', 'N', 'I']), "{text} is no float");
        }
    }
}
