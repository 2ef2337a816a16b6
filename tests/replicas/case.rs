//! A case: the pods of a namespace, an autoscaler's metric, and what is to become of the number of replicas.

use podmeter_tests::random::Random;
use serde_json::{Value, json};

use crate::{
    container::{Busy, Container, LAST, ROUTES, TIMES, Traffic},
    formula::{Aim, Considered, Decision, Tolerance, by_mean, by_share, by_value},
    pod::{AGENTS, Measure, Pod, RESTARTED, SILENT, Status, requests},
};

/// What a metric is of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Each pod, in percent of what it requests; or one container of each.
    Utilization(Option<&'static str>),
    /// Each pod; or one container of each.
    Mean(Option<&'static str>),
    /// All pods of a Deployment together, or of the namespace.
    Object { is_namespace: bool, is_shared: bool },
    /// All pods that are selected by a label, or all.
    External { is_selected: bool, is_shared: bool },
}

/// A case.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) namespace: String,
    pub(crate) pods: Vec<Pod>,
    selector: &'static str,
    current: i32,
    tolerance: Tolerance,
    measure: Measure,
    kind: Kind,
    target: i64,
}

/// Who is scaled; the others are not.
const APP: &str = "web";

impl Case {
    /// The case of a number.
    pub(crate) fn generate(random: &mut Random, number: usize) -> Self {
        let namespace = format!("case-{number}");
        let busy = Busy { millis: 50 + random.below(900), requests: 3 + random.below(60) };
        let disorder = [0, 1, 3, 6][random.below(4)];
        let mut pods = Vec::new();
        for at in 0..1 + random.below(8) {
            let containers = containers(random, busy, disorder > 0);
            let pod = Pod::new(random, &namespace, &format!("web-{at}"), APP, containers);
            if random.below(8) < disorder { disorderly(random, pod, &mut pods) } else { pods.push(pod) }
        }
        for at in 0..random.below(3) {
            let containers = containers(random, Busy { millis: 4000, requests: 90 }, false);
            pods.push(Pod::new(random, &namespace, &format!("other-{at}"), "other", containers));
        }
        let is_listed = |pod: &&Pod| pod.labels["app"] == APP && pod.status.is_some();
        if !pods.iter().any(|pod| is_listed(&pod)) {
            let containers = containers(random, busy, false);
            pods.push(Pod::new(random, &namespace, "web-last", APP, containers));
        }
        let (measure, kind) = metric(random);
        // Some are missing yet, or there are too many still.
        let is_changing = random.below(5) == 0;
        let current = if is_changing { 1 + random.below(10) } else { pods.iter().filter(is_listed).count() };
        let mut this = Self {
            namespace,
            pods,
            selector: random.pick(&["app=web", "app in (web, webs)", "app,app!=other", "app=web,!gone"]),
            current: current as i32,
            tolerance: Tolerance { down: 0.1, up: 0.1 },
            measure,
            kind,
            target: 1,
        };
        if random.below(5) == 0 {
            let tolerances = [0.0, 0.05, 0.2, 0.5];
            this.tolerance = Tolerance { down: tolerances[random.below(4)], up: tolerances[random.below(4)] };
        }
        // As much as there is, within a third and three times of it: so that every direction is tried.
        let level = match this.decision() {
            Decision::Replicas { usage, utilization: 0, .. } => usage,
            Decision::Replicas { utilization, .. } => utilization,
            Decision::Nothing(_) => 50,
        };
        let percent = [33, 50, 77, 92, 97, 100, 104, 109, 125, 160, 300][random.below(11)];
        this.target = (level * percent / 100).max(1);
        this
    }

