//! The source `prometheus=URL`: what agents told Prometheus, or whatever speaks its HTTP API (Thanos, Mimir, VictoriaMetrics).
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
    let way = Way::to_prometheus(url, flags.prometheus_ca.clone(), flags.prometheus_token_file.clone())?;
    way.client(PATIENCE)?;
    let pods = Arc::new(Mutex::new(PodsById::default()));
    tokio::spawn(follow_pods(config.api.clone(), Arc::clone(&pods)));
    let interval = Duration::from_secs(config.prometheus.prometheus_interval.into());
    let window = Duration::from_secs(config.window.into());
    let mut targets = Targets::default();
    let (mut backoff, mut said) = (Backoff::new(interval, WAIT_MOST.max(interval)), String::new());
    // What there is already fills the windows at once.
    let mut range = 2 * window + LATE;
    loop {
        let asked = async {
            // A new client for each: it reads again whom to trust.
            let client = way.client(PATIENCE)?;
            ask(&client, &query(&config.prometheus.prometheus_selector, range)).await
        };
        match asked.await {
            Ok(series) => {
                let told =
                    targets.tell(&series, &pods.lock().unwrap_or_else(PoisonError::into_inner), &store);
                debug!(series = series.len(), scrapes = told, "Prometheus was asked");
                if !said.is_empty() {
                    info!("Prometheus answers again");
                }
                said.clear();
                backoff.reset();
                range = 2 * interval + LATE;
                tokio::time::sleep(interval).await;
            }
            Err(error) => {
                let message = format!("{error:#}");
                if message != said {
                    warn!("no answer of Prometheus: {message}");
                    said = message;
                }
                range = (range + interval).min(2 * window + LATE);
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
