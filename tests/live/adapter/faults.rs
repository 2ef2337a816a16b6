//! Agents that go wrong, the ways to them, and clients that mean no good.

use std::{
    convert::Infallible,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{body::Body, http::Response};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use podmeter_tests::{adapter::Adapter, random::Random, simulated::Agents, wait};

use super::{
    lab::{now, seconds},
    made_up::{Made, PODS, absent, adapter, get, known, logged, pod},
};

const INTERVAL: Duration = Duration::from_millis(200);
const HOUR: u64 = 3_600_000_000_000;

/// Agents of these nodes, by number.
fn agents(nodes: Vec<Made>) -> Agents {
    let nodes: Vec<_> = nodes.into_iter().map(Arc::new).collect();
    let agent = move |number: u16| {
        let node = nodes[usize::from(number)].clone();
        move || node.frame()
    };
    Agents::start(INTERVAL, agent).expect("loopback")
}

fn is_about(millicores: f64, wanted: f64) -> bool {
    (millicores - wanted).abs() <= wanted * 0.05
}

#[test]
fn an_agents_clock_has_no_date() {
    let behind = Arc::new(AtomicU64::new(HOUR));
    let clock = behind.clone();
    let begin = Instant::now();
    let agents = Agents::start(INTERVAL, move |number| {
        let clock = clock.clone();
        move || {
            let name = format!("web-{number}");
            let mut made = Made::new(&format!("node-{number}"), &name, 250);
            (made.begin, made.clock) =
                (begin, if number == 0 { 1000 * HOUR } else { clock.load(Ordering::Relaxed) });
            made.frame()
        }
    });
    let agents = agents.expect("loopback");
    let adapter = adapter(&[agents.url(0), agents.url(1)], &[]);
    let is_right = |name: &str| {
        let (millicores, pod) = known(&adapter, name);
        assert!(is_about(millicores, 250.0), "{pod}");
        let age = now() - seconds(&pod["timestamp"]);
        assert!((-0.1..4.5).contains(&age), "{age} s old: {pod}");
    };
    is_right("web-0");
    is_right("web-1");
    // It goes back, as no agent's does: another run of it, of which nothing is known until its first window.
    behind.store(1, Ordering::Relaxed);
    wait::until("an error", || (logged(&adapter, &["clock went back"]) > 0).then_some(()));
    is_right("web-1");
    is_right("web-0");
    assert_eq!(logged(&adapter, &["no news of an agent"]), 1, "{:#?}", adapter.log());
}

#[test]
fn of_two_agents_that_tell_of_a_node_one_is_heard() {
    let agents = agents(vec![Made::new("node-1", "web", 200), Made::new("node-1", "web", 700)]);
    let urls = [agents.url(0), agents.url(1)];
    let adapter = adapter(&urls, &[]);
    let (millicores, _) = known(&adapter, "web");
    let heard = usize::from(is_about(millicores, 700.0));
    let wanted = |at: usize| [200.0, 700.0][at];
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        let (millicores, pod) = pod(&adapter, "web").expect("it is known all the time");
        assert!(is_about(millicores, wanted(heard)), "{pod}");
    }
    let waits = ["another agent tells of this node", &urls[1 - heard]];
    assert_eq!(logged(&adapter, &waits), 1, "{:#?}", adapter.log());
    assert_eq!(logged(&adapter, &["no news of an agent"]), 0, "{:#?}", adapter.log());
    // Who was heard says nothing any more: it is the other's turn.
    agents.silence(heard as u16);
    wait::until("the other agent", || {
        pod(&adapter, "web").filter(|(millicores, _)| is_about(*millicores, wanted(1 - heard)))
    });
}

/// Something that takes connections where an agent should be.
fn nonsense(answer: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(&answer));
    url
}

/// As [`nonsense`], which speaks HTTP/2 and gRPC as an agent does, and then says this.
fn message(bytes: &'static [u8]) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    nonsense(move |stream| {
        stream.set_nonblocking(true).expect("a socket");
        runtime.spawn(async move {
            let service = service_fn(move |_| async move {
                let mut frame = vec![0];
                frame.extend((bytes.len() as u32).to_be_bytes());
                frame.extend(bytes);
                let response = Response::builder().header("content-type", "application/grpc");
                Ok::<_, Infallible>(response.body(Body::from(frame)).expect("a response"))
            });
            let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream).expect("a socket"));
            _ = http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await;
        });
    })
}

