//! A real agent, a real Prometheus and a real Alertmanager, with the files that are shipped. As root.
//!
//! There is no Kubernetes here: where its labels are needed, a rule of the test's own puts them on the series of cgroups that are named
//! as a kubelet names them.

mod alerts;
mod containers;
mod dashboards;
mod operator;
mod picture;
mod prometheus;
mod rights;
mod server;
mod webhook;
