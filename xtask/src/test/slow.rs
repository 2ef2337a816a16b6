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

/// Their names; each is ignored for being slow, as others are for other reasons.
const NAMES: [&str; 3] = [
    "adapter::faults::clients_that_ask_nothing_keep_nobody_out",
    "adapter::keda::keda_scales_by_what_the_api_says",
    "adapter::vpa::the_recommender_recommends_what_is_used",
];

/// Builds what is missing, and runs those that are wanted.
pub(super) fn tests(filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let wanted: Vec<_> = NAMES.into_iter().filter(|name| name.contains(filter.unwrap_or_default())).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let mut command = cargo(LIVE)?;
    command.args(["--", "--ignored", "--exact", "--test-threads=1"]).args(wanted);
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
    fn every_slow_test_has_its_name_here() {
        let mut found = Vec::new();
        for file in fs::read_dir(root().unwrap().join("tests/live/adapter")).unwrap().flatten() {
            let (path, module) = (file.path(), file.file_name().to_string_lossy().replace(".rs", ""));
            let text = if path.is_file() { fs::read_to_string(path).unwrap() } else { String::new() };
            let slow = text.split("#[ignore = \"slow").skip(1);
            found.extend(slow.map(|after| {
                let name = after.split_once("\nfn ").unwrap().1.split('(').next().unwrap();
                format!("adapter::{module}::{name}")
            }));
        }
        found.sort();
        assert_eq!(found, NAMES);
    }
}
