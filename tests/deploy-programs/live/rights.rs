//! The agent with what the DaemonSet gives it: the same capabilities and no other, nothing to be gained, and the host's cgroups where
//! they are mounted, for reading.

use std::{collections::BTreeMap, fs, process::Command};

use podmeter_tests::{
    agent::{Agent, binary},
    temp::TempDir,
};
use serde_json::Value;

use crate::{objects::parse, path};

fn container() -> Value {
    let text = fs::read_to_string(path("deploy/kustomize/base/daemonset.yaml")).expect("ours");
    let objects = parse(&text);
    objects[&("DaemonSet".to_owned(), "podmeter".to_owned())]["spec"]["template"]["spec"]["containers"][0]
        .clone()
}

/// The capabilities that it adds, without one.
fn capabilities(without: &str) -> Vec<String> {
    let added =
        container()["securityContext"]["capabilities"]["add"].as_array().expect("capabilities").clone();
    let names = added.iter().map(|name| name.as_str().expect("text").to_lowercase());
    names.filter(|name| *name != without).collect()
}

/// An agent in a mount namespace of its own.
fn agent(without: &str, directory: &TempDir) -> Agent {
    let container = container();
    let variable = |name: &str| {
        let list = container["env"].as_array().expect("variables").iter();
        list.clone().find(|variable| variable["name"] == name).expect(name)["value"]
            .as_str()
            .expect("text")
            .to_owned()
    };
    let mount = container["volumeMounts"][0]["mountPath"].as_str().expect("text").to_owned();
    assert_eq!(variable("PODMETER_CGROUPFS"), mount, "it looks where it is mounted");
    let place = directory.path().join("cgroup");
    fs::create_dir(&place).expect("made");
    let list: String = capabilities(without).iter().map(|name| format!(",+{name}")).collect();
    let script = format!(
        "mount --rbind /sys/fs/cgroup \"$0\" && mount -o remount,bind,ro \"$0\" && \
         exec setpriv --bounding-set=-all{list} --inh-caps=-all{list} --no-new-privs \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).arg(&place).arg(binary());
    Agent::start_by(&mut command, &["--cgroupfs", &place.display().to_string()])
}

/// How many of its probes a signal has attached, of how many.
fn attached(agent: &Agent) -> BTreeMap<String, (f64, f64)> {
    let scrape = agent.scrape();
    let signals = scrape.label_values("podmeter_probe_state", "signal", &[]);
    let of = |labels: &[(&str, &str)]| scrape.sum("podmeter_probe_state", labels);
    let count = |signal: String| {
        let counts = (of(&[("signal", &signal), ("state", "attached")]), of(&[("signal", &signal)]));
        (signal, counts)
    };
    signals.into_iter().map(count).collect()
}

#[test]
fn the_daemonsets_rights_are_enough() {
    let directory = TempDir::new("rights");
    let agent = agent("", &directory);
    // CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF.
    let three = 1 << 12 | 1 << 38 | 1 << 39;
    assert_eq!(agent.capabilities("CapBnd"), three);
    // All that follows it does without.
    assert_eq!((agent.capabilities("CapEff"), agent.capabilities("CapPrm")), (0, 0));
    let scrape = agent.scrape();
    // What this kernel refuses it refuses whomever.
    let root = Agent::start(&[]);
    assert_eq!(scrape.probes(), root.scrape().probes(), "{}", agent.log().join("\n"));
    assert!(scrape.value("container_memory_working_set_bytes", &[("id", "/")]) > Some(0.0));
    assert_eq!(agent.get("/readyz").0, 200);
}

/// What deploy/README.md says of each.
#[test]
fn each_right_is_needed_for_what_is_said_of_it() {
    let of = |right: &str| {
        let directory = TempDir::new("rights");
        attached(&agent(right, &directory))
    };
    let (all, network) = (of(""), of("net_admin"));
    for (signal, (attached, _)) in network {
        let all = all[&signal].0;
        assert!(all > 0.0, "{signal}");
        assert_eq!(attached < all, signal == "http", "without NET_ADMIN: {signal} has {attached} of {all}");
    }
    for right in ["perfmon", "bpf"] {
        let found = of(right);
        println!("without {right}: {found:?}");
        assert!(found.values().all(|(attached, _)| *attached == 0.0), "without {right}: {found:?}");
    }
}
