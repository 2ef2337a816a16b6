//! The patterns in the kernel: told before the first packet is looked at, and of each cgroup when it is made.

use anyhow::Context as _;
use aya::maps::{Array, HashMap, MapData};
use exporter_ebpf::http::{
    LITERALS, PATTERNS, SCOPES,
    pattern::{Literal, Patterns, Set},
};
use tracing::warn;

use super::Table;
use crate::{
    cgroup::{
        layout::HierarchyIndex,
        tree::{NodeKey, Tree},
    },
    probes::Probes,
};

/// The user side of the kernel's patterns.
pub struct Routes {
    table: Table,
    /// The hierarchy of the cgroups that packets are of.
    v2: Option<HierarchyIndex>,
    /// The patterns of the cgroups that have other ones than everyone.
    scopes: HashMap<MapData, u64, Set>,
    /// Kept: the programs are loaded with them.
    _patterns: Array<MapData, Patterns>,
    _literals: Array<MapData, Literal>,
}

impl Routes {
    /// Takes the maps and fills them.
    ///
    /// # Errors
    /// When a map cannot be had or filled.
    pub fn new(probes: &mut Probes, table: Table, v2: Option<HierarchyIndex>) -> anyhow::Result<Self> {
        let mut patterns: Array<_, Patterns> = probes.take(PATTERNS)?;
        patterns.set(0, *table.patterns, 0)?;
        let mut literals: Array<_, Literal> = probes.take(LITERALS)?;
        for (slot, literal) in (0..).zip(&table.literals) {
            literals.set(slot, literal, 0).context("a literal")?;
        }
        Ok(Self { table, v2, scopes: probes.take(SCOPES)?, _patterns: patterns, _literals: literals })
    }

    /// Whether it matters which cgroups there are.
    pub fn are_scoped(&self) -> bool {
        self.table.scoped() > 0
    }

    /// Gives a cgroup its patterns.
    pub fn admit(&mut self, tree: &Tree, cgroup: NodeKey) {
        if !self.concerns(cgroup) {
            return;
        }
        let Some(workload) = tree.workload_of(cgroup).and_then(|id| tree.get(id)) else { return };
        let own = self.table.own(workload);
        if own != self.table.patterns.everyone
            && let Err(error) = self.scopes.insert(cgroup.1, own, 0)
        {
            warn!(cgroup = &*workload.path, "its routes are those of every container: {error:#}");
        }
    }

    /// Forgets a cgroup that is gone.
    pub fn release(&mut self, cgroup: NodeKey) {
        if self.concerns(cgroup) {
            // Most have none.
            _ = self.scopes.remove(&cgroup.1);
        }
    }

    fn concerns(&self, cgroup: NodeKey) -> bool {
        self.are_scoped() && self.v2 == Some(cgroup.0)
    }

    /// The text of a route that a pattern makes.
    pub fn name(&self, route: u64) -> Option<&str> {
        self.table.name(route)
    }
}
