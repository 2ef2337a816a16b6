//! Load: wrk against nginx, each of which counts for itself.

use std::net::TcpListener;

use podmeter_tests::{process::Gated, temp::TempDir, wait};

use super::lab::{CLIENT, Lab, SERVER, get};

/// How many connections wrk has.
const CONNECTIONS: u64 = 16;

/// An nginx of the test's own. Its workers end with the cgroup.
pub(crate) struct Nginx {
    pub(crate) address: String,
    /// How often its own count was asked for.
    asked: u64,
    _process: Gated,
    _directory: TempDir,
}

impl Nginx {
    /// Starts it in the server's cgroup; with options of its socket.
    pub(crate) fn start(lab: &Lab, listen: &str) -> Self {
        let directory = TempDir::new("nginx");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let prefix = directory.path().display();
        let bodies = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {prefix}/{name};"))
            .join("\n");
        let file = directory.file(
            "nginx.conf",
            format!(
                "daemon off; worker_processes 2; error_log stderr; pid {prefix}/pid;\n\
                 events {{ worker_connections 256; }}\n\
                 http {{ access_log off; {bodies}\n\
                   server {{ listen {free}{listen};\n\
                     location / {{ return 200 \"ok\\n\"; }}\n\
                     location = /status {{ stub_status; }} }} }}\n"
            ),
        );
        let mut process =
            lab.server.spawn(&["nginx", "-p", &prefix.to_string(), "-c", &file, "-e", "stderr"]);
        process.go();
        let address = free.to_string();
        wait::until("nginx", || std::net::TcpStream::connect(&address).ok());
        Self { address, asked: 0, _process: process, _directory: directory }
    }

    /// How many requests came, by its own count: those for that count left out.
    fn requests(&mut self) -> u64 {
        let text = get(&self.address, "/status");
        self.asked += 1;
        let line = text.lines().nth(2).expect("accepts, handled, requests");
        let all: u64 = line.split_whitespace().nth(2).and_then(|word| word.parse().ok()).expect("a number");
        all - self.asked
    }
}

#[test]
fn wrk_nginx_and_podmeter_agree() {
    let lab = Lab::alone(&[]);
    let mut nginx = Nginx::start(&lab, "");
    let url = format!("http://{}/hello", nginx.address);
    let said = lab.run(&["wrk", "-t", "2", "-c", &CONNECTIONS.to_string(), "-d", "2s", &url]);
    let completed =
        said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<u64>().ok());
    let completed = completed.unwrap_or_else(|| panic!("wrk counts:\n{said}"));
    assert!(completed > 0 && !said.contains("Socket errors"), "{said}");
    let route =
        [("http_route", "/hello"), ("http_request_method", "GET"), ("http_response_status_code", "200")];
    // When wrk stops, requests are under way: the server answers them all, and the client is gone.
    let scrape = wait::until("nginx and podmeter agree", || {
        let (scrape, served) = (lab.agent.scrape(), nginx.requests());
        println!(
            "nginx {served}, podmeter {:?}, wrk {completed}\n{}",
            lab.counts(&scrape, &route),
            lab.story(&scrape)
        );
        (lab.count(&scrape, SERVER, &route) == served).then_some(scrape)
    });
    let (server, client) = lab.counts(&scrape, &route);
    assert!((completed..=completed + CONNECTIONS).contains(&client), "wrk {completed}, podmeter {client}");
    assert_eq!(client + Lab::lost(&scrape, "request_unanswered"), server, "{}", lab.story(&scrape));
    // Nothing but what is asked for here was seen, and nothing else was lost.
    let other = lab.count(&scrape, SERVER, &[]) - lab.count(&scrape, SERVER, &[("http_route", "/status")]);
    assert_eq!((other, lab.count(&scrape, CLIENT, &[])), (server, client));
    let lost = Lab::lost_in_all(&scrape);
    assert_eq!(lost, Lab::lost(&scrape, "request_unanswered"), "{}", lab.story(&scrape));
}
