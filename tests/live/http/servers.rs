//! Servers and clients of the world, each with its own way of writing: what was sent is what is counted, row by row.
//!
//! A row that deviates does not end its test: all of them are told of at the end, with what was counted instead.
//!
//! `cargo xtask test` installs what they need.

mod exchange;
mod ledger;
mod program;

use std::time::Instant;

use podmeter_tests::{cgroup::Cgroup, loopback::in_order};

use self::{
    exchange::{BOTH, EARLY_HINTS, Exchange, FETCHES, PIPELINED, RANGE, Raw},
    ledger::{Ledger, Side},
    program::{CLIENTS, Program, Running},
};
use super::lab::{CLIENT, Lab, SERVER};

/// How many connections a load has, and how many requests on each.
const LOAD: (u64, u64) = (8, 100);

/// A client and a server.
const DIRECT: &[Side] = &[Side("client", CLIENT), Side("server", SERVER)];
/// With a proxy between them, which is both.
const PROXIED: &[Side] =
    &[Side("client", CLIENT), Side("proxy", SERVER), Side("proxy", CLIENT), Side("server", SERVER)];

/// Where requests go, and what was counted of them.
struct Bench<'a> {
    lab: &'a Lab,
    ledger: Ledger<'a>,
    front: &'a Running,
}

impl<'a> Bench<'a> {
    fn new(lab: &'a Lab, sides: &'static [Side], front: &'a Running) -> Self {
        Self { lab, ledger: Ledger::new(lab, sides), front }
    }

    /// One curl for these rows, in their order, so that they share a connection where the server lets them.
    fn curl(&mut self, host: &str, rows: &[&Exchange]) {
        let mut line = Vec::new();
        for row in rows {
            if !line.is_empty() {
                line.push("--next".to_owned());
            }
            line.extend(row.curl(&self.front.address(host), &self.front.large));
        }
        let said = self.lab.curl(&line.iter().map(String::as_str).collect::<Vec<_>>());
        let statuses = said.lines().map(|line| line.split(' ').next().unwrap_or_default());
        let expected = rows.iter().flat_map(|row| (0..row.times).map(|_| row.status));
        assert!(statuses.eq(expected), "{line:?}\n{said}");
        let slow = rows.iter().flat_map(|row| (0..row.times).map(|_| row.path == "/slow"));
        for (line, _) in said.lines().zip(slow).filter(|(_, is_slow)| *is_slow) {
            self.ledger.slow(line.split(' ').nth(1).and_then(|time| time.parse().ok()).expect("a time"));
        }
    }

    fn check(&mut self, what: &str, rows: &[&Exchange]) {
        self.ledger.check(what, rows.iter().map(|row| row.count()));
    }

    /// Each row by itself, then all of them after each other.
    fn exchanges(&mut self, rows: &[&Exchange]) {
        for host in ["127.0.0.1", "[::1]"] {
            for row in rows {
                self.curl(host, &[row]);
                self.check(&format!("{} at {host}", row.what), &[row]);
            }
            self.curl(host, rows);
            self.check(&format!("all by one curl at {host}"), rows);
        }
    }

    fn raw(&mut self, rows: &[Raw]) {
        for row in rows {
            let mut talk = self.lab.talk();
            talk.say(&format!("open {}", self.front.address("127.0.0.1")));
            let started = Instant::now();
            row.says.iter().for_each(|line| _ = talk.say(line));
            if row.counts.iter().any(|(_, _, path, _)| *path == "/slow") {
                self.ledger.slow(started.elapsed().as_secs_f64());
            }
            talk.say("close");
            self.ledger.check(row.what, row.counts.iter().copied());
        }
    }

