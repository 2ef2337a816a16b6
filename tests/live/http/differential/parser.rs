//! An independent opinion of what two streams of bytes are: heads by `httparse`, bodies by RFC 9112, 6.3.

use std::fmt;

/// A request and its answer, as far as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) method: String,
    pub(super) route: String,
    /// None came.
    pub(super) status: Option<u16>,
    /// The bytes of the bodies, without what frames them.
    pub(super) request_body: u64,
    pub(super) response_body: u64,
    /// It came whole, and so did its answer.
    pub(super) is_complete: bool,
}

/// What a connection was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conversation {
    pub(super) exchanges: Vec<Exchange>,
    /// It became something else.
    pub(super) is_upgraded: bool,
    /// It ended amid the head of a request.
    pub(super) is_torn: bool,
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for exchange in &self.exchanges {
            let Exchange { method, route, status, request_body, response_body, is_complete } = exchange;
            let status = status.map_or("-".to_owned(), |status| status.to_string());
            let cut = if *is_complete { "" } else { ", cut" };
            writeln!(
                f,
                "    = {method} {route} {status}, bodies of {request_body} and {response_body}{cut}"
            )?;
        }
        let upgraded = if self.is_upgraded { ", then something else" } else { "" };
        writeln!(
            f,
            "    = {} requests{upgraded}{}",
            self.exchanges.len(),
            if self.is_torn { ", and a torn head" } else { "" }
        )
    }
}

/// A body: its length, how many bytes it takes in the stream, whether it is all there.
struct Body {
    length: u64,
    taken: usize,
    is_complete: bool,
}

struct Head {
    first: String,
    second: String,
    status: u16,
    length: Option<u64>,
    is_chunked: bool,
    taken: usize,
}

fn fields(headers: &[httparse::Header<'_>]) -> (Option<u64>, bool) {
    let of = |name: &str| {
        headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| std::str::from_utf8(header.value).expect("ASCII").trim().to_owned())
    };
    let length = of("content-length").map(|value| value.parse().expect("a number"));
    let is_chunked = of("transfer-encoding").is_some_and(|value| {
        value.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
    });
    (length, is_chunked)
}

/// The head of a request at the beginning of `bytes`; none if it is not whole.
fn request(bytes: &[u8]) -> Option<Head> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(taken) = request.parse(bytes).expect("a request") else { return None };
    let (length, is_chunked) = fields(request.headers);
    let [first, second] = [request.method, request.path].map(|text| text.expect("whole").to_owned());
    Some(Head { first, second, status: 0, length, is_chunked, taken })
}

/// As [`request`], of a response.
fn response(bytes: &[u8]) -> Option<Head> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(taken) = response.parse(bytes).expect("a response") else { return None };
    let (length, is_chunked) = fields(response.headers);
    let status = response.code.expect("whole");
    Some(Head { first: String::new(), second: String::new(), status, length, is_chunked, taken })
}

/// The status in the first line of a response, however long the rest is.
fn status(bytes: &[u8]) -> Option<u16> {
    std::str::from_utf8(bytes.get(9..12)?).ok()?.parse().ok()
}

fn sized(bytes: &[u8], length: u64) -> Body {
    let there = (bytes.len() as u64).min(length);
    Body { length: there, taken: there as usize, is_complete: there == length }
}

fn chunked(bytes: &[u8]) -> Body {
    let (mut at, mut length) = (0, 0);
    let line = |at: usize| bytes[at..].windows(2).position(|two| two == b"\r\n").map(|end| at + end);
    let cut = |length| Body { length, taken: bytes.len(), is_complete: false };
    loop {
        let Some(end) = line(at) else { return cut(length) };
        let digits: String =
            bytes[at..end].iter().map(|byte| *byte as char).take_while(char::is_ascii_hexdigit).collect();
        let size = u64::from_str_radix(&digits, 16).expect("a size");
        at = end + 2;
        if size == 0 {
            break;
        }
        let there = ((bytes.len() - at) as u64).min(size);
        length += there;
        if ((bytes.len() - at) as u64) < size + 2 {
            return cut(length);
        }
        at += size as usize + 2;
    }
    // Trailers, up to an empty line.
    while let Some(end) = line(at) {
        if end == at {
            return Body { length, taken: end + 2, is_complete: true };
        }
        at = end + 2;
    }
    cut(length)
}

