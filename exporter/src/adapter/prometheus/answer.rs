//! What the HTTP API of Prometheus answers to a query of a range, and what podmeter calls that.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use exporter_ebpf::histogram::{BUCKETS, finite_bounds};
use serde::Deserialize;

use crate::snapshot::{Histogram, Value};

/// By how much a bucket's bounds may differ: those of schema 3 do by 9 %. Of wider ones nothing is made up.
const WIDEST: f64 = 1.1;

/// An answer.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Vec<Series>,
}

/// A series, and its samples within the range: seconds since 1970, and a number as text or a native histogram.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Series {
    pub(super) metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
    #[serde(default)]
    histograms: Vec<(f64, Native)>,
}

/// A native histogram: of each bucket which bounds are its own, the bounds, and the count.
#[derive(Debug, Deserialize)]
struct Native {
    count: String,
    sum: String,
    #[serde(default)]
    buckets: Vec<(u8, String, String, String)>,
}

impl Answer {
    /// The series.
    ///
    /// # Errors
    /// When the query failed.
    pub(super) fn series(self) -> anyhow::Result<Vec<Series>> {
        let Some(data) = self.data else { bail!("the query failed: {}", self.error) };
        ensure!(data.result_type == "matrix", "a range was asked for, and a {} came", data.result_type);
        Ok(data.result)
    }
}

impl Series {
    /// A label; empty without.
    pub(super) fn label(&self, name: &str) -> &str {
        self.metric.get(name).map_or("", String::as_str)
    }

    /// The samples: when, in milliseconds since 1970, and what. What is no number says nothing.
    pub(super) fn samples(&self) -> impl Iterator<Item = (u64, Value)> {
        let millis = |seconds: f64| (seconds * 1e3).round() as u64;
        let numbers = self.values.iter().filter_map(move |(seconds, text)| {
            let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0)?;
            Some((millis(*seconds), Value::Number(number)))
        });
        let histograms = self.histograms.iter().filter_map(move |(seconds, native)| {
            Some((millis(*seconds), Value::Histogram(native.histogram().ok()?)))
        });
        numbers.chain(histograms)
    }
}

impl Native {
    fn histogram(&self) -> anyhow::Result<Histogram> {
        let (sum, count) = (self.sum.parse::<f64>()?, self.count.parse::<f64>()?);
        ensure!(count.is_finite() && count >= 0.0, "a count of {count}");
        Ok(Histogram { sum, count: count as u64, fine: self.fine()?, ..Histogram::default() })
    }

    /// By the kernel's buckets, of which several are one of these where a boundary of the classic ones splits it; none if they are
    /// too wide to tell.
    fn fine(&self) -> anyhow::Result<Option<Box<[u64; BUCKETS]>>> {
        let mut fine = Box::new([0; BUCKETS]);
        for (_, lower, upper, count) in &self.buckets {
            let (lower, upper): (f64, f64) = (lower.parse()?, upper.parse()?);
            if lower > 0.0 && upper > lower * WIDEST {
                return Ok(None);
            }
            // Ours are whole nanoseconds.
            let bucket = finite_bounds().partition_point(|&bound| bound as f64 + 1.0 < upper * 1e9);
            let own = fine.get_mut(bucket).context("no such bucket")?;
            *own += count.parse::<f64>()? as u64;
        }
        Ok(Some(fine))
    }
}

#[cfg(test)]
mod tests {
    use exporter_ebpf::histogram::{ZERO_THRESHOLD, index, native_index};
    use proptest::prelude::*;

    use super::*;

    fn series(json: &str) -> anyhow::Result<Vec<Series>> {
        serde_json::from_str::<Answer>(json)?.series()
    }

    #[test]
    fn an_answer_has_series_or_says_why_not() {
        let answer = r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"__name__":"x","node":"n"},"values":[[1700000000.25,"1.5"],[1700000015.25,"NaN"]]},
            {"metric":{"__name__":"y"},"histograms":[[1700000000.25,{"count":"3","sum":"0.5","buckets":[
                [3,"-0.000003814697265625","0.000003814697265625","1"],[0,"0.9170040432046712","1","2"]]}]]}]},"warnings":["w"]}"#;
        let all = series(answer).unwrap();
        assert_eq!((all[0].label("node"), all[0].label("pod")), ("n", ""));
        assert_eq!(all[0].samples().collect::<Vec<_>>(), [(1_700_000_000_250, Value::Number(1.5))]);
        let Some((_, Value::Histogram(histogram))) = all[1].samples().next() else { panic!("a histogram") };
        let fine = histogram.fine.expect("narrow buckets");
        assert_eq!((histogram.count, fine[0], fine[index(1_000_000_000)]), (3, 1, 2));
        let error =
            series(r#"{"status":"error","errorType":"bad_data","error":"no such thing"}"#).unwrap_err();
        assert!(error.to_string().contains("no such thing"));
        assert!(series(r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#).is_err());
    }

    #[test]
    fn of_wide_buckets_nothing_is_made_up() {
        let wide = Native {
            count: "2".into(),
            sum: "1".into(),
            buckets: vec![(0, "0.25".into(), "0.5".into(), "2".into())],
        };
        assert_eq!(wide.histogram().unwrap().fine, None);
    }

    /// As the encoder writes it: a native bucket has the observations of all of the kernel's that end within it.
    #[test]
    fn every_native_bucket_comes_back() {
        for bucket in 0..finite_bounds().len() {
            let upper = native_index(bucket).map_or(ZERO_THRESHOLD, |index| (f64::from(index) / 8.0).exp2());
            let native = Native {
                count: "1".into(),
                sum: "1".into(),
                buckets: vec![(0, (upper / 1.09).to_string(), upper.to_string(), "1".into())],
            };
            let fine = native.fine().unwrap().unwrap();
            let found = fine.iter().position(|count| *count == 1).unwrap();
            assert_eq!(native_index(found), native_index(bucket), "bucket {bucket} became {found}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_nothing(text in ".{0,200}", count in ".{0,8}", bound in ".{0,8}") {
            _ = series(&text).map(|all| all.iter().flat_map(Series::samples).count());
            let native = Native { count: count.clone(), sum: "0".into(), buckets: vec![(0, bound.clone(), bound, count)] };
            _ = native.histogram();
        }
    }
}