/// The most memory that a process ever had, bytes.
fn most_memory(adapter: &Adapter) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", adapter.child.id())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn nonsense_is_told_once_and_makes_nothing_up() {
    let mut many = Made::new("node-2", "many", 100);
    many.pods = (0..30_000).map(|pod| (format!("many-{pod}"), 1)).collect();
    let agents = agents(vec![
        Made::new("node-0", "web", 250),
        Made::new("../etc", "traversal", 100),
        many,
        Made::new("node-3", "a pod\nof two lines", 100),
    ]);
    let mut noise = [0; 4096];
    Random::new(7).fill(&mut noise);
    let sources = [
        (agents.url(1), "a node has no name"),
        (agents.url(2), "30000 pods"),
        (agents.url(3), "a pod without a name"),
        (
            nonsense(move |mut stream| {
                _ = stream.write_all(&noise);
                _ = stream.read(&mut [0; 1024]);
            }),
            "",
        ),
        (nonsense(drop), ""),
        (message(b"\xff\xff\xff\xff not protobuf"), "decode"),
        (message(b""), "does not begin with everything"),
        // Tag 8, a usage, which says that it is longer than the message.
        (message(b"\x08\x01\x42\x7f"), "decode"),
    ];
    let mut urls = vec![agents.url(0)];
    urls.extend(sources.iter().map(|(url, _)| url.clone()));
    let adapter = adapter(&urls, &[]);
    known(&adapter, "web");
    let error =
        |url: &str, words: &str| logged(&adapter, &["no news of an agent", &format!("{url}\""), words]);
    for (url, words) in &sources {
        wait::until(&format!("an error about {url}, {words}"), || (error(url, words) > 0).then_some(()));
    }
    // They are asked again and again meanwhile.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        let (_, list) = get(&adapter, PODS);
        let names: Vec<_> = list["items"].as_array().expect("a list").iter().collect();
        assert_eq!(names.len(), 1, "{list}");
        assert!(is_about(pod(&adapter, "web").expect("it is known").0, 250.0));
    }
    for (url, _) in &sources {
        // What fails in several ways, as it is cut off here or there, is told of each.
        let mut lines: Vec<_> =
            adapter.log().into_iter().filter(|line| line.contains(&format!("{url}\""))).collect();
        let said = |line: &String| line.split("no news of an agent").nth(1).map(str::to_owned);
        lines.sort_by_key(said);
        let count = lines.len();
        lines.dedup_by_key(|line| said(line));
        assert_eq!(lines.len(), count, "{lines:#?}");
    }
    let memory = most_memory(&adapter);
    println!("the adapter took {} MiB at most", memory >> 20);
    assert!(memory < 256 << 20, "{memory}");
}

/// A way to someone, which can be cut: then nothing passes, and nobody is told so, as when a machine is gone or a cable is.
struct Way {
    url: String,
    is_cut: Arc<AtomicBool>,
}

impl Way {
    fn to(url: &str) -> Self {
        let is_cut = Arc::new(AtomicBool::new(false));
        let (to, cut) = (url.trim_start_matches("http://").to_owned(), is_cut.clone());
        let url = nonsense(move |near| {
            let far = TcpStream::connect(&to).expect("it listens");
            let other = (far.try_clone().expect("a socket"), near.try_clone().expect("a socket"));
            for (from, to) in [(near, far), other] {
                let cut = cut.clone();
                thread::spawn(move || pass(from, to, &cut));
            }
        });
        Self { url, is_cut }
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }
}

/// Passes bytes on until one end hangs up. What would pass while the way is cut is lost, and so is the connection.
fn pass(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool) {
    let (mut bytes, mut is_lost) = ([0; 4096], false);
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        is_lost |= is_cut.load(Ordering::Relaxed);
        if !is_lost && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
}

