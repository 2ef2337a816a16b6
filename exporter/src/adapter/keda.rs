//! `--keda-listen`: an external scaler for KEDA (`externalscaler.ExternalScaler`, over gRPC).
//!
//! A trigger names a metric and the pods that it is of, in the namespace of its ScaledObject, and is told the number that the external
//! metrics API has for them. What cannot be known is an error and never zero, so that KEDA's fallback applies. KEDA asks for any
//! namespace, so that whoever reaches this may read all of it: that takes a certificate, or to be on this machine.

pub mod message;
pub mod trigger;

use std::{pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use axum::{body::Body, http::Request, response::Response};
use futures_util::{Stream, stream};
use rustls_pki_types::CertificateDer;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::{Code, Status, server::Grpc};
use tonic_prost::ProstCodec;
use tower::service_fn;
use tracing::info;

use self::{
    message::{GetMetrics, IsActive, MetricSpec, MetricSpecs, MetricValue, MetricValues, ScaledObjectRef},
    trigger::Trigger,
};
use super::{
    answer::custom,
    flags,
    metric::Metrics,
    refusal::Refusal,
    server::{self, Answers},
    serving::{Clients, Serving, Source},
    store::Store,
};

/// A trigger has no more to say, bytes.
const LONGEST: usize = 64 << 10;
/// How often a stream looks whether there is anything new: as often as agents tell.
const LOOK: Duration = Duration::from_secs(1);

/// The scaler.
struct Keda {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    stopping: watch::Receiver<()>,
}

/// Serves where the flags say, until `stopping` has no sender; nowhere if they do not.
///
/// # Errors
/// When it cannot listen, or anyone could.
pub async fn start(
    flags: &flags::Keda,
    source: Option<Source>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    stopping: watch::Receiver<()>,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(address) = flags.keda_listen else { return Ok(None) };
    let serving = match (&flags.keda_client_ca, source) {
        (Some(file), Some(source)) => Some(Serving::new(source, Clients::Of(file.clone()))?),
        (Some(_), None) => anyhow::bail!("--keda-client-ca needs a certificate to serve with: --tls-cert"),
        (None, _) => {
            ensure!(
                address.ip().is_loopback(),
                "--keda-listen needs --keda-client-ca, or a loopback address: whoever reaches it may read all namespaces"
            );
            None
        }
    };
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.with_context(|| format!("cannot listen on {address}; choose another with --keda-listen"))?;
    info!(listen = %listener.local_addr()?, tls = serving.is_some(), "serving KEDA");
    let mut stopped = stopping.clone();
    let keda = Arc::new(Keda { store, metrics, stopping });
    let shutdown = async move { while stopped.changed().await.is_ok() {} };
    Ok(Some(tokio::spawn(server::serve(listener, serving, keda, shutdown))))
}

impl Answers for Keda {
    async fn answer(&self, _certificates: &[CertificateDer<'_>], request: Request<Body>) -> Response {
        let (store, metrics) = (self.store.clone(), self.metrics.clone());
        match request.uri().path() {
            "/externalscaler.ExternalScaler/IsActive" => {
                unary(request, move |object: ScaledObjectRef| {
                    let trigger = Trigger::read(&object, &metrics)?;
                    Ok(IsActive { result: trigger.is_active(value(&store, &trigger)?) })
                })
                .await
            }
            "/externalscaler.ExternalScaler/StreamIsActive" => {
                let stopping = self.stopping.clone();
                streaming(request, move |object| follow(&object, store, metrics, stopping)).await
            }
            "/externalscaler.ExternalScaler/GetMetricSpec" => {
                unary(request, move |object: ScaledObjectRef| {
                    let Trigger { metric, target, .. } = Trigger::read(&object, &metrics)?;
                    let name = metric.name.clone();
                    let spec = MetricSpec { name, target: target.round() as i64, target_float: target };
                    Ok(MetricSpecs { specs: vec![spec] })
                })
                .await
            }
            "/externalscaler.ExternalScaler/GetMetrics" => {
                unary(request, move |asked: GetMetrics| {
                    let object = asked.object.unwrap_or_default();
                    let trigger = Trigger::read(&object, &metrics)?;
                    let name = trigger.metric.name.clone();
                    if asked.metric != name {
                        let why = format!("the trigger is of {name}, and not of {}", asked.metric);
                        return Err(Status::invalid_argument(why));
                    }
                    let value = value(&store, &trigger)?;
                    let value = MetricValue { name, value: value.round() as i64, value_float: value };
                    Ok(MetricValues { values: vec![value] })
                })
                .await
            }
            // The targets of a trigger do not change: KEDA asks for them when it changes itself.
            _ => Status::unimplemented("there is no such method").into_http(),
        }
    }
}

/// What a trigger's metric is now.
fn value(store: &Store, trigger: &Trigger<'_>) -> Result<f64, Status> {
    if !store.has_data() {
        return Err(Status::unavailable("no agent has reported of late"));
    }
    let found = custom::selected(store, trigger.metric, trigger.namespace, &trigger.series, &trigger.labels);
    let (_, value) = found.map_err(status)?;
    // As the API has it, which has no number below zero.
    if value < 0.0 { Err(Status::not_found("the metric is below zero")) } else { Ok(value) }
}

/// The same refusal, in the words of gRPC.
fn status(refusal: Refusal) -> Status {
    let code = match refusal.code().as_u16() {
        400 => Code::InvalidArgument,
        404 => Code::NotFound,
        _ => Code::Unavailable,
    };
    Status::new(code, refusal.message())
}

type News = Pin<Box<dyn Stream<Item = Result<IsActive, Status>> + Send>>;

/// Whether there is anything to do, whenever that changes. While nobody knows, nothing is said.
fn follow(
    object: &ScaledObjectRef,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    stopping: watch::Receiver<()>,
) -> Result<News, Status> {
    Trigger::read(object, &metrics)?;
    let begin = (object.clone(), store, metrics, stopping, None);
    Ok(Box::pin(stream::unfold(begin, |(object, store, metrics, mut stopping, before)| async move {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopping.changed() => return None,
            }
            let trigger = Trigger::read(&object, &metrics).ok()?;
            let now = value(&store, &trigger).ok().map(|value| trigger.is_active(value));
            if let Some(result) = now.filter(|now| Some(*now) != before) {
                return Some((Ok(IsActive { result }), (object, store, metrics, stopping, now)));
            }
            pause = LOOK;
        }
    })))
}

