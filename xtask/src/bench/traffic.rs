//! nginx with one worker on CPU 0, and wrk on CPU 1: a worst case, with both CPUs full.

use std::{
    cell::Cell,
    env, fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    container::{Container, Containers},
    machine::{Process, pause},
    sys,
};
use crate::command::{find, output};

/// The files for bulk transfer, and their sizes.
const FILES: [(&str, usize); 2] = [("bulk", 1 << 20), ("long", 1 << 26)];

/// Small requests, and how they differ. Each has as many bytes as a browser's, and goes to one of 32 routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// All of them are one and the same.
    Alike,
    /// Path, query and cookie are others than those of the request before.
    Different,
}

impl Kind {
    /// How many requests there are until they come again.
    pub(super) const fn pool(self) -> u32 {
        match self {
            Self::Alike => 1,
            Self::Different => 4096,
        }
    }

    /// How a row says it.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Alike => "requests all alike",
            Self::Different => "each request different",
        }
    }
}

/// A server and a client, each in a container of its own.
pub(super) struct Traffic {
    nginx: Process,
    /// The server's container.
    pub(super) server: Container,
    /// The client's container.
    pub(super) client: Container,
    address: SocketAddr,
    folder: PathBuf,
    /// How often nginx was asked for its counts.
    asked: Cell<u32>,
}

/// What wrk did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Requests {
    pub(super) total: f64,
    pub(super) per_second: f64,
}

impl Traffic {
    /// Starts the server, and waits until it serves.
    pub(super) fn start(containers: &mut Containers) -> Result<Self> {
        let (server, client) = (containers.add()?, containers.add()?);
        let folder = env::temp_dir().join(format!("podmeter-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for (name, size) in FILES {
            fs::write(folder.join(name), vec![b'x'; size])
                .context("cannot write a file for bulk transfer")?;
        }
        fs::write(folder.join("requests.lua"), include_str!("requests.lua"))
            .context("cannot write the requests")?;
        // The port is free a moment later, too: the kernel gives out others first.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address = address.context("no free port on loopback")?;
        let at = folder.display().to_string();
        let (file, log) = (format!("{at}/nginx.conf"), format!("{at}/error.log"));
        fs::write(&file, configuration(&at, address)).context("cannot write nginx's configuration")?;
        let program = find("nginx").context("nginx is missing: install nginx-light")?.display().to_string();
        let mut command =
            server.command(&["taskset", "-c", "0", &program, "-e", &log, "-p", &at, "-c", &file]);
        let nginx = Process(command.stdout(Stdio::null()).spawn().context("cannot start nginx")?);
        let this = Self { nginx, server, client, address, folder, asked: Cell::new(0) };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                bail!("nginx does not serve; it said: {}", fs::read_to_string(log).unwrap_or_default());
            }
            pause(Duration::from_millis(20))?;
        }
        Ok(this)
    }

    /// Runs wrk for so long, over 32 connections that are kept.
    pub(super) fn run(&self, path: &str, seconds: u32) -> Result<Requests> {
        self.load(path, seconds, 32)
    }

    /// As [`Self::run`], with requests of a kind.
    pub(super) fn small(&self, kind: Kind, seconds: u32) -> Result<Requests> {
        let script = self.folder.join("requests.lua").display().to_string();
        self.wrk("/", seconds, 32, &["--script", &script], &["--", &kind.pool().to_string()])
    }

    /// Runs wrk for so long, with a connection for each request.
    pub(super) fn closing(&self, path: &str, seconds: u32) -> Result<Requests> {
        self.wrk(path, seconds, 32, &["--header", "Connection: close"], &[])
    }

    /// As [`Self::run`], over so many connections.
    pub(super) fn load(&self, path: &str, seconds: u32, connections: u32) -> Result<Requests> {
        self.wrk(path, seconds, connections, &[], &[])
    }

    fn wrk(
        &self,
        path: &str,
        seconds: u32,
        connections: u32,
        flags: &[&str],
        of_script: &[&str],
    ) -> Result<Requests> {
        pause(Duration::ZERO)?;
        let (duration, url) = (format!("-d{seconds}"), format!("http://{}{path}", self.address));
        let connections = format!("-c{connections}");
        // Many connections need many files, and a shell may have few.
        let files = ["sh", "-c", "ulimit -n 4096; exec \"$@\"", "sh"];
        let wrk = ["taskset", "-c", "1", "wrk", "-t1", &connections, &duration, "--timeout", "10s"];
        let wrk = [&files[..], &wrk, flags, &[&url], of_script].concat();
        let text = output(&mut self.client.command(&wrk))?;
        pause(Duration::ZERO)?;
        if text.contains("Non-2xx") || text.contains("Socket errors") {
            bail!("wrk met errors:\n{text}");
        }
        parse(&text).with_context(|| format!("wrk printed something new:\n{text}"))
    }

    /// How many requests nginx counts, those for that count left out.
    pub(super) fn served(&self) -> Result<f64> {
        let answer = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.write_all(b"GET /status HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = answer().context("nginx does not tell its counts")?;
        // `server accepts handled requests`, and below it the numbers.
        let numbers = text.lines().skip_while(|line| !line.starts_with("server accepts")).nth(1);
        let all: Option<f64> = numbers.and_then(|line| line.split_whitespace().nth(2)?.parse().ok());
        let asked = self.asked.get() + 1;
        self.asked.set(asked);
        Ok(all.with_context(|| format!("nginx printed something new:\n{text}"))? - f64::from(asked))
    }

    /// The CPU time that nginx used so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        sys::cpu_time(self.nginx.id())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("remove {} by hand: {error}", self.folder.display());
        }
    }
}

/// One process, so that its CPU time is all there is.
fn configuration(folder: &str, address: SocketAddr) -> String {
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths = paths.map(|name| format!("{name}_temp_path {folder};\n")).concat();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/pid;\nworker_rlimit_nofile 4096;\nevents {{ worker_connections 4000; }}\n\
         http {{\naccess_log off;\nsendfile on;\nkeepalive_requests 1000000000;\n{paths}\
         server {{\nlisten {address} backlog=4096;\nlocation = /status {{ stub_status; }}\nlocation / {{ return 200 \"ok\"; }}\n\
         location /bulk {{ root {folder}; }}\nlocation /long {{ root {folder}; }}\n}}\n}}\n"
    )
}

/// wrk's `  273457 requests in 4.00s, 38.86MB read` and `Requests/sec:  68360.12`.
fn parse(text: &str) -> Option<Requests> {
    let total = text.lines().find_map(|line| line.split_once(" requests in "))?.0.trim().parse().ok()?;
    let per_second = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?.trim().parse().ok()?;
    Some(Requests { total, per_second })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_wrk_prints() {
        let text =
            "Running 1s test @ http://x\n  12345 requests in 1.10s, 1.73MB read\nRequests/sec:  11222.50\n";
        assert_eq!(parse(text), Some(Requests { total: 12345.0, per_second: 11222.5 }));
        assert_eq!(parse("unable to connect"), None);
    }
}
