//! The exchanges: what is said, and what is counted then.

use super::ledger::Count;

/// What curl is told, and what the requests are then.
pub(super) struct Exchange {
    pub(super) what: &'static str,
    /// `@LARGE` stands for the large file.
    flags: &'static [&'static str],
    method: &'static str,
    pub(super) status: &'static str,
    /// The path, which is the route as well.
    pub(super) path: &'static str,
    pub(super) times: u64,
}

impl Exchange {
    const fn new(
        what: &'static str,
        flags: &'static [&'static str],
        method: &'static str,
        status: &'static str,
        path: &'static str,
        times: u64,
    ) -> Self {
        Self { what, flags, method, status, path, times }
    }

    /// The arguments; curl prints the status of each answer and how long it took.
    pub(super) fn curl(&self, address: &str, large: &str) -> Vec<String> {
        let flags = self.flags.iter().map(|flag| flag.replace("@LARGE", &format!("@{large}")));
        let common =
            ["--output", "/dev/null", "--write-out", "%{http_code} %{time_total}\\n"].map(str::to_owned);
        let url = format!("http://{address}{}?[1-{}]", self.path, self.times);
        common.into_iter().chain(flags).chain([url]).collect()
    }

    pub(super) const fn count(&self) -> Count {
        (self.method, self.status, self.path, self.times)
    }
}

const EXPECT: &str = "Expect: 100-continue";
const NO_EXPECT: &str = "Expect:";
/// A body that looks like a request.
const FORGED: &str = "GET /forged HTTP/1.1\r\nHost: x\r\n\r\n";

/// What every server does.
pub(super) const BOTH: &[Exchange] = &[
    Exchange::new("GET, kept alive", &[], "GET", "200", "/hello", 20),
    Exchange::new("GET, a connection each", &["--header", "Connection: close"], "GET", "200", "/hello", 5),
    Exchange::new("GET by HTTP/1.0", &["--http1.0"], "GET", "200", "/hello", 3),
    Exchange::new(
        "GET by HTTP/1.0, kept alive",
        &["--http1.0", "--header", "Connection: keep-alive"],
        "GET",
        "200",
        "/hello",
        3,
    ),
    Exchange::new("HEAD", &["--head"], "HEAD", "200", "/hello", 3),
    Exchange::new("head and body apart", &[], "GET", "200", "/parts", 3),
    Exchange::new("a length of 0", &[], "GET", "200", "/empty", 3),
    Exchange::new("204", &[], "GET", "204", "/none", 3),
    Exchange::new("204 to DELETE", &["--request", "DELETE"], "DELETE", "204", "/none", 3),
    Exchange::new("304", &["--header", "If-None-Match: *"], "GET", "304", "/cached", 3),
    Exchange::new("a large file", &[], "GET", "200", "/large", 3),
    Exchange::new("HEAD of a large file", &["--head"], "HEAD", "200", "/large", 3),
    // nginx sends chunks only of what it compresses.
    Exchange::new("chunks", &["--header", "Accept-Encoding: gzip"], "GET", "200", "/lines", 3),
    Exchange::new(
        "a body until the end",
        &["--http1.0", "--header", "Accept-Encoding: gzip"],
        "GET",
        "200",
        "/lines",
        3,
    ),
    Exchange::new("POST", &["--data", "a=b"], "POST", "200", "/upload", 5),
    Exchange::new(
        "POST of a body that looks like a request",
        &["--data-binary", FORGED],
        "POST",
        "200",
        "/upload",
        5,
    ),
    Exchange::new(
        "a large POST",
        &["--data-binary", "@LARGE", "--header", NO_EXPECT],
        "POST",
        "200",
        "/upload",
        2,
    ),
    Exchange::new(
        "a large POST that waits for 100",
        &["--data-binary", "@LARGE", "--header", EXPECT],
        "POST",
        "200",
        "/upload",
        2,
    ),
    // Expected by the rewrite, where the server answers before it has the body (nginx): the head of the next request follows
    // the end of the body in a segment.
    Exchange::new(
        "a POST in chunks",
        &["--data-binary", "@LARGE", "--header", NO_EXPECT, "--header", "Transfer-Encoding: chunked"],
        "POST",
        "200",
        "/upload",
        2,
    ),
    Exchange::new(
        "a PUT in chunks that waits for 100",
        &[
            "--request",
            "PUT",
            "--data-binary",
            "@LARGE",
            "--header",
            EXPECT,
            "--header",
            "Transfer-Encoding: chunked",
        ],
        "PUT",
        "200",
        "/upload",
        2,
    ),
    Exchange::new(
        "a POST that is too large",
        &["--data-binary", "@LARGE", "--header", EXPECT],
        "POST",
        "413",
        "/limited",
        2,
    ),
    Exchange::new("404", &[], "GET", "404", "/missing", 3),
    Exchange::new("500", &[], "GET", "500", "/error", 3),
    Exchange::new("a slow answer", &[], "GET", "200", "/slow", 2),
];