async fn unary<I, O>(
    request: Request<Body>,
    answer: impl Fn(I) -> Result<O, Status> + Clone + Send + 'static,
) -> Response
where
    I: prost::Message + Default + 'static,
    O: prost::Message + Default + 'static,
{
    let service = service_fn(move |request: tonic::Request<I>| {
        let answer = answer.clone();
        async move { answer(request.into_inner()).map(tonic::Response::new) }
    });
    let mut grpc = Grpc::new(ProstCodec::<O, I>::default()).max_decoding_message_size(LONGEST);
    grpc.unary(service, request).await.map(Body::new)
}

async fn streaming(
    request: Request<Body>,
    answer: impl FnOnce(ScaledObjectRef) -> Result<News, Status> + Clone + Send + 'static,
) -> Response {
    let service = service_fn(move |request: tonic::Request<ScaledObjectRef>| {
        let answer = answer.clone();
        async move { answer(request.into_inner()).map(tonic::Response::new) }
    });
    let codec = ProstCodec::<IsActive, ScaledObjectRef>::default();
    let mut grpc = Grpc::new(codec).max_decoding_message_size(LONGEST);
    grpc.server_streaming(service, request).await.map(Body::new)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::http::uri::PathAndQuery;
    use tonic::client::Grpc as Client;

    use super::*;
    use crate::{
        adapter::window::{Span, Spans},
        stream::message::{self, Update, Usage},
    };

    const SECOND: u64 = 1_000_000_000;
    const WINDOW: Duration = Duration::from_secs(15);

    fn keda(requests: Option<u64>) -> Keda {
        let spans = Spans::only(Span::new(WINDOW));
        let store = Arc::new(Store::new(spans, Duration::from_secs(60)));
        for (nanos, requests) in requests.into_iter().flat_map(|all| [(SECOND, 0), (16 * SECOND, all)]) {
            let route = message::Route { route: "/".to_owned(), requests, ..message::Route::default() };
            let http = message::Http { routes: vec![route], active: Some(0), unparsed: 0 };
            let usage = Usage { number: 2, http: Some(http), ..Usage::default() };
            let container = message::Container {
                number: 2,
                name: "app".to_owned(),
                id: "id".to_owned(),
                ..message::Container::default()
            };
            let pod = message::Pod {
                number: 1,
                uid: "uid".to_owned(),
                namespace: "shop".to_owned(),
                name: "web".to_owned(),
                labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
                containers: vec![container],
                ..message::Pod::default()
            };
            let (full, pods) = (nanos == SECOND, vec![pod]);
            let update = Update { full, instance: 1, nanos, pods, usages: vec![usage], ..Update::default() };
            store.apply(&store.node("node"), 1, update).unwrap();
        }
        let metrics = Arc::new(Metrics::new(WINDOW).unwrap());
        Keda { store, metrics, stopping: watch::channel(()).1 }
    }

    fn object(namespace: &str, more: &[(&str, &str)]) -> ScaledObjectRef {
        let said = [("metric", "http_requests_per_second"), ("selector", "app=web"), ("target", "2.5")];
        let said = said.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ScaledObjectRef {
            name: "web".to_owned(),
            namespace: namespace.to_owned(),
            scaler_metadata: said.collect(),
        }
    }

    /// Asks as KEDA would, but for the connection.
    async fn call<I, O>(keda: &Arc<Keda>, method: &'static str, asked: I) -> Result<O, Status>
    where
        I: prost::Message + Default + 'static,
        O: prost::Message + Default + 'static,
    {
        let keda = keda.clone();
        let service = service_fn(move |request: Request<tonic::body::Body>| {
            let keda = keda.clone();
            async move { Ok::<_, Status>(keda.answer(&[], request.map(Body::new)).await) }
        });
        let path = PathAndQuery::from_static(method);
        let codec = ProstCodec::<I, O>::default();
        let mut client = Client::new(service);
        client.ready().await.expect("it is");
        Ok(client.unary(tonic::Request::new(asked), path, codec).await?.into_inner())
    }

    const IS_ACTIVE: &str = "/externalscaler.ExternalScaler/IsActive";
    const SPEC: &str = "/externalscaler.ExternalScaler/GetMetricSpec";
    const METRICS: &str = "/externalscaler.ExternalScaler/GetMetrics";

    fn asked(object: ScaledObjectRef) -> GetMetrics {
        GetMetrics { object: Some(object), metric: "http_requests_per_second".to_owned() }
    }

    #[tokio::test]
    async fn keda_is_told_the_number_and_the_target() {
        let keda = Arc::new(keda(Some(105)));
        let specs: MetricSpecs = call(&keda, SPEC, object("shop", &[])).await.unwrap();
        let MetricSpec { name, target, target_float } = &specs.specs[0];
        assert_eq!((&**name, *target, *target_float), ("http_requests_per_second", 3, 2.5));
        let values: MetricValues = call(&keda, METRICS, asked(object("shop", &[]))).await.unwrap();
        let MetricValue { name, value, value_float } = &values.values[0];
        assert_eq!((&**name, *value, *value_float), ("http_requests_per_second", 7, 7.0));
        for (activation, wanted) in [("0", true), ("6.9", true), ("7", false)] {
            let object = object("shop", &[("activation", activation)]);
            let active: IsActive = call(&keda, IS_ACTIVE, object).await.unwrap();
            assert_eq!(active.result, wanted, "{activation}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_known_is_an_error_and_not_zero() {
        let silent = Arc::new(keda(None));
        let status = call::<_, MetricValues>(&silent, METRICS, asked(object("shop", &[]))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let keda = Arc::new(keda(Some(105)));
        for (object, code) in [
            (object("bank", &[]), Code::NotFound),
            (object("shop", &[("selector", "app=other")]), Code::NotFound),
            (object("shop", &[("metric", "http_request_duration_p99_seconds")]), Code::NotFound),
            (object("shop", &[("target", "much")]), Code::InvalidArgument),
        ] {
            let status = call::<_, IsActive>(&keda, IS_ACTIVE, object.clone()).await.unwrap_err();
            assert_eq!(status.code(), code, "{status}");
            let metric = object.scaler_metadata["metric"].clone();
            let asked = GetMetrics { object: Some(object), metric };
            let status = call::<_, MetricValues>(&keda, METRICS, asked).await.unwrap_err();
            assert_eq!(status.code(), code, "{status}");
        }
        // Its targets are known all the same.
        assert!(call::<_, MetricSpecs>(&silent, SPEC, object("shop", &[])).await.is_ok());
        let other = "/externalscaler.ExternalScaler/StreamMetricSpec";
        let status = call::<_, MetricSpecs>(&keda, other, object("shop", &[])).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "what KEDA takes for no");
    }

    #[tokio::test]
    async fn anyone_is_let_in_on_loopback_alone() {
        let start = async |address: &str, client_ca: Option<&str>| {
            let flags = flags::Keda {
                keda_listen: Some(address.parse().unwrap()),
                keda_client_ca: client_ca.map(Into::into),
            };
            let (stop, stopping) = watch::channel(());
            let Keda { store, metrics, .. } = keda(None);
            let started = super::start(&flags, None, store, metrics, stopping).await;
            drop(stop);
            match started {
                Ok(Some(served)) => served.await.map_err(Into::into),
                other => other.map(|_| ()),
            }
        };
        start("127.0.0.1:0", None).await.unwrap();
        assert!(start("0.0.0.0:0", None).await.unwrap_err().to_string().contains("--keda-client-ca"));
        assert!(start("127.0.0.1:0", Some("ca.crt")).await.unwrap_err().to_string().contains("--tls-cert"));
    }
}
