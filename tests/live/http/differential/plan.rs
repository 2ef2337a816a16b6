//! What a connection does: two streams of bytes, where each has to wait for the other, how they are cut, and how it ends.

use podmeter_tests::random::Random;

use super::message::{Framing, Message, content, message, target};

/// What one end sends.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) bytes: Vec<u8>,
    /// Where it waits, and how much it must have got to go on; in their order.
    pub(super) gates: Vec<(usize, usize)>,
}

impl Stream {
    fn wait(&mut self, for_bytes: usize) {
        self.gates.push((self.bytes.len(), for_bytes));
    }

    /// Up to where it can be sent when so much has come.
    pub(super) fn open(&self, got: usize) -> usize {
        let closed = self.gates.iter().find(|(_, needs)| *needs > got);
        closed.map_or(self.bytes.len(), |(at, _)| *at)
    }
}

/// How long the pieces are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// As long as can be: several messages in one, where there are several.
    Whole,
    /// Few bytes.
    Fine,
    /// Anything.
    Mixed,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client closes when everything came.
    Client,
    Server,
    /// Someone closes amid it, after so many pieces.
    Abort {
        client: bool,
        after: usize,
    },
    /// As that, with bytes unread, so that the connection is reset.
    Reset {
        after: usize,
    },
}

/// A connection.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) client: Stream,
    pub(super) server: Stream,
    /// There is an answer that may come before the request's body has: of that body counts what had come.
    pub(super) has_early: bool,
    pub(super) cut: Cut,
    /// How many bytes the first piece has, at least.
    pub(super) first: usize,
    pub(super) end: End,
    /// For what is left to chance when it is played.
    pub(super) seed: u64,
}

/// By so many bytes a connection is known to speak HTTP: by a whole method and the space behind it.
const FIRST: usize = 8;

