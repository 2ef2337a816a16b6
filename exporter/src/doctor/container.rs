//! Why a container shows no request data: from what the running agent says, and from the container's sockets.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::sockets::Sockets;
use crate::{cgroup::layout::Layout, config::Agent};

/// What an agent answered: names, labels and values of its series.
#[derive(Clone, Debug, Default)]
pub struct Scrape(Vec<(String, String, f64)>);

/// Asks the agent that serves at an address.
///
/// # Errors
/// When none answers.
pub fn scrape(listen: SocketAddr) -> anyhow::Result<Scrape> {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        let loopback: (IpAddr, IpAddr) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        address.set_ip(if listen.is_ipv4() { loopback.0 } else { loopback.1 });
    }
    let advice = || format!("no agent answers at {address}: start one, or name its --listen address");
    let patience = Duration::from_secs(30);
    let mut stream = TcpStream::connect_timeout(&address, patience).with_context(advice)?;
    stream.set_read_timeout(Some(patience))?;
    // To a client of 1.0 the metrics come as they are, and not in chunks.
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: podmeter\r\n\r\n").with_context(advice)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(advice)?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(advice)?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{address} does not serve podmeter's metrics");
    let scrape = Scrape::parse(body);
    ensure!(!scrape.labels("podmeter_build_info").is_empty(), "what serves at {address} is no podmeter");
    Ok(scrape)
}

impl Scrape {
    /// Reads the text format.
    pub fn parse(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            Some((name.to_owned(), labels.trim_end_matches('}').to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    fn of<'a, 'n: 'a>(&'a self, name: &'n str) -> impl Iterator<Item = (&'a str, f64)> + use<'a, 'n> {
        let series = self.0.iter().filter(move |series| series.0 == name);
        series.map(|(_, labels, value)| (labels.as_str(), *value))
    }

    fn labels(&self, name: &str) -> Vec<&str> {
        let series = self.0.iter().filter(|series| series.0 == name);
        series.map(|(_, labels, _)| labels.as_str()).collect()
    }

    fn sum(&self, name: &str, ids: &[String]) -> f64 {
        let is_one = |labels: &str| label(labels, "id").is_some_and(|own| ids.contains(&own));
        self.of(name).filter(|(labels, _)| is_one(labels)).map(|(_, value)| value).sum()
    }

    fn lost(&self, reason: &str) -> f64 {
        let is_one = |labels: &str| label(labels, "reason").as_deref() == Some(reason);
        self.of("podmeter_lost_total").filter(|(labels, _)| is_one(labels)).map(|(_, value)| value).sum()
    }
}

/// The value of a label.
fn label(labels: &str, name: &str) -> Option<String> {
    let start = format!("{name}=\"");
    let at = labels.match_indices(&start).find(|(at, _)| *at == 0 || labels.as_bytes()[at - 1] == b',')?.0;
    let mut value = String::new();
    let mut rest = labels[at + start.len()..].chars();
    loop {
        match rest.next()? {
            '"' => return Some(value),
            '\\' => value.push(rest.next()?),
            char => value.push(char),
        }
    }
}

/// A reason why there is no request data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// A word for scripts.
    pub kind: &'static str,
    /// What was found.
    pub text: String,
}

/// What is known of a container's requests.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// The cgroups that the name fits.
    pub ids: Vec<String>,
    /// Requests that it served, and that it made.
    pub requests: (f64, f64),
    /// Payload that its TCP sockets received and sent, bytes, and its connections, accepted and opened: since the agent started.
    pub tcp: [f64; 4],
    /// What it talks through now.
    pub sockets: Sockets,
    /// Why it shows no requests, the likeliest first; where it shows some, what it may not show.
    pub reasons: Vec<Reason>,
}

impl Explanation {
    /// Finds the container by its path, its id or the beginning of it, its pod's uid, or its unit.
    ///
    /// # Errors
    /// When the agent knows none of that name.
    pub fn of(name: &str, scrape: &Scrape, config: &Agent) -> anyhow::Result<Self> {
        let ids = find(name, scrape);
        if ids.is_empty() {
            let known = scrape.labels("podmeter_container_info");
            let known: Vec<_> = known.iter().filter_map(|labels| label(labels, "id")).take(10).collect();
            bail!("the agent knows no container {name}; among those that it knows are {}", known.join(", "));
        }
        let layout = Layout::detect(&config.cgroupfs, &config.procfs);
        let mut this = Self { ids, ..Self::default() };
        if let Some(v2) = layout.v2() {
            for id in &this.ids {
                this.sockets.join(Sockets::of(&v2.directory(id), &config.procfs));
            }
        }
        this.read(scrape);
        Ok(this)
    }

