use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream as Client};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::snapshot::{Kind, Labels, Metric, Snapshot};
use crate::telemetry::tests::Buffer;

static METRIC: Metric =
    Metric { name: "cpu_seconds_total", kind: Kind::Counter, help: "CPU.", labels: &[], per_container: true };

const LIMITS: Limits = Limits {
    connections: 16,
    scrapes: 8,
    head: Duration::from_millis(300),
    response: Duration::from_secs(20),
    drain: Duration::from_secs(5),
};

fn families(series: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let family = snapshot.family(&METRIC);
    for at in 0..series {
        family.value(&Labels::new(&[("pod", &format!("{at:0>1000}"))]), &[], 1.5);
    }
    snapshot
}

/// A source whose scrape is a closure and whose health is a switch.
struct Fake<G> {
    gather: G,
    well: bool,
}

impl<G: Fn() -> Snapshot + Send + Sync + 'static> Source for Fake<G> {
    fn gather(&self) -> Snapshot {
        (self.gather)()
    }

    fn frame(&self) -> Frame {
        Frame::default()
    }

    fn live(&self) -> Result<(), String> {
        if self.well { Ok(()) } else { Err("no work for 60 s".to_owned()) }
    }

    fn ready(&self) -> Result<(), String> {
        if self.well { Ok(()) } else { Err("no probe is attached".to_owned()) }
    }

    fn status(&self) -> String {
        "<h1>podmeter</h1>".to_owned()
    }
}

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

impl Server {
    async fn start(
        limits: Limits,
        well: bool,
        gather: impl Fn() -> Snapshot + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async { stopped.await.unwrap_or_default() };
        let task = tokio::spawn(serve_within(
            limits,
            listener,
            Guard::default(),
            Arc::new(Fake { gather, well }),
            Duration::from_secs(1),
            shutdown,
        ));
        Self { address, stop, task }
    }

