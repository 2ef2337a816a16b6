//! `custom.metrics.k8s.io` and `external.metrics.k8s.io`: everything that is not CPU or memory.

use axum::response::Response;
use serde_json::{Value, json};

use super::{date, json as answer, quantity};
use crate::adapter::{
    ask::Ask,
    metric::{self, Metric, Metrics},
    node::Moment,
    pod::About,
    query::Gathered,
    refusal::Refusal,
    selector::Selector,
    store::{Reading, Store},
};

/// An object that has pods, and the metric that is asked of it.
pub struct Wanted<'a> {
    /// The version of the API.
    pub version: &'a str,
    /// The metric.
    pub metric: &'a Metric,
    /// The namespace of the pods.
    pub namespace: &'a str,
}

/// The object as the API refers to it.
pub fn reference(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> Value {
    let mut object = json!({"kind": kind, "name": name, "apiVersion": api_version});
    if let Some(namespace) = namespace {
        object["namespace"] = namespace.into();
    }
    object
}

/// The metric of a name, which may be selected by route or not.
///
/// # Errors
/// When there is none of that name, or none by the labels that are selected.
pub fn find<'a>(
    metrics: &'a Metrics,
    name: &str,
    series: &Selector,
    of: &str,
) -> Result<&'a Metric, Refusal> {
    let missing = || Refusal::no_metric(format!("the server could not find the metric {name} for {of}"));
    let metric = metrics.find(name).ok_or_else(missing)?;
    if series.is_empty() || metric.query.is_by_route() { Ok(metric) } else { Err(missing()) }
}

fn read(
    store: &Store,
    series: &Selector,
    metric: &Metric,
    namespace: &str,
    wants: impl Fn(&About) -> bool,
) -> Vec<Reading<Gathered>> {
    let by_route = |route: &str| metric::wants(series, route);
    store.pods(Some(namespace), wants, |node, pod| {
        let gathered = node.gather(pod, &metric.query, &by_route)?;
        Some((gathered.nanos, gathered))
    })
}

/// A metric of each pod.
///
/// # Errors
/// When no pod has it: then whoever scales by it does nothing.
pub fn pods(store: &Store, ask: &Ask, wanted: &Wanted<'_>, name: &str) -> Result<Response, Refusal> {
    let wants = |about: &About| {
        (name == "*" || about.name == name)
            && ask.labels.matches(&about.labels)
            && ask.fields.matches(&about.namespace, &about.name)
    };
    let readings = read(store, &ask.series, wanted.metric, wanted.namespace, wants);
    let items = readings.iter().filter_map(|reading| {
        let value = quantity(wanted.metric.query.value(&reading.used)?)?;
        let about = &reading.about;
        let object = reference("/v1", "Pod", Some(&about.namespace), &about.name);
        Some(item(wanted, ask, object, &reading.moment, value))
    });
    list(wanted, items.collect(), "pods")
}

/// A metric of all pods of an object together: counts added up, and quantiles of all their requests.
///
/// # Errors
/// When none of its pods has it.
pub fn object(
    store: &Store,
    ask: &Ask,
    wanted: &Wanted<'_>,
    object: Value,
    pods: impl Fn(&About) -> bool,
) -> Result<Response, Refusal> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let together = together(store, &ask.series, wanted.metric, wanted.namespace, pods);
    let items = together.and_then(|(moment, value)| {
        let value = quantity(value)?;
        Some(item(wanted, ask, object, &moment, value))
    });
    list(wanted, items.into_iter().collect(), &kind)
}

/// A metric of pods together, and the oldest moment that is a part of it.
fn together(
    store: &Store,
    series: &Selector,
    metric: &Metric,
    namespace: &str,
    pods: impl Fn(&About) -> bool,
) -> Option<(Moment, f64)> {
    let readings = read(store, series, metric, namespace, pods);
    let mut gathered = metric.query.nothing();
    readings.iter().for_each(|reading| gathered.merge(&reading.used));
    let date = readings.iter().map(|reading| reading.moment.date).min()?;
    Some((Moment { date, nanos: gathered.nanos }, metric.query.value(&gathered)?))
}

/// The metric of a name, and of one selector what it says of routes and what of pods.
///
/// # Errors
/// When there is no such metric, or none by route.
pub fn of_pods<'a>(
    metrics: &'a Metrics,
    name: &str,
    selector: &Selector,
) -> Result<(&'a Metric, Selector, Selector), Refusal> {
    let (series, labels) = selector.clone().split(|label| label == metric::ROUTE);
    let metric = find(metrics, name, &series, "pods of this namespace")?;
    Ok((metric, series, labels))
}

/// A metric of all pods of a namespace that are selected, together, and when it was so.
///
/// # Errors
/// When no pod has it.
pub fn selected(
    store: &Store,
    metric: &Metric,
    namespace: &str,
    series: &Selector,
    labels: &Selector,
) -> Result<(Moment, f64), Refusal> {
    let found = together(store, series, metric, namespace, |about| labels.matches(&about.labels));
    found.ok_or_else(|| none_selected(metric, namespace))
}

fn none_selected(metric: &Metric, namespace: &str) -> Refusal {
    let name = &metric.name;
    Refusal::no_metric(format!(
        "the server could not find the metric {name} for pods of {namespace} with this selector"
    ))
}

/// A metric by selector, as the external metrics API has it.
///
/// # Errors
/// When there is no such metric, or no pod has it.
pub fn external(
    store: &Store,
    metrics: &Metrics,
    ask: &Ask,
    namespace: &str,
    name: &str,
) -> Result<Response, Refusal> {
    let (metric, series, labels) = of_pods(metrics, name, &ask.labels)?;
    let (moment, value) = selected(store, metric, namespace, &series, &labels)?;
    let value = quantity(value).ok_or_else(|| none_selected(metric, namespace))?;
    let body = json!({
        "kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": {},
        "items": [{
            "metricName": name, "metricLabels": {}, "timestamp": date(moment.date),
            "window": moment.nanos / 1_000_000_000, "value": value,
        }],
    });
    Ok(answer(body.to_string()))
}

fn item(wanted: &Wanted<'_>, ask: &Ask, object: Value, moment: &Moment, value: String) -> Value {
    let (name, selector) = (&*wanted.metric.name, ask.series.json());
    let (timestamp, window) = (date(moment.date), moment.nanos / 1_000_000_000);
    if wanted.version == "v1beta1" {
        return json!({
            "describedObject": object, "metricName": name, "timestamp": timestamp, "window": window,
            "value": value, "selector": selector,
        });
    }
    json!({
        "describedObject": object, "metric": {"name": name, "selector": selector}, "timestamp": timestamp,
        "windowSeconds": window, "value": value,
    })
}

fn list(wanted: &Wanted<'_>, items: Vec<Value>, of: &str) -> Result<Response, Refusal> {
    if items.is_empty() {
        let name = &wanted.metric.name;
        return Err(Refusal::no_metric(format!("the server could not find the metric {name} for {of}")));
    }
    let version = format!("custom.metrics.k8s.io/{}", wanted.version);
    let head = json!({"kind": "MetricValueList", "apiVersion": version, "metadata": {}});
    Ok(super::list(&head, "items", items.into_iter()))
}