/// The route of a target: what is a number, a UUID or the like is `{id}`.
fn route(method: &str, target: &str) -> String {
    if method == "CONNECT" {
        return "{authority}".to_owned();
    }
    let path =
        target.strip_prefix("http://").map_or(target, |rest| rest.find('/').map_or("/", |at| &rest[at..]));
    let path = path.split('?').next().unwrap_or_default();
    let named = path.split('/').map(|segment| {
        let is_id =
            segment.len() == 36 || !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
        if is_id { "{id}" } else { segment }
    });
    named.collect::<Vec<_>>().join("/")
}

/// What was said on a connection: by the client, and by the server, which has closed it if `is_closed`.
pub(super) fn parse(client: &[u8], server: &[u8], is_closed: bool) -> Conversation {
    let mut conversation = Conversation::default();
    let (mut asked, mut answered) = (0, 0);
    while asked < client.len() {
        let Some(head) = request(&client[asked..]) else {
            conversation.is_torn = true;
            break;
        };
        let rest = &client[asked + head.taken..];
        let body = match (head.is_chunked, head.length) {
            (true, _) => chunked(rest),
            (false, length) => sized(rest, length.unwrap_or(0)),
        };
        asked += head.taken + body.taken;
        let is_asked = body.is_complete;
        let mut exchange = Exchange {
            route: route(&head.first, &head.second),
            method: head.first,
            status: None,
            request_body: body.length,
            response_body: 0,
            is_complete: false,
        };
        while answered < server.len() {
            let Some(head) = response(&server[answered..]) else {
                // Not whole, but its status is there.
                exchange.status = status(&server[answered..]).filter(|status| *status >= 200);
                answered = server.len();
                break;
            };
            answered += head.taken;
            if head.status < 200 && head.status != 101 {
                continue;
            }
            exchange.status = Some(head.status);
            let rest = &server[answered..];
            let is_upgraded = head.status == 101 || exchange.method == "CONNECT" && head.status < 300;
            let body = match (head.is_chunked, head.length) {
                _ if is_upgraded || exchange.method == "HEAD" || matches!(head.status, 204 | 304) => {
                    sized(rest, 0)
                }
                (true, _) => chunked(rest),
                (false, Some(length)) => sized(rest, length),
                (false, None) => {
                    Body { length: rest.len() as u64, taken: rest.len(), is_complete: is_closed }
                }
            };
            answered += body.taken;
            exchange.response_body = body.length;
            exchange.is_complete = body.is_complete && is_asked;
            conversation.is_upgraded = is_upgraded;
            break;
        }
        conversation.exchanges.push(exchange);
        if conversation.is_upgraded {
            return conversation;
        }
    }
    conversation
}

#[test]
fn the_judge_reads_what_the_standard_says() {
    let client =
        b"POST /users/17?x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n\
        HEAD /a HTTP/1.1\r\n\r\nGET http://h/b HTTP/1.1\r\nContent-Length:2 \r\n\r\nhiGET /torn HT";
    let server = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nx\
        HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nHTTP/1.1 200 OK\r\n\r\nto the end";
    let said = parse(client, server, true);
    let exchange = |method: &str, route: &str, status, request_body, response_body| Exchange {
        method: method.to_owned(),
        route: route.to_owned(),
        status: Some(status),
        request_body,
        response_body,
        is_complete: true,
    };
    assert_eq!(
        said,
        Conversation {
            exchanges: vec![
                exchange("POST", "/users/{id}", 404, 3, 1),
                exchange("HEAD", "/a", 200, 0, 0),
                exchange("GET", "/b", 200, 2, 10)
            ],
            is_upgraded: false,
            is_torn: true,
        }
    );
}
