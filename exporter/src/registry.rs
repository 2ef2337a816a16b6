//! One scrape: events in, collectors read, each timed and judged, the dead released.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use exporter_ebpf::cgroup::{EVENT_PATH, Event};
use tracing::{debug, warn};

use crate::{
    cgroup::tree::{NodeKey, Released, Tree, WorkloadId},
    collector::{
        self, Collector, Context, Reader,
        agent::{DURATION, Health, SUCCESS},
        pods,
        spec::Specs,
    },
    kube::pods::Shared,
    probes::{Probes, State},
    series::Series,
    slots::Slots,
    snapshot::{Labels, Snapshot},
    stream::frame::{Frame, Identity},
    sys,
};

/// Everything that a scrape needs.
pub struct Registry {
    /// The cgroups and their workloads.
    pub tree: Tree,
    /// The kernel half, kept attached by being kept.
    pub probes: Probes,
    /// Births and deaths of cgroups; without it the tree is walked at every scrape.
    pub events: Option<RingBuf<MapData>>,
    /// The kernel's cgroup slots and histogram rows.
    pub counters: Option<(Slots, Series)>,
    /// The signals that have something to say.
    pub collectors: Vec<Box<dyn Collector>>,
    /// The agent's own health.
    pub health: Health,
    /// What the cluster says of this node's pods; none outside of one.
    pub pods: Option<Arc<Shared>>,
    /// This node's name, if the requests and limits of its pods are wanted.
    pub resources_of: Option<String>,
    /// What the pods' containers were given.
    pub specs: Specs,
    /// How many lost events the tree has made up for.
    pub lost_events: u64,
    /// What had a slot in the last scrape, and was not in the tree.
    pub orphans: HashSet<NodeKey>,
    /// Who tells adapters what this node's pods use.
    pub identity: Identity,
    /// When the last scrape was: it lets go of what has ended, having shown it.
    pub scraped: Instant,
}

/// How long what has ended waits for a scrape that shows it once more, while only a stream is read.
const UNSCRAPED: Duration = Duration::from_secs(120);

/// What was read, when the kernel had brought its counters up to date, and whether some of them are nobody's.
struct Reading {
    snapshot: Snapshot,
    at: Instant,
    has_orphans: bool,
}

/// The workload of what is in no tree.
const NOBODY: WorkloadId = WorkloadId::MAX;

impl Registry {
    /// Applies the events that are there. Cheap: called whenever the kernel says that there are some.
    pub fn drain(&mut self) {
        self.apply();
        self.name();
    }

    fn apply(&mut self) {
        self.follow();
        self.admit();
    }

    /// Tells the collectors of the cgroups that are new.
    pub fn admit(&mut self) {
        for cgroup in self.tree.take_added() {
            for collector in &mut self.collectors {
                collector.admit(&self.tree, cgroup);
            }
        }
    }

    fn follow(&mut self) {
        let Some(ring) = &mut self.events else { return };
        let mut is_cut = false;
        while let Some(item) = ring.next() {
            let Some(event) = sys::records::<Event>(&item).next() else { continue };
            let Some(hierarchy) = self.tree.layout().by_id(event.hierarchy) else { continue };
            let key = (hierarchy, event.id);
            if event.removed != 0 {
                self.tree.remove(key, event.oom_kills);
                continue;
            }
            let end = event.path.iter().position(|&byte| byte == 0).unwrap_or(EVENT_PATH);
            if end + 1 >= EVENT_PATH || end == 0 {
                is_cut = true;
            } else {
                self.tree.add(key, &String::from_utf8_lossy(&event.path[..end]));
            }
        }
        let lost = self.health.lost_events();
        if is_cut || lost > self.lost_events {
            debug!(lost = lost - self.lost_events, is_cut, "cgroup events are missing: walking the tree");
            self.lost_events = lost;
            self.tree.walk();
        }
    }

    /// Names what has a name by now, asks for the rest, and tells how many containers that is.
    fn name(&mut self) -> usize {
        let Some(shared) = &self.pods else { return 0 };
        let unnamed = self.tree.name(&shared.lock());
        if unnamed > 0 {
            shared.wanted.notify_one();
        }
        unnamed
    }

    /// Takes one scrape.
    pub fn gather(&mut self) -> Snapshot {
        let reading = self.read(Reader::Scrape);
        self.scraped = Instant::now();
        self.release(reading.has_orphans);
        reading.snapshot
    }

    /// What adapters are told. What has ended is left for the next scrape to show.
    pub fn frame(&mut self) -> Frame {
        let reading = self.read(Reader::Adapter);
        let pods = self.pods.as_ref().map(|shared| shared.lock());
        let frame = Frame::new(&self.identity, reading.at, &reading.snapshot, &self.tree, pods.as_deref());
        drop(pods);
        if self.scraped.elapsed() > UNSCRAPED {
            self.release(reading.has_orphans);
        }
        frame
    }

