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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::message::{Container, Usage};

    /// What a receiver makes of updates: pods by number, and the usages by the containers' numbers.
    #[derive(Default)]
    struct Mirror {
        pods: BTreeMap<u32, Pod>,
        usages: BTreeMap<u32, Usage>,
    }

    impl Mirror {
        fn apply(&mut self, update: Update) {
            for number in update.ended {
                assert!(self.pods.remove(&number).is_some(), "a pod that was never told of has ended");
            }
            for pod in update.pods {
                assert_ne!(pod.number, 0);
                self.pods.insert(pod.number, pod);
            }
            for usage in update.usages {
                self.usages.insert(usage.number, usage);
            }
        }

        /// As a frame has it: by uid and by id, without numbers.
        fn frame(&self) -> (BTreeMap<String, Described>, BTreeMap<String, Usage>) {
            let (mut pods, mut usages) = (BTreeMap::new(), BTreeMap::new());
            for pod in self.pods.values() {
                let mut plain = Pod { number: 0, ..pod.clone() };
                for container in &mut plain.containers {
                    let number = std::mem::take(&mut container.number);
                    assert_eq!(number == 0, container.id.is_empty());
                    if let Some(usage) = self.usages.get(&number) {
                        usages.insert(container.id.clone(), Usage { number: 0, ..usage.clone() });
                    }
                }
                pods.insert(pod.uid.clone(), Described(plain));
            }
            (pods, usages)
        }
    }

    fn frame(at: usize, pods: &BTreeMap<u8, (u8, Option<u8>, u64)>) -> Frame {
        let mut frame = Frame { nanos: at as u64, node: "n".to_owned(), ..Frame::default() };
        for (pod, (label, run, cpu)) in pods {
            let id = run.map(|run| format!("{pod}-{run}")).unwrap_or_default();
            let container = Container { name: "app".to_owned(), id: id.clone(), ..Container::default() };
            let labels = BTreeMap::from([("label".to_owned(), label.to_string())]);
            let pod = Pod { uid: pod.to_string(), labels, containers: vec![container], ..Pod::default() };
            frame.pods.insert(pod.uid.clone(), Described(pod));
            if !id.is_empty() {
                frame.usages.insert(id, Usage { cpu: Some(*cpu), ..Usage::default() });
            }
        }
        frame
    }

    proptest! {
        #[test]
        fn who_follows_knows_what_there_is(
            frames in prop::collection::vec(
                prop::collection::btree_map(0u8..5, (0u8..2, prop::option::of(0u8..3), 0u64..3), 0..5), 1..20)
        ) {
            let (mut told, mut mirror) = (Told::default(), Mirror::default());
            for (at, pods) in frames.iter().enumerate() {
                let frame = frame(at, pods);
                let update = told.tell(Arc::new(frame.clone()));
                prop_assert_eq!((update.full, update.nanos), (at == 0, at as u64));
                mirror.apply(update);
                prop_assert_eq!(mirror.frame(), (frame.pods, frame.usages));
            }
        }
    }

    #[test]
    fn what_is_as_it_was_is_not_told_again() {
        let pods = BTreeMap::from([(1, (0, Some(1), 7)), (2, (0, Some(1), 7))]);
        let mut told = Told::default();
        let first = told.tell(Arc::new(frame(0, &pods)));
        assert_eq!((first.pods.len(), first.usages.len(), first.host.is_some()), (2, 2, true));
        let mut later = pods.clone();
        later.insert(2, (0, Some(1), 8));
        let second = told.tell(Arc::new(frame(1, &later)));
        assert_eq!((second.pods.len(), second.usages.len(), second.host), (0, 1, None));
        assert_eq!(second.node, "", "told once");
    }
}
