//! The peers that read what we say: a real Prometheus, its promtool, and curl.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

use podmeter_tests::wait;

use crate::{
    http::{
        exemplars::field,
        lab::Lab,
        latency::{bucket, buckets},
    },
    prometheus::{BOTH, Prometheus, current},
};

#[test]
fn prometheus_scrapes_and_computes() {
    const DELAY: u64 = 30;
    // Every signal: what Prometheus takes is the whole scrape.
    let lab = Lab::whole(&[]);
    let server = lab.serve("127.0.0.1:0");
    let mut busy = lab.client.spawn(&["/bin/sh", "-c", "while :; do :; done"]);
    busy.go();
    let prometheus = Prometheus::start("prometheus", &lab.agent, "");
    let mut talk = lab.talk();
    talk.say(&format!("open {}", server.v4()));
    let mut took = Vec::new();
    // Load goes on until there is an answer: a rate needs two scrapes within its window.
    let (id, client) = (&lab.server_id, &lab.client_id);
    let histogram = format!("http_server_request_duration_seconds_bucket{{id=\"{id}\"}}");
    let median = wait::until("a median", || {
        let said = talk.say(&format!("time 20 /delay/{DELAY}"));
        took.extend(said.split(' ').map(|nanos| nanos.parse::<f64>().expect("a number") / 1e9));
        prometheus.query(&format!("histogram_quantile(0.5, sum by (le) (rate({histogram}[1m])))"))
    });
    // Within the buckets between that of the delay and that of the slowest request as the client saw it.
    let buckets = buckets(&lab.agent.scrape(), "http_server_request_duration_seconds", &[("id", id)]);
    let slowest = took.iter().copied().fold(0.0, f64::max);
    let (from, to) = (bucket(&buckets, DELAY as f64 / 1e3), bucket(&buckets, slowest));
    let found = bucket(&buckets, median);
    assert!((from..=to).contains(&found), "median {median}, slowest {slowest}: {buckets:?}");
    let cpu = format!("sum(rate(container_cpu_usage_seconds_total{{id=\"{client}\"}}[1m]))");
    let cpu = wait::until("a rate of CPU time", || prometheus.query(&cpu));
    assert!(cpu > 0.0, "{cpu}");
    // A scrape may take longer than a second on a busy machine: the next one does not.
    wait::until("up", || prometheus.query("up").filter(|up| *up == 1.0));
    wait::until("no last error", || {
        let answer = prometheus.api("targets");
        let targets = answer["activeTargets"].as_array().expect("targets");
        assert_eq!(targets.len(), 1, "{answer}");
        (targets[0]["health"] == "up" && targets[0]["lastError"] == "").then_some(())
    });
    // OpenMetrics has exemplars, and tells the unit of a family: the text format does not.
    let trace = "00000000000000000000000000abcdef";
    let traced = format!("send GET /traced HTTP/1.1\\r\\n{}\\r\\n", field(trace, "01"));
    talk.all(&[&traced, "answer"]);
    let known = BTreeSet::from([trace.to_owned()]);
    wait::until("the trace", || {
        (prometheus.traces("http_server_request_duration_seconds_bucket", id) == known).then_some(())
    });
    let metadata = prometheus.api("targets/metadata?metric=http_server_request_duration_seconds");
    assert_eq!(
        (&metadata[0]["type"], &metadata[0]["unit"]),
        (&"histogram".into(), &"seconds".into()),
        "{metadata}"
    );
    let log = prometheus.log();
    let complaints = log.lines().filter(|line| line.contains("level=warn") || line.contains("level=error"));
    assert_eq!(complaints.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// By protobuf, a current Prometheus takes every histogram twice, classic and native, and both say what the agent says.
#[test]
fn a_current_prometheus_takes_native_histograms() {
    const DELAYS: [u64; 4] = [3, 7, 20, 45];
    let lab = Lab::whole(&[]);
    let server = lab.serve("127.0.0.1:0");
    let prometheus = Prometheus::start(&current(), &lab.agent, BOTH);
    let mut talk = lab.talk();
    talk.say(&format!("open {}", server.v4()));
    for delay in DELAYS {
        talk.say(&format!("time 10 /delay/{delay}"));
    }
    let trace = "00000000000000000000000000fedcba";
    let traced = format!("send GET /delay/{} HTTP/1.1\\r\\n{}\\r\\n", DELAYS[0], field(trace, "01"));
    talk.all(&[&traced, "answer"]);
    let sent = 10 * DELAYS.len() as u64 + 1;
    let scrape = lab.settled(sent, sent);
    let id = &lab.server_id;
    let name = "http_server_request_duration_seconds";
    let native = format!("{name}{{id=\"{id}\"}}");
    wait::until("all requests", || {
        prometheus.query(&format!("histogram_count({native})")).filter(|count| *count == sent as f64)
    });
    // To the last bit.
    let sum = scrape.value(&format!("{name}_sum"), &[("id", id)]);
    assert_eq!(prometheus.query(&format!("histogram_sum({native})")), sum);
    assert_eq!(prometheus.query(&format!("{name}_sum{{id=\"{id}\"}}")), sum);
    let classic = buckets(&scrape, name, &[("id", id)]);
    for &(bound, count) in &classic {
        let le = if bound.is_infinite() { "+Inf".to_owned() } else { format!("{bound:?}") };
        let taken = prometheus.query(&format!("{name}_bucket{{id=\"{id}\",le=\"{le}\"}}"));
        assert_eq!(taken, Some(count as f64), "{le}");
    }
    // A quantile is in the same classic bucket, whichever histogram it is from; of the native one, whose buckets are 9 %
    // wide, it is that close to what was waited for at least.
    for (quantile, delay) in [(0.2, 3.0), (0.45, 7.0), (0.7, 20.0), (0.95, 45.0)] {
        let of = |histogram: &str| {
            let value = prometheus.query(&format!("histogram_quantile({quantile}, {histogram})"));
            value.unwrap_or_else(|| panic!("no quantile {quantile} of {histogram}"))
        };
        let (fine, coarse) = (of(&native), of(&format!("{name}_bucket{{id=\"{id}\"}}")));
        assert_eq!(bucket(&classic, fine), bucket(&classic, coarse), "{quantile}: {fine} and {coarse}");
        assert!(fine > delay / 1e3 / 1.0906, "{quantile}: {fine}, and {delay} ms were waited");
    }
    for series in [name.to_owned(), format!("{name}_bucket")] {
        assert_eq!(prometheus.traces(&series, id), BTreeSet::from([trace.to_owned()]), "{series}");
    }
    // Native ones are there for the other signals as well.
    let waits = "count(histogram_count(container_cpu_run_queue_latency_seconds) > 0)";
    assert!(prometheus.query(waits) > Some(0.0));
    let log = prometheus.log();
    let complaints = log.lines().filter(|line| line.contains("level=WARN") || line.contains("level=ERROR"));
    assert_eq!(complaints.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// What promtool has to say about a scrape.
fn promtool(text: &str) -> String {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    // It reads all before it says anything.
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("promtool");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{}: {said}", output.status);
    said
}

#[test]
fn promtool_has_nothing_to_say() {
    let lab = Lab::whole(&[]);
    let server = lab.serve("127.0.0.1:0");
    lab.curl(&["--output", "/dev/null", &server.url("/hello")]);
    let scrape = lab.settled(1, 1);
    assert_eq!(promtool(&scrape.0), "");
}

fn curl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("curl").args(["-q", "-sS", "--fail"]).args(arguments).output().expect("curl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn curl_gets_it_compressed() {
    let lab = Lab::whole(&[]);
    let url = format!("http://{}/metrics", lab.agent.address);
    let size = |arguments: &[&str]| {
        let arguments =
            [arguments, &["--output", "/dev/null", "--write-out", "%{size_download}", &url]].concat();
        String::from_utf8(curl(&arguments)).ok().and_then(|size| size.parse::<u64>().ok()).expect("a number")
    };
    let (plain, compressed) = (size(&[]), size(&["--compressed"]));
    assert!(compressed < plain / 2, "{compressed} of {plain}");
    let text = String::from_utf8(curl(&["--compressed", &url])).expect("text");
    assert!(text.starts_with("# HELP ") && text.contains("\npodmeter_build_info{"), "{text}");
    let head = String::from_utf8(curl(&["--head", "--request", "GET", "--compressed", &url])).expect("text");
    assert!(head.to_ascii_lowercase().contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
}

/// What Prometheus 2.42 and 3 send.
#[test]
fn openmetrics_is_for_those_who_ask() {
    let lab = Lab::whole(&[]);
    let url = format!("http://{}/metrics", lab.agent.address);
    let get = |accept: &str| {
        let accept = format!("Accept: {accept}");
        let text = String::from_utf8(curl(&["--include", "--header", &accept, &url])).expect("text");
        text.split_once("\r\n\r\n")
            .map(|(head, body)| (head.to_ascii_lowercase(), body.to_owned()))
            .expect("a head")
    };
    for accept in [
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
         text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
         application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
         text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    ] {
        let (head, body) = get(accept);
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        assert!(body.ends_with("\n# EOF\n"), "{accept}");
    }
    for accept in ["*/*", "text/plain", "text/plain;version=0.0.4"] {
        let (head, body) = get(accept);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(!body.contains("# EOF"), "{accept}");
    }
}
