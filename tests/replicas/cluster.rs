//! Agents that tell of the pods of all cases, an adapter that listens to them, and the autoscaler's calculator.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use podmeter::stream::{
    frame::{Described, Frame},
    message::Usage,
};
use podmeter_tests::{adapter::Adapter, simulated::Agents, wait};

use crate::{
    calculator::{Calculator, Selection},
    case::Case,
    container::{LAST, TIMES},
    pod::{AGENTS, Pod, RESTARTED, SILENT},
};

/// How often agents tell. Whatever time they tell of, it is by their own clocks.
const INTERVAL: Duration = Duration::from_millis(200);

/// Fields are dropped in this order.
pub(crate) struct Cluster {
    pub(crate) calculator: Calculator,
    /// It runs.
    _adapter: Adapter,
    agents: Agents,
}

/// The name of an agent's node.
pub(crate) fn node(agent: u16) -> String {
    format!("node-{agent}")
}

/// The bytes that a node uses at a time: by them it is known of which time an answer is.
pub(crate) fn memory(at: usize) -> u64 {
    (at as u64 + 1) << 30
}

impl Cluster {
    /// Has the agents tell what the pods of the cases do, up to the last time, and some of them fall silent.
    pub(crate) fn start(cases: &[Case]) -> Self {
        let now = Arc::new(AtomicUsize::new(0));
        let frames: Arc<Vec<Vec<Frame>>> = Arc::new((0..AGENTS).map(|agent| frames(agent, cases)).collect());
        let clock = now.clone();
        let agents = Agents::start(INTERVAL, move |agent| {
            let (clock, frames, told) = (clock.clone(), frames.clone(), Arc::new(AtomicU64::new(0)));
            move || {
                let frame = frames[usize::from(agent)][clock.load(Ordering::Relaxed)].clone();
                // A clock goes on; by so little that no rate is another for it.
                Frame { nanos: frame.nanos + told.fetch_add(1, Ordering::Relaxed), ..frame }
            }
        });
        let agents = agents.expect("loopback");
        let urls: Vec<_> = (0..AGENTS).map(|agent| agents.url(agent)).collect();
        let adapter = Adapter::start(&[
            "--auth",
            "none",
            "--agent",
            &urls.join(","),
            "--interval",
            "100",
            "--max-age",
            "5",
        ]);
        wait::until("every agent's first word", || {
            let log = adapter.log();
            let told = log.iter().filter(|line| line.contains("an agent tells of its node")).count();
            (told == usize::from(AGENTS)).then_some(())
        });
        let calculator = Calculator::start(adapter.address);
        let mut this = Self { calculator, _adapter: adapter, agents };
        for at in 1..TIMES.len() {
            now.store(at, Ordering::Relaxed);
            this.wait(at, AGENTS);
        }
        (SILENT..AGENTS).for_each(|agent| this.agents.silence(agent));
        this.wait(LAST, SILENT);
        this
    }

    /// Waits until the first `agents` agents are known to have told of a time, and no other is.
    fn wait(&mut self, at: usize, agents: u16) {
        // Nothing can be said of an agent that has just started.
        let wanted: BTreeMap<_, _> = (0..agents)
            .filter(|agent| (*agent, at) != RESTARTED)
            .map(|agent| (node(agent), memory(at) as i64))
            .collect();
        wait::until("what agents tell", || {
            let nodes = self.calculator.nodes(&Selection::default()).ok()?;
            let told: BTreeMap<_, _> =
                nodes.into_iter().map(|item| (item.name, item.usage[""].memory)).collect();
            (told == wanted).then_some(())
        });
    }
}

/// What an agent tells, time by time.
fn frames(agent: u16, cases: &[Case]) -> Vec<Frame> {
    let pods: Vec<&Pod> = cases.iter().flat_map(|case| &case.pods).collect();
    let frame = |at: usize| {
        // One that starts anew begins its clock anew.
        let is_anew = agent == RESTARTED.0 && at >= RESTARTED.1;
        let begin = if is_anew { TIMES[RESTARTED.1] - 1 } else { 0 };
        let host = Usage { cpu: Some(host_nanos(agent, at)), memory: Some(memory(at)), ..Usage::default() };
        let mut frame = Frame {
            instance: u64::from(is_anew) + 1,
            nanos: (TIMES[at] - begin) * 1_000_000_000,
            node: node(agent),
            host,
            ..Frame::default()
        };
        for (pod, usages) in pods.iter().filter_map(|pod| pod.tell(agent, at)) {
            frame.pods.insert(pod.uid.clone(), Described(pod));
            frame.usages.extend(usages);
        }
        frame
    };
    (0..TIMES.len()).map(frame).collect()
}

/// The CPU time that a node has used up to a time: by the second, as many tenths of one as its number says, and one more.
fn host_nanos(agent: u16, at: usize) -> u64 {
    TIMES[at] * (u64::from(agent) + 1) * 100_000_000
}
