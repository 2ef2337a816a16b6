//! What one agent has told: its node, and the pods on it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};

use super::{
    pod::{Pod, Room},
    query::{Gathered, Query},
    sample::Sample,
    total::Total,
    window::{Ring, Span, Spans},
};
use crate::stream::message::{self, Update};

/// More pods than this no node has: who tells of more tells nonsense.
const MOST: usize = 20_000;

/// When something was so.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By our own clock.
    pub date: SystemTime,
    /// The window that ended then, ns.
    pub nanos: u64,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Whose updates count: a stream that began later takes the node over.
    stream: u64,
    instance: u64,
    /// Whose stream may speak for it, for as long as that one lasts.
    speaker: Option<Weak<str>>,
    /// When the agent reported last: by its clock, by ours, and the date.
    clock: u64,
    heard: Instant,
    /// Whether all of what it reported was taken.
    is_whole: bool,
    date: SystemTime,
    spans: Spans,
    host: Ring,
    pods: HashMap<u32, Pod>,
    /// Of a container's number, its pod's.
    places: HashMap<u32, u32>,
    room: Room,
}

impl Node {
    /// Nothing is known of it yet.
    pub fn new(name: &str, spans: Spans) -> Self {
        Self {
            name: name.into(),
            stream: 0,
            instance: 0,
            speaker: None,
            clock: 0,
            heard: Instant::now(),
            is_whole: true,
            date: SystemTime::now(),
            spans,
            host: Ring::default(),
            pods: HashMap::new(),
            places: HashMap::new(),
            room: Room::default(),
        }
    }

    /// Lets an agent speak for the node, unless another does whose stream has not ended: then that one is the answer. An agent that
    /// is asked anew has nobody but itself before it.
    ///
    /// # Errors
    /// Who speaks for it.
    pub fn hand_to(&mut self, agent: &Arc<str>) -> Result<(), Arc<str>> {
        match self.speaker.as_ref().and_then(Weak::upgrade).filter(|other| other != agent) {
            Some(other) => Err(other),
            None => {
                self.speaker = Some(Arc::downgrade(agent));
                Ok(())
            }
        }
    }

    /// Whether no agent speaks for it.
    pub fn is_free(&self) -> bool {
        self.speaker.as_ref().is_none_or(|speaker| speaker.strong_count() == 0)
    }

    /// Takes an update of a stream.
    ///
    /// # Errors
    /// When it is none that an agent sends.
    pub fn apply(&mut self, stream: u64, update: Update) -> anyhow::Result<()> {
        let Update { full, instance, nanos, host, pods, ended, usages, .. } = update;
        ensure!(
            pods.len() <= MOST && usages.len() <= MOST,
            "an update has {} pods, {} usages",
            pods.len(),
            usages.len()
        );
        let previous = if full { self.begin(stream, instance, nanos) } else { self.clock };
        ensure!(stream == self.stream, "another agent speaks for the node {}", self.name);
        ensure!(instance == self.instance, "an agent became another within a stream");
        ensure!(nanos > self.clock, "an agent's clock went back");
        // Of what makes no sense in the middle, a part has been taken: until the next time nothing is said of the node.
        (self.clock, self.is_whole) = (nanos, false);
        for number in ended {
            if let Some(pod) = self.pods.remove(&number) {
                pod.containers.iter().for_each(|container| _ = self.places.remove(&container.number));
                self.room.leave(&pod);
            }
        }
        for pod in pods {
            self.describe(pod)?;
            self.room.check()?;
        }
        ensure!(self.pods.len() <= MOST, "a node has {} pods", self.pods.len());
        if let Some(usage) = host {
            let sample = Sample::new(nanos, usage, self.host.last())?;
            self.host.push(sample, previous, &self.spans);
        }
        for usage in usages {
            let pod = self.places.get(&usage.number).and_then(|number| self.pods.get_mut(number));
            let container =
                pod.and_then(|pod| pod.containers.iter_mut().find(|own| own.number == usage.number));
            let samples = &mut container.context("a usage of nobody")?.samples;
            let sample = Sample::new(nanos, usage, samples.last())?;
            self.room.change(samples.last(), &sample);
            self.room.check()?;
            samples.push(sample, previous, &self.spans);
        }
        if full {
            self.forget_the_rest();
        }
        (self.is_whole, self.heard, self.date) = (true, Instant::now(), SystemTime::now());
        Ok(())
    }

