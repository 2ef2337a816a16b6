//! The source `prometheus=URL`: what agents told Prometheus. Whatever else speaks its HTTP API has not been tried.
//!
//! Every few seconds one query asks for the samples of the last seconds of all series that matter. The samples of a target that bear
//! the same moment are a scrape of one agent: put together ([`scrape`]) they are what the agent would have told of itself, and go the
//! same way from there. Windows are measured between scrapes, by Prometheus' clock. Pods' labels and containers are the cluster's:
//! all pods are watched, as nobody else tells of them here.
//!
//! Latency comes from native histograms (`scrape_native_histograms: true`), which have the kernel's buckets; of classic ones only the
//! counts are taken, as their buckets are too wide to tell a quantile.

mod answer;
mod scrape;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use axum::http::{Request, header::CONTENT_TYPE};
use kube::Client;
use tracing::{debug, info, warn};

use self::{
    answer::{Answer, Series},
    scrape::{PodsById, Scrape},
};
use super::{
    flags::Adapter,
    follow,
    store::{Store, lock},
};
use crate::{
    backoff::Backoff,
    collector::{agent::SUCCESS, cpu, http},
    kube::{
        client::Way,
        pod::{Manifest, Pod},
        watch::{self, Change, Which},
    },
    stream::{delta::Told, frame::columns},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait for the cluster's pods before looking again.
const WAIT: Duration = Duration::from_millis(100);
/// How long to wait after a failure at most.
const WAIT_MOST: Duration = Duration::from_secs(30);
/// Samples have the time at which a scrape began: it may have taken as long as this.
const LATE: Duration = Duration::from_secs(10);
/// After how long without a scrape a target is forgotten, ms.
const FORGOTTEN: u64 = 600_000;

/// Asks for as long as the program runs.
///
/// # Errors
/// When the flags do not say whom.
pub async fn run(config: Adapter, url: String, store: Arc<Store>) -> anyhow::Result<()> {
    let flags = &config.prometheus;
    let (authorities, token) = (flags.prometheus_ca.clone(), flags.prometheus_token_file.clone());
    let names = ["--source", "--prometheus-ca", "--prometheus-token-file"];
    let way = Way::to_other(url, authorities, token, names)?;
    way.client(PATIENCE)?;
    let pods = Arc::new(Mutex::new(PodsById::default()));
    tokio::spawn(follow_pods(config.api.clone(), Arc::clone(&pods)));
    let interval = Duration::from_secs(config.prometheus.prometheus_interval.into());
    let known = || pods.lock().unwrap_or_else(PoisonError::into_inner);
    // A scrape is looked at once, and would be of nobody.
    while !known().are_known() {
        tokio::time::sleep(WAIT).await;
    }
    let mut targets = Targets::default();
    let (mut backoff, mut said) = (Backoff::new(interval, WAIT_MOST.max(interval)), String::new());
    // What there is already fills the windows at once.
    let all = 2 * store.longest() + LATE;
    let mut range = all;
    loop {
        let asked = async {
            // A new client for each: it reads again whom to trust.
            let client = way.client(PATIENCE)?;
            ask(&client, &query(&config.prometheus.prometheus_selector, range)).await
        };
        match asked.await {
            Ok(series) => {
                let told = targets.tell(&series, &known(), &store);
                debug!(series = series.len(), scrapes = told, "Prometheus was asked");
                let message = match (targets.0.is_empty(), series.is_empty()) {
                    (false, _) => "",
                    (true, true) => {
                        "it has no series of podmeter's: does it scrape the agents, and is --prometheus-selector right?"
                    }
                    (true, false) => {
                        "none of its series say which node they are of, or that they are podmeter's"
                    }
                };
                if message != said {
                    match message {
                        "" => info!("Prometheus tells of agents"),
                        message => warn!("nothing from Prometheus: {message}"),
                    }
                    message.clone_into(&mut said);
                }
                backoff.reset();
                range = 2 * interval + LATE;
                tokio::time::sleep(interval).await;
            }
            Err(error) => {
                let message = format!("{error:#}");
                if message != said {
                    warn!("nothing from Prometheus: {message}");
                    said = message;
                }
                range = all;
                backoff.pause().await;
            }
        }
    }
}

/// Every series that matters, and those of its samples that are not older than `range`.
fn query(selector: &str, range: Duration) -> String {
    let mut names: Vec<_> = columns().iter().map(|(name, _)| (*name).to_owned()).collect();
    names.extend([
        format!("{}_sum", cpu::WAIT.name),
        format!("{}_count", http::served()[0].name),
        SUCCESS.name.to_owned(),
    ]);
    let selector = if selector.is_empty() { String::new() } else { format!(",{selector}") };
    format!("{{__name__=~\"{}\"{selector}}}[{}ms]", names.join("|"), range.as_millis())
}

async fn ask(client: &Client, query: &str) -> anyhow::Result<Vec<Series>> {
    let form = form_urlencoded::Serializer::new(String::new()).append_pair("query", query).finish();
    let request = Request::post("/api/v1/query")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form.into_bytes())?;
    client.request::<Answer>(request).await?.series()
}

