//! The metrics APIs, through a real API server, from a real agent that measures real cgroups.

mod holding;
mod keda;
mod kubectl;
mod lab;
mod private;
mod requests;
mod resource;
mod scaling;
mod security;
mod upstream;
mod workload;
