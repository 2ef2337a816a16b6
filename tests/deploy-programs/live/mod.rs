//! A real agent, a real Prometheus and a real Alertmanager, with the files that are shipped. As root.
//!
//! There is no kubelet here: the pods are a real API server's, and their cgroups are named as a kubelet names them.

mod accepted;
mod alerts;
mod autoscaling;
mod beside;
mod containers;
mod daemonset;
mod dashboards;
mod logs;
mod operator;
mod picture;
mod prometheus;
mod rights;
mod server;
mod webhook;
