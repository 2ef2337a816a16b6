//! Containers that containerd starts below systemd, as a kubelet has it start them, with each of the two drivers of cgroups. In a
//! guest of the leg `systemd`, which has all of that to itself, and nowhere else.

mod cri;
mod message;
mod node;
mod pod;

use std::collections::BTreeSet;

use podmeter_tests::{
    machine::{assert_cpu_time, stolen},
    scrape::Scrape,
    wait,
};

use self::{
    node::Node,
    pod::{Container, Pod, Pods, SLEEP},
};
use crate::http::lab::{CLIENT, SERVER};

const MEMORY: &str = "container_memory_usage_bytes";
const USAGE: &str = "container_cpu_usage_seconds_total";

/// The tests of a driver: they share a runtime and an agent.
macro_rules! tests {
    ($driver:ident, $value:expr) => {
        mod $driver {
            use super::{self as of, node};

            #[test]
            fn containers_have_their_names() {
                node::with($value, |node| of::containers_have_their_names(node));
            }

            #[test]
            fn cpu_time_is_the_kernels_account() {
                node::with($value, |node| of::cpu_time_is_the_kernels_account(node));
            }

            #[test]
            fn requests_between_pods_count_at_both_ends() {
                node::with($value, |node| of::requests_between_pods_count_at_both_ends(node));
            }

            /// The last by its name: it ends the pods that the others share.
            #[test]
            fn the_name_outlives_a_restart_and_ends_with_the_pod() {
                node::with($value, of::the_name_outlives_a_restart_and_ends_with_the_pod);
            }
        }
    };
}

tests!(cgroupfs, node::Driver::Cgroupfs);
tests!(systemd, node::Driver::Systemd);

/// The label sets of the series of this name that are a pod's, each as text.
fn of_pod<'a>(scrape: &'a Scrape, name: &str, pod: &Pod) -> BTreeSet<&'a str> {
    let wanted = format!("pod=\"{}\"", pod.name());
    let labels = scrape.0.lines().filter_map(|line| {
        let labels = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?.0;
        labels.split(',').any(|label| label == wanted).then_some(labels)
    });
    labels.collect()
}

/// Waits until a pod's series are those of its own and of these containers, with all of their labels, and no others.
fn named(node: &Node, pod: &Pod, containers: &[&Container]) -> Scrape {
    let own = std::iter::once(pod.labels());
    let wanted: Vec<_> = own.chain(containers.iter().map(|container| container.labels())).collect();
    let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    let last = wait::perhaps(|| {
        let scrape = node.agent.scrape();
        (of_pod(&scrape, MEMORY, pod) == wanted).then_some(scrape)
    });
    last.unwrap_or_else(|| panic!("{wanted:#?}, not {:#?}", of_pod(&node.agent.scrape(), MEMORY, pod)))
}

fn containers_have_their_names(node: &Node) {
    for container in [&node.pods().server, &node.pods().client] {
        let members = container.cgroup().read("v2", "cgroup.procs");
        assert_eq!(members.lines().count(), 1, "{} is where its process is", container.path());
        // The pause container has no series.
        let scrape = named(node, container.pod(), &[container]);
        let usage = [container.labels(), container.pod().labels()].map(|labels| labels + ",cpu=\"total\"");
        assert_eq!(of_pod(&scrape, USAGE, container.pod()), usage.iter().map(String::as_str).collect());
    }
    // One pod may have its names before the other.
    wait::until("no container without a name", || {
        (node.agent.scrape().value("podmeter_kube_unnamed_containers", &[]) == Some(0.0)).then_some(())
    });
}

fn cpu_time_is_the_kernels_account(node: &Node) {
    let app = &node.pods().client;
    named(node, app.pod(), &[app]);
    let cgroup = app.cgroup();
    let account = || cgroup.stat("v2", "cpu.stat", "usage_usec") as f64 / 1e6;
    let labels = [("pod", app.pod().name()), ("container", app.name()), ("cpu", "total")];
    // A scrape during which the account did not change, and both.
    let quiet = || {
        wait::until("a quiet container", || {
            let (before, scrape, after) = (account(), node.agent.scrape(), account());
            let unseen = scrape.value("podmeter_lost_total", &[("reason", "switch_unseen")]);
            let own = scrape.value(USAGE, &labels).expect("its usage");
            (before == after).then_some((own, after, unseen.expect("the counter")))
        })
    };
    wait::until("a round in which nothing was charged by the clock", || {
        let (before, stolen_before) = (quiet(), stolen());
        app.count_to(100_000);
        let after = quiet();
        let (own, kernel) = (after.0 - before.0, after.1 - before.1);
        assert!(kernel > 0.0, "it ran");
        let is_same = (own - kernel).abs() <= kernel * 0.001;
        if !is_same {
            assert!(after.2 > before.2, "{own} s, and the kernel says {kernel} s");
            assert_cpu_time(own, kernel, kernel, stolen() - stolen_before);
        }
        is_same.then_some(())
    });
}

