//! Each signal: whether it works, what of it is missing, why, and what helps.

use exporter_ebpf::{Hook, Probe, SIGNALS, Signal};
use serde_json::{Value, json};

use super::machine::Machine;
use crate::{
    probes::{State, Verdict},
    registry::Registry,
};

/// How a signal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// All of it is measured.
    Works,
    /// Something does the same less well in its place, or a part is missing.
    Degraded,
    /// It says nothing.
    Cannot,
    /// It is switched off by a flag.
    Off,
}

impl Health {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Degraded => "degraded",
            Self::Cannot => "cannot",
            Self::Off => "off",
        }
    }
}

/// What is wrong with a probe.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The program.
    pub program: &'static str,
    /// What became of it.
    pub state: State,
    /// Why.
    pub reason: String,
    /// What a person can do about it, where that is known.
    pub remedy: Option<String>,
}

/// The judgement on a signal.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Its name.
    pub signal: &'static str,
    /// What it measures.
    pub summary: &'static str,
    /// How it is.
    pub health: Health,
    /// Each probe that is not attached.
    pub findings: Vec<Finding>,
}

impl Judgement {
    /// For programs.
    pub fn json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "program": finding.program,
                "state": finding.state.as_str(),
                "reason": finding.reason,
                "remedy": finding.remedy,
            })
        };
        json!({
            "signal": self.signal,
            "summary": self.summary,
            "health": self.health.as_str(),
            "probes": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }
}

/// Judges every signal of an agent that has been built and read once.
pub fn judge(registry: &Registry, machine: &Machine) -> Vec<Judgement> {
    let verdicts = registry.probes.verdicts();
    let collected = |signal: &Signal| {
        // What the others stand on has no collector of its own.
        signal.name == exporter_ebpf::cgroup::SIGNAL.name
            || registry.collectors.iter().any(|collector| collector.name() == signal.name)
    };
    SIGNALS.iter().map(|signal| judge_signal(signal, verdicts, collected(signal), machine)).collect()
}

fn judge_signal(
    signal: &'static Signal,
    verdicts: &[Verdict],
    is_collected: bool,
    machine: &Machine,
) -> Judgement {
    let of_probe = |probe: &'static Probe| {
        let verdict = verdicts.iter().find(|verdict| verdict.program == probe.program)?;
        Some((probe, verdict))
    };
    let wrong: Vec<_> = signal
        .probes
        .iter()
        .filter_map(of_probe)
        .filter(|(_, verdict)| verdict.state != State::Attached)
        .collect();
    let is_missing =
        |(probe, verdict): &(&Probe, &Verdict)| probe.required && verdict.state != State::Degraded;
    let health = if wrong.iter().any(|(_, verdict)| verdict.state == State::Disabled) {
        Health::Off
    } else if !is_collected || wrong.iter().any(is_missing) {
        Health::Cannot
    } else if wrong.is_empty() {
        Health::Works
    } else {
        Health::Degraded
    };
    let findings = wrong.iter().map(|(probe, verdict)| Finding {
        program: probe.program,
        state: verdict.state,
        reason: verdict.reason.clone(),
        remedy: remedy(probe, verdict, machine),
    });
    Judgement { signal: signal.name, summary: signal.summary, health, findings: findings.collect() }
}

/// What a person can do about a probe that is not attached.
fn remedy(probe: &Probe, verdict: &Verdict, machine: &Machine) -> Option<String> {
    let since = since(probe.hook);
    let missing = machine.missing_capabilities();
    match verdict.state {
        State::Attached => None,
        State::Disabled => Some("name the signal in --signals".to_owned()),
        _ if machine.btf.is_err() && verdict.reason.contains("BTF") => Some(
            "a kernel that was built with CONFIG_DEBUG_INFO_BTF; in a container, the host's /sys".to_owned(),
        ),
        _ if machine.v2.is_none() && verdict.reason.contains("cgroup v2") => {
            Some("mount cgroup v2 below /sys/fs/cgroup, or point --cgroupfs at where it is".to_owned())
        }
        State::Failed if !missing.is_empty() => Some(format!("root, or also {}", missing.join(", "))),
        State::Failed if machine.lockdown.as_deref() == Some("confidentiality") => Some(
            "lockdown=integrity on the kernel's command line: confidentiality forbids reading kernel memory"
                .to_owned(),
        ),
        State::Unsupported => Some(format!("a kernel that has it; the hook is there since {since}")),
        _ => None,
    }
}

/// The first kernel that has a hook.
fn since(hook: Hook) -> &'static str {
    match hook {
        Hook::BtfTracepoint(_) => "5.5",
        Hook::CgroupSkbIngress | Hook::CgroupSkbEgress => "5.7",
        Hook::IterTaskFile => "5.8",
        Hook::IterSockets { .. } => "5.9",
        Hook::OnCpu => "5.10",
        Hook::IterCgroup => "6.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(signal: &'static Signal, states: &[State], is_collected: bool) -> Judgement {
        let verdicts: Vec<_> = signal
            .probes
            .iter()
            .zip(states)
            .map(|(probe, state)| Verdict {
                signal: signal.name,
                program: probe.program,
                state: *state,
                reason: "because".to_owned(),
            })
            .collect();
        judge_signal(signal, &verdicts, is_collected, &Machine::default())
    }

    #[test]
    fn what_is_required_decides() {
        use State::{Attached, Degraded, Disabled, Failed, Unsupported};
        let cpu = &exporter_ebpf::cpu::SIGNAL;
        assert_eq!(judged(cpu, &[Attached, Attached, Attached], true).health, Health::Works);
        assert_eq!(judged(cpu, &[Attached, Attached, Unsupported], true).health, Health::Degraded);
        assert_eq!(judged(cpu, &[Failed, Attached, Attached], false).health, Health::Cannot);
        assert_eq!(
            judged(cpu, &[Attached, Attached, Attached], false).health,
            Health::Cannot,
            "no collector"
        );
        assert_eq!(judged(cpu, &[Disabled, Disabled, Disabled], false).health, Health::Off);
        let memory = &exporter_ebpf::memory::SIGNAL;
        let files = judged(memory, &[Unsupported, Degraded], true);
        assert_eq!(files.health, Health::Degraded, "its files say the same");
        assert_eq!(files.findings.len(), 2);
        assert!(files.findings[0].remedy.as_ref().is_some_and(|remedy| remedy.contains("6.1")));
    }
}
