//! The real HorizontalPodAutoscaler controller, on what the adapter says.

use std::time::Instant;

use podmeter_tests::wait;
use serde_json::json;

use super::{
    lab::{Lab, now},
    workload::{DEPLOYMENTS, Kubelet, SCALERS, condition, deployment, scaler},
};

#[test]
fn cpu_scales_from_one_to_five_and_back() {
    let mut lab = Lab::start(&["--window", "5"]);
    lab.node.cluster.start_controllers();
    lab.node.cluster.create(DEPLOYMENTS, &deployment("100m"));
    // What `kubectl autoscale deployment burn --cpu-percent=50 --min=1 --max=5` makes.
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    lab.node.cluster.create(SCALERS, &scaler(&cpu));
    // A shell loop that works for part of the time: several of them must fit on the machine.
    let work = "while true; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.1; done";
    let program = ["/bin/sh", "-c", work];
    let mut kubelet = Kubelet::new(&program);
    let (begin, mut running) = (now(), 0);
    let deadline = Instant::now();
    while running < 5 {
        running = kubelet.tend(&lab);
        assert!(deadline.elapsed().as_secs() < 90, "{}", lab.get(&format!("{SCALERS}/burn")).1);
    }
    println!("from the first process to five pods: {:.1} s", now() - begin);
    assert_eq!(condition(&lab, "ScalingActive").as_deref(), Some("True"));

    // An agent that is silent stops all scaling, and scales nothing to the minimum.
    for (process, ..) in kubelet.pods.values() {
        process.pause();
    }
    podmeter_tests::process::signal(lab.agent.child.id(), "STOP");
    wait::until("an autoscaler that knows nothing", || {
        (condition(&lab, "ScalingActive").as_deref() == Some("False")).then_some(())
    });
    assert_eq!(lab.get(&format!("{DEPLOYMENTS}/burn")).1["spec"]["replicas"], 5);
    podmeter_tests::process::signal(lab.agent.child.id(), "CONT");

    // The load has ended.
    let (end, deadline) = (now(), Instant::now());
    while running > 1 {
        running = kubelet.tend(&lab);
        assert!(deadline.elapsed().as_secs() < 90, "{}", lab.get(&format!("{SCALERS}/burn")).1);
    }
    println!("from the end of the load to one pod: {:.1} s", now() - end);
}

#[test]
fn requests_per_second_hold_their_target() {
    use super::requests::{Load, PEER};
    let mut lab = Lab::start(&["--window", "5"]);
    lab.node.cluster.start_controllers();
    lab.node.cluster.create(DEPLOYMENTS, &deployment("100m"));
    let requests = json!({"type": "Pods", "pods": {
        "metric": {"name": "http_requests_per_second"}, "target": {"type": "AverageValue", "averageValue": "10"}}});
    lab.node.cluster.create(SCALERS, &scaler(&requests));
    let mut kubelet = Kubelet::new(&[PEER, "serve", "127.0.0.1:0"]);
    wait::until("the first pod", || (kubelet.tend(&lab) == 1).then_some(()));
    let (process, ..) = kubelet.pods.values_mut().next().expect("one");
    let address = process.line();
    let port = address.rsplit(':').next().expect("an address").to_owned();
    // About 20 a second at the first pod, and none at the others, which count as none: two pods hold an average of ten.
    let load = Load::start(&port, &["/hello"], std::time::Duration::from_millis(50));
    let (begin, deadline) = (now(), Instant::now());
    let mut running = 1;
    while running < 2 {
        running = kubelet.tend(&lab);
        assert!(deadline.elapsed().as_secs() < 60, "{}", lab.get(&format!("{SCALERS}/burn")).1);
    }
    println!("from the first request to the second pod: {:.1} s", now() - begin);
    let settled = Instant::now();
    while settled.elapsed().as_secs() < 8 {
        running = kubelet.tend(&lab);
    }
    let scaler = lab.get(&format!("{SCALERS}/burn")).1;
    assert!((2..=3).contains(&running), "{running}: {scaler}");
    println!("the autoscaler's own words: {}", scaler["status"]["currentMetrics"]);
    drop(load);
}
