//! A pod, as its agent tells of it, and how much an agent may tell.

use std::{sync::Arc, time::Instant};

use anyhow::ensure;
use prost::Message as _;

use super::{
    labels::Labels,
    sample::{Known, Sample},
    window::Ring,
};
use crate::stream::message;

/// More containers than this no node has, and no more routes of all of them.
const MOST: usize = 20_000;
/// Nor do its pods' descriptions take more, bytes.
const MOST_TEXT: usize = 32 << 20;

/// Who a pod is.
#[derive(Debug, PartialEq)]
pub struct About {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// When it was made, by the API server's clock: seconds since 1970.
    pub created: Known,
    /// Its labels.
    pub labels: Labels,
    /// Kind and name of what made it; empty if nothing did.
    pub owner: (String, String),
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Who it is.
    pub about: Arc<About>,
    /// When its agent first told of it.
    pub since: Instant,
    /// How long its description is, bytes.
    text: u32,
    pub(super) containers: Box<[Container]>,
}

/// A run of a container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) number: u32,
    pub(super) name: Arc<str>,
    id: String,
    pub(super) samples: Ring,
}

impl Pod {
    /// As it is described now. What was told of it `before` goes on.
    ///
    /// # Errors
    /// When no pod is like that.
    pub fn new(told: message::Pod, before: Option<Self>) -> anyhow::Result<Self> {
        let text = told.encoded_len() as u32;
        let message::Pod {
            uid, namespace, name, labels, owner_kind, owner_name, containers, created, ..
        } = told;
        ensure!(is_name(&namespace) && is_name(&name), "a pod without a name");
        let (mut before, since) = match before {
            Some(pod) => (pod.containers, pod.since),
            None => (Box::default(), Instant::now()),
        };
        let containers = containers.into_iter().map(|container| {
            ensure!(is_name(&container.name), "a container without a name");
            let own = before.iter_mut().find(|own| !own.id.is_empty() && own.id == container.id);
            Ok(Container {
                number: container.number,
                name: container.name.into(),
                id: container.id,
                samples: own.map(|own| std::mem::take(&mut own.samples)).unwrap_or_default(),
            })
        });
        let containers = containers.collect::<anyhow::Result<_>>()?;
        let (labels, owner) = (labels.into(), (owner_kind, owner_name));
        let about = About { uid, namespace, name, created: created.into(), labels, owner };
        Ok(Self { about: Arc::new(about), since, text, containers })
    }
}

/// Whether something of Kubernetes' may be called so: a node, a namespace, a pod, a container.
pub(super) fn is_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '.'))
}

/// How much of a node's pods is kept: what an agent may tell is bounded, as it may be one that nobody has looked at.
#[derive(Debug, Default)]
pub(super) struct Room {
    containers: usize,
    routes: usize,
    text: usize,
}

impl Room {
    pub(super) fn enter(&mut self, pod: &Pod) {
        self.containers += pod.containers.len();
        self.routes += of_pod(pod);
        self.text += pod.text as usize;
    }

    pub(super) fn leave(&mut self, pod: &Pod) {
        self.containers = self.containers.saturating_sub(pod.containers.len());
        self.routes = self.routes.saturating_sub(of_pod(pod));
        self.text = self.text.saturating_sub(pod.text as usize);
    }

    /// A container's newest sample takes the place of the one before.
    pub(super) fn change(&mut self, before: Option<&Sample>, now: &Sample) {
        self.routes = self.routes.saturating_sub(before.map_or(0, of_sample)) + of_sample(now);
    }

    /// Whether there may be so much.
    ///
    /// # Errors
    /// When no node has so much.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Self { containers, routes, text } = *self;
        ensure!(containers <= MOST, "a node has more than {MOST} containers");
        ensure!(routes <= MOST, "a node's containers have more than {MOST} routes");
        ensure!(text <= MOST_TEXT, "a node's pods are described by more than {MOST_TEXT} bytes");
        Ok(())
    }
}

fn of_pod(pod: &Pod) -> usize {
    pod.containers.iter().filter_map(|container| container.samples.last()).map(of_sample).sum()
}

fn of_sample(sample: &Sample) -> usize {
    sample.http().map_or(0, |http| http.routes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_pods_have_names() {
        assert!(is_name("node-1.example") && !is_name("") && !is_name("a b") && !is_name(&"x".repeat(254)));
        let pod = |name: &str, container: &str| message::Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            containers: vec![message::Container {
                name: container.to_owned(),
                ..message::Container::default()
            }],
            ..message::Pod::default()
        };
        assert!(Pod::new(pod("web-1", "app"), None).is_ok());
        for (name, container) in
            [("", "app"), ("../web", "app"), ("web\n", "app"), ("web-1", ""), ("web-1", "a/b")]
        {
            assert!(Pod::new(pod(name, container), None).is_err(), "{name:?} {container:?}");
        }
    }

    #[test]
    fn no_node_has_more_than_there_is_room_for() {
        let container = message::Container { name: "app".to_owned(), ..message::Container::default() };
        let told = message::Pod {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            containers: vec![container; MOST],
            ..message::Pod::default()
        };
        let (mut room, pod) = (Room::default(), Pod::new(told, None).unwrap());
        room.enter(&pod);
        room.check().unwrap();
        room.enter(&pod);
        assert!(room.check().is_err());
        room.leave(&pod);
        room.check().unwrap();
        let http = |routes| {
            let http =
                message::Http { routes: vec![message::Route::default(); routes], ..message::Http::default() };
            Sample::new(1, message::Usage { http: Some(http), ..message::Usage::default() }, None).unwrap()
        };
        room.change(None, &http(MOST + 1));
        assert!(room.check().is_err());
        room.change(Some(&http(MOST + 1)), &http(1));
        room.check().unwrap();
    }
}
