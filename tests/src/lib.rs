//! What the tests share: cgroups of their own, the real agent, and what it said.

pub mod adapter;
pub mod agent;
pub mod cgroup;
pub mod cluster;
pub mod image;
pub mod loopback;
pub mod machine;
pub mod process;
pub mod random;
pub mod scrape;
mod serving;
pub mod simulated;
pub mod support;
pub mod temp;
pub mod wait;
