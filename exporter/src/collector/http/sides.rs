//! The metrics of requests, once for those that a container served, and once for those that it made.

use exporter_ebpf::series::Family;

use crate::snapshot::{Kind, Metric};

const LABELS: &[&str] = &["http_request_method", "http_response_status_code", "http_route"];
const ROUTE_LABELS: &[&str] = &["http_request_method", "http_route"];

/// What one side of the connections has: the requests that a container served, or those that it made.
pub(super) struct Side {
    /// The kernel's rows: whole responses, long ones, and the first bytes of these.
    pub(super) families: [Family; 3],
    pub(super) duration: &'static Metric,
    pub(super) first_byte: &'static Metric,
    pub(super) request_size: &'static Metric,
    pub(super) response_size: &'static Metric,
    pub(super) active: &'static Metric,
}

pub(super) static SIDES: [Side; 2] = [
    Side {
        families: [Family::HttpServer, Family::HttpServerLong, Family::HttpServerFirst],
        duration: &SERVER,
        first_byte: &SERVER_FIRST_BYTE,
        request_size: &SERVER_REQUEST_SIZE,
        response_size: &SERVER_RESPONSE_SIZE,
        active: &SERVER_ACTIVE,
    },
    Side {
        families: [Family::HttpClient, Family::HttpClientLong, Family::HttpClientFirst],
        duration: &CLIENT,
        first_byte: &CLIENT_FIRST_BYTE,
        request_size: &CLIENT_REQUEST_SIZE,
        response_size: &CLIENT_RESPONSE_SIZE,
        active: &CLIENT_ACTIVE,
    },
];

static SERVER: Metric = Metric::container(
    "http_server_request_duration_seconds",
    Kind::Histogram,
    LABELS,
    "Requests served: from the first byte of the request at the socket to the last byte of the response.",
);
static CLIENT: Metric = Metric::container(
    "http_client_request_duration_seconds",
    Kind::Histogram,
    LABELS,
    "Requests made: from the first byte of the request at the socket to the last byte of the response.",
);
static SERVER_FIRST_BYTE: Metric = Metric::container(
    "http_server_time_to_first_byte_seconds",
    Kind::Histogram,
    ROUTE_LABELS,
    "Requests served: from the first byte of the request at the socket to the first byte of the response (of the final one, after 100 or 103).",
);
static CLIENT_FIRST_BYTE: Metric = Metric::container(
    "http_client_time_to_first_byte_seconds",
    Kind::Histogram,
    ROUTE_LABELS,
    "Requests made: from the first byte of the request at the socket to the first byte of the response (of the final one, after 100 or 103).",
);
static SERVER_REQUEST_SIZE: Metric = Metric::container(
    "http_server_request_body_size_bytes",
    Kind::Histogram,
    ROUTE_LABELS,
    "Bodies of the requests served, as they were when the response had ended, without the framing of chunks. Sum and count, no buckets.",
);
static CLIENT_REQUEST_SIZE: Metric = Metric::container(
    "http_client_request_body_size_bytes",
    Kind::Histogram,
    ROUTE_LABELS,
    "Bodies of the requests made, as they were when the response had ended, without the framing of chunks. Sum and count, no buckets.",
);
static SERVER_RESPONSE_SIZE: Metric = Metric::container(
    "http_server_response_body_size_bytes",
    Kind::Histogram,
    ROUTE_LABELS,
    "Bodies of the responses to the requests served, without the framing of chunks. Sum and count, no buckets.",
);
static CLIENT_RESPONSE_SIZE: Metric = Metric::container(
    "http_client_response_body_size_bytes",
    Kind::Histogram,
    ROUTE_LABELS,
    "Bodies of the responses to the requests made, without the framing of chunks. Sum and count, no buckets.",
);
static SERVER_ACTIVE: Metric = Metric::container(
    "http_server_active_requests",
    Kind::Gauge,
    &[],
    "Requests that have arrived and whose response has not ended, in this moment: those that are worked on, and the queue.",
);
static CLIENT_ACTIVE: Metric = Metric::container(
    "http_client_active_requests",
    Kind::Gauge,
    &[],
    "Requests that were made and whose response has not ended, in this moment.",
);