#[test]
fn of_two_adapters_one_that_hears_nothing_says_nothing() {
    let agents = agents(vec![Made::new("node-1", "web", 250)]);
    let way = Way::to(&agents.url(0));
    let (one, other) = (adapter(&[agents.url(0)], &[]), adapter(&[way.url.clone()], &[]));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        let values = [&one, &other].map(|adapter| known(adapter, "web").0);
        assert!(values.iter().all(|value| is_about(*value, 250.0)), "{values:?}");
    }
    let is_ready = |adapter: &Adapter| get(adapter, "/readyz").0 == 200;
    assert!(is_ready(&one) && is_ready(&other));

    // The other agent is there, as far as TCP goes.
    way.cut(true);
    absent(&other, "web");
    let (code, status) = get(&other, PODS);
    assert_eq!((code, &status["reason"]), (503, &serde_json::json!("ServiceUnavailable")), "{status}");
    // Whoever keeps to a connection is to try another, which may lead to the other replica.
    assert_eq!((connections(&one), connections(&other)), (1, 2));
    assert!(is_ready(&other), "an API that comes and goes disturbs every client of the cluster");
    assert!(is_about(known(&one, "web").0, 250.0), "what one does not know, the other still does");
    wait::until("word of it", || {
        (logged(&other, &["no news of an agent", "says nothing any more"]) == 1).then_some(())
    });
    // Nor does a new connection lead anywhere.
    wait::until("word of it", || {
        (logged(&other, &["no news of an agent", "no answer in time"]) == 1).then_some(())
    });

    way.cut(false);
    assert!(is_about(known(&other, "web").0, 250.0));
}

/// How many connections a client opens for two questions.
fn connections(adapter: &Adapter) -> u32 {
    let url = format!("http://{}{PODS}", adapter.address);
    let mut command = Command::new("curl");
    command.args(["--silent", "--max-time", "20", "--noproxy", "*", "--write-out", "\n%{num_connects}\n"]);
    let output = command.args([&url, &url]).output().expect("curl");
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.parse::<u32>().ok()).sum()
}

#[test]
fn clients_that_ask_nothing_keep_nobody_out() {
    let agents = agents(vec![Made::new("node-1", "web", 250)]);
    let adapter = adapter(&[agents.url(0)], &[]);
    known(&adapter, "web");
    let connect = |head: &[u8]| {
        let mut stream = TcpStream::connect(adapter.address).expect("it listens");
        // It may have been closed already, for another.
        _ = stream.write_all(head);
        stream
    };
    // More than it has room for; of those that say nothing, that stop within a head, and that do no more than open HTTP/2.
    let heads: [&[u8]; 3] =
        [b"", b"GET /livez HTTP/1.1\r\nHo", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"];
    let mut held = Vec::new();
    for at in 0..700 {
        held.push(connect(heads[at % heads.len()]));
        if at % 100 == 99 {
            assert!(pod(&adapter, "web").is_some(), "after {at} of them");
        }
    }
    // One that reads nothing of what it asks for, again and again on one connection.
    let mut deaf = connect(b"");
    deaf.set_write_timeout(Some(Duration::from_secs(1))).expect("a socket");
    let request = format!("GET {PODS} HTTP/1.1\r\nHost: test\r\n\r\n");
    while deaf.write_all(request.as_bytes()).is_ok() {}
    assert!(pod(&adapter, "web").is_some());
    // A head byte by byte takes as long as a head may take, and no longer.
    let begin = Instant::now();
    let mut slow = connect(b"GET /livez HTTP/1.1\r\nX: ");
    while begin.elapsed() < Duration::from_secs(50) && slow.write_all(b"x").is_ok() {
        thread::sleep(Duration::from_millis(200));
    }
    let took = begin.elapsed();
    println!("a head was given up after {:.1} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(40), "it may send a head for as long as it likes");
    // Those from the beginning have been closed since, but for HTTP/2, which is asked whether it is there.
    for (at, stream) in held.iter_mut().enumerate().filter(|(at, _)| at % heads.len() < 2) {
        assert!(!is_open(stream), "the {at}th is open");
    }
}

fn is_open(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => {
                return matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
            }
        }
    }
}
