//! The metrics APIs, through a real API server, from a real agent that measures real cgroups.

mod discovery;
mod faults;
mod holding;
mod keda;
mod kubectl;
mod lab;
mod lag;
mod made_up;
mod private;
mod requests;
mod resource;
mod rotation;
mod scaling;
mod security;
mod upstream;
mod vpa;
mod workload;
