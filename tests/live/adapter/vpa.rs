//! The real recommender of the Vertical Pod Autoscaler, on what the adapter says.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use podmeter_tests::{
    cluster::{Cluster, NAMESPACE, program},
    machine::free_port,
    process::signal,
    temp::TempDir,
    wait,
};
use serde_json::{Value, json};

use super::{
    lab::{Lab, Recording, allow, length, objects, quantity},
    workload::{DEPLOYMENTS, Kubelet, deployment},
};

const AUTOSCALERS: &str = "/apis/autoscaling.k8s.io/v1/namespaces/shop/verticalpodautoscalers";
const CHECKPOINTS: &str = "/apis/autoscaling.k8s.io/v1/namespaces/shop/verticalpodautoscalercheckpoints";
const USED: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods";
const ACCOUNT: &str = "vpa-recommender";

/// Holds 64 MiB, and works for about a third of the time.
const WORK: &str =
    "vec($x, (64 << 20) - 1, 8) = 1; while (1) { for (1 .. 200000) {} select(undef, undef, undef, 0.02) }";

/// The recommender adds so much to what it has seen.
const MARGIN: f64 = 1.15;
/// It counts in buckets, each wider than the one before by so much, and says where the bucket ends. The first are 0.01 of a CPU and
/// 10 MB wide.
const GROWTH: f64 = 1.05;
const FIRST: [f64; 2] = [0.01, 1e7];
/// What it has seen before it is asked; they are of different seconds.
const SAMPLES: u64 = 8;
/// What it says if it cannot learn what pods use.
const KNOWS_NOTHING: &str = "Cannot get ContainerMetricsSnapshot";
/// What it says of a sample of the same second as the one before: it asks as often as it is told.
const KNOWN: &str = "sample discarded (invalid or out of order)";

/// A file that the autoscaler's makers ship, for the tests' namespace.
fn published(file: &str) -> Vec<Value> {
    let folder = std::env::var_os("PODMETER_VPA_FILES")
        .expect("`cargo xtask test` fetches the autoscaler's module and sets PODMETER_VPA_FILES to its folder `deploy`");
    let path = Path::new(&folder).join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    objects(&text.replace("namespace: kube-system\n", &format!("namespace: {NAMESPACE}\n")))
}

/// The program; ended by SIGKILL when dropped.
struct Recommender {
    child: Child,
    files: TempDir,
}

impl Recommender {
    /// Starts it with the rights that its makers give it, and no other.
    fn start(cluster: &Cluster) -> Self {
        let token = cluster.account(ACCOUNT);
        let mut rights = published("vpa-rbac.yaml");
        rights.retain(|object| object["kind"] != "ServiceAccount");
        allow(cluster, &rights);
        let files = TempDir::new("vpa");
        let mut command = Command::new(program("PODMETER_VPA_RECOMMENDER"));
        for (flag, value) in [
            ("kubeconfig", cluster.kubeconfig_of(ACCOUNT, &token)),
            ("address", format!("127.0.0.1:{}", free_port())),
            // It asks once a minute by default.
            ("recommender-interval", "1s".to_owned()),
            // Else no container gets less than this pod has.
            ("pod-recommendation-min-cpu-millicores", "1".to_owned()),
            ("pod-recommendation-min-memory-mb", "1".to_owned()),
            // It is as sure after seconds as it is after days.
            ("confidence-interval-cpu", "1s".to_owned()),
            ("confidence-interval-memory", "1s".to_owned()),
        ] {
            command.arg(format!("--{flag}={value}"));
        }
        let log = fs::File::create(files.path().join("log")).expect("a log");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("the recommender");
        Self { child, files }
    }

    /// The lines of its log of what it does not like: errors, warnings, and samples that it does not take.
    fn complaints(&self) -> Vec<String> {
        let text = fs::read_to_string(self.files.path().join("log")).expect("a log");
        let lines = text.lines().filter(|line| {
            line.starts_with(['W', 'E', 'F']) || ["Error ", "Failed "].iter().any(|word| line.contains(word))
        });
        lines.map(str::to_owned).collect()
    }

    /// How often it could not learn what pods use.
    fn ignorance(&self) -> usize {
        self.complaints().iter().filter(|line| line.contains(KNOWS_NOTHING)).count()
    }
}

impl Drop for Recommender {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the recommender's complaints:\n{}", self.complaints().join("\n"));
        }
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What it recommends for the container: the least, the target and the most, of CPUs and of bytes; none as yet.
fn recommended(autoscaler: &Value) -> Option<[[f64; 3]; 2]> {
    let containers = autoscaler["status"]["recommendation"]["containerRecommendations"].as_array()?;
    assert_eq!((containers.len(), &containers[0]["containerName"]), (1, &json!("app")), "{autoscaler}");
    Some(["cpu", "memory"].map(|resource| {
        ["lowerBound", "target", "upperBound"].map(|bound| quantity(&containers[0][bound][resource]))
    }))
}

