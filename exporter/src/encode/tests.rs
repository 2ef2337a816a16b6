use prometheus::Encoder as _;
use prometheus::proto::{self, LabelPair};
use proptest::prelude::*;

use super::*;
use crate::snapshot::{self, Kind, Snapshot, label};

fn rendered(families: &[MetricFamily], format: Format) -> (String, usize) {
    let mut out = Vec::new();
    let series = encode(families, format, &mut out);
    (String::from_utf8(out).unwrap(), series)
}

fn reference(families: &[MetricFamily]) -> String {
    let mut out = Vec::new();
    prometheus::TextEncoder::new().encode(families, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[track_caller]
fn assert_as_reference(families: &[MetricFamily]) {
    let (text, series) = rendered(families, Format::Text);
    assert_eq!(text, reference(families));
    assert_eq!(series, text.lines().filter(|line| !line.starts_with('#')).count());
}

fn metric(kind: Kind, name: &'static str, help: &'static str) -> &'static snapshot::Metric {
    Box::leak(Box::new(snapshot::Metric { name, kind, help, labels: &[], per_container: true }))
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
    snapshot::Histogram { buckets: buckets.to_vec(), sum, count }
}

fn varied() -> Vec<MetricFamily> {
    let mut snapshot = Snapshot::default();
    let awkward = [label("a", ""), label("b", "q\"b\\s\nn"), label("c", "é 漢字 \t{},=")];
    for kind in [Kind::Counter, Kind::Gauge] {
        let name = if kind == Kind::Counter { "x_total" } else { "x_bytes" };
        let mut family = snapshot.family(metric(kind, name, "Help with \"quotes\", \\ and\nline."));
        for value in EDGES {
            family.value(&[], &[], value);
            family.value(&awkward, &[], value);
        }
    }
    snapshot.family(metric(Kind::Gauge, "helpless", "")).value(&awkward[..1], &[], 1.0);
    let mut family = snapshot.family(metric(Kind::Histogram, "h_seconds", "H."));
    family.histogram(&[], &[], &histogram(&[(0.001, 1), (2.0, 2), (1e-5, 3)], 0.25, 4));
    family.histogram(&awkward, &[], &histogram(&[(0.001, 1), (3.0, 2), (1e-5, 3)], f64::NAN, u64::MAX));
    family.histogram(&awkward, &[], &histogram(&[(0.001, 1), (f64::INFINITY, 7)], -1.0, 7));
    family.histogram(&awkward[1..], &[], &histogram(&[], 0.0, 0));
    let mut families = snapshot.into_families();
    families[0].mut_metric()[0].set_timestamp_ms(1_700_000_000_123);
    families[0].mut_metric()[1].set_timestamp_ms(-5);
    families.push(summary());
    families
}

fn summary() -> MetricFamily {
    let mut quantile = proto::Quantile::default();
    quantile.set_quantile(0.99);
    quantile.set_value(1.5);
    let mut summary = proto::Summary::default();
    summary.set_quantile(vec![quantile]);
    summary.set_sample_sum(3.0);
    summary.set_sample_count(2);
    let mut metric = proto::Metric::default();
    metric.set_summary(summary);
    let mut family = MetricFamily::default();
    family.set_name("s_seconds".to_owned());
    family.set_field_type(MetricType::SUMMARY);
    family.set_metric(vec![metric]);
    family
}

#[test]
fn text_is_that_of_the_crate() {
    assert_as_reference(&varied());
    assert_as_reference(&[]);
}

#[test]
fn families_without_name_or_metric_are_left_out() {
    let mut nameless = summary();
    nameless.set_name(String::new());
    let mut empty = summary();
    empty.set_metric(Vec::new());
    let mut unknown = summary();
    unknown.set_field_type(MetricType::UNTYPED);
    assert_eq!(rendered(&[nameless.clone(), empty.clone()], Format::Text), (String::new(), 0));
    assert_eq!(rendered(&[nameless, empty], Format::OpenMetrics), ("# EOF\n".to_owned(), 0));
    let (text, series) = rendered(&[unknown], Format::OpenMetrics);
    assert_eq!(
        (text.as_str(), series),
        ("# TYPE s_seconds unknown\n# UNIT s_seconds seconds\ns_seconds 0.0\n# EOF\n", 1)
    );
}

#[test]
fn openmetrics_golden() {
    let base = [label("pod", "a\"b\\c\nd")];
    let mut snapshot = Snapshot::default();
    snapshot.family(metric(Kind::Counter, "cpu_seconds_total", "CPU \"time\".")).value(&base, &[], 12.5);
    snapshot.family(metric(Kind::Counter, "odd", "Odd.")).value(&[], &[], 1e6);
    snapshot.family(metric(Kind::Gauge, "mem_bytes", "Memory.")).value(&base, &[], 123_456_789.0);
    snapshot.family(metric(Kind::Gauge, "seconds", "No unit: nothing before it.")).value(&[], &[], -0.0);
    let mut family = snapshot.family(metric(Kind::Histogram, "lat_seconds", "Latency."));
    family.histogram(&base, &[], &histogram(&[(1e-5, 1), (0.5, 2), (1.0, 3)], 0.75, 9_007_199_254_740_993));
    let mut families = snapshot.into_families();
    families[1].mut_metric()[0].set_timestamp_ms(1_700_000_000_120);
    families.push(summary());
    let expected = r#"# HELP cpu_seconds CPU \"time\".
# TYPE cpu_seconds counter
# UNIT cpu_seconds seconds
cpu_seconds_total{pod="a\"b\\c\nd"} 12.5
# HELP odd Odd.
# TYPE odd counter
odd_total 1e+06 1700000000.12
# HELP mem_bytes Memory.
# TYPE mem_bytes gauge
# UNIT mem_bytes bytes
mem_bytes{pod="a\"b\\c\nd"} 1.23456789e+08
# HELP seconds No unit: nothing before it.
# TYPE seconds gauge
seconds -0.0
# HELP lat_seconds Latency.
# TYPE lat_seconds histogram
# UNIT lat_seconds seconds
lat_seconds_bucket{pod="a\"b\\c\nd",le="1e-05"} 1
lat_seconds_bucket{pod="a\"b\\c\nd",le="0.5"} 2
lat_seconds_bucket{pod="a\"b\\c\nd",le="1.0"} 3
lat_seconds_bucket{pod="a\"b\\c\nd",le="+Inf"} 9007199254740993
lat_seconds_sum{pod="a\"b\\c\nd"} 0.75
lat_seconds_count{pod="a\"b\\c\nd"} 9007199254740993
# TYPE s_seconds summary
# UNIT s_seconds seconds
s_seconds{quantile="0.99"} 1.5
s_seconds_sum 3.0
s_seconds_count 2
# EOF
"#;
    assert_eq!(rendered(&families, Format::OpenMetrics), (expected.to_owned(), 13));
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

#[test]
fn negotiation() {
    let prometheus_2 =
        "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                        application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
                        escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,\
                    text/plain;version=0.0.4;q=0.4,application/openmetrics-text;version=1.0.0;q=0.3";
    let cases = [
        (prometheus_2, Format::OpenMetrics),
        (prometheus_3, Format::OpenMetrics),
        (protobuf, Format::Text),
        ("", Format::Text),
        ("*/*", Format::Text),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Text),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("Application/OpenMetrics-Text ; VERSION=\"1.0.0\" ; Q=1", Format::OpenMetrics),
        ("application/openmetrics-text;version=0.0.1", Format::Text),
        ("application/openmetrics-text;version=2.0.0,text/plain;q=0.1", Format::Text),
        ("application/openmetrics-text;q=0", Format::Text),
        ("application/openmetrics-text;q=0,*/*", Format::Text),
        ("application/openmetrics-text,text/plain", Format::Text),
        ("application/*,text/*;q=0.5", Format::OpenMetrics),
        ("text/plain;q=0.2,*/*;q=0.9", Format::OpenMetrics),
        ("application/openmetrics-text;q=nan", Format::Text),
        ("application/openmetrics-text;q=7", Format::Text),
        ("application/openmetrics-text;q=", Format::Text),
        (";;,,=;q=\u{e9},*", Format::Text),
    ];
    for (accept, expected) in cases {
        assert_eq!(Format::negotiate(Some(accept)), expected, "{accept}");
    }
    assert_eq!(Format::negotiate(None), Format::Text);
}

fn labels() -> impl Strategy<Value = Vec<LabelPair>> {
    proptest::collection::vec(("[a-z_]{1,8}", any::<String>()), 0..5)
        .prop_map(|pairs| pairs.iter().map(|(name, value)| label(name, value)).collect())
}

proptest! {
    #[test]
    fn random_values_render_as_the_crate_renders_them(
        samples in proptest::collection::vec((labels(), any::<f64>(), any::<u64>()), 1..8),
        integers in proptest::collection::vec(any::<i64>(), 1..8),
        bounds in proptest::collection::vec(any::<f64>(), 0..8),
        help in "\\PC{0,20}[\\\\\n\"]{0,3}",
    ) {
        let mut snapshot = Snapshot::default();
        let mut family = snapshot.family(metric(Kind::Gauge, "g", Box::leak(help.into_boxed_str())));
        for (labels, value, _) in &samples {
            family.value(labels, &[], *value);
        }
        for (at, integer) in integers.iter().enumerate() {
            family.value(&[], &[], (*integer >> (at * 8)) as f64);
        }
        let mut family = snapshot.family(metric(Kind::Histogram, "h", "H."));
        for (at, (labels, sum, count)) in samples.iter().enumerate() {
            let buckets = bounds.iter().skip(at % 3).map(|&bound| (bound, count >> 8)).collect::<Vec<_>>();
            family.histogram(labels, &[], &histogram(&buckets, *sum, *count));
        }
        assert_as_reference(&snapshot.into_families());
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
