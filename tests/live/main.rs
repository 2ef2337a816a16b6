//! Live tests: the real agent on the real kernel, as root, against independent sources. `cargo xtask test` runs them.

mod adapter;
mod block_io;
mod containerd;
mod cpu;
mod doctor;
mod http;
mod kernels;
mod kube;
mod lifecycle;
mod limits;
mod memory;
mod packets;
mod peers;
mod prometheus;
mod tcp;
mod wire;
