//! Reads a record of every cgroup in one go: an `iter/cgroup` program that writes to a mapped array.

use std::path::Path;

use anyhow::ensure;
use aya::Pod;

use crate::{
    probes::Probes,
    sys::{IterLink, MappedArray},
};

/// A walk over the cgroups of one hierarchy. `T` is a record, `C` what the program is told before a walk; the first word of `C` is
/// how many records the program has written.
pub struct Walker<T, C = u64> {
    link: IterLink,
    records: MappedArray<T>,
    control: MappedArray<C>,
}

impl<T: Pod, C: Pod> Walker<T, C> {
    /// Links the attached `program` to the hierarchy at `root`; the maps are those that it writes to.
    ///
    /// # Errors
    /// When a map cannot be had or the kernel refuses.
    pub fn new(
        probes: &Probes,
        program: &str,
        root: &Path,
        records: &str,
        control: &str,
    ) -> anyhow::Result<Self> {
        let link = probes.iter_cgroup(program, root)?;
        Ok(Self { link, records: probes.array(records)?, control: probes.array(control)? })
    }

    /// Walks once; `start` has 0 records.
    ///
    /// # Errors
    /// When the kernel refuses, or there are more cgroups than room for their records.
    pub fn read(&self, start: C) -> anyhow::Result<impl Iterator<Item = T>> {
        self.control.set(0, start);
        self.link.walk()?;
        let count = self.control.first::<u64>(0).unwrap_or(0);
        ensure!(
            count <= u64::from(self.records.len()),
            "there are {count} cgroups, and room for {}: raise --max-cgroups",
            self.records.len()
        );
        Ok((0..count as u32).filter_map(|at| self.records.get(at)))
    }
}
