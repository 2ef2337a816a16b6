//! How many replicas there should be, by the description of the algorithm in Kubernetes' documentation ("Algorithm details" of
//! Horizontal Pod Autoscaling), from what pods really use. Values are in parts of a thousand, as the API counts them.

/// What to do about the number of replicas.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// That many there should be, and this is what the metric is said to be.
    Replicas {
        wanted: i32,
        /// The mean over the pods that count, or the value itself.
        usage: i64,
        /// In percent of what is requested; 0 of a metric that is not relative to that.
        utilization: i64,
    },
    /// Nothing, for a reason of which this is a part.
    Nothing(&'static str),
}

/// What a pod is to the algorithm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Standing {
    Counts,
    /// It starts, or has yet to become ready: set aside.
    NotYetReady,
    /// It is deleted, or has failed.
    Ignored,
}

/// A pod of those that are scaled.
#[derive(Clone, Debug)]
pub(crate) struct Considered {
    pub(crate) standing: Standing,
    /// What it uses; none where the metric is missing.
    pub(crate) used: Option<i64>,
    /// What it requests; none if one of its containers requests none.
    pub(crate) request: Option<i64>,
}

/// What is aimed at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aim {
    /// A percentage of what is requested.
    Utilization(i64),
    /// A mean.
    Average(i64),
}

/// By how much a ratio may be off before anything is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tolerance {
    pub(crate) down: f64,
    pub(crate) up: f64,
}

