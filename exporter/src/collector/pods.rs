//! How well the agent knows this node's pods. No signal of the kernel's: what the cluster says.

use crate::{
    kube::{
        pod::{Container, ContainerKind, Resources},
        pods::{Failure, Pods},
    },
    snapshot::{Kind, Labels, Metric, Snapshot},
};

static PODS: Metric =
    Metric::agent("podmeter_kube_pods", Kind::Gauge, &[], "Pods of this node that the cluster has told of.");
static SYNCED: Metric = Metric::agent(
    "podmeter_kube_synced",
    Kind::Gauge,
    &[],
    "Whether every pod of this node was told of once since the agent started.",
);
static STALE: Metric = Metric::agent(
    "podmeter_kube_stale_seconds",
    Kind::Gauge,
    &[],
    "For how long the source of pods has been away; 0 while it is there. Metrics go on under the names known before.",
);
static FAILURES: Metric = Metric::agent(
    "podmeter_kube_failures_total",
    Kind::Counter,
    &["reason"],
    "How often the source of pods did not answer: unauthorized, forbidden, unreachable, expired or other. The log says more.",
);
static UNNAMED: Metric = Metric::agent(
    "podmeter_kube_unnamed_containers",
    Kind::Gauge,
    &[],
    "Containers in pods that have no name as yet. They are shown by their ids after 30 seconds, or named before.",
);

static REQUESTS: Metric = Metric::agent(
    "kube_pod_container_resource_requests",
    Kind::Gauge,
    &RESOURCE_LABELS,
    "What the container requests: cores or bytes. As of kube-state-metrics; only with `--pod-resources`.",
);
static LIMITS: Metric = Metric::agent(
    "kube_pod_container_resource_limits",
    Kind::Gauge,
    &RESOURCE_LABELS,
    "What the container may use at most: cores or bytes. As of kube-state-metrics; only with `--pod-resources`.",
);
const RESOURCE_LABELS: [&str; 7] = ["namespace", "pod", "uid", "container", "node", "resource", "unit"];

/// The metrics of this file.
pub static METRICS: &[&Metric] = &[&PODS, &SYNCED, &STALE, &FAILURES, &UNNAMED, &REQUESTS, &LIMITS];

/// What they have in common.
pub const SUMMARY: &str = "What the cluster says of this node's pods. Only with a source of pods.";

/// Emits them.
pub fn collect(pods: &Pods, unnamed: usize, out: &mut Snapshot) {
    out.family(&PODS).value(&Labels::NONE, &[], pods.len() as f64);
    out.family(&SYNCED).value(&Labels::NONE, &[], f64::from(u8::from(pods.is_synced())));
    let stale = pods.away().map_or(0.0, |since| since.elapsed().as_secs_f64());
    out.family(&STALE).value(&Labels::NONE, &[], stale);
    let family = out.family(&FAILURES);
    for failure in Failure::ALL {
        family.value(&Labels::NONE, &[failure.as_str()], pods.failures(failure) as f64);
    }
    out.family(&UNNAMED).value(&Labels::NONE, &[], unnamed as f64);
}

/// Emits what the pods' containers request and may use; those that end before the others begin, and those that were added to a
/// running pod, have names of their own there.
pub fn resources(pods: &Pods, node: &str, out: &mut Snapshot) {
    type Amounts = fn(&Container) -> &Resources;
    let both: [(&'static Metric, Amounts); 2] =
        [(&REQUESTS, |container| &container.requests), (&LIMITS, |container| &container.limits)];
    for (metric, amounts) in both {
        let family = out.family(metric);
        for (pod, container) in
            pods.all().flat_map(|pod| pod.containers.iter().map(move |inner| (pod, inner)))
        {
            if container.kind != ContainerKind::Regular {
                continue;
            }
            let Resources { cpu, memory } = *amounts(container);
            for (amount, resource, unit) in [(cpu, "cpu", "core"), (memory, "memory", "byte")] {
                if let Some(amount) = amount {
                    let labels = [&pod.namespace, &pod.name, &pod.uid, &container.name, node, resource, unit];
                    family.value(&Labels::NONE, &labels, amount);
                }
            }
        }
    }
}