const METHODS: [&str; 12] =
    ["GET", "GET", "GET", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT"];
const STATUSES: [&str; 12] = [
    "200 OK",
    "200 OK",
    "200 OK",
    "201 Created",
    "204 No Content",
    "206 Partial Content",
    "301 Moved",
    "304 Not Modified",
    "404 Not Found",
    "418 ",
    "500 Internal Server Error",
    "503 Busy",
];
const INTERIM: [&str; 3] = ["100 Continue", "102 Processing", "103 Early Hints"];

/// A request and what is answered.
struct Exchange {
    request: Message,
    interim: Vec<Message>,
    /// The body is sent when the first interim response came.
    expects: bool,
    response: Message,
    /// The answer may come before the body.
    early: bool,
    /// What follows is no HTTP: what the client sends then, and the server.
    tunnelled: Option<[Vec<u8>; 2]>,
    /// Nothing can follow on this connection.
    last: bool,
}

impl Exchange {
    fn generate(random: &mut Random, may_end: bool) -> Self {
        let mut method = random.pick(&METHODS);
        let upgrades = may_end && random.below(8) == 0;
        if upgrades && method != "CONNECT" {
            method = "GET";
        }
        let old = random.below(12) == 0;
        let version = if old { "1.0" } else { "1.1" };
        let request_framing = match method {
            "POST" | "PUT" | "PATCH" => match random.below(8) {
                0 => Framing::None,
                1..4 if !old => Framing::Chunks,
                _ => Framing::Length,
            },
            "GET" | "DELETE" | "OPTIONS" if random.below(10) == 0 => Framing::Length,
            _ => Framing::None,
        };
        let expects = request_framing != Framing::None && !old && random.below(6) == 0;
        let mut fields = vec![("Host", "example.com".to_owned())];
        if expects {
            fields.push(("Expect", "100-continue".to_owned()));
        }
        if upgrades && method == "GET" {
            fields.push(("Upgrade", "podmeter".to_owned()));
        }
        let line = format!("{method} {} HTTP/{version}", target(random, method));
        let request = message(random, &line, request_framing, fields);

        let mut interim = Vec::new();
        if expects {
            interim.push(message(random, "HTTP/1.1 100 Continue", Framing::None, Vec::new()));
        }
        if !old && random.below(6) == 0 {
            for _ in 0..1 + random.below(2) {
                let line = format!("HTTP/1.1 {}", random.pick(&INTERIM));
                interim.push(message(random, &line, Framing::None, Vec::new()));
            }
        }
        let status = if upgrades {
            if method == "CONNECT" { "200 Connected" } else { "101 Switching Protocols" }
        } else if method == "CONNECT" {
            "403 Forbidden"
        } else {
            random.pick(&STATUSES)
        };
        let bodiless = upgrades || method == "HEAD" || matches!(&status[..3], "204" | "304");
        let framing = match random.below(8) {
            _ if bodiless => Framing::None,
            0 if may_end => Framing::Close,
            1..4 if !old => Framing::Chunks,
            _ => Framing::Length,
        };
        let closes = may_end && random.below(4) == 0 || framing == Framing::Close;
        let mut fields = vec![("Server", "differential".to_owned())];
        if closes {
            fields.push(("Connection", "close".to_owned()));
        }
        // What the answer to a GET would have.
        if (method == "HEAD" || &status[..3] == "304") && random.below(2) == 0 {
            if old || random.below(3) > 0 {
                fields.push(("Content-Length", random.below(100_000).to_string()));
            } else {
                fields.push(("Transfer-Encoding", "chunked".to_owned()));
            }
        }
        let response = message(random, &format!("HTTP/1.1 {status}"), framing, fields);
        let has_body = request.bytes.len() > request.head;
        Self {
            request,
            interim,
            expects,
            response,
            early: has_body && !expects && random.below(4) == 0,
            tunnelled: upgrades.then(|| [content(random), content(random)]),
            last: upgrades || closes,
        }
    }
}

impl Plan {
    /// That of a seed; with the first `limit` of its exchanges.
    pub(super) fn generate(seed: u64, limit: usize) -> Self {
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // The first numbers of seeds that are near are near.
        (0..8).for_each(|_| _ = random.word());
        let count = 1 + random.below(8);
        let depth = [1, 1, 1, 2, 4, 16][random.below(6)];
        let count = (count.max(depth)).min(limit);
        let cut = *random.pick(&[&Cut::Whole, &Cut::Fine, &Cut::Mixed, &Cut::Mixed]);
        let mut end = match random.below(10) {
            0 => End::Abort { client: true, after: 1 + random.below(20) },
            1 => End::Abort { client: false, after: 1 + random.below(20) },
            2 => End::Reset { after: 1 + random.below(20) },
            3..6 => End::Server,
            _ => End::Client,
        };
        let (mut client, mut server) = (Stream::default(), Stream::default());
        // Of the last request of all before this group.
        let mut answered = 0;
        let (mut number, mut has_early) = (0, false);
        for at in 0..count {
            // One is like that before it, now and then, or nearly so.
            if at == 0 || random.below(3) > 0 {
                number = at as u64 + 1;
            }
            let is_twin = random.below(2) == 0 && number != at as u64 + 1;
            let mut own = Random::new(seed.wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(number));
            (0..8).for_each(|_| _ = own.word());
            // What a client sends behind a request that turns out to be the last is lost: it would not be told apart.
            let may_end = at + 1 == count || depth == 1 && own.below(8) == 0;
            let mut exchange = Exchange::generate(&mut own, may_end);
            if is_twin {
                for message in [&mut exchange.request, &mut exchange.response] {
                    *message = message.twin().unwrap_or_else(|| message.clone());
                }
            }
            if at % depth == 0 {
                answered = server.bytes.len();
            }
            has_early |= exchange.early;
            client.wait(answered);
            client.bytes.extend(&exchange.request.bytes[..exchange.request.head]);
            let head = client.bytes.len();
            if exchange.expects {
                server.wait(head);
                server.bytes.extend(&exchange.interim[0].bytes);
                client.wait(server.bytes.len());
            }
            client.bytes.extend(&exchange.request.bytes[exchange.request.head..]);
            let needs = if exchange.early { head } else { client.bytes.len() };
            // An interim response may come before the body, too.
            server.wait(if exchange.interim.is_empty() { needs } else { head });
            for interim in exchange.interim.iter().skip(usize::from(exchange.expects)) {
                server.bytes.extend(&interim.bytes);
            }
            server.wait(needs);
            server.bytes.extend(&exchange.response.bytes);
            if let Some([there, back]) = &exchange.tunnelled {
                client.wait(server.bytes.len());
                client.bytes.extend(there);
                server.bytes.extend(back);
            }
            if exchange.last {
                if end == End::Client {
                    end = End::Server;
                }
                break;
            }
        }
        Self { client, server, has_early, cut, first: FIRST, end, seed }
    }
}
