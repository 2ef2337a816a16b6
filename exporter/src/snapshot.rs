//! What a collector emits during one scrape, and how a metric is declared: plain data.
//!
//! A scrape builds its families anew, so a series ends with its container: nothing long-lived is mutated.

use prometheus::proto;

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows; a restart of the agent resets it unless its help says otherwise.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

/// The declaration of a metric: the only place where its name, type, help and own labels stand.
#[derive(Debug)]
pub struct Metric {
    /// The full name, with its unit and, for counters, `_total`.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// One sentence: what is counted, in which unit.
    pub help: &'static str,
    /// The labels that it adds to those of its container (or to none, where it has no container).
    pub labels: &'static [&'static str],
    /// Whether each sample carries the container's labels.
    pub per_container: bool,
}

impl Metric {
    /// A metric of each container.
    pub const fn container(
        name: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind, help, labels, per_container: true }
    }

    /// A metric of the agent itself.
    pub const fn agent(
        name: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind, help, labels, per_container: false }
    }
}

/// One label of a sample.
pub type Label = proto::LabelPair;

/// Builds a label.
pub fn label(name: &str, value: &str) -> Label {
    let mut pair = Label::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

/// A histogram as a sample: cumulative counts at ascending upper bounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// (upper bound in base units, observations at or below it), without `+Inf`.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all observations, in base units.
    pub sum: f64,
    /// How many observations there were.
    pub count: u64,
}

/// The families of one scrape.
#[derive(Default)]
pub struct Snapshot(Vec<proto::MetricFamily>);

impl Snapshot {
    /// Opens the family of `metric`; one that gets no sample is left out of the exposition.
    pub fn family(&mut self, metric: &'static Metric) -> Family<'_> {
        let mut family = proto::MetricFamily::default();
        family.set_name(metric.name.to_owned());
        family.set_help(metric.help.to_owned());
        family.set_field_type(match metric.kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
            Kind::Histogram => proto::MetricType::HISTOGRAM,
        });
        self.0.push(family);
        let last = self.0.len() - 1;
        Family { metric, family: &mut self.0[last] }
    }

    /// The families that have samples, in the order in which they were opened.
    pub fn into_families(self) -> Vec<proto::MetricFamily> {
        self.0.into_iter().filter(|family| !family.get_metric().is_empty()).collect()
    }

    /// Appends what another collector emitted.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// A family that takes samples.
pub struct Family<'a> {
    metric: &'static Metric,
    family: &'a mut proto::MetricFamily,
}

impl Family<'_> {
    /// Adds a sample of a counter or a gauge: `base` are the container's labels (empty without one), `values` those of
    /// the labels that the metric declares, in their order.
    pub fn value(&mut self, base: &[Label], values: &[&str], value: f64) {
        let mut metric = self.labelled(base, values);
        match self.metric.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                debug_assert!(self.metric.kind == Kind::Gauge, "{} is a histogram", self.metric.name);
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.family.mut_metric().push(metric);
    }

    /// Adds a sample of a histogram.
    pub fn histogram(&mut self, base: &[Label], values: &[&str], histogram: &Histogram) {
        debug_assert!(self.metric.kind == Kind::Histogram, "{} is no histogram", self.metric.name);
        let mut metric = self.labelled(base, values);
        let mut proto = proto::Histogram::default();
        proto.set_sample_count(histogram.count);
        proto.set_sample_sum(histogram.sum);
        let buckets = histogram.buckets.iter().map(|&(bound, count)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        });
        proto.set_bucket(buckets.collect());
        metric.set_histogram(proto);
        self.family.mut_metric().push(metric);
    }

    fn labelled(&self, base: &[Label], values: &[&str]) -> proto::Metric {
        debug_assert_eq!(values.len(), self.metric.labels.len(), "labels of {}", self.metric.name);
        let own = self.metric.labels.iter().zip(values).filter(|(_, value)| !value.is_empty());
        let mut labels = Vec::with_capacity(base.len() + values.len());
        labels.extend_from_slice(base);
        labels.extend(own.map(|(name, value)| label(name, value)));
        let mut metric = proto::Metric::default();
        metric.set_label(labels);
        metric
    }
}
