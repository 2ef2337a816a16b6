//! Which agents there are: given by address, or the endpoints of a Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::task::AbortHandle;
use tracing::info;

use super::{
    flags::{self, Adapter},
    follow::{self, Agent, Ways},
    store::Store,
};
use crate::kube::watch::{self, Change, Which};

/// An EndpointSlice, and of it what is needed.
#[derive(Clone, Debug, Deserialize)]
struct Slice {
    metadata: Metadata,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    node_name: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Port {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    port: Option<u16>,
}

/// The port of a Service's that agents serve on; where there is only one it may be called anything.
const PORT: &str = "metrics";

impl Slice {
    fn agents(&self, scheme: &str) -> BTreeSet<Agent> {
        let ports = self.ports.as_deref().unwrap_or_default();
        let named = ports.iter().find(|port| port.name.as_deref() == Some(PORT));
        let Some(port) = named.or(ports.first()).and_then(|port| port.port) else { return BTreeSet::new() };
        // Those that are not ready are asked too: an agent is not ready while it has no probe, and tells what it can.
        let addresses = self.endpoints.iter().flatten().flat_map(|endpoint| {
            endpoint.addresses.iter().map(|address| (address.parse::<IpAddr>(), &endpoint.node_name))
        });
        let agents = addresses.filter_map(|(address, node)| {
            let url = format!("{scheme}://{}", SocketAddr::new(address.ok()?, port));
            Some(Agent { url, node: node.clone() })
        });
        agents.collect()
    }
}

/// The agents that are followed.
struct Followed {
    store: Arc<Store>,
    ways: Arc<Ways>,
    tasks: BTreeMap<Agent, AbortHandle>,
}

impl Followed {
    /// These are all.
    fn set(&mut self, agents: &BTreeSet<Agent>) {
        self.tasks.retain(|agent, task| {
            let is_kept = agents.contains(agent);
            if !is_kept {
                info!(agent = agent.url, "an agent is gone");
                task.abort();
            }
            is_kept
        });
        for agent in agents {
            if !self.tasks.contains_key(agent) {
                let task = tokio::spawn(follow::follow(agent.clone(), self.ways.clone(), self.store.clone()));
                self.tasks.insert(agent.clone(), task.abort_handle());
            }
        }
    }
}

/// Follows every agent for as long as the program runs.
///
/// # Errors
/// When the flags do not say where they are.
pub async fn run(config: Adapter, store: Arc<Store>) -> anyhow::Result<()> {
    let flags::Agents { urls, agent_service, agent_ca, .. } = &config.agents;
    let ways = Arc::new(Ways::new(&config)?);
    let mut followed = Followed { store, ways, tasks: BTreeMap::new() };
    if !urls.is_empty() {
        // Nobody says of which node they are.
        followed.set(&urls.iter().map(|url| Agent { url: url.clone(), node: None }).collect());
        return std::future::pending().await;
    }
    let (namespace, name) = agent_service
        .split_once('/')
        .with_context(|| format!("--agent-service {agent_service} has no namespace"))?;
    let which = Which {
        path: format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
        labels: Some(format!("kubernetes.io/service-name={name}")),
        fields: None,
        name: "the agents' endpoints",
    };
    let scheme = if agent_ca.is_some() { "https" } else { "http" };
    let mut slices = BTreeMap::new();
    let apply = |change: Change<Slice>| {
        match change {
            Change::All(all) => {
                slices = all.into_iter().map(|slice| (slice.metadata.name.clone(), slice)).collect();
            }
            Change::Set(slice) => _ = slices.insert(slice.metadata.name.clone(), slice),
            Change::Gone(slice) => _ = slices.remove(&slice.metadata.name),
        }
        followed.set(&slices.values().flat_map(|slice| slice.agents(scheme)).collect());
    };
    watch::follow(&config.api, &which, apply).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_of_agents() {
        let slice: Slice = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "s"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.7"], "nodeName": "node-1", "conditions": {"ready": false}}, {"addresses": ["fd00::1", "not an address"]}],
            "ports": [{"name": "other", "port": 1}, {"name": "metrics", "port": 9690}],
        }))
        .unwrap();
        let agent =
            |url: &str, node: Option<&str>| Agent { url: url.to_owned(), node: node.map(str::to_owned) };
        let agents: Vec<_> = slice.agents("https").into_iter().collect();
        let wanted = [agent("https://10.0.0.7:9690", Some("node-1")), agent("https://[fd00::1]:9690", None)];
        assert_eq!(agents, wanted);
        let empty: Slice =
            serde_json::from_str(r#"{"metadata": {"name": "s"}, "endpoints": null, "ports": null}"#).unwrap();
        assert!(empty.agents("http").is_empty());
    }
}
