//! `custom.metrics.k8s.io` and `external.metrics.k8s.io`: requests, as whoever makes them counts them.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use podmeter_tests::{temp::TempDir, wait};
use serde_json::json;

use super::lab::{Lab, Recording, at_least, quantity, seconds};

pub(super) const CUSTOM: &str = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/shop";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop";
pub(super) const PEER: &str = env!("CARGO_BIN_EXE_http-peer");
const BOUND: f64 = 0.02;

/// Asks again and again, for the paths in turn, on one connection.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
}

impl Load {
    pub(super) fn start(port: &str, paths: &'static [&'static str], pause: Duration) -> Self {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("the server listens");
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), count.clone());
        thread::spawn(move || {
            for path in paths.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
                // The server may end before the load does.
                if stream.write_all(request.as_bytes()).and_then(|()| answered(&mut stream)).is_err() {
                    return;
                }
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(pause);
            }
        });
        Self { stop, count }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Reads an answer, whose body is as long as it says.
pub(super) fn answered(stream: &mut TcpStream) -> std::io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)
}

#[test]
fn the_api_says_what_the_client_counted() {
    are_counted(Lab::start);
}

#[test]
fn from_prometheus_it_says_the_same() {
    are_counted(Lab::by_prometheus);
}

/// Metrics of the user's own: one that there is by route too, with a longer window; a quantile; a ratio.
const OWN: &str = r#"
metrics:
- name: hello_per_second
  query: rate(http_server_request_duration_seconds_count{http_route="/hello"}[10s])
- name: hello_p90_seconds
  query: histogram_quantile(0.9, sum by (le) (rate(http_server_request_duration_seconds_bucket{http_route="/hello"}[5s])))
- name: error_ratio
  query: |
    rate(http_server_request_duration_seconds_count{http_response_status_code=~"5.."}[5s])
      / rate(http_server_request_duration_seconds_count[5s])
"#;

fn are_counted(start: fn(&[&str]) -> Lab) {
    let files = TempDir::new("metrics");
    files.file("metrics.yaml", OWN);
    let file = files.path().join("metrics.yaml").display().to_string();
    let lab = &start(&["--window", "5", "--metrics", &file]);
    let owner = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8c7b9", "uid": "u", "controller": true}]);
    let labels = json!({"app": "web", "pod-template-hash": "5d4f8c7b9"});
    let pods = ["web-1", "web-2"].map(|name| lab.container(name, &labels, &owner));
    let services = "/api/v1/namespaces/shop/services";
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    lab.node.cluster.create(services, &service);
    let mut servers = pods.each_ref().map(|pod| pod.cgroup.spawn(&[PEER, "serve", "127.0.0.1:0"]));
    let ports = servers.each_mut().map(|server| {
        let address = server.go().line();
        address.rsplit(':').next().expect("an address").to_owned()
    });
    // Twice as many at the one as at the other, some of which fail.
    let loads = [
        Load::start(&ports[0], &["/hello", "/users/17", "/status/500"], Duration::from_millis(4)),
        Load::start(&ports[1], &["/hello"], Duration::from_millis(8)),
    ];
    let recordings = loads.each_ref().map(|load| {
        let count = load.count.clone();
        Recording::start(move || count.load(Ordering::Relaxed) as f64)
    });
    // A window, the part of a second that dates and windows are cut by, and the age of what was told last.
    at_least(Instant::now(), 12);
    let requests = format!("{CUSTOM}/pods/*/http_requests_per_second");
    let mut answers = BTreeMap::new();
    let mut service_answers = BTreeMap::new();
    while answers.len() < 3 || service_answers.len() < 3 {
        for path in [&requests, &format!("{requests}?labelSelector=app%3Dweb")] {
            for item in lab.answer(path)["items"].as_array().expect("a list") {
                let name = item["describedObject"]["name"].as_str().expect("a name").to_owned();
                answers.insert((seconds(&item["timestamp"]) as u64, name), item.clone());
            }
        }
        let answer = lab.answer(&format!("{CUSTOM}/services/web/http_requests_per_second"));
        assert_eq!(answer["items"].as_array().map(Vec::len), Some(1), "exactly one");
        service_answers.insert(seconds(&answer["items"][0]["timestamp"]) as u64, answer["items"][0].clone());
    }
    let of = |path: &str| quantity(&lab.answer(path)["items"][0]["value"]);
    let whole = of(&format!("{CUSTOM}/services/web/http_requests_per_second"));
    for object in ["deployments.apps/web", "deployments/web"] {
        let value = of(&format!("{CUSTOM}/{object}/http_requests_per_second"));
        assert!((value / whole - 1.0).abs() < 0.3, "{value} for {whole}");
    }
    for path in [
        format!("{CUSTOM}/metrics/http_requests_per_second"),
        format!("{EXTERNAL}/http_requests_per_second?labelSelector=app%3Dweb"),
    ] {
        let value = of(&path);
        assert!((value / whole - 1.0).abs() < 0.3, "{path}: {value} for {whole}");
    }
    // A third of the first pod's requests each, by the route's name as a label may have it: of the same moment, as a busy machine's
    // rates change from one to the next.
    let first = format!("{CUSTOM}/pods/web-1/http_requests_per_second");
    let share = |path: &str| {
        wait::until("numbers of one moment", || {
            let [whole, part, again] =
                [&*first, path, &*first].map(|path| lab.answer(path)["items"][0].clone());
            let is_one = whole["timestamp"] == part["timestamp"] && part["timestamp"] == again["timestamp"];
            is_one.then(|| quantity(&part["value"]) / quantity(&whole["value"]))
        })
    };
    for route in ["hello", "users-id", "status-id"] {
        let part = share(&format!("{first}?metricLabelSelector=route%3D{route}"));
        assert!((part * 3.0 - 1.0).abs() < 0.1, "{route}: {part} of all");
    }
    let errors = share(&format!("{CUSTOM}/pods/web-1/http_errors_per_second"));
    assert!((errors * 3.0 - 1.0).abs() < 0.1, "{errors} of all fail");
    assert_eq!(of(&format!("{CUSTOM}/pods/web-2/http_errors_per_second")), 0.0);
    are_those_of_the_file(lab);
    let [p50, p99] =
        ["p50", "p99"].map(|q| of(&format!("{CUSTOM}/services/web/http_request_duration_{q}_seconds")));
    assert!(p50 > 0.0 && p50 <= p99 && p99 < 5.0, "{p50} {p99}");
    at_least(Instant::now(), 2);
    let growth = recordings.map(Recording::stop);
    for ((at, name), item) in &answers {
        let growth = &growth[usize::from(name == "web-2")];
        let (said, window) = (quantity(&item["value"]), item["windowSeconds"].as_f64().expect("a number"));
        // Here a window is of whole seconds, cut off.
        let (shorter, longer) = (growth.rates(*at as f64, window), growth.rates(*at as f64, window + 1.0));
        let (least, most) = (shorter.0.min(longer.0), shorter.1.max(longer.1));
        println!(
            "requests per second of {name}: {said:.3} by the API, {least:.3} to {most:.3} by the client, over {window} s"
        );
        assert!(
            said >= least * (1.0 - BOUND) && said <= most * (1.0 + BOUND),
            "{said} is not {least} to {most}"
        );
    }

    // When the load ends, there are no requests, which is known; and no latency, which is not zero.
    drop(loads);
    wait::until("the end of the load", || {
        (of(&format!("{CUSTOM}/pods/web-1/http_requests_per_second")) == 0.0).then_some(())
    });
    assert_eq!(of(&format!("{CUSTOM}/pods/web-1/http_active_requests")), 0.0);
    for metric in ["http_request_duration_p99_seconds", "hello_p90_seconds", "error_ratio"] {
        let (code, status) = lab.get(&format!("{CUSTOM}/pods/web-1/{metric}"));
        assert_eq!((code, &status["reason"]), (404, &json!("NotFound")), "{status}");
    }
    for path in [
        "pods/web-1/made_up",
        "services/gone/http_requests_per_second",
        "secrets/web/http_requests_per_second",
    ] {
        assert_eq!(lab.get(&format!("{CUSTOM}/{path}")).0, 404, "{path}");
    }
    let old =
        lab.answer("/apis/custom.metrics.k8s.io/v1beta1/namespaces/shop/pods/web-1/http_requests_per_second");
    assert_eq!(old["items"][0]["metricName"], "http_requests_per_second", "{old}");
}