    /// Whether there is anything.
    pub fn has_requests(&self) -> bool {
        self.requests.0 + self.requests.1 > 0.0
    }

    fn read(&mut self, scrape: &Scrape) {
        let sum = |name: &str| scrape.sum(name, &self.ids);
        self.requests = (
            sum("http_server_request_duration_seconds_count"),
            sum("http_client_request_duration_seconds_count"),
        );
        self.tcp = [
            sum("container_tcp_received_bytes_total"),
            sum("container_tcp_sent_bytes_total"),
            sum("container_tcp_accepted_connections_total"),
            sum("container_tcp_opened_connections_total"),
        ];
        self.reasons = self.reasons(scrape);
    }

    fn reasons(&self, scrape: &Scrape) -> Vec<Reason> {
        let mut found = Vec::new();
        let mut add = |kind, text: String| found.push(Reason { kind, text });
        for program in ["http_ingress", "http_egress"] {
            if let Some(state) = state(scrape, program).filter(|state| state != "attached") {
                add("not_attached", format!("{program} is {state} on this node: `podmeter doctor` says why"));
            }
        }
        let [received, sent, accepted, opened] = self.tcp;
        let moved = received + sent;
        if self.sockets.processes == 0 {
            add("no_process", "no process is in it".to_owned());
        } else if moved == 0.0 && self.sockets.connections.is_empty() {
            if self.sockets.unix > 0 {
                let count = self.sockets.unix;
                add(
                    "unix_socket",
                    format!("it talks through {count} unix sockets, which are not measured, and not by TCP"),
                );
            }
            if !self.sockets.udp.is_empty() {
                let ports = list(&self.sockets.udp);
                add(
                    "udp",
                    format!(
                        "it has UDP sockets (ports {ports}): QUIC and other protocols over UDP are not read"
                    ),
                );
            }
            let listens = if self.sockets.listening.is_empty() {
                "and listens at no port".to_owned()
            } else {
                format!("it listens at {}", list(&self.sockets.listening))
            };
            add(
                "no_traffic",
                format!("no TCP connection of it moved a byte since the agent started; {listens}"),
            );
        } else {
            self.protocols(scrape, &mut add);
            let known = (accepted + opened) as usize;
            let now = self.sockets.connections.len();
            if now > known {
                let older = now - known;
                add(
                    "older_than_agent",
                    format!(
                        "{older} of its {now} connections are older than the agent: one that was amid an answer when the agent \
                     started is not measured"
                    ),
                );
            }
        }
        for (reason, what) in [("series_full", "--max-histograms"), ("cgroup_slots_full", "--max-cgroups")] {
            let count = scrape.lost(reason);
            if count > 0.0 {
                add("full", format!("{count} events on this node found no room: raise {what}"));
            }
        }
        found
    }

