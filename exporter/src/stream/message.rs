//! The messages, declared in Rust, so that nothing is generated.

use std::collections::BTreeMap;

use prost::Message;

/// What an adapter asks for.
#[derive(Clone, PartialEq, Message)]
pub struct Watch {
    /// [`super::VERSION`].
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// How often to be told, as the agent allows; 0 leaves it to the agent.
    #[prost(uint32, tag = "2")]
    pub interval_millis: u32,
}

/// What is new since the update before.
#[derive(Clone, PartialEq, Message)]
pub struct Update {
    /// Whether this is everything: the first of a stream is.
    #[prost(bool, tag = "1")]
    pub full: bool,
    /// Which run of the agent this is: another counts from anew.
    #[prost(fixed64, tag = "2")]
    pub instance: u64,
    /// When the counters were read, by the agent's clock, which has no date.
    #[prost(uint64, tag = "3")]
    pub nanos: u64,
    /// The node's name. In the first update.
    #[prost(string, tag = "4")]
    pub node: String,
    /// The whole node's, if it changed.
    #[prost(message, optional, tag = "5")]
    pub host: Option<Usage>,
    /// Pods that are new, or that are described anew.
    #[prost(message, repeated, tag = "6")]
    pub pods: Vec<Pod>,
    /// The numbers of pods that are gone.
    #[prost(uint32, repeated, tag = "7")]
    pub ended: Vec<u32>,
    /// The containers whose counters changed.
    #[prost(message, repeated, tag = "8")]
    pub usages: Vec<Usage>,
}

/// A pod, and who it is.
#[derive(Clone, PartialEq, Message)]
pub struct Pod {
    /// Its number in this stream.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Its uid in the API.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Its namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
    /// Its name.
    #[prost(string, tag = "4")]
    pub name: String,
    /// Its labels.
    #[prost(btree_map = "string, string", tag = "5")]
    pub labels: BTreeMap<String, String>,
    /// What kind of thing made it: a Deployment rather than its ReplicaSet. Empty if nothing did.
    #[prost(string, tag = "6")]
    pub owner_kind: String,
    /// The name of that.
    #[prost(string, tag = "7")]
    pub owner_name: String,
    /// Every container of the pod that runs now and is not ephemeral nor one that only prepares the pod.
    #[prost(message, repeated, tag = "8")]
    pub containers: Vec<Container>,
    /// When it was made, by the API server's clock, in seconds since 1970; agents of before say nothing of it. Of two pods of one
    /// name the later one is the one that there is.
    #[prost(uint64, optional, tag = "9")]
    pub created: Option<u64>,
}

/// A container of a pod.
#[derive(Clone, PartialEq, Message)]
pub struct Container {
    /// The number of this run of it, in this stream; 0 while the agent has not found its cgroup.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Its name in the pod.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The runtime's id of this run of it.
    #[prost(string, tag = "3")]
    pub id: String,
    /// What the scheduler reserves for it: cores.
    #[prost(double, optional, tag = "4")]
    pub requested_cores: Option<f64>,
    /// The same: bytes.
    #[prost(double, optional, tag = "5")]
    pub requested_bytes: Option<f64>,
}

/// What a container, or the node, has used so far. Times are in nanoseconds.
#[derive(Clone, PartialEq, Message)]
pub struct Usage {
    /// The container's number; 0 is the node.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// CPU time.
    #[prost(uint64, optional, tag = "2")]
    pub cpu: Option<u64>,
    /// The working set, bytes: no counter.
    #[prost(uint64, optional, tag = "3")]
    pub memory: Option<u64>,
    /// How long its tasks waited in a run queue.
    #[prost(uint64, optional, tag = "4")]
    pub queued: Option<u64>,
    /// How long some task waited for a CPU.
    #[prost(uint64, optional, tag = "5")]
    pub cpu_pressure: Option<u64>,
    /// How long some task waited for memory.
    #[prost(uint64, optional, tag = "6")]
    pub memory_pressure: Option<u64>,
    /// How long some task waited for I/O.
    #[prost(uint64, optional, tag = "7")]
    pub io_pressure: Option<u64>,
    /// Enforcement periods of its CPU quota, where it has one.
    #[prost(uint64, optional, tag = "8")]
    pub periods: Option<u64>,
    /// In how many of them it was throttled.
    #[prost(uint64, optional, tag = "9")]
    pub throttled_periods: Option<u64>,
    /// The latency of its block requests of all kinds and devices.
    #[prost(message, optional, tag = "10")]
    pub block_io: Option<Histogram>,
    /// The HTTP requests that it served; none where the agent does not look at them.
    #[prost(message, optional, tag = "11")]
    pub http: Option<Http>,
}

/// HTTP requests that a container served.
#[derive(Clone, PartialEq, Message)]
pub struct Http {
    /// By route, in the order of their names.
    #[prost(message, repeated, tag = "1")]
    pub routes: Vec<Route>,
    /// Those that have come and are not answered in this moment: no counter.
    #[prost(uint64, optional, tag = "2")]
    pub active: Option<u64>,
    /// Bytes of its connections that could not be read as HTTP/1: if there are any, no request does not mean no traffic.
    #[prost(uint64, tag = "3")]
    pub unparsed: u64,
}

/// The requests of a route.
#[derive(Clone, PartialEq, Message)]
pub struct Route {
    /// As in the label `http_route`.
    #[prost(string, tag = "1")]
    pub route: String,
    /// Those that were answered.
    #[prost(uint64, tag = "2")]
    pub requests: u64,
    /// Those with a status of 500 or above.
    #[prost(uint64, tag = "3")]
    pub errors: u64,
    /// From the first byte of the request to the last of the response.
    #[prost(message, optional, tag = "4")]
    pub duration: Option<Histogram>,
}

/// Observations by the kernel's buckets, `exporter_ebpf::histogram`: those that have any.
#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    /// The buckets' numbers, ascending.
    #[prost(uint32, repeated, tag = "1")]
    pub buckets: Vec<u32>,
    /// How many observations each has.
    #[prost(uint64, repeated, tag = "2")]
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Of counts for every bucket.
    pub fn new(counts: &[u64]) -> Self {
        let some = (0..).zip(counts).filter(|(_, count)| **count > 0);
        let (buckets, counts) = some.map(|(bucket, count)| (bucket, *count)).unzip();
        Self { buckets, counts }
    }
}
