//! Agents that are found as the endpoints of a Service, and what each may speak for.

use std::{process::Command, time::Duration};

use podmeter_tests::{
    adapter::Adapter,
    cluster::{Cluster, NAMESPACE},
    simulated::Agents,
    temp::TempDir,
    wait,
};
use serde_json::{Value, json};

use super::{
    lab::ACCOUNT,
    made_up::{Made, absent, known, logged, pod},
};

/// Addresses for tests between machines: an EndpointSlice has none of loopback.
const ADDRESSES: [&str; 2] = ["198.18.0.1", "198.18.0.2"];

/// An address of this machine; no more when it is dropped.
struct Address(&'static str);

impl Address {
    fn new(address: &'static str) -> Self {
        Self::change("add", address);
        Self(address)
    }

    /// As when the machine that has it is switched off: who has a connection to it is not told.
    fn change(how: &str, address: &str) {
        let network = format!("{address}/32");
        let status = Command::new("ip").args(["address", how, &network, "dev", "lo"]).status();
        assert!(status.expect("ip").success(), "ip address {how} {network}");
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        Self::change("del", self.0);
    }
}

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";

/// Which address is of which node, as a cluster says it.
fn slice(name: &str, port: u16, endpoints: &[(&str, &str)]) -> Value {
    let endpoint = |(address, node): &(&str, &str)| json!({"addresses": [address], "nodeName": node});
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "agents"}},
        "addressType": "IPv4", "ports": [{"name": "metrics", "port": port}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()})
}

#[test]
fn agents_are_the_endpoints_of_their_service_each_for_its_own_node() {
    let cluster = Cluster::start();
    let files = TempDir::new("discovery");
    files.file("token", cluster.account(ACCOUNT));
    let rules = json!([{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]);
    cluster.grant(ACCOUNT, "agents", &rules);
    let addresses = ADDRESSES.map(Address::new);
    // The second one says that it is of the first one's node, as one that has been broken into may.
    let nodes = [Made::new("node-1", "web", 250), Made::new("node-1", "lie", 900)].map(std::sync::Arc::new);
    let agents = Agents::start(Duration::from_millis(200), move |number| {
        let node = nodes[usize::from(number) - 1].clone();
        move || node.frame()
    });
    let agents = agents.expect("an address");
    let port = agents.port();
    let adapter = Adapter::start(
        &[
            ["--auth", "none"],
            ["--window", "3"],
            ["--max-age", "3"],
            ["--interval", "200"],
            ["--agent-service", &format!("{NAMESPACE}/agents")],
            ["--api-server", &format!("https://127.0.0.1:{}", cluster.port())],
            ["--api-ca", &cluster.authority().display().to_string()],
            ["--api-token-file", &files.path().join("token").display().to_string()],
        ]
        .as_flattened(),
    );
    assert!(pod(&adapter, "web").is_none());

    cluster.create(SLICES, &slice("liar", port, &[(ADDRESSES[1], "node-2")]));
    let refused = ["no news of an agent", "node-1", "its endpoint is of", "node-2"];
    wait::until("a refusal", || (logged(&adapter, &refused) > 0).then_some(()));
    cluster.create(SLICES, &slice("agents", port, &[(ADDRESSES[0], "node-1")]));
    assert!((known(&adapter, "web").0 - 250.0).abs() < 12.5);
    assert!(pod(&adapter, "lie").is_none());

    // Its machine is gone, and nobody says so. It is noticed, and so is that it is there again.
    Address::change("del", ADDRESSES[0]);
    absent(&adapter, "web");
    wait::until("word of it", || {
        (logged(&adapter, &["no news of an agent", "nothing any more"]) > 0).then_some(())
    });
    Address::change("add", ADDRESSES[0]);
    assert!((known(&adapter, "web").0 - 250.0).abs() < 12.5);

    // The pod of the agent is gone: it is no endpoint.
    cluster.delete(&format!("{SLICES}/agents"));
    wait::until("word of it", || (logged(&adapter, &["an agent is gone", ADDRESSES[0]]) > 0).then_some(()));
    absent(&adapter, "web");
    assert_eq!(logged(&adapter, &refused), 1, "{:#?}", adapter.log());
    assert!(pod(&adapter, "lie").is_none());
    drop(addresses);
}
