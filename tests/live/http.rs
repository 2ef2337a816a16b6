//! Requests: counted exactly, at the server and at the client, whatever their bodies, connections and answers are.

mod active;
mod bodies;
mod counts;
mod deferred;
mod differential;
pub(crate) mod exemplars;
pub(crate) mod lab;
pub(crate) mod latency;
mod losses;
mod network;
mod pipelines;
mod routes;
mod servers;
mod twins;
mod wrk;