    fn read(&mut self, reader: Reader) -> Reading {
        self.apply();
        if self.events.is_none() {
            self.tree.walk();
            self.admit();
        }
        let wanted = |collector: &&mut Box<dyn Collector>| collector.is_for(reader);
        let settled: Vec<_> = self
            .collectors
            .iter_mut()
            .filter(wanted)
            .map(|collector| {
                let started = Instant::now();
                (collector.settle(), started.elapsed())
            })
            .collect();
        let at = Instant::now();
        let (mut owners, mut unresolved) = self.owners();
        if unresolved > 0 {
            // A cgroup acted between its birth and its event, or the event was lost: look again before giving up.
            self.apply();
            (owners, unresolved) = self.owners();
        }
        let unnamed = self.name();
        let mut out = Snapshot::default();
        let series = self.counters.as_ref().map(|(_, series)| series);
        let rows = series.map(Series::index).unwrap_or_default();
        let context = Context { tree: &self.tree, owners: &owners, series, rows: &rows, reader };
        let mut judged = Vec::new();
        for (collector, (settled, took)) in self.collectors.iter_mut().filter(wanted).zip(settled) {
            let started = Instant::now();
            let mut snapshot = Snapshot::default();
            let outcome = settled.and_then(|()| collector.collect(&context, &mut snapshot));
            judged.push((collector.name(), outcome.is_ok(), took + started.elapsed()));
            match outcome {
                Ok(()) => out.append(snapshot),
                Err(error) => warn!(collector = collector.name(), "cannot collect: {error:#}"),
            }
        }
        let slots = self.counters.as_ref().map_or(0, |(slots, _)| slots.taken().count() as u32);
        self.health.collect(&self.probes, &context, slots, unresolved, &mut out);
        if let Some(shared) = &self.pods {
            self.specs.collect(&self.tree, &mut out);
            let known = shared.lock();
            pods::collect(&known, unnamed, &mut out);
            if let Some(node) = &self.resources_of {
                pods::resources(&known, node, &mut out);
            }
        }
        let family = out.family(&SUCCESS);
        for (name, is_ok, _) in &judged {
            family.value(&Labels::NONE, &[name], f64::from(u8::from(*is_ok)));
        }
        let family = out.family(&DURATION);
        for (name, _, took) in &judged {
            family.value(&Labels::NONE, &[name], took.as_secs_f64());
        }
        Reading { snapshot: out, at, has_orphans: unresolved > 0 }
    }

    fn owners(&self) -> (Vec<Option<usize>>, u64) {
        self.counters
            .as_ref()
            .map_or_else(|| (Vec::new(), 0), |(slots, _)| collector::owners(slots, &self.tree))
    }

    /// What had a slot in two scrapes and is not in the tree. A task's last steps come after its cgroup can be removed, and
    /// after its slot was taken back they are given another, which no event would ever take back.
    fn orphans(&mut self) -> Vec<Released> {
        let slots = self.counters.iter().flat_map(|(slots, _)| slots.taken());
        let unknown = slots.map(|(_, key)| key).filter(|key| self.tree.workload_of(*key).is_none());
        let before = std::mem::replace(&mut self.orphans, unknown.collect());
        let again = before.intersection(&self.orphans);
        again.map(|&key| Released { key, workload: NOBODY, survives: false, pod: None }).collect()
    }

    /// Lets go of what has been shown for the last time, and of what is in no tree.
    fn release(&mut self, has_orphans: bool) {
        let mut released = self.tree.release();
        if has_orphans || !self.orphans.is_empty() {
            released.extend(self.orphans());
        }
        for released in released {
            let slot = self.counters.as_ref().and_then(|(slots, _)| slots.slot(released.key));
            for collector in &mut self.collectors {
                collector.release(&released, slot);
            }
            let Some((slots, series)) = &mut self.counters else { continue };
            let heir = released.survives.then_some(released.workload);
            let freed = slot.map_or(Ok(()), |slot| {
                series.release(slot, heir, released.pod).and_then(|()| slots.release(released.key, slot))
            });
            if let Err(error) = freed {
                warn!("cannot take back what a cgroup had: {error:#}");
            }
            if heir.is_none() {
                series.forget(released.workload, released.pod);
            }
        }
    }

    /// Whether anything is measured.
    ///
    /// # Errors
    /// With the reason of each probe that is not attached.
    pub fn ready(&self) -> Result<(), String> {
        let verdicts = self.probes.verdicts();
        if verdicts.iter().any(|verdict| verdict.state == State::Attached) {
            return Ok(());
        }
        let reasons = verdicts.iter().map(|verdict| format!("{}: {}", verdict.program, verdict.reason));
        Err(format!("no probe is attached\n{}", reasons.collect::<Vec<_>>().join("\n")))
    }
}
