//! Cgroups in user space: where the hierarchies are, what a path belongs to, which cgroups there are.

pub mod layout;
pub mod path;
pub mod tree;
