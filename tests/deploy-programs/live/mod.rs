//! A real agent, a real Prometheus and a real Alertmanager, with the files that are shipped. As root.
//!
//! Most have no kubelet: their pods are a real API server's, and their cgroups are named as a kubelet names them. `beside` and
//! `daemonset` have a real one.

mod accepted;
mod alerts;
mod autoscaling;
mod beside;
mod containers;
mod daemonset;
mod dashboards;
mod logs;
mod operator;
mod ownership;
mod picture;
mod prometheus;
mod rights;
mod server;
mod webhook;
