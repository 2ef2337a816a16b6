//! Objects that have pods: which those are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axum::http::Request;
use kube::Error;
use serde_json::Value;
use tracing::warn;

use super::{pod::About, refusal::Refusal};
use crate::{
    config::Api,
    kube::{client::Kept, remembered::Remembered},
};

/// How long an object is as it was, and how many are kept.
const HOLDS: Duration = Duration::from_secs(15);
const KEPT: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(5);

/// The objects whose pods are known by who made them: the resource, its group and version, its kind.
const OWNERS: [(&str, &str, &str, &str); 5] = [
    ("deployments", "apps", "apps/v1", "Deployment"),
    ("statefulsets", "apps", "apps/v1", "StatefulSet"),
    ("daemonsets", "apps", "apps/v1", "DaemonSet"),
    ("replicasets", "apps", "apps/v1", "ReplicaSet"),
    ("jobs", "batch", "batch/v1", "Job"),
];

/// An object, and its pods.
pub struct Object {
    /// The version of its API.
    pub version: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Which pods are its own.
    pub pods: Pods,
}

/// Which pods are an object's.
pub enum Pods {
    /// Those of its namespace.
    All,
    /// Those that it made.
    Made(&'static str, String),
    /// Those with all the labels of one of these.
    Labelled(Vec<BTreeMap<String, String>>),
}

impl Pods {
    /// Whether a pod of the namespace is one of them.
    pub fn has(&self, about: &About) -> bool {
        match self {
            Self::All => true,
            Self::Made(kind, name) => about.owner.0 == *kind && about.owner.1 == *name,
            Self::Labelled(sets) => {
                let has = |(key, value): (&String, &String)| about.labels.get(key) == Some(&**value);
                sets.iter().any(|labels| labels.iter().all(has))
            }
        }
    }
}

/// What the API server says of objects, for a while.
pub struct Objects {
    client: Kept,
    known: Remembered<String, Option<Value>>,
}

impl Objects {
    /// Knows none yet.
    pub fn new(api: Api) -> Self {
        Self { client: Kept::new(api, PATIENCE), known: Remembered::new(KEPT) }
    }

    /// The object of a resource and a name, as a path of the custom metrics has it.
    ///
    /// # Errors
    /// When there is none, or none with pods.
    pub async fn find(&self, namespace: &str, resource: &str, name: &str) -> Result<Object, Refusal> {
        let (plural, group) =
            resource.split_once('.').map_or((resource, None), |(plural, group)| (plural, Some(group)));
        let is_of = |own: &str| group.is_none_or(|group| group == own);
        if let Some((.., version, kind)) =
            OWNERS.iter().find(|(own, group, ..)| *own == plural && is_of(group))
        {
            return Ok(Object { version, kind, pods: Pods::Made(kind, name.to_owned()) });
        }
        match plural {
            "namespaces" if is_of("") => Ok(Object { version: "/v1", kind: "Namespace", pods: Pods::All }),
            "services" if is_of("") => {
                let labels = self.service(namespace, name).await?;
                let labels = labels.ok_or_else(|| Refusal::no_object("", "services", name))?;
                Ok(Object { version: "/v1", kind: "Service", pods: Pods::Labelled(vec![labels]) })
            }
            "ingresses" if is_of("networking.k8s.io") => {
                let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{name}");
                let ingress = self.get(path).await?;
                let ingress =
                    ingress.ok_or_else(|| Refusal::no_object("networking.k8s.io", "ingresses", name))?;
                let mut sets = Vec::new();
                for service in backends(&ingress) {
                    sets.extend(self.service(namespace, &service).await?);
                }
                Ok(Object { version: "networking.k8s.io/v1", kind: "Ingress", pods: Pods::Labelled(sets) })
            }
            _ => Err(Refusal::no_path()),
        }
    }

    /// The labels that a Service's pods have; none if there is no such Service, or if it has no pods of its own.
    async fn service(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<BTreeMap<String, String>>, Refusal> {
        let service = self.get(format!("/api/v1/namespaces/{namespace}/services/{name}")).await?;
        let Some(service) = service else { return Ok(None) };
        let pairs = service["spec"]["selector"].as_object().into_iter().flatten();
        let labels: BTreeMap<_, _> =
            pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        Ok(Some(labels).filter(|labels| !labels.is_empty()))
    }

    async fn get(&self, path: String) -> Result<Option<Value>, Refusal> {
        if let Some(object) = self.known.get(&path, |_| HOLDS) {
            return Ok(object);
        }
        let request = Request::get(&path).body(Vec::new()).map_err(|_| Refusal::no_path())?;
        let object = match self.client.request(request).await {
            Ok(object) => Some(object),
            Err(error) if matches!(error.downcast_ref(), Some(Error::Api(status)) if status.code == 404) => {
                None
            }
            Err(error) => {
                warn!(path, "cannot ask for an object: {error:#}");
                // As it was, while nobody can say that it has changed.
                let before = self.known.get(&path, |_| Duration::MAX);
                return before
                    .ok_or_else(|| Refusal::internal("the API server does not tell of this object"));
            }
        };
        self.known.keep(path, object.clone(), |_| HOLDS);
        Ok(object)
    }
}

/// The Services that an Ingress leads to.
fn backends(ingress: &Value) -> BTreeSet<String> {
    let spec = &ingress["spec"];
    let rules = spec["rules"].as_array().into_iter().flatten();
    let paths = rules.flat_map(|rule| rule["http"]["paths"].as_array().into_iter().flatten());
    let backends = paths.map(|path| &path["backend"]).chain([&spec["defaultBackend"]]);
    backends.filter_map(|backend| backend["service"]["name"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_ingress_leads_to_services() {
        let backend = |name: &str| json!({"service": {"name": name, "port": {"number": 80}}});
        let ingress = json!({"spec": {
            "defaultBackend": backend("rest"),
            "rules": [{"http": {"paths": [{"path": "/", "backend": backend("a")}, {"path": "/b", "backend": backend("b")}]}}, {"host": "x"}],
        }});
        assert_eq!(backends(&ingress).into_iter().collect::<Vec<_>>(), ["a", "b", "rest"]);
        assert!(backends(&json!({})).is_empty());
    }
}