    /// Every client, once in sequence and once as a load.
    fn clients(&mut self) {
        for (name, command) in CLIENTS.into_iter().filter(|(name, _)| self.front.program.answers(name)) {
            let run = |role: &str, host: &str, arguments: &[&str]| {
                let line = [command(), vec![role.to_owned(), format!("http://{host}:{}", self.front.port)]];
                let line =
                    [line.concat(), arguments.iter().map(|word| (*word).to_owned()).collect()].concat();
                self.lab.run(&line.iter().map(String::as_str).collect::<Vec<_>>())
            };
            let words: Vec<_> = FETCHES.iter().flat_map(|(_, words)| *words).collect();
            let said = run("fetch", "[::1]", &words);
            let expected = FETCHES.iter().map(|(status, _)| *status);
            assert!(said.lines().eq(expected), "{name}: {said}");
            let of = |(status, [method, path, _]): &(&'static str, [&'static str; 3])| {
                (*method, *status, *path, 1)
            };
            self.ledger.check(&format!("{name} fetches"), FETCHES.iter().map(of));
            let (connections, each) = LOAD;
            let said = run("load", "127.0.0.1", &[&connections.to_string(), &each.to_string()]);
            assert_eq!(said.trim(), (connections * each).to_string(), "{name} loads");
            self.ledger.check(&format!("{name} loads"), [("GET", "200", "/hello", connections * each)]);
        }
    }

    /// wrk, which gives up up to one request for each connection at its end.
    fn wrk(&mut self) {
        let connections = 16;
        let said = self.lab.run(&[
            "wrk",
            "-t",
            "1",
            "-c",
            "16",
            "-d",
            "1s",
            &format!("http://{}/hello", self.front.address("127.0.0.1")),
        ]);
        let completed =
            said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<u64>().ok());
        let completed = completed.unwrap_or_else(|| panic!("wrk counts:\n{said}"));
        assert!(completed > 0 && !said.contains("Non-2xx"), "{said}");
        self.ledger.check_load("wrk", ("GET", "200", "/hello"), completed, connections);
    }

    fn end(self) {
        self.ledger.end();
    }
}

fn server(program: Program, more: &[Exchange], raw: &[Raw]) {
    in_order(|| serve(program, more, raw));
}

fn serve(program: Program, more: &[Exchange], raw: &[Raw]) {
    let lab = Lab::alone(&[]);
    let running = Running::start(&lab.server, program, 0);
    let mut bench = Bench::new(&lab, DIRECT, &running);
    bench.exchanges(&BOTH.iter().chain(more).collect::<Vec<_>>());
    bench.raw(raw);
    bench.clients();
    bench.wrk();
    bench.end();
}

#[test]
fn nginx() {
    server(Program::Nginx, RANGE, PIPELINED);
}

// Apache defers its accepts, as it does by default, so that the first request of a connection comes
// with the handshake's last segment, to the socket that listens. Several that come so are given up: `http::deferred` has them.
#[test]
fn apache() {
    let raw: Vec<_> = PIPELINED.iter().copied().filter(|raw| !raw.begins_with_several()).collect();
    assert!(!raw.is_empty() && raw.len() < PIPELINED.len());
    server(Program::Apache, RANGE, &raw);
}

#[test]
fn node() {
    server(Program::Node, EARLY_HINTS, PIPELINED);
}

#[test]
fn go() {
    server(Program::Go, &[], PIPELINED);
}

#[test]
fn python() {
    server(Program::Python, &[], PIPELINED);
}

#[test]
fn gunicorn() {
    // It leaves a second request in its buffer until a third comes.
    server(Program::Gunicorn, &[], &[]);
}

#[test]
fn uvicorn() {
    server(Program::Uvicorn, &[], PIPELINED);
}

#[test]
fn java() {
    server(Program::Java, &[], PIPELINED);
}

#[test]
fn haproxy() {
    in_order(proxied);
}

/// Three parties: client and server, and a proxy that is both, whose connections to the server outlive its clients'.
fn proxied() {
    let mut lab = Lab::alone(&[]);
    let (root, _) = lab.server.path().rsplit_once('/').expect("a path");
    let proxy = Cgroup::at(&format!("{root}/proxy"));
    // The agent finds the third cgroup when it starts.
    lab.restart();
    let back = Running::start(&lab.server, Program::Go, 0);
    let front = Running::start(&proxy, Program::HaProxy, back.port);
    let mut bench = Bench::new(&lab, PROXIED, &front);
    // Connections to the server stay open, and what is idle counts late: all rows at once.
    let rows: Vec<_> = BOTH.iter().collect();
    for host in ["127.0.0.1", "[::1]"] {
        rows.iter().for_each(|row| bench.curl(host, &[row]));
        bench.check(&format!("each by its own curl at {host}"), &rows);
        bench.curl(host, &rows);
        bench.check(&format!("all by one curl at {host}"), &rows);
    }
    bench.raw(PIPELINED);
    bench.clients();
    bench.end();
}
