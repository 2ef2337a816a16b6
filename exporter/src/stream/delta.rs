//! What of a frame is new to one receiver.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    frame::{Described, Frame},
    message::{Pod, Update},
};

/// What one receiver has been told.
#[derive(Debug, Default)]
pub struct Told {
    frame: Option<Arc<Frame>>,
    /// The numbers of pods by uid, and of containers by id. None is used twice in a stream.
    pods: BTreeMap<String, u32>,
    containers: BTreeMap<String, u32>,
    last: u32,
}

impl Told {
    /// What is new in `frame`; from here on it has been told.
    pub fn tell(&mut self, frame: Arc<Frame>) -> Update {
        let before = self.frame.take();
        let mut update = Update {
            full: before.is_none(),
            instance: frame.instance,
            nanos: frame.nanos,
            node: if before.is_none() { frame.node.clone() } else { String::new() },
            ..Update::default()
        };
        let host = before.as_ref().map(|before| &before.host);
        update.host = (host != Some(&frame.host)).then(|| frame.host.clone());
        for (uid, described) in &frame.pods {
            let known = before.as_ref().and_then(|before| before.pods.get(uid));
            if known != Some(described) {
                update.pods.push(self.pod(uid, described));
            }
        }
        for (id, usage) in &frame.usages {
            let known = before.as_ref().and_then(|before| before.usages.get(id));
            if known == Some(usage) {
                continue;
            }
            if let Some(&number) = self.containers.get(id) {
                let mut usage = usage.clone();
                usage.number = number;
                update.usages.push(usage);
            }
        }
        let gone: Vec<_> = self.pods.keys().filter(|uid| !frame.pods.contains_key(*uid)).cloned().collect();
        update.ended = gone.iter().filter_map(|uid| self.pods.remove(uid)).collect();
        self.containers.retain(|id, _| frame.usages.contains_key(id));
        self.frame = Some(frame);
        update
    }

    fn pod(&mut self, uid: &str, described: &Described) -> Pod {
        let mut pod = described.0.clone();
        pod.number = number(&mut self.pods, &mut self.last, uid);
        for container in &mut pod.containers {
            // Without an id it has no cgroup as yet.
            if !container.id.is_empty() {
                container.number = number(&mut self.containers, &mut self.last, &container.id);
            }
        }
        pod
    }
}

fn number(numbers: &mut BTreeMap<String, u32>, last: &mut u32, of: &str) -> u32 {
    if let Some(number) = numbers.get(of) {
        return *number;
    }
    *last += 1;
    numbers.insert(of.to_owned(), *last);
    *last
}
