//! The live tests that CI has no time for: `cargo xtask test --slow`.

use anyhow::Result;

use super::{
    report::Tally,
    steps::{BUILT, LIVE, watched},
};
use crate::{
    command::cargo,
    go::{self, Copies, Module},
};

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

/// What these tests find by a variable, beside what the others do.
pub(super) const PROGRAMS: [(&str, &Module); 2] =
    [("PODMETER_VPA_RECOMMENDER", &VPA_RECOMMENDER), ("PODMETER_KEDA_SCALER", &KEDA_SCALER)];

/// Parts of their names; each is ignored for being slow.
const NAMES: [&str; 3] = ["adapter::faults::", "adapter::keda::", "adapter::vpa::"];

/// Builds what is missing, and runs them.
pub(super) fn tests(filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let mut command = cargo(LIVE)?;
    command.args(["--", "--ignored", "--test-threads=1"]);
    match filter {
        Some(filter) => command.arg(filter),
        None => command.args(NAMES),
    };
    for (variable, module) in BUILT.iter().chain(&PROGRAMS) {
        command.env(variable, module.ensure("by the slow live tests")?);
    }
    command.env("PODMETER_VPA_FILES", go::source(VPA, "by the slow live tests")?.join("deploy"));
    watched(&mut command, &LIVE, tally)
}

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
    fn every_slow_test_has_a_name_here() {
        let files = fs::read_dir(root().unwrap().join("tests/live/adapter")).unwrap().flatten();
        let slow = files.filter(|file| {
            file.path().is_file() && fs::read_to_string(file.path()).unwrap().contains("#[ignore = \"slow")
        });
        let mut found: Vec<_> = slow
            .map(|file| format!("adapter::{}::", file.path().file_stem().unwrap().to_string_lossy()))
            .collect();
        found.sort();
        assert_eq!(found, NAMES);
    }
}