/// What servers of files do.
pub(super) const RANGE: &[Exchange] =
    &[Exchange::new("a part of a file", &["--range", "10-99"], "GET", "206", "/large", 3)];

/// What some frameworks do.
pub(super) const EARLY_HINTS: &[Exchange] = &[Exchange::new("early hints", &[], "GET", "200", "/hints", 3)];

/// What the tests' own client says, segment by segment.
#[derive(Clone, Copy)]
pub(super) struct Raw {
    pub(super) what: &'static str,
    pub(super) says: &'static [&'static str],
    pub(super) counts: &'static [Count],
}

impl Raw {
    /// Whether the first segment of the connection has several requests.
    pub(super) fn begins_with_several(&self) -> bool {
        self.says.first().is_some_and(|line| line.matches(" HTTP/1.1").count() > 1)
    }
}

/// What servers do that take a request before they have answered the one before.
// Expected by the rewrite: all of these.
pub(super) const PIPELINED: &[Raw] = &[
    Raw {
        what: "three requests in a segment",
        says: &[
            "send GET /hello HTTP/1.1\\r\\nHost: x\\r\\n\\r\\nGET /missing HTTP/1.1\\r\\nHost: x\\r\\n\\r\\nGET /parts HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
            "until hello\\n",
            "until hello\\n",
        ],
        counts: &[("GET", "200", "/hello", 1), ("GET", "404", "/missing", 1), ("GET", "200", "/parts", 1)],
    },
    Raw {
        what: "three requests before the first answer",
        says: &[
            "send GET /slow HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
            "send GET /missing HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
            "send GET /hello HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
            "until hello\\n",
        ],
        counts: &[("GET", "200", "/slow", 1), ("GET", "404", "/missing", 1), ("GET", "200", "/hello", 1)],
    },
    Raw {
        what: "a request in the segment of a body",
        says: &[
            "send POST /upload HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 3\\r\\n\\r\\na=bGET /hello HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
            "until hello\\n",
        ],
        counts: &[("POST", "200", "/upload", 1), ("GET", "200", "/hello", 1)],
    },
    Raw {
        what: "a body and a request in the segment after a head",
        says: &[
            "send POST /upload HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 3\\r\\n\\r\\n",
            "send a=bGET /hello HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
            "until hello\\n",
        ],
        counts: &[("POST", "200", "/upload", 1), ("GET", "200", "/hello", 1)],
    },
];

/// What the clients do, one after the other: the status, and method, path and bytes of the body. Less than none is a body whose
/// length its head does not tell.
pub(super) const FETCHES: [(&str, [&str; 3]); 14] = [
    ("200", ["GET", "/hello", "0"]),
    ("200", ["HEAD", "/hello", "0"]),
    ("200", ["POST", "/upload", "10"]),
    ("200", ["POST", "/upload", "200000"]),
    ("200", ["POST", "/upload", "-5000"]),
    ("200", ["PUT", "/upload", "3"]),
    ("200", ["GET", "/lines", "0"]),
    ("204", ["DELETE", "/none", "0"]),
    ("200", ["GET", "/empty", "0"]),
    ("200", ["GET", "/large", "0"]),
    ("200", ["HEAD", "/large", "0"]),
    ("404", ["GET", "/missing", "0"]),
    ("500", ["GET", "/error", "0"]),
    ("200", ["GET", "/parts", "0"]),
];
