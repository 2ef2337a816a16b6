use exporter_ebpf::histogram::index;
use proptest::prelude::*;

use super::*;
use crate::snapshot::{Labels, Metric as Declared, Snapshot};

static GAUGE: Declared = Declared::container("g_bytes", Kind::Gauge, &["own"], "A gauge.");
static LATENCY: Declared = Declared::container("l_seconds", Kind::Histogram, &[], "Latency.");

/// The families, as a scraper reads them.
fn read(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut bytes = Vec::new();
    let metrics: usize = snapshot.families().map(|family| encode(family, &mut bytes)).sum();
    let mut rest = bytes.as_slice();
    let mut families = Vec::new();
    while !rest.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut rest).unwrap());
    }
    assert_eq!(families.iter().map(|family| family.metric.len()).sum::<usize>(), metrics);
    families
}

/// The counts of the buckets by index, out of spans and differences, as Prometheus expands them.
fn expanded(histogram: &Histogram) -> Vec<(i32, i64)> {
    let mut deltas = histogram.positive_delta.iter();
    let (mut index, mut count, mut buckets) = (0, 0, Vec::new());
    for span in &histogram.positive_span {
        index += span.offset;
        for _ in 0..span.length {
            count += deltas.next().unwrap();
            buckets.push((index, count));
            index += 1;
        }
    }
    assert_eq!(deltas.next(), None);
    buckets
}

#[test]
fn samples_have_their_labels_and_values() {
    let mut snapshot = Snapshot::default();
    let family = snapshot.family(&GAUGE);
    family.value(&Labels::new(&[("id", "/a\"b\\c\nd"), ("name", "")]), &["x,=y"], 1.5);
    family.value(&Labels::NONE, &[""], -0.0);
    let families = read(&snapshot);
    let [family] = families.as_slice() else { panic!("{families:?}") };
    assert_eq!((family.name.as_str(), family.help.as_str(), family.kind), ("g_bytes", "A gauge.", Some(1)));
    let labels = |at: usize| -> Vec<_> {
        family.metric[at].label.iter().map(|pair| (pair.name.as_str(), pair.value.as_str())).collect()
    };
    assert_eq!(labels(0), [("id", "/a\"b\\c\nd"), ("name", ""), ("own", "x,=y")]);
    assert_eq!(labels(1), []);
    assert_eq!(family.metric[0].gauge, Some(Number { value: 1.5 }));
}

#[test]
fn exemplars_are_in_their_buckets_and_all_of_the_native_histogram() {
    let exemplar = |trace: &str, value, at| snapshot::Exemplar { trace: trace.to_owned(), value, at };
    let exemplars = vec![exemplar("aa", 0.1, 10.5), exemplar("bb", 0.5, 11.0), exemplar("cc", 2.0, 12.25)];
    let (buckets, fine) = (vec![(0.5, 2), (1.0, 2)], Some(Box::new([0; BUCKETS])));
    let one = both(&snapshot::Histogram { buckets, sum: 2.6, count: 3, fine, exemplars });
    let trace = |of: &Exemplar| (of.label[0].name.clone(), of.label[0].value.clone(), of.value);
    let of = |trace: &str, value| ("trace_id".to_owned(), trace.to_owned(), value);
    let found = one.bucket.iter().map(|bucket| bucket.exemplar.as_ref().map(trace));
    assert_eq!(found.collect::<Vec<_>>(), [Some(of("bb", 0.5)), None, Some(of("cc", 2.0))]);
    let found = one.exemplars.iter().map(trace);
    assert_eq!(found.collect::<Vec<_>>(), [of("aa", 0.1), of("bb", 0.5), of("cc", 2.0)]);
    assert_eq!(one.exemplars[2].timestamp, Some(Timestamp { seconds: 12, nanos: 250_000_000 }));
}

proptest! {
    /// Every observation is in the native bucket that has its value, in the zero bucket or in the one without end.
    #[test]
    fn native_buckets_hold_their_observations(
        nanos in prop::collection::vec(prop_oneof![0u64..10_000, 0u64..100_000_000_000, any::<u64>()], 0..200)
    ) {
        let mut fine = Box::new([0; BUCKETS]);
        nanos.iter().for_each(|&value| fine[index(value)] += 1);
        let mut snapshot = Snapshot::default();
        let count = nanos.len() as u64;
        let histogram = snapshot::Histogram { buckets: vec![(0.5, 0)], sum: 1.0, count, fine: Some(fine), exemplars: Vec::new() };
        snapshot.family(&LATENCY).histogram(&Labels::NONE, &[], histogram);
        let families = read(&snapshot);
        let histogram = families[0].metric[0].histogram.as_ref().unwrap();
        let buckets = expanded(histogram);
        let sum: i64 = buckets.iter().map(|(_, count)| count).sum();
        prop_assert_eq!(sum as u64 + histogram.zero_count, count, "Prometheus refuses what does not add up");
        let seconds = |value: &&u64| **value as f64 / 1e9;
        let zero = nanos.iter().filter(|value| seconds(value) <= histogram.zero_threshold).count();
        prop_assert_eq!(zero as u64, histogram.zero_count);
        for (index, count) in buckets {
            let above = if index == INFINITE { 64.0 } else { 2f64.powf(f64::from(index - 1) / 8.0) };
            let upto = if index == INFINITE { f64::INFINITY } else { 2f64.powf(f64::from(index) / 8.0) };
            let inside = nanos.iter().filter(|value| seconds(value) > above && seconds(value) <= upto).count();
            prop_assert_eq!(inside as i64, count, "{} to {}", above, upto);
        }
    }

    #[test]
    fn labels_are_read_back(labels in prop::collection::vec(("[a-z_]{1,8}", any::<String>()), 0..5)) {
        let given: Vec<_> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let rendered = Labels::new(&given);
        let read: Vec<_> = pairs(rendered.as_str()).map(|(name, value)| (name, value.into_owned())).collect();
        let given: Vec<_> = given.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        prop_assert_eq!(read, given);
    }

    #[test]
    fn labels_that_are_none_do_no_harm(text: String) {
        _ = pairs(&text).count();
    }
}