/// What the metrics of [`OWN`] are, beside those that there are anyway, of pods, of all pods of a Service, and by selector.
fn are_those_of_the_file(lab: &Lab) {
    let of = |path: &str| quantity(&lab.answer(path)["items"][0]["value"]);
    let custom = |path: &str| of(&format!("{CUSTOM}/{path}"));
    let by_selector = |metric: &str| of(&format!("{EXTERNAL}/{metric}?labelSelector=app%3Dweb"));
    // Both are asked for one after the other, of a load that is about the same.
    let about = |what: &str, own: f64, other: f64, bound: f64| {
        println!("{what}: {own:.4} by the user's query, {other:.4} by what there is anyway");
        assert!((own / other - 1.0).abs() < bound, "{what}: {own} is not {other}");
    };
    let hello = "?metricLabelSelector=route%3Dhello";
    for object in ["pods/web-1", "services/web"] {
        let rate = custom(&format!("{object}/http_requests_per_second{hello}"));
        about(&format!("requests of {object}"), custom(&format!("{object}/hello_per_second")), rate, 0.3);
        let [requests, errors] =
            ["requests", "errors"].map(|kind| custom(&format!("{object}/http_{kind}_per_second")));
        about(
            &format!("errors of {object}"),
            custom(&format!("{object}/error_ratio")),
            errors / requests,
            0.1,
        );
        let quantile = custom(&format!("{object}/http_request_duration_p90_seconds{hello}"));
        about(&format!("latency of {object}"), custom(&format!("{object}/hello_p90_seconds")), quantile, 0.5);
    }
    about("errors by selector", by_selector("error_ratio"), custom("services/web/error_ratio"), 0.1);
    assert_eq!(custom("pods/web-2/error_ratio"), 0.0);
    // Until it is as old as its window a container has a shorter one; by Prometheus it is seconds younger.
    let window = wait::until("a whole window", || {
        let item = &lab.answer(&format!("{CUSTOM}/pods/web-1/hello_per_second"))["items"][0];
        item["windowSeconds"].as_u64().filter(|window| *window >= 10)
    });
    assert!(window <= 14, "{window} s");
    for (group, name) in [
        ("custom.metrics.k8s.io/v1beta2", "services/error_ratio"),
        ("external.metrics.k8s.io/v1beta1", "error_ratio"),
    ] {
        let list = lab.answer(&format!("/apis/{group}"));
        let resources = list["resources"].as_array().expect("a list");
        assert!(resources.iter().any(|resource| resource["name"] == name), "{list}");
    }
}
