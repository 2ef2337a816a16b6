//! The slots of cgroups, from user space: which are taken, by whom; and giving them back.

use aya::maps::{HashMap, MapData, Queue};
use exporter_ebpf::cgroup::{CGROUP_CACHE, CGROUPS, FREE_SLOTS, IO_HIERARCHY, SLOTS, Slot, cache_index};

use crate::{
    cgroup::{layout::Layout, tree::NodeKey},
    probes::Probes,
    sys::MappedArray,
};

/// The user side of the kernel's cgroup slots.
pub struct Slots {
    slots: MappedArray<Slot>,
    cache: MappedArray<u64>,
    cgroups: HashMap<MapData, u64, u32>,
    free: Queue<MapData, u32>,
    v2: Option<usize>,
    io: Option<usize>,
    io_on_v1: bool,
}

impl Slots {
    /// Takes the maps, and offers every slot but 0, which is for what has none.
    ///
    /// # Errors
    /// When a map cannot be had.
    pub fn new(probes: &mut Probes, layout: &Layout) -> anyhow::Result<Self> {
        let slots = probes.array(SLOTS)?;
        let cache = probes.array(CGROUP_CACHE)?;
        let mut free: Queue<_, u32> = probes.take(FREE_SLOTS)?;
        for slot in 1..slots.len() {
            free.push(slot, 0)?;
        }
        let cgroups = probes.take(CGROUPS)?;
        Ok(Self { slots, cache, cgroups, free, v2: layout.v2, io: layout.io, io_on_v1: layout.io_on_v1() })
    }

    /// How many slots there are.
    pub fn capacity(&self) -> u32 {
        self.slots.len()
    }

    /// The slots that are taken, and the cgroup of each.
    pub fn taken(&self) -> impl Iterator<Item = (u32, NodeKey)> {
        (1..self.slots.len()).filter_map(|slot| {
            let key = self.slots.first::<u64>(slot).filter(|key| *key != 0)?;
            Some((slot, self.node(key)?))
        })
    }

    fn node(&self, key: u64) -> Option<NodeKey> {
        let hierarchy = if key & IO_HIERARCHY != 0 { self.io } else { self.v2 };
        Some((hierarchy?, key & !IO_HIERARCHY))
    }

    /// The key of a cgroup in the kernel's maps, if it is of a hierarchy that anything is charged by.
    fn key(&self, (hierarchy, id): NodeKey) -> Option<u64> {
        if self.v2 == Some(hierarchy) {
            Some(id)
        } else if self.io_on_v1 && self.io == Some(hierarchy) {
            Some(id | IO_HIERARCHY)
        } else {
            None
        }
    }

    /// The slot of a cgroup, if it has one.
    pub fn slot(&self, node: NodeKey) -> Option<u32> {
        self.cgroups.get(&self.key(node)?, 0).ok()
    }

    /// Takes back the slot of a cgroup that is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release(&mut self, node: NodeKey, slot: u32) -> anyhow::Result<()> {
        let Some(key) = self.key(node) else { return Ok(()) };
        self.cgroups.remove(&key)?;
        // The entry may be another's, who then takes the long way once.
        self.cache.set(cache_index(key), 0);
        self.slots.set(slot, Slot { key: 0, routes: 0 });
        self.free.push(slot, 0)?;
        Ok(())
    }
}