    /// What its connections may speak. The agent counts connections that it cannot read for the node, not by container.
    fn protocols(&self, scrape: &Scrape, add: &mut impl FnMut(&'static str, String)) {
        let secured = |port: &u16| matches!(port, 443 | 465 | 636 | 853 | 993 | 995 | 6443 | 8443 | 10250);
        let ends = self.sockets.connections.iter().flat_map(|(own, peer)| [own, peer]);
        let ports: std::collections::BTreeSet<_> = ends.filter(|port| secured(port)).copied().collect();
        if !ports.is_empty() {
            add(
                "tls_port",
                format!("it has connections at ports that speak TLS as a rule ({})", list(&ports)),
            );
        }
        let losses = [
            ("tls", "connection_tls", "speak TLS, which cannot be read yet"),
            ("http2", "connection_http2", "speak HTTP/2, which cannot be read yet"),
            ("opaque", "connection_unknown", "speak no protocol that is known"),
            ("upgraded", "connection_upgraded", "became something else (WebSocket, CONNECT)"),
            ("pipelined", "request_pipelined", "requests were pipelined, and are not measured one by one"),
            ("unmatched", "response_unmatched", "answers had no request that was seen: older than the agent"),
        ];
        for (kind, reason, what) in losses {
            let count = scrape.lost(reason);
            if count > 0.0 {
                add(
                    kind,
                    format!("on this node {count} connections or requests {what}; these may be among them"),
                );
            }
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let [received, sent, accepted, opened] = self.tcp;
        json!({
            "ids": self.ids,
            "has_requests": self.has_requests(),
            "requests": { "served": self.requests.0, "made": self.requests.1 },
            "tcp": { "received_bytes": received, "sent_bytes": sent, "accepted": accepted, "opened": opened },
            "sockets": {
                "processes": self.sockets.processes,
                "established": self.sockets.connections.len(),
                "listening": self.sockets.listening,
                "udp": self.sockets.udp,
                "unix": self.sockets.unix,
                "unreadable_processes": self.sockets.unreadable,
            },
            "reasons": self.reasons.iter()
                .map(|reason| json!({ "kind": reason.kind, "text": reason.text })).collect::<Vec<_>>(),
        })
    }
}

fn list(ports: &std::collections::BTreeSet<u16>) -> String {
    let shown: Vec<_> = ports.iter().take(8).map(u16::to_string).collect();
    shown.join(", ") + if ports.len() > 8 { ", …" } else { "" }
}

/// The state of a probe.
fn state(scrape: &Scrape, program: &str) -> Option<String> {
    let states = scrape.of("podmeter_probe_state").filter(|(_, value)| *value == 1.0);
    let mut states = states.filter(|(labels, _)| label(labels, "program").as_deref() == Some(program));
    label(states.next()?.0, "state")
}

/// The ids of the workloads that a name fits.
fn find(name: &str, scrape: &Scrape) -> Vec<String> {
    let mut ids = Vec::new();
    for labels in scrape.labels("podmeter_container_info") {
        let own = |name| label(labels, name).unwrap_or_default();
        let is_one = own("pod_uid") == name
            || own("unit") == name
            || name.len() >= 8 && own("container_id").starts_with(name);
        ids.extend(Some(own("id")).filter(|_| is_one));
    }
    // Any cgroup has its CPU time or its memory shown.
    for metric in ["container_cpu_usage_seconds_total", "container_memory_usage_bytes"] {
        let own = scrape.labels(metric).into_iter().filter_map(|labels| label(labels, "id"));
        ids.extend(own.filter(|id| id == name || id.rsplit('/').next() == Some(name)));
    }
    ids.sort();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x\n\
        podmeter_build_info{version=\"1\",kernel=\"6\"} 1\n\
        podmeter_probe_state{signal=\"http\",program=\"http_ingress\",state=\"attached\"} 1\n\
        podmeter_probe_state{signal=\"http\",program=\"http_egress\",state=\"failed\"} 1\n\
        podmeter_container_info{id=\"/a/b\",container_id=\"0123456789abcdef\",pod_uid=\"u\"} 1\n\
        container_cpu_usage_seconds_total{id=\"/a/c \\\"q\\\"\",cpu=\"total\"} 2\n\
        container_tcp_received_bytes_total{id=\"/a/b\"} 100\n\
        podmeter_lost_total{reason=\"connection_tls\"} 3\n";

    #[test]
    fn names_are_found() {
        let scrape = Scrape::parse(TEXT);
        for name in ["0123456789abcdef", "01234567", "u"] {
            assert_eq!(find(name, &scrape), ["/a/b"], "{name}");
        }
        assert_eq!(find("0123", &scrape), [""; 0], "too short to be meant");
        assert_eq!(find("c \"q\"", &scrape), ["/a/c \"q\""]);
    }

    fn explained(sockets: Sockets) -> Vec<&'static str> {
        let scrape = Scrape::parse(TEXT);
        let mut this = Explanation { ids: vec!["/a/c".into()], sockets, ..Explanation::default() };
        this.read(&scrape);
        assert!(!this.has_requests());
        this.reasons.iter().map(|reason| reason.kind).collect()
    }

    #[test]
    fn reasons_are_what_was_found() {
        let one = Sockets { processes: 1, ..Sockets::default() };
        assert_eq!(explained(Sockets::default()), ["not_attached", "no_process"]);
        assert_eq!(explained(one.clone()), ["not_attached", "no_traffic"]);
        assert_eq!(
            explained(Sockets { unix: 2, ..one.clone() }),
            ["not_attached", "unix_socket", "no_traffic"]
        );
        assert_eq!(
            explained(Sockets { udp: [443].into(), ..one.clone() }),
            ["not_attached", "udp", "no_traffic"]
        );
        let busy = Sockets { connections: vec![(5000, 443)], ..one };
        assert_eq!(explained(busy), ["not_attached", "tls_port", "tls", "older_than_agent"]);
    }
}