    /// Sends a request's head and does not wait for the answer.
    fn open(&self, head: &str) -> Client {
        let mut client = Client::connect(self.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(head.as_bytes()).unwrap();
        client
    }

    fn request(&self, line: &str, headers: &str) -> JoinHandle<Reply> {
        // To a client of 1.0 a body of unknown length comes as it is, and not in chunks.
        let client = self.open(&format!("{line} HTTP/1.0\r\nHost: x\r\n{headers}\r\n"));
        tokio::task::spawn_blocking(move || Reply::read(client))
    }

    async fn get(&self, path: &str, headers: &str) -> Reply {
        self.request(&format!("GET {path}"), headers).await.unwrap()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn read(mut client: Client) -> Self {
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        Self { status: head[9..12].parse().unwrap(), head, body: bytes[end + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Reads what is left until the server closes or resets the connection.
async fn rest(mut client: Client) -> usize {
    let read = move || {
        let mut bytes = Vec::new();
        let ended = client.read_to_end(&mut bytes);
        assert!(ended.is_ok() || ended.unwrap_err().kind() == io::ErrorKind::ConnectionReset);
        bytes.len()
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

#[tokio::test]
async fn routes() {
    for (well, live, ready) in [
        (true, (200, "ok\n"), (200, "ok\n")),
        (false, (503, "no work for 60 s\n"), (503, "no probe is attached\n")),
    ] {
        let server = Server::start(LIMITS, well, || families(2)).await;
        for (path, expected) in [("/livez", live), ("/healthz", live), ("/readyz?verbose", ready)] {
            let reply = server.get(path, "").await;
            assert_eq!((reply.status, reply.text()), expected, "{path}");
        }
        let page = server.get("/", "").await;
        assert_eq!((page.status, page.text()), (200, "<h1>podmeter</h1>"));
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        for path in ["/metric", "/metrics/", "/%00", "//", "/favicon.ico"] {
            let reply = server.get(path, "").await;
            assert_eq!((reply.status, reply.text()), (404, ENDPOINTS), "{path}");
        }
        assert_eq!(server.request("POST /metrics", "").await.unwrap().status, 405);
        let scrape = server.get("/metrics", "").await;
        assert_eq!(scrape.status, 200);
        assert_eq!(scrape.text().lines().count(), 4);
        assert_eq!(scrape.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        assert_eq!(scrape.header("vary"), Some("Accept, Accept-Encoding"));
        assert_eq!(scrape.header("content-encoding"), None);
        server.stop().await;
    }
}

#[tokio::test]
async fn formats_and_encodings() {
    let server = Server::start(LIMITS, true, || families(50)).await;
    let headers = "Accept: application/openmetrics-text;version=1.0.0;q=0.5\r\nAccept: text/plain;q=0.4\r\n\
                   Accept-Encoding: deflate, GZIP;q=0.3\r\n";
    let plain = server.get("/metrics", "Accept-Encoding: gzip;q=0, *\r\n").await;
    assert_eq!(plain.header("content-encoding"), None);
    assert!(plain.text().starts_with("# HELP cpu_seconds_total CPU.\n"));
    let scrape = server.get("/metrics", headers).await;
    assert_eq!(scrape.header("content-type"), Some(Format::OpenMetrics.content_type()));
    assert_eq!(scrape.header("content-encoding"), Some("gzip"));
    assert!(scrape.body.len() * 10 < plain.body.len());
    let mut text = String::new();
    flate2::read::GzDecoder::new(scrape.body.as_slice()).read_to_string(&mut text).unwrap();
    let expected: Vec<_> = Exposition::new(families(50), Format::OpenMetrics).flatten().collect();
    assert_eq!(text.into_bytes(), expected);

    let head = server.request("HEAD /metrics", headers).await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["content-type", "content-encoding", "vary"] {
        assert_eq!(head.header(name), scrape.header(name), "{name}");
    }
    server.stop().await;
}

#[test]
fn gzip_is_accepted_by_name_or_wildcard() {
    for (accepted, expected) in [
        ("gzip", true),
        ("br, gzip ;q=0.1", true),
        ("*", true),
        ("*;q=0", false),
        ("gzip;q=0,*", false),
        ("identity", false),
        ("gzip;q=x", false),
        ("", false),
    ] {
        assert_eq!(accepts_gzip(accepted), expected, "{accepted}");
    }
}

#[tokio::test]
async fn a_scrape_that_panics_is_an_error_of_its_own() {
    let calls = AtomicUsize::new(0);
    let gather = move || {
        assert_ne!(calls.fetch_add(1, Ordering::SeqCst), 0, "the first scrape fails");
        families(1)
    };
    let server = Server::start(LIMITS, true, gather).await;
    assert_eq!(server.get("/metrics", "").await.status, 500);
    assert_eq!(server.get("/metrics", "").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn bad_requests_harm_nobody() {
    let server = Server::start(LIMITS, true, || families(1)).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    for head in [
        "\0\u{ff}\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &long,
    ] {
        rest(server.open(head)).await;
    }
    let odd = "Accept: \u{e9}\r\nAccept-Encoding: ;;q=,\r\nContent-Length: 5\r\n";
    assert_eq!(server.get("/metrics", odd).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn clients_that_do_not_read_are_cut_off() {
    let limits = Limits { scrapes: 2, response: Duration::from_millis(1_200), ..LIMITS };
    const LARGE: usize = 8 << 20;
    let calls = AtomicUsize::new(0);
    // Only the first answer is larger than what the kernel buffers for its client.
    let help = Box::leak("x".repeat(LARGE).into_boxed_str());
    let large: &'static Metric = Box::leak(Box::new(Metric { help, ..METRIC }));
    let gather = move || {
        let mut snapshot = families(1);
        if calls.fetch_add(1, Ordering::SeqCst) == 0 {
            snapshot.family(large).value(&Labels::NONE, &[], 1.0);
        }
        snapshot
    };
    let server = Server::start(limits, true, gather).await;
    let begin = Instant::now();
    let stuck = server.open("GET /metrics HTTP/1.1\r\n\r\n");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.get("/metrics", "").await.status, 200);
    let cut_off = limits.head + limits.response;
    assert!(begin.elapsed() < cut_off, "the other client had to wait for the first one");
    tokio::time::sleep(cut_off + Duration::from_millis(500)).await;
    assert!(rest(stuck).await < LARGE);
    // Its place is free again.
    for reply in [server.request("GET /metrics", ""), server.request("GET /metrics", "")] {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    server.stop().await;
}

#[tokio::test]
async fn clients_that_do_not_write_are_cut_off() {
    let server = Server::start(LIMITS, true, || families(1)).await;
    for head in ["", "GET /metrics HTTP/1.1\r\nHost"] {
        let begin = Instant::now();
        rest(server.open(head)).await;
        assert!(
            (LIMITS.head..LIMITS.head * 10).contains(&begin.elapsed()),
            "{head:?}: {:?}",
            begin.elapsed()
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn connections_and_scrapes_are_limited() {
    let limits = Limits { connections: 3, scrapes: 2, head: Duration::from_secs(10), ..LIMITS };
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let gather = move || {
        wait.lock().unwrap().recv().unwrap();
        families(1)
    };
    let server = Server::start(limits, true, gather).await;
    let running = [server.request("GET /metrics", ""), server.request("GET /metrics", "")];
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.get("/metrics", "").await.status, 503);
    assert_eq!(server.get("/livez", "").await.status, 200);
    let idle = server.open("");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rest(server.open("GET /livez HTTP/1.1\r\n\r\n")).await, 0);
    drop(idle);
    go.send(()).unwrap();
    go.send(()).unwrap();
    for reply in running {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    server.stop().await;
}

#[tokio::test]
async fn scrapes_run_one_at_a_time() {
    let (running, calls) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let gather = move || {
        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two scrapes at once");
        std::thread::sleep(Duration::from_millis(50));
        running.fetch_sub(1, Ordering::SeqCst);
        counted.fetch_add(1, Ordering::SeqCst);
        families(1)
    };
    let server = Server::start(LIMITS, true, gather).await;
    // This client leaves while its scrape runs.
    let impatient = server.open("GET /metrics HTTP/1.1\r\n\r\n");
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(impatient);
    let replies: Vec<_> = (0..5).map(|_| server.request("GET /metrics", "")).collect();
    for reply in replies {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 6);
    server.stop().await;
}

#[tokio::test]
async fn a_stop_lets_requests_finish_but_not_for_ever() {
    for (drain, finishes) in [(5_000, true), (50, false)] {
        let limits = Limits { drain: Duration::from_millis(drain), ..LIMITS };
        let gather = || {
            std::thread::sleep(Duration::from_millis(400));
            families(1)
        };
        let server = Server::start(limits, true, gather).await;
        let (idle, address) = (server.open(""), server.address);
        let running = server.open("GET /metrics HTTP/1.1\r\n\r\n");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begin = Instant::now();
        server.stop().await;
        assert_eq!(begin.elapsed() > Duration::from_millis(200), finishes);
        assert!(begin.elapsed() < Duration::from_secs(3), "an idle connection held the stop up");
        assert_eq!(rest(running).await > 0, finishes);
        assert_eq!(rest(idle).await, 0);
        assert!(Client::connect(address).is_err());
    }
}

#[tokio::test]
async fn requests_are_logged() {
    let buffer = Buffer::default();
    let logging = tracing::subscriber::set_default(buffer.subscriber());
    let server = Server::start(LIMITS, true, || families(3)).await;
    let bytes = server.get("/metrics", "").await.body.len();
    server.get("/livez", "").await;
    server.get(&format!("/{}", "x".repeat(1000)), "").await;
    server.stop().await;
    drop(logging);
    let lines: Vec<_> = buffer.lines().into_iter().filter(|line| line["message"] == "request").collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["level"], "info");
    assert_eq!(lines[0]["method"], "GET");
    assert_eq!(lines[0]["path"], "/metrics");
    assert_eq!((&lines[0]["status"], &lines[0]["series"]), (&200.into(), &3.into()));
    assert_eq!(lines[0]["bytes"], bytes);
    assert!(lines[0]["duration_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!((&lines[1]["level"], &lines[1]["path"]), (&"debug".into(), &"/livez".into()));
    assert_eq!(
        (&lines[2]["status"], lines[2]["path"].as_str().unwrap().len()),
        (&404.into(), log::MAX_LOGGED)
    );
}
