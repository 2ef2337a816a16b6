//! The metrics APIs, through a real API server, from a real agent that measures real cgroups.

mod lab;
mod requests;
mod resource;
