//! What is built for the live tests: other people's programs, and where their sources are.

use anyhow::Result;

use super::{deploy, replicas};
use crate::go::{Copies, Module};

/// Debian's is too old for native histograms as they are now. Without the tags it wants modules that are not to be had.
pub(super) const PROMETHEUS: Module = Module {
    name: "prometheus",
    package: "github.com/prometheus/prometheus/cmd/prometheus",
    version: "v0.316.0",
    tags: "remove_all_sd,enable_kubernetes_sd",
    list: None,
    copies: None,
    link: "",
};

/// The API server that names come from.
const API_SERVER: Module = kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver");

/// Runs pods on this machine.
const KUBELET: Module = kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet");

/// Makes pods of DaemonSets and Deployments.
const CONTROLLERS: Module =
    kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager");

/// Finds nodes for them.
const SCHEDULER: Module = kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler");

/// Shows what pods and nodes use.
const KUBECTL: Module = kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl");

/// The last, as it is being given up.
const PROMETHEUS_ADAPTER: Module = Module {
    name: "prometheus-adapter",
    package: "sigs.k8s.io/prometheus-adapter/cmd/adapter",
    version: "v0.12.0",
    tags: "",
    // Its path in the proxy cannot be asked for what versions there are, as `go install` would.
    list: Some("tests/kubernetes/prometheus-adapter"),
    copies: None,
    link: "-s -w",
};

/// A program of Kubernetes. The tags are those of its makers; without the flags it is of no version.
pub(super) const fn kubernetes(name: &'static str, package: &'static str) -> Module {
    Module {
        name,
        package,
        version: "v1.37.2",
        tags: "selinux,notest,grpcnotrace",
        list: Some("tests/kubernetes"),
        copies: None,
        link: "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 \
           -X k8s.io/component-base/version.gitMinor=37 -X k8s.io/client-go/pkg/version.gitVersion=v1.37.2",
    }
}

/// Where the API server keeps what it knows.
const ETCD: Module = Module {
    name: "etcd",
    package: "go.etcd.io/etcd/server/v3",
    version: "v3.7.3",
    tags: "",
    list: Some("tests/kubernetes/etcd"),
    copies: None,
    link: "-s -w",
};

/// What the live tests find by a variable.
pub(crate) const BUILT: [(&str, &Module); 8] = [
    ("PODMETER_PROMETHEUS", &PROMETHEUS),
    ("PODMETER_PROMETHEUS_ADAPTER", &PROMETHEUS_ADAPTER),
    ("PODMETER_ETCD", &ETCD),
    ("PODMETER_KUBE_APISERVER", &API_SERVER),
    ("PODMETER_KUBELET", &KUBELET),
    ("PODMETER_KUBE_CONTROLLER_MANAGER", &CONTROLLERS),
    ("PODMETER_KUBE_SCHEDULER", &SCHEDULER),
    ("PODMETER_KUBECTL", &KUBECTL),
];

/// Recommends how much CPU and memory containers are to request.
const VPA_RECOMMENDER: Module = Module {
    name: "vpa-recommender",
    package: "k8s.io/autoscaler/vertical-pod-autoscaler/pkg/recommender",
    version: "v1.8.1",
    tags: "",
    // Its go.mod excludes versions, which `go install` refuses.
    list: Some("tests/kubernetes/vpa"),
    copies: None,
    link: "-s -w",
};

/// Where its module is: beside the program there are the definitions and the rights that it wants of a cluster.
pub(super) const VPA: &str = "k8s.io/autoscaler/vertical-pod-autoscaler@v1.8.1";

/// KEDA.
pub(super) const KEDA: &str = "github.com/kedacore/keda/v2@v2.21.0";

/// KEDA's client of external scalers. Its package has those of 70 services beside it, with all of their makers' libraries.
const KEDA_SCALER: Module = Module {
    name: "keda-scaler",
    package: "./scaler",
    version: "v2.21.0",
    tags: "",
    list: Some("tests/kubernetes/keda"),
    copies: Some(Copies {
        module: KEDA,
        package: "pkg/scalers",
        files: &["scaler.go", "external_scaler.go"],
        folder: "scalers",
    }),
    link: "-s -w",
};

/// And what the last of them do besides, which is as long to build and for a test each.
pub(super) const LAST: [(&str, &Module); 2] =
    [("PODMETER_VPA_RECOMMENDER", &VPA_RECOMMENDER), ("PODMETER_KEDA_SCALER", &KEDA_SCALER)];

/// Builds all that tests take and that takes long, those first that others wait for.
pub(crate) fn ensure() -> Result<()> {
    let all = BUILT.iter().chain(&LAST);
    all.into_iter().try_for_each(|(_, module)| module.ensure("by the live tests").map(drop))?;
    replicas::program()?;
    deploy::programs()?;
    deploy::others()
}

/// A folder of a module that a test finds by a variable: the variable, the module, the folder.
pub(super) type Files = (&'static str, &'static str, &'static str);

/// What the recommender wants of a cluster.
pub(super) const VPA_FILES: Files = ("PODMETER_VPA_FILES", VPA, "deploy");

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::command::root;

    #[test]
    fn the_definitions_are_of_the_version_that_runs() {
        assert_eq!(VPA.rsplit_once('@').unwrap().1, VPA_RECOMMENDER.version);
    }

    #[test]
    fn the_lists_of_modules_have_the_versions_that_are_built() {
        BUILT.iter().chain(&LAST).for_each(|(_, module)| is_listed(module));
    }

    fn is_listed(module: &Module) {
        let Some(list) = module.list else { return };
        let list = fs::read_to_string(root().unwrap().join(list).join("go.mod")).unwrap();
        let named = list.lines().filter_map(|line| line.trim().split_once(' '));
        let package = module.copies.as_ref().map_or(module.package, |copies| copies.module);
        let mut named = named.filter(|(name, _)| package.starts_with(name));
        assert!(
            named.any(|(_, version)| version.split(' ').next() == Some(module.version)),
            "{}",
            module.name
        );
    }
}