/// What is known of each target, by its label `instance`: the `job` may have been replaced for a part of the metrics.
#[derive(Default)]
struct Targets(HashMap<String, Target>);

struct Target {
    /// Its number among streams, and what the store has been told.
    stream: u64,
    told: Told,
    /// The moment of the last scrape that was seen, ms.
    last: u64,
}

impl Targets {
    /// Tells the store of every scrape that is new; how many there were.
    fn tell(&mut self, series: &[Series], pods: &PodsById, store: &Store) -> usize {
        let mut scrapes: BTreeMap<(u64, &str), Scrape<'_>> = BTreeMap::new();
        for series in series {
            let instance = series.label("instance");
            let last = self.0.get(instance).map_or(0, |target| target.last);
            for (millis, value) in series.samples().filter(|(millis, _)| *millis > last) {
                scrapes.entry((millis, instance)).or_default().add(series, value);
            }
        }
        let newest = scrapes.keys().next_back().map_or(0, |(millis, _)| *millis);
        let mut count = 0;
        for ((millis, instance), scrape) in scrapes {
            // There are others whose series have these names: a kubelet's cAdvisor.
            let Some(frame) = scrape.frame(hash(instance), millis, pods) else { continue };
            let target = self.0.entry(instance.to_owned()).or_insert_with(|| Target {
                stream: follow::number(),
                told: Told::default(),
                last: 0,
            });
            target.last = millis;
            let node = store.node(&frame.node);
            let update = target.told.tell(Arc::new(frame));
            if let Err(error) = store.apply(&node, target.stream, update) {
                // Another target speaks for the node, as after an update of its agent.
                debug!(instance, "a scrape that tells nothing: {error:#}");
                continue;
            }
            let date = UNIX_EPOCH + Duration::from_millis(millis);
            lock(&node).was_so(date, Duration::from_millis(newest - millis));
            count += 1;
        }
        // Who has not been heard of for long is gone.
        self.0.retain(|_, target| newest.saturating_sub(target.last) < FORGOTTEN);
        count
    }
}

fn hash(instance: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    instance.hash(&mut hasher);
    hasher.finish()
}

