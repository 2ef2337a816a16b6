//! podmeter
pub mod btf;
pub mod probes;
pub mod snapshot;
pub mod sys;