/// Whether it says so of what it recommends.
fn is_provided(autoscaler: &Value) -> bool {
    let conditions = autoscaler["status"]["conditions"].as_array().expect("conditions");
    conditions.iter().any(|one| one["type"] == "RecommendationProvided" && one["status"] == "True")
}

/// How many samples it has taken, and the buckets that those of CPU are in.
fn taken(lab: &Lab) -> Option<(u64, Value)> {
    let checkpoint = lab.get(&format!("{CHECKPOINTS}/burn-app")).1;
    let status = &checkpoint["status"];
    Some((status["totalSamplesCount"].as_u64()?, status["cpuHistogram"]["bucketWeights"].clone()))
}

/// Makes the shipped example for the Deployment that there is.
fn watch(cluster: &Cluster) {
    for definition in published("vpa-v1-crd-gen.yaml") {
        cluster.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition);
    }
    let path = format!("{}/../deploy/autoscaling/adapter/vpa.yaml", env!("CARGO_MANIFEST_DIR"));
    let example = fs::read_to_string(path).expect("it is shipped").replace("checkout", "burn");
    let example = objects(&example).remove(0);
    assert_eq!(example["spec"]["updatePolicy"]["updateMode"], "Off");
    for path in [AUTOSCALERS, CHECKPOINTS] {
        wait::until(path, || (cluster.get(path).0 == 200).then_some(()));
    }
    cluster.create(AUTOSCALERS, &example);
}

#[test]
fn the_recommender_recommends_what_is_used() {
    let mut lab = Lab::start(&["--window", "5", "--max-age", "2"]);
    lab.node.cluster.start_controllers();
    lab.node.cluster.create(DEPLOYMENTS, &deployment("100m"));
    watch(&lab.node.cluster);
    let program = ["perl", "-e", WORK];
    let mut kubelet = Kubelet::new(&program);
    wait::until("the pod", || (kubelet.tend(&lab) == 1).then_some(()));
    let (name, (_, cgroup, _)) = kubelet.pods.first_key_value().expect("one");
    let recording = Recording::of_cpu(cgroup);
    wait::until("a whole window", || {
        let (code, pod) = lab.get(&format!("{USED}/{name}"));
        (code == 200 && length(&pod["window"]) >= 5.0).then_some(())
    });
    let recommender = Recommender::start(&lab.node.cluster);
    let autoscaler = || lab.get(&format!("{AUTOSCALERS}/burn")).1;
    let samples = |more: u64| {
        wait::until("samples", || taken(&lab).filter(|(count, _)| *count >= more));
        (autoscaler(), taken(&lab).expect("there were some"))
    };
    let (first, _) = samples(SAMPLES);
    assert!(is_provided(&first), "{first}");
    let (known, complaints): (Vec<_>, Vec<_>) =
        recommender.complaints().into_iter().partition(|line| line.contains(KNOWN));
    assert_eq!(complaints, Vec::<String>::new());

    // Nobody knows anything, so nothing falls, and nothing is taken for zero.
    signal(lab.agent.child.id(), "STOP");
    let silent = |turns: usize| {
        wait::until("a recommender that knows nothing", || (recommender.ignorance() >= turns).then_some(()));
        (autoscaler(), taken(&lab).expect("there were some"))
    };
    let (before, after) = (silent(2), silent(5));
    assert_eq!(before.0["status"]["recommendation"], after.0["status"]["recommendation"]);
    assert_eq!(before.1, after.1, "samples of nothing");
    assert!(is_provided(&after.0), "{}", after.0);
    println!("without an agent: {}", recommender.complaints().last().expect("one"));
    signal(lab.agent.child.id(), "CONT");
    let (last, (count, buckets)) = samples(after.1.0 + 3);
    assert!(is_provided(&last), "{last}");
    assert_eq!(buckets["0"], Value::Null, "a sample of next to nothing: {buckets}");

    let (least, most) = recording.stop().all_rates(5.0);
    let memory = cgroup.memory_usage() as f64;
    // What it measures is within 2 %, in whole thousandths; the kernel keeps no account of memory to the byte.
    let used = [(least * 0.98, most * 1.02 + 0.001), (memory - 4e6, memory + 4e6)];
    for (when, autoscaler) in [("first", &first), ("without an agent", &after.0), ("at last", &last)] {
        let recommended = recommended(autoscaler).expect("a recommendation");
        for ((used, first), [lower, target, upper]) in used.into_iter().zip(FIRST).zip(recommended) {
            println!("{when}: {lower} to {upper}, best {target}, where {} to {} were used", used.0, used.1);
            let (least, most) = (used.0 * MARGIN, (used.1 * GROWTH + first) * MARGIN);
            assert!(least <= target && target <= most, "{when}: {target} is not {least} to {most}");
            // It is a little less sure of them.
            assert!(least * 0.99 <= lower && lower <= target, "{when}: {lower} to {target}");
            let doubt = 1.0 + 1.0 / (SAMPLES - 1) as f64;
            assert!(target <= upper && upper <= most * doubt, "{when}: {target} to {upper}");
        }
    }
    println!("{count} samples, and {} that it had already", known.len());
}