    /// Those that are scaled, as far as the API server has them.
    fn scaled(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|pod| pod.labels["app"] == APP && pod.status.is_some())
    }

    /// What is to be done.
    pub(crate) fn decision(&self) -> Decision {
        match self.kind {
            Kind::Utilization(container) => self.by_mean(Aim::Utilization(self.target), container),
            Kind::Mean(container) => self.by_mean(Aim::Average(self.target), container),
            Kind::Object { is_namespace, is_shared } => self.together(!is_namespace, is_shared),
            Kind::External { is_selected, is_shared } => self.together(is_selected, is_shared),
        }
    }

    /// How many replicas there are.
    pub(crate) fn current(&self) -> i32 {
        self.current
    }

    /// Whether its metric is an external one.
    pub(crate) fn is_external(&self) -> bool {
        matches!(self.kind, Kind::External { .. })
    }

    fn by_mean(&self, aim: Aim, container: Option<&str>) -> Decision {
        // What the API lists is what is told of pods with these labels, whether they are there or not.
        let mut told = self.pods.iter().filter(|pod| pod.labels["app"] == APP);
        if !told.any(|pod| pod.used(self.measure, container).is_some()) {
            return Decision::Nothing(match self.measure {
                Measure::Cpu | Measure::Memory => "no metrics returned from resource metrics API",
                Measure::Requests(_) | Measure::Active => "the server could not find the metric",
            });
        }
        let considered = self.scaled().map(|pod| Considered {
            standing: pod.standing(self.measure),
            used: pod.used(self.measure, container),
            request: pod.request(self.measure, container),
        });
        by_mean(&considered.collect::<Vec<_>>(), self.current, aim, self.tolerance)
    }

    fn together(&self, is_selected: bool, is_shared: bool) -> Decision {
        let pods = self.pods.iter().filter(|pod| !is_selected || pod.labels["app"] == APP);
        let Some(value) = requests(pods, self.measure) else {
            return Decision::Nothing("the server could not find the metric");
        };
        if is_shared {
            return by_share(value, self.target, self.current, self.tolerance);
        }
        let ready = self.scaled().filter(|pod| pod.is_ready()).count();
        by_value(value, self.target, ready, self.current, self.tolerance)
    }

    /// As it is asked.
    pub(crate) fn question(&self) -> Value {
        json!({"scale": {
            "namespace": self.namespace, "selector": self.selector, "replicas": self.current, "metric": self.metric(),
            "tolerance": {"down": self.tolerance.down, "up": self.tolerance.up},
            "pods": self.pods.iter().filter_map(Pod::object).collect::<Vec<_>>(),
        }})
    }

    /// The metric as an autoscaler has it (`autoscaling/v2`).
    fn metric(&self) -> Value {
        let quantity = format!("{}m", self.target);
        let target = |is_shared: bool| match is_shared {
            true => json!({"type": "AverageValue", "averageValue": quantity}),
            false => json!({"type": "Value", "value": quantity}),
        };
        let utilization = || json!({"type": "Utilization", "averageUtilization": self.target});
        match (self.measure, self.kind) {
            (Measure::Cpu | Measure::Memory, Kind::Utilization(container)) => {
                self.resource(container, &utilization())
            }
            (Measure::Cpu | Measure::Memory, Kind::Mean(container)) => {
                self.resource(container, &target(true))
            }
            (_, Kind::Utilization(_) | Kind::Mean(_)) => {
                json!({"type": "Pods", "pods": {"metric": self.series(&json!({})), "target": target(true)}})
            }
            (_, Kind::Object { is_namespace, is_shared }) => {
                let object = match is_namespace {
                    true => json!({"apiVersion": "v1", "kind": "Namespace", "name": self.namespace}),
                    false => json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": APP}),
                };
                let metric = self.series(&json!({}));
                json!({"type": "Object", "object": {"metric": metric, "describedObject": object, "target": target(is_shared)}})
            }
            (_, Kind::External { is_selected, is_shared }) => {
                let metric = self.series(&if is_selected { json!({"app": APP}) } else { json!({}) });
                json!({"type": "External", "external": {"metric": metric, "target": target(is_shared)}})
            }
        }
    }

    fn resource(&self, container: Option<&str>, target: &Value) -> Value {
        let name = if self.measure == Measure::Cpu { "cpu" } else { "memory" };
        match container {
            None => json!({"type": "Resource", "resource": {"name": name, "target": target}}),
            Some(container) => {
                let resource = json!({"name": name, "container": container, "target": target});
                json!({"type": "ContainerResource", "containerResource": resource})
            }
        }
    }

    /// The name of what is measured, and which of its series are meant.
    fn series(&self, labels: &Value) -> Value {
        let mut labels = labels.clone();
        if let Measure::Requests(Some(route)) = self.measure {
            labels["route"] = ROUTES[route].1.into();
        }
        let is_active = self.measure == Measure::Active;
        let name = if is_active { "http_active_requests" } else { "http_requests_per_second" };
        if labels == json!({}) {
            json!({"name": name})
        } else {
            json!({"name": name, "selector": {"matchLabels": labels}})
        }
    }
}