    /// A stream begins. What the same run of the agent had told before goes on; another counts from anew, and so does one whose
    /// clock went back: it is not the run that it says it is.
    fn begin(&mut self, stream: u64, instance: u64, nanos: u64) -> u64 {
        if instance != self.instance || nanos < self.clock {
            (self.clock, self.host) = (0, Ring::default());
            self.pods.clear();
            self.room = Room::default();
        }
        (self.stream, self.instance) = (stream, instance);
        // Their numbers were the stream's before.
        let pods = std::mem::take(&mut self.pods).into_values().enumerate();
        self.pods = pods.map(|(at, pod)| (u32::MAX - at as u32, pod)).collect();
        self.places.clear();
        self.clock
    }

    /// After a full update: what it had not is gone.
    fn forget_the_rest(&mut self) {
        let room = &mut self.room;
        self.pods.retain(|number, pod| {
            let is_told = *number <= u32::MAX - MOST as u32;
            if !is_told {
                room.leave(pod);
            }
            is_told
        });
    }

    fn describe(&mut self, described: message::Pod) -> anyhow::Result<()> {
        let number = described.number;
        ensure!(number > 0 && number <= u32::MAX - MOST as u32, "a pod without a number");
        let before = self.pods.remove(&number).or_else(|| {
            let uid = &described.uid;
            let before =
                self.pods.iter().find(|(_, pod)| pod.about.uid == *uid).map(|(number, _)| *number)?;
            self.pods.remove(&before)
        });
        if let Some(before) = &before {
            before.containers.iter().for_each(|container| _ = self.places.remove(&container.number));
            self.room.leave(before);
        }
        let pod = Pod::new(described, before)?;
        let numbers = pod.containers.iter().map(|container| container.number).filter(|own| *own > 0);
        self.places.extend(numbers.map(|own| (own, number)));
        self.room.enter(&pod);
        self.pods.insert(number, pod);
        Ok(())
    }

    /// What was told last came from someone who had it at `date`, and that is so long ago.
    pub fn was_so(&mut self, date: SystemTime, ago: Duration) {
        (self.date, self.heard) = (date, self.heard.checked_sub(ago).unwrap_or(self.heard));
    }

    /// How long ago the agent reported.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Whether anything is to be said of it: what its agent told is not older than `age`, and made sense.
    pub fn is_fresh(&self, age: Duration) -> bool {
        self.is_whole && self.heard.elapsed() <= age
    }

    /// The pods.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// What each container of a pod used; none unless that is known of all of them.
    pub fn containers(&self, pod: &Pod) -> Option<Vec<(Arc<str>, Total)>> {
        if pod.containers.is_empty() {
            return None;
        }
        let totals = pod.containers.iter().map(|container| {
            let mut total = Total::default();
            total.add(container.samples.window(self.clock, self.spans.usual)?);
            Some((Arc::clone(&container.name), total))
        });
        totals.collect()
    }

    /// What a query asks of a pod, of requests those on routes that `wants` says yes to; none unless that is known of all its containers.
    pub fn gather(&self, pod: &Pod, query: &Query, wants: &dyn Fn(&str) -> bool) -> Option<Gathered> {
        if pod.containers.is_empty() {
            return None;
        }
        let mut gathered = query.nothing();
        for container in &pod.containers {
            let window =
                |span: Option<Span>| container.samples.window(self.clock, span.unwrap_or(self.spans.usual));
            query.add(&container.name, window, wants, &mut gathered)?;
        }
        Some(gathered)
    }

    /// What the whole node used.
    pub fn host(&self) -> Option<Total> {
        let mut total = Total::default();
        total.add(self.host.window(self.clock, self.spans.usual)?);
        Some(total)
    }

    /// When the last update came, and a window that ended then.
    pub fn moment(&self, nanos: u64) -> Moment {
        Moment { date: self.date, nanos }
    }

    /// The namespaces that it has pods of.
    pub fn namespaces(&self) -> BTreeSet<&str> {
        self.pods.values().map(|pod| &*pod.about.namespace).collect()
    }
}

#[cfg(test)]
mod tests;
