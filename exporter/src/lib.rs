//! podmeter, the node agent: what the kernel half counts, as Prometheus metrics.
//!
//! Data flows one way: probe -> map -> collector -> registry -> http. A scrape drives the reading.
#![deny(unsafe_code)]

pub mod adapter;
pub mod agent;
pub mod backoff;
pub mod btf;
pub mod capabilities;
pub mod cgroup;
pub mod collector;
pub mod config;
pub mod doctor;
pub mod encode;
pub mod format;
pub mod http;
pub mod kube;
pub mod probes;
pub mod protobuf;
pub mod registry;
pub mod route;
pub mod series;
pub mod slots;
pub mod snapshot;
pub mod status;
pub mod stream;
pub mod sys;
pub mod telemetry;
pub mod walker;

pub use collector::{Section, catalogue};