/// What is measured, and how it is taken.
fn metric(random: &mut Random) -> (Measure, Kind) {
    let container = [None, None, Some("app")][random.below(3)];
    let resource = if random.below(3) == 0 { Measure::Memory } else { Measure::Cpu };
    let served = match random.below(6) {
        0 => Measure::Active,
        1 => Measure::Requests(Some(random.below(ROUTES.len()))),
        _ => Measure::Requests(None),
    };
    let (is_one, is_shared) = (random.below(2) == 0, random.below(2) == 0);
    match random.below(8) {
        0..3 => (resource, Kind::Utilization(container)),
        3 => (resource, Kind::Mean(container)),
        4..6 => (served, Kind::Mean(None)),
        6 => (served, Kind::Object { is_namespace: is_one, is_shared }),
        _ => (served, Kind::External { is_selected: is_one, is_shared }),
    }
}

fn containers(random: &mut Random, busy: Busy, has_disorder: bool) -> Vec<Container> {
    let names = ["app", "side", "log"];
    let mut containers: Vec<_> = names[..[1, 1, 2, 3][random.below(4)]]
        .iter()
        .map(|name| Container::new(random, name, busy))
        .collect();
    for own in &mut containers[1..] {
        own.traffic = Traffic::None;
    }
    if has_disorder && random.below(4) == 0 {
        let traffic = [Traffic::None, Traffic::Unreadable, Traffic::Unseen, Traffic::Requests];
        containers.iter_mut().for_each(|own| own.traffic = traffic[random.below(4)]);
    }
    if has_disorder && random.below(24) == 0 {
        containers[0].cores = None;
    }
    containers
}

/// A pod that something is the matter with.
fn disorderly(random: &mut Random, mut pod: Pod, pods: &mut Vec<Pod>) {
    let status = |phase, started, ready| {
        Some(Status { phase, started: Some(started), ready: Some(ready), is_deleted: false })
    };
    match random.below(15) {
        // Its agent says nothing any more.
        0 => pod.told = Some((SILENT + random.below(usize::from(AGENTS - SILENT)) as u16, 0..TIMES.len())),
        // Nobody tells of it, as on a node without an agent.
        1 => pod.told = None,
        // It is ready since so long.
        2 | 3 => pod.status = status("Running", 120, (true, [1, 9, 20, 100][random.below(4)])),
        // It was never ready.
        4 => pod.status = status("Running", 120, (false, 118)),
        5 => pod.status = status("Running", 2000, (false, 1990)),
        // It was.
        6 => pod.status = status("Running", 2000, (false, 200)),
        7 => pod.status = Some(Status { phase: "Running", started: None, ready: None, is_deleted: false }),
        8 => {
            pod.status = Some(Status { phase: "Pending", started: None, ready: None, is_deleted: false });
            pod.containers.iter_mut().for_each(|own| own.is_found = random.below(2) == 0);
        }
        9 => {
            pod.status = status(["Failed", "Succeeded"][random.below(2)], 900, (false, 800));
            pod.told = pod.told.filter(|_| random.below(2) == 0);
        }
        // It is being deleted, or gone from the API server, or from its node as well.
        10 => {
            pod.status = pod.status.map(|status| Status { is_deleted: true, ..status });
            pod.told = pod.told.filter(|_| random.below(2) == 0);
        }
        11 => {
            pod.status = None;
            pod.told = pod.told.map(|(agent, _)| (agent, 0..LAST - 1));
        }
        // Some of its containers were started once more, or are not found.
        12 => pod.containers.iter_mut().for_each(|own| own.restart(random.below(TIMES.len()))),
        13 => pod.containers[0].is_found = false,
        // It has come to another node, where it is new, while the one before still tells of it.
        _ => {
            let mut before = pod.again(random);
            (before.status, before.is_replaced) = (None, true);
            // Not from the agent that starts anew: to that one every pod is new.
            let (one, other) = ([0, 2][random.below(2)], [1, RESTARTED.0][random.below(2)]);
            (before.told, pod.told) = (Some((one, 0..TIMES.len())), Some((other, 3..TIMES.len())));
            pods.push(before);
        }
    }
    pods.push(pod);
}