impl Tolerance {
    fn has(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What a pod uses, and what it requests.
type Load = (i64, i64);

impl Aim {
    fn value(self) -> i64 {
        match self {
            Self::Utilization(value) | Self::Average(value) => value,
        }
    }

    /// What the metric is for these pods, in whole units, as the status of an autoscaler has it.
    fn level(self, loads: &[Load]) -> i64 {
        let used: i64 = loads.iter().map(|(used, _)| used).sum();
        match self {
            Self::Utilization(_) => used * 100 / loads.iter().map(|(_, request)| request).sum::<i64>(),
            Self::Average(_) => used / loads.len() as i64,
        }
    }

    fn ratio(self, loads: &[Load]) -> f64 {
        self.level(loads) as f64 / self.value() as f64
    }

    /// What a pod whose metric is missing is taken to use when there should be fewer: all of its request, or of the target where
    /// that is more.
    fn assumed(self, request: i64) -> i64 {
        match self {
            Self::Utilization(target) => request * target.max(100) / 100,
            Self::Average(target) => target,
        }
    }
}

/// For a metric of each pod.
pub(crate) fn by_mean(pods: &[Considered], current: i32, aim: Aim, tolerance: Tolerance) -> Decision {
    // What a mean is compared with has nothing to do with requests.
    let request = |pod: &Considered| match aim {
        Aim::Utilization(_) => pod.request,
        Aim::Average(_) => Some(1),
    };
    let of = |standing| pods.iter().filter(move |pod| pod.standing == standing);
    let counted = of(Standing::Counts).filter_map(|pod| Some((pod.used?, request(pod).unwrap_or(0))));
    let mut loads: Vec<Load> = counted.collect();
    if loads.is_empty() {
        return Decision::Nothing("pods might be unready");
    }
    if pods.iter().any(|pod| request(pod).is_none()) {
        return Decision::Nothing("missing request for");
    }
    let missing: Vec<_> = of(Standing::Counts).filter(|pod| pod.used.is_none()).filter_map(request).collect();
    let not_yet_ready: Vec<_> = of(Standing::NotYetReady).filter_map(request).collect();
    let used: i64 = loads.iter().map(|(used, _)| used).sum();
    let (usage, utilization) = match aim {
        Aim::Utilization(_) => (used / loads.len() as i64, aim.level(&loads)),
        Aim::Average(_) => (aim.level(&loads), 0),
    };
    let stay = Decision::Replicas { wanted: current, usage, utilization };
    let first = aim.ratio(&loads);
    if missing.is_empty() && (not_yet_ready.is_empty() || first <= 1.0) {
        let wanted = (first * loads.len() as f64).ceil() as i32;
        return if tolerance.has(first) { stay } else { Decision::Replicas { wanted, usage, utilization } };
    }
    // What is not known is taken to be what speaks against a change.
    if first < 1.0 {
        loads.extend(missing.iter().map(|&request| (aim.assumed(request), request)));
    } else if first > 1.0 {
        loads.extend(missing.iter().chain(&not_yet_ready).map(|&request| (0, request)));
    }
    let second = aim.ratio(&loads);
    let wanted = (second * loads.len() as f64).ceil() as i32;
    let turns = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
    let goes_astray = (second < 1.0 && wanted > current) || (second > 1.0 && wanted < current);
    if tolerance.has(second) || turns || goes_astray {
        return stay;
    }
    Decision::Replicas { wanted, usage, utilization }
}

/// For a value of all pods together, of which `ready` are: it should be so much.
pub(crate) fn by_value(
    value: i64,
    target: i64,
    ready: usize,
    current: i32,
    tolerance: Tolerance,
) -> Decision {
    let ratio = value as f64 / target as f64;
    let wanted = if tolerance.has(ratio) { current } else { (ratio * ready as f64).ceil() as i32 };
    Decision::Replicas { wanted, usage: value, utilization: 0 }
}

/// For a value of all pods together, of which each should have so much.
pub(crate) fn by_share(value: i64, target: i64, current: i32, tolerance: Tolerance) -> Decision {
    let ratio = value as f64 / (target as f64 * f64::from(current));
    let wanted = if tolerance.has(ratio) { current } else { (value as f64 / target as f64).ceil() as i32 };
    let usage = (value as f64 / f64::from(current)).ceil() as i64;
    Decision::Replicas { wanted, usage, utilization: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENTH: Tolerance = Tolerance { down: 0.1, up: 0.1 };

    fn pods(of: &[(Standing, Option<i64>)]) -> Vec<Considered> {
        of.iter().map(|&(standing, used)| Considered { standing, used, request: Some(100) }).collect()
    }

    fn wanted(of: &[(Standing, Option<i64>)], aim: Aim) -> i32 {
        match by_mean(&pods(of), of.len() as i32, aim, TENTH) {
            Decision::Replicas { wanted, .. } => wanted,
            Decision::Nothing(why) => panic!("{why}"),
        }
    }

    /// The examples of the documentation, and of the enhancement proposal that it came from.
    #[test]
    fn is_the_documentations() {
        use Standing::{Counts, Ignored, NotYetReady};
        // "If the current metric value is 200m, and the desired value is 100m, the number of replicas will be doubled".
        assert_eq!(wanted(&[(Counts, Some(200)); 2], Aim::Average(100)), 4);
        assert_eq!(wanted(&[(Counts, Some(50)); 2], Aim::Average(100)), 1);
        assert_eq!(wanted(&[(Counts, Some(109)); 2], Aim::Average(100)), 2, "within the tolerance");
        assert_eq!(wanted(&[(Counts, Some(90)), (Ignored, Some(900))], Aim::Utilization(90)), 2);
        // A pod that is not known, or not ready, dampens a scale up, and a pod that is not known a scale down.
        assert_eq!(wanted(&[(Counts, Some(300)), (Counts, Some(300)), (Counts, None)], Aim::Average(100)), 6);
        assert_eq!(wanted(&[(Counts, Some(190)), (NotYetReady, Some(900))], Aim::Utilization(100)), 2);
        assert_eq!(wanted(&[(Counts, Some(10)), (Counts, None)], Aim::Utilization(100)), 2);
        assert_eq!(wanted(&[(Counts, Some(10)), (NotYetReady, None)], Aim::Utilization(100)), 1);
    }
}