/// Follows the pods of the cluster.
async fn follow_pods(api: crate::config::Api, pods: Arc<Mutex<PodsById>>) {
    let which = Which { path: "/api/v1/pods".to_owned(), labels: None, fields: None, name: "pods" };
    let apply = |change: Change<Manifest>| {
        let mut pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::All(all) => pods.all(all.into_iter().map(Pod::from)),
            Change::Set(pod) => pods.set(pod.into()),
            Change::Gone(pod) => pods.remove(pod.uid()),
        }
    };
    watch::follow(&api, &which, apply).await;
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        adapter::{
            self,
            metric::Metrics,
            node::Node,
            window::{Span, Spans},
        },
        kube::pod,
    };

    /// Samples every 15 s: `of(n)` is the n-th.
    fn series(labels: Value, count: u64, of: impl Fn(u64) -> Value) -> Value {
        let all = |is_histogram: bool| {
            let samples =
                (0..count).map(|n| (n, of(n))).filter(|(_, value)| value.is_object() == is_histogram);
            samples.map(|(n, value)| json!([1_700_000_000 + 15 * n, value])).collect::<Vec<_>>()
        };
        json!({"metric": labels, "values": all(false), "histograms": all(true)})
    }

    fn pods() -> PodsById {
        let container = |name: &str, id: &str| pod::Container {
            name: name.to_owned(),
            ids: vec![id.to_owned()],
            is_running: true,
            ..pod::Container::default()
        };
        let pod = |name: &str, containers: Vec<pod::Container>| Pod {
            uid: format!("uid of {name}"),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            containers,
            ..Pod::default()
        };
        let mut pods = PodsById::default();
        pods.all(
            [
                pod("web", vec![container("app", "id-1"), container("side", "id-2")]),
                // Of one of its containers there is no series.
                pod("half", vec![container("app", "id-3"), container("side", "id-4")]),
            ]
            .into_iter(),
        );
        pods
    }

    fn labels(name: &str, more: Value) -> Value {
        let mut all = json!({"__name__": name, "job": "podmeter", "instance": "10.0.0.7:9690"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    }

    fn of(pod: &str, container: &str, id: &str) -> Value {
        json!({"namespace": "shop", "pod": pod, "container": container, "name": id, "node": "node-1", "id": format!("/kubepods/{id}")})
    }

    fn answer(count: u64, requests: impl Fn(u64) -> Value, requests_name: &str) -> Vec<Series> {
        let cpu = |pod: &str, container: &str, id: &str| {
            series(labels("container_cpu_usage_seconds_total", of(pod, container, id)), count, |n| {
                json!((n * 3).to_string())
            })
        };
        let mut served = of("web", "app", "id-1");
        served["http_route"] = json!("/users/{id}");
        served["http_response_status_code"] = json!("503");
        let result = json!([
            cpu("web", "app", "id-1"),
            cpu("web", "side", "id-2"),
            cpu("half", "app", "id-3"),
            series(labels("podmeter_collector_success", json!({"collector": "http"})), count, |_| json!("1")),
            series(labels(requests_name, served), count, requests),
            // A kubelet's.
            json!({"metric": {"__name__": "container_cpu_usage_seconds_total", "instance": "10.0.0.7:10250", "node": "node-1"},
                "values": [[1_700_000_031, "1e9"]]}),
        ]);
        let answer = json!({"status": "success", "data": {"resultType": "matrix", "result": result}});
        serde_json::from_value::<Answer>(answer).unwrap().series().unwrap()
    }

    /// A window is as long as the scrapes that it ends at are apart.
    #[test]
    fn a_window_that_is_shorter_than_scrapes_are_apart_is_of_two() {
        let store = store(5);
        let all = answer(4, |_| json!("0"), "http_server_request_duration_seconds_count");
        Targets::default().tell(&all, &pods(), &store);
        let read = |node: &Node, pod: &adapter::pod::Pod| {
            let nanos = node.containers(pod)?.iter().map(|(_, total)| total.nanos).max()?;
            Some((nanos, nanos))
        };
        assert_eq!(store.pods(Some("shop"), |_| true, read)[0].used, 15_000_000_000);
        assert!((cores(&store)["web"].unwrap() - 0.4).abs() < 1e-9);
    }

    fn store(seconds: u64) -> Store {
        let window = Span::new(Duration::from_secs(seconds));
        Store::new(Spans::only(window), Duration::from_secs(60))
    }

    /// The CPU of each pod that is known.
    fn cores(store: &Store) -> BTreeMap<String, Option<f64>> {
        let read = |node: &Node, pod: &adapter::pod::Pod| {
            let containers = node.containers(pod)?;
            Some((0, containers.iter().map(|(_, total)| total.cpu()).sum()))
        };
        let readings = store.pods(Some("shop"), |about| about.labels.get("app").is_some(), read);
        readings.into_iter().map(|reading| (reading.about.name.clone(), reading.used)).collect()
    }

    /// A metric of the pod that is known, over 30 s.
    fn value(store: &Store, metric: &str) -> Option<f64> {
        let metrics = Metrics::new(Duration::from_secs(30)).unwrap();
        let query = &metrics.find(metric).unwrap().query;
        let read = |node: &Node, pod: &adapter::pod::Pod| {
            let gathered = node.gather(pod, query, &|_| true)?;
            assert_eq!(gathered.nanos, 30_000_000_000);
            Some((0, query.value(&gathered)))
        };
        store.pods(Some("shop"), |_| true, read)[0].used
    }

    #[test]
    fn scrapes_become_what_the_agent_would_have_told() {
        let (store, mut targets) = (store(30), Targets::default());
        let native = |n: u64| {
            json!({"count": (n * 60).to_string(), "sum": (n * 60).to_string(),
                "buckets": [[0, "0.9170040432046712", "1", (n * 60).to_string()]]})
        };
        let all = answer(4, native, "http_server_request_duration_seconds");
        assert_eq!(targets.tell(&all, &pods(), &store), 4);
        // Once each.
        assert_eq!(targets.tell(&all, &pods(), &store), 0);
        let all = cores(&store);
        assert_eq!(all.len(), 1, "a pod is complete or absent");
        // Two containers, of 3 s in 15 each.
        assert!((all["web"].unwrap() - 0.4).abs() < 1e-9);
        for metric in ["http_requests_per_second", "http_errors_per_second"] {
            assert!((value(&store, metric).unwrap() - 4.0).abs() < 1e-9, "{metric}");
        }
        assert!((0.91..=1.0).contains(&value(&store, "http_request_duration_p50_seconds").unwrap()));
        let date = store.pods(None, |_| true, |node, _| Some((0, node.moment(0).date)))[0].used;
        assert_eq!(date, UNIX_EPOCH + Duration::from_secs(1_700_000_045), "when it was scraped");
    }

    /// Of classic buckets only the count is taken.
    #[test]
    fn without_native_histograms_there_is_no_latency() {
        let (store, mut targets) = (store(30), Targets::default());
        let all = answer(4, |n| json!((n * 60).to_string()), "http_server_request_duration_seconds_count");
        targets.tell(&all, &pods(), &store);
        assert!((value(&store, "http_requests_per_second").unwrap() - 4.0).abs() < 1e-9);
        assert_eq!(value(&store, "http_request_duration_p50_seconds"), None);
    }

    /// Which of them are of no agent, and which is the last that a pod is in.
    #[test]
    fn what_ends_is_gone() {
        let (store, mut targets) = (store(30), Targets::default());
        let mut all = answer(4, |_| json!("0"), "http_server_request_duration_seconds_count");
        targets.tell(&all, &pods(), &store);
        assert_eq!(cores(&store).len(), 1);
        // The next scrape has none of its series.
        all = serde_json::from_value::<Answer>(json!({"data": {"resultType": "matrix", "result": [
            series(labels("podmeter_collector_success", json!({"collector": "http"})), 5, |_| json!("1")),
            series(labels("container_cpu_usage_seconds_total", of("half", "app", "id-3")), 5, |n| json!((n * 3).to_string())),
        ]}}))
        .unwrap()
        .series()
        .unwrap();
        assert_eq!(targets.tell(&all, &pods(), &store), 1);
        assert!(cores(&store).is_empty());
    }

    #[test]
    fn the_query_has_what_the_user_adds() {
        let text = query("cluster=\"here\"", Duration::from_secs(20));
        assert!(text.starts_with("{__name__=~\"container_cpu_usage_seconds_total|"), "{text}");
        assert!(text.ends_with("\",cluster=\"here\"}[20000ms]"), "{text}");
        assert!(query("", Duration::from_secs(1)).ends_with("\"}[1000ms]"));
    }
}
