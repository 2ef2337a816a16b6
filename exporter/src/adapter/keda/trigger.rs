//! What a trigger wants to know.

use tonic::Status;

use super::{message::ScaledObjectRef, status};
use crate::{
    adapter::{
        answer::custom,
        metric::{Metric, Metrics},
        selector::Selector,
    },
    kube::quantity,
};

/// A trigger.
#[derive(Debug)]
pub struct Trigger<'a> {
    /// What is asked of the pods.
    pub metric: &'a Metric,
    /// Their namespace, which is that of the ScaledObject.
    pub namespace: &'a str,
    /// Which routes.
    pub series: Selector,
    /// Which pods.
    pub labels: Selector,
    /// What the metric should be, in its unit: finite, and above zero.
    pub target: f64,
    /// Above which there is anything to do.
    activation: f64,
}

impl<'a> Trigger<'a> {
    /// Reads what a ScaledObject says.
    ///
    /// # Errors
    /// When that is not enough, or there is no such metric.
    pub fn read(object: &'a ScaledObjectRef, metrics: &'a Metrics) -> Result<Self, Status> {
        let said = |key: &str| object.scaler_metadata.get(key).map(String::as_str);
        let must = |key: &str, what: &str| {
            said(key).ok_or_else(|| {
                Status::invalid_argument(format!("the trigger's metadata has no {key}: {what}"))
            })
        };
        if object.namespace.is_empty() {
            return Err(Status::invalid_argument("the ScaledObject has no namespace"));
        }
        let number = |key: &str, text: &str| {
            let number = quantity::parse(text).filter(|number| number.is_finite() && *number >= 0.0);
            number.ok_or_else(|| Status::invalid_argument(format!("{key}: {text:?} is no number from 0 on")))
        };
        let name = must("metric", "its name")?;
        let selector = must("selector", "the labels of the pods, as app=web")?;
        let target = number("target", must("target", "what the metric should be")?)?;
        if target == 0.0 {
            return Err(Status::invalid_argument("target: nothing can be divided by zero"));
        }
        let activation = number("activation", said("activation").unwrap_or("0"))?;
        let selector = Selector::parse(selector).map_err(status)?;
        let (metric, series, labels) = custom::of_pods(metrics, name, &selector).map_err(status)?;
        Ok(Self { metric, namespace: &object.namespace, series, labels, target, activation })
    }

    /// Whether there is anything to do.
    pub fn is_active(&self, value: f64) -> bool {
        value > self.activation
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use tonic::Code;

    use super::*;

    fn object(metadata: &[(&str, &str)]) -> ScaledObjectRef {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ScaledObjectRef {
            name: "web".to_owned(),
            namespace: "shop".to_owned(),
            scaler_metadata: metadata.collect::<BTreeMap<_, _>>(),
        }
    }

    const METRIC: (&str, &str) = ("metric", "http_requests_per_second");
    const SELECTOR: (&str, &str) = ("selector", "app=web,route=hello");

    #[test]
    fn a_trigger_is_read() {
        let metrics = Metrics::new(Duration::from_secs(15)).unwrap();
        let said =
            object(&[METRIC, SELECTOR, ("target", "500m"), ("activation", "0.1"), ("scalerAddress", "x")]);
        let trigger = Trigger::read(&said, &metrics).unwrap();
        assert_eq!(
            (&*trigger.metric.name, trigger.namespace, trigger.target),
            ("http_requests_per_second", "shop", 0.5)
        );
        assert!(!trigger.series.is_empty() && !trigger.labels.is_empty());
        assert!(trigger.is_active(0.2) && !trigger.is_active(0.1));
        let said = object(&[METRIC, SELECTOR, ("target", "5")]);
        let trigger = Trigger::read(&said, &metrics).unwrap();
        assert!(trigger.is_active(0.001) && !trigger.is_active(0.0));
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        let metrics = Metrics::new(Duration::from_secs(15)).unwrap();
        let target = ("target", "5");
        for (metadata, code, why) in [
            (&[SELECTOR, target][..], Code::InvalidArgument, "has no metric"),
            (&[METRIC, target], Code::InvalidArgument, "has no selector"),
            (&[METRIC, SELECTOR], Code::InvalidArgument, "has no target"),
            (&[METRIC, SELECTOR, ("target", "0")], Code::InvalidArgument, "divided by zero"),
            (&[METRIC, SELECTOR, ("target", "-1")], Code::InvalidArgument, "is no number from 0 on"),
            (&[METRIC, SELECTOR, target, ("activation", "x")], Code::InvalidArgument, "activation"),
            (&[METRIC, ("selector", "a=/"), target], Code::InvalidArgument, ""),
            (&[("metric", "made_up"), SELECTOR, target], Code::NotFound, "made_up"),
            (&[("metric", "http_active_requests"), SELECTOR, target], Code::NotFound, "http_active_requests"),
        ] {
            let object = object(metadata);
            let error = Trigger::read(&object, &metrics).unwrap_err();
            assert!(error.code() == code && error.message().contains(why), "{error}");
        }
        let nowhere = ScaledObjectRef { namespace: String::new(), ..object(&[METRIC, SELECTOR, target]) };
        assert_eq!(Trigger::read(&nowhere, &metrics).unwrap_err().code(), Code::InvalidArgument);
    }
}
