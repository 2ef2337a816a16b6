//! Names from a real API server: pods are written to it for cgroups that are real too.

mod beside;
pub(crate) mod kubelet;
mod lives;
mod names;
pub(crate) mod node;
mod outage;
mod rights;
mod security;