fn requests_between_pods_count_at_both_ends(node: &Node) {
    const KEPT: usize = 40;
    const SINGLE: usize = 5;
    let (server, client) = (&node.pods().server, &node.pods().client);
    wait::until("a server that listens", || server.log().contains("0.0.0.0:8080").then_some(()));
    named(node, server.pod(), &[server]);
    named(node, client.pod(), &[client]);

    // The end of a wire of its own; requests on a connection that is kept, and on one each; and what the server has counted.
    let address = format!("{}:8080", server.pod().address());
    let get = format!("/bin/busybox wget -q -O - http://{address}");
    let said = client.run(&format!(
        "set -e; /bin/busybox ip -o link show eth0 | /bin/busybox head -n 1
         echo 'open {address}\ntime {KEPT} /kept\nclose' | /bin/http-peer talk
         for i in $(/bin/busybox seq {SINGLE}); do {get}/single; done
         echo; {get}/count"
    ));
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].contains("eth0@if"), "{said}");
    assert_eq!(lines[2].split(' ').count(), KEPT, "{said}");
    assert_eq!(lines.last(), Some(&&*(KEPT + SINGLE).to_string()), "{said}");

    let count = |scrape: &Scrape, side: &str, of: &Container, labels: &[(&str, &str)]| {
        let labels = [&[("pod", of.pod().name()), ("container", of.name())], labels].concat();
        scrape.sum(&format!("{side}_count"), &labels) as usize
    };
    let ends = [(SERVER, server), (CLIENT, client)];
    // With the question for the server's count.
    let wanted = KEPT + SINGLE + 1;
    let scrape = wait::perhaps(|| {
        let scrape = node.agent.scrape();
        ends.iter().all(|(side, of)| count(&scrape, side, of, &[]) >= wanted).then_some(scrape)
    });
    let scrape = scrape.unwrap_or_else(|| node.agent.scrape());
    for (side, of) in ends {
        for (route, wanted) in [("/kept", KEPT), ("/single", SINGLE), ("/count", 1)] {
            let labels = [("http_route", route), ("http_response_status_code", "200")];
            assert_eq!(count(&scrape, side, of, &labels), wanted, "{side} {route}");
        }
        assert_eq!(count(&scrape, side, of, &[]), wanted, "{side} in all");
    }
    assert_eq!(count(&scrape, CLIENT, server, &[]) + count(&scrape, SERVER, client, &[]), 0);
    let sums = ends.map(|(side, of)| scrape.sum(&format!("{side}_sum"), &[("pod", of.pod().name())]));
    assert!(sums[0] > 0.0 && sums[0] <= sums[1], "the client waits for the server: {sums:?}");
}

fn the_name_outlives_a_restart_and_ends_with_the_pod(node: &mut Node) {
    let Pods { server, client: first } = node.pods.take().expect("nobody else takes them");
    let pod = first.pod().clone();
    named(node, &pod, &[&first]);
    first.kill();
    named(node, &pod, &[]);
    // The runtime has the one that died for as long as the kubelet leaves it there.
    let second = pod.start("client", 1, SLEEP);
    assert_ne!(first.path(), second.path());
    let scrape = named(node, &pod, &[&second]);
    // Panics when there is more than one.
    let value = scrape.value(MEMORY, &[("pod", pod.name()), ("container", "client")]);
    assert!(value.is_some_and(|bytes| bytes > 0.0));
    second.kill();
    named(node, &pod, &[]);
    let names = [&pod, server.pod()].map(|pod| pod.name().to_owned());
    drop((first, second, pod, server));
    node.agent.scrape_until("the end of the pods", |scrape| {
        names.iter().all(|name| scrape.matching(MEMORY, &[("pod", name)]).next().is_none())
    });
}
