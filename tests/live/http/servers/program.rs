//! The programs: how each is started, and where it listens.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    thread,
};

use podmeter_tests::{
    cgroup::{Cgroup, Gated},
    temp::TempDir,
    wait,
};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/live/http/servers");

/// The size of the large file.
const LARGE: usize = 3_000_000;

/// What servers and clients are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Apache,
    Go,
    Gunicorn,
    HaProxy,
    Java,
    Nginx,
    Node,
    Python,
    Uvicorn,
}

impl Program {
    /// Whether this server answers that client: Java's asks whether HTTP/2 would do, which uvicorn calls a bad request.
    pub(super) fn answers(self, client: &str) -> bool {
        self != Self::Uvicorn || client != "Java"
    }
}

/// A command, up to the role that the program is to have.
type Line = fn() -> Vec<String>;

/// The clients, and how each is started.
pub(super) const CLIENTS: [(&str, Line); 4] = [
    ("Go", || words([&compiled("peer")])),
    ("Java", java),
    ("Node", || words(["node", &source("peer.mjs")])),
    ("Python", || words(["python3", &source("peer.py")])),
];

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn source(name: &str) -> String {
    format!("{SOURCES}/{name}")
}

/// Without the compiler that is for programs that run long; and its two segments do not wait for each other.
fn java() -> Vec<String> {
    words([
        "java",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Dsun.net.httpserver.nodelay=true",
        "-cp",
        &compiled(""),
        "Peer",
    ])
}

/// Where what was compiled lies; the first who asks has it compiled, all at once.
fn compiled(name: &str) -> String {
    static ONCE: OnceLock<PathBuf> = OnceLock::new();
    let folder = ONCE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
        fs::create_dir_all(&folder).expect("cargo's folder for tests");
        let compile = |program: &str, flags: &[&str], file: &str| {
            let mut command = Command::new(program);
            // No C compiler, and no other Go than this one.
            command
                .env("CGO_ENABLED", "0")
                .env("GOTOOLCHAIN", "local")
                .args(flags)
                .arg(source(file))
                .current_dir(&folder);
            assert!(command.status().expect(program).success(), "{command:?}");
        };
        thread::scope(|scope| {
            scope.spawn(|| compile("go", &["build", "-o", "peer"], "peer.go"));
            compile("javac", &["-d", "."], "Peer.java");
        });
        folder
    });
    folder.join(name).display().to_string()
}

/// A server that runs, on both loopback addresses; its workers end with the cgroup.
pub(super) struct Running {
    pub(super) program: Program,
    pub(super) port: u16,
    /// The path of a large file.
    pub(super) large: String,
    _process: Gated,
    _directory: TempDir,
}

impl Running {
    /// Starts it, and waits until it listens. A proxy is in front of `backend`.
    pub(super) fn start(cgroup: &Cgroup, program: Program, backend: u16) -> Self {
        let (directory, port) = (TempDir::new("server"), free());
        let place = directory.path().display().to_string();
        let files = directory.path().join("files");
        fs::create_dir(&files).expect("an empty directory");
        let file = |name: &str, content: Vec<u8>| directory.file(&format!("files/{name}"), content);
        let large = file("large", vec![b'x'; LARGE]);
        file("hello", b"hello\n".to_vec());
        file("parts", b"hello\n".to_vec());
        file("cached", b"hello\n".to_vec());
        file("slow", vec![b'x'; 15_000]);
        // Hardly to be compressed, so that it is more than one chunk.
        let lines = (0..5000_u64)
            .map(|i| format!("HTTP/1.1 500 {:x}\r\n\r\n", i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        file("lines", lines.collect::<String>().into_bytes());
        let configured = |name: &str| {
            let text = fs::read_to_string(source(name)).expect("a source");
            let text = text
                .replace("DIR", &place)
                .replace("PORT", &port.to_string())
                .replace("BACKEND", &backend.to_string());
            directory.file(name, text)
        };
        let number = port.to_string();
        let serve = |command: Vec<String>| [command, words(["serve", &number, &large])].concat();
        let line = match program {
            Program::Nginx => words(["nginx", "-p", &place, "-c", &configured("nginx.conf"), "-e", "stderr"]),
            Program::Apache => {
                let script = fs::Permissions::from_mode(0o755);
                fs::set_permissions(configured("app.sh"), script).expect("our own file");
                words(["apache2", "-D", "FOREGROUND", "-f", &configured("apache.conf")])
            }
            Program::HaProxy => words(["haproxy", "-q", "-f", &configured("haproxy.cfg")]),
            Program::Go => serve(words([&compiled("peer")])),
            Program::Java => serve(java()),
            Program::Node => serve(words(["node", &source("peer.mjs")])),
            Program::Python => serve(words(["python3", &source("peer.py")])),
            Program::Gunicorn => {
                let (four, six) = (format!("127.0.0.1:{port}"), format!("[::1]:{port}"));
                let environment = format!("LARGE={large}");
                words([
                    "env",
                    "PYTHONDONTWRITEBYTECODE=1",
                    &environment,
                    "gunicorn",
                    "--bind",
                    &four,
                    "--bind",
                    &six,
                ])
                .into_iter()
                .chain(words(["--worker-class", "gthread", "--threads", "8", "--log-level", "critical"]))
                .chain(words(["--chdir", SOURCES, "wsgi:app"]))
                .collect()
            }
            // Debian's own Python has what Debian packages.
            Program::Uvicorn => words(["/usr/bin/python3", &source("asgi.py"), &number, &large]),
        };
        let mut process = cgroup.spawn(&line.iter().map(String::as_str).collect::<Vec<_>>());
        process.go();
        for host in ["127.0.0.1", "[::1]"] {
            wait::until(&line[0], || TcpStream::connect(format!("{host}:{port}")).ok());
        }
        Self { program, port, large, _process: process, _directory: directory }
    }

    /// Where it is, at one of its two addresses.
    pub(super) fn address(&self, host: &str) -> String {
        format!("{host}:{}", self.port)
    }
}

/// A port that is free at both loopback addresses. The kernel gives out others first, so it stays free for a moment.
fn free() -> u16 {
    wait::until("a port", || {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?.local_addr().ok()?.port();
        TcpListener::bind((Ipv6Addr::LOCALHOST, port)).ok().map(|_| port)
    })
}
