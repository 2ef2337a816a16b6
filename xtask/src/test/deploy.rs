//! What real programs make of deploy/.

use std::env;

use anyhow::{Context as _, Result};

use super::{
    programs::{BUILT, KEDA, PROMETHEUS, VPA},
    report::Tally,
    steps,
};
use crate::{
    command::cargo,
    go::{self, Module},
    image,
};

/// Of the same release as the Prometheus that the tests start.
const PROMTOOL: Module = Module {
    name: "promtool",
    package: "github.com/prometheus/prometheus/cmd/promtool",
    version: PROMETHEUS.version,
    tags: PROMETHEUS.tags,
    list: None,
    copies: None,
    link: "",
};

/// The newest whose module has the web page that it wants to be built with.
const ALERTMANAGER: Module = Module {
    name: "alertmanager",
    package: "github.com/prometheus/alertmanager/cmd/alertmanager",
    version: "v0.31.1",
    tags: "",
    list: None,
    copies: None,
    link: "",
};

const AMTOOL: Module = Module {
    name: "amtool",
    package: "github.com/prometheus/alertmanager/cmd/amtool",
    version: ALERTMANAGER.version,
    tags: "",
    list: None,
    copies: None,
    link: "",
};

const HELM: Module = Module {
    name: "helm",
    package: "helm.sh/helm/v4/cmd/helm",
    version: "v4.3.1",
    tags: "",
    list: None,
    copies: None,
    link: "",
};

const KUSTOMIZE: Module = Module {
    name: "kustomize",
    package: "sigs.k8s.io/kustomize/kustomize/v5",
    version: "v5.8.0",
    tags: "",
    list: None,
    copies: None,
    link: "",
};

/// The programs by the variables that the tests find them by.
const PROGRAMS: [(&str, &Module); 6] = [
    ("PODMETER_PROMETHEUS", &PROMETHEUS),
    ("PODMETER_PROMTOOL", &PROMTOOL),
    ("PODMETER_ALERTMANAGER", &ALERTMANAGER),
    ("PODMETER_AMTOOL", &AMTOOL),
    ("PODMETER_HELM", &HELM),
    ("PODMETER_KUSTOMIZE", &KUSTOMIZE),
];

/// What the operator of Prometheus, KEDA and the Vertical Pod Autoscaler add to Kubernetes: modules, and the files of theirs that
/// define it.
const DEFINITIONS: [(&str, &[&str]); 3] = [
    (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        &[
            "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        ],
    ),
    (
        KEDA,
        &[
            "config/crd/bases/keda.sh_scaledobjects.yaml",
            "config/crd/bases/keda.sh_triggerauthentications.yaml",
        ],
    ),
    (VPA, &["deploy/vpa-v1-crd-gen.yaml"]),
];

const TESTS: [&str; 4] = ["test", "--package=podmeter-tests", "--test=deploy-programs", "--no-fail-fast"];

/// Builds what is missing; the first time takes a quarter of an hour.
pub(super) fn programs() -> Result<()> {
    PROGRAMS.iter().try_for_each(|(_, module)| module.ensure("by the tests of deploy/").map(drop))
}

/// Fetches and builds what the tests with an agent take besides: definitions of others, and the image.
pub(super) fn others() -> Result<()> {
    definitions()?;
    image::ensure().map(drop)
}

/// Runs the tests; those with an agent only where it can be had.
pub(super) fn tests(filter: Option<&str>, live: bool, tally: &mut Tally) -> Result<()> {
    let mut command = cargo(TESTS)?;
    command.arg("--").args(filter).arg("--test-threads=1");
    if live {
        command.env("PODMETER_CRDS", definitions()?).env("PODMETER_IMAGE", image::ensure()?);
        for (variable, module) in BUILT {
            command.env(variable, module.ensure("by the tests of deploy/")?);
        }
    } else {
        println!("THE TESTS WITH AN AGENT ARE SKIPPED: they need root");
        command.arg("--skip=live::");
    }
    for (variable, module) in PROGRAMS {
        command.env(variable, module.ensure("by the tests of deploy/")?);
    }
    steps::watched(&mut command, &TESTS, tally)
}

/// The paths of the definitions, as one list.
fn definitions() -> Result<std::ffi::OsString> {
    let mut paths = Vec::new();
    for (module, files) in DEFINITIONS {
        let folder = go::source(module, "by the tests of deploy/")?;
        paths.extend(files.iter().map(|file| folder.join(file)));
    }
    env::join_paths(paths).context("a path with a colon")
}
