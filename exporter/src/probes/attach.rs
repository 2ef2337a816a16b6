//! From a hook to the program that is attached to it.

use std::fs::File;

use anyhow::Context as _;
use aya::{
    Ebpf,
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, Iter, Program, RawTracePoint,
    },
};
use exporter_ebpf::{Hook, Probe};

use super::Plan;

/// What of a probe is attached.
pub(super) enum Attached {
    /// Its program.
    Whole,
    /// The one that walks open files, since the kernel refuses the first.
    ByFile(anyhow::Error),
}

/// Loads the program of a probe, and attaches it.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    probe: &Probe,
    plan: &Plan<'_>,
    btf: Option<&aya::Btf>,
) -> anyhow::Result<Attached> {
    let program = ebpf.program_mut(probe.program).context("not in the object")?;
    let btf = || btf.context("no kernel BTF");
    match probe.hook {
        Hook::BtfTracepoint(name) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(name, btf()?)?;
            program.attach()?;
        }
        Hook::CgroupSkbIngress => attach_packets(program, CgroupSkbAttachType::Ingress, plan)?,
        Hook::CgroupSkbEgress => attach_packets(program, CgroupSkbAttachType::Egress, plan)?,
        Hook::IterSockets { by_file, .. } => {
            if let Err(error) = load_iterator(program, probe.hook, btf()?) {
                let other = ebpf.program_mut(by_file).context("not in the object")?;
                // What went wrong first says more than that the other did, too.
                return match load_iterator(other, Hook::IterTaskFile, btf()?) {
                    Ok(()) => Ok(Attached::ByFile(error)),
                    Err(_) => Err(error),
                };
            }
        }
        Hook::IterCgroup | Hook::IterTaskFile => load_iterator(program, probe.hook, btf()?)?,
        Hook::OnCpu => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
        }
    }
    Ok(Attached::Whole)
}

fn load_iterator(program: &mut Program, hook: Hook, btf: &aya::Btf) -> anyhow::Result<()> {
    let program: &mut Iter = program.try_into()?;
    Ok(program.load(iterated(hook).context("no iterator")?, btf)?)
}

/// What an iterator's hook walks, as the kernel calls it.
pub(super) fn iterated(hook: Hook) -> Option<&'static str> {
    match hook {
        Hook::IterCgroup => Some("cgroup"),
        Hook::IterTaskFile => Some("task_file"),
        Hook::IterSockets { .. } => Some("bpf_sk_storage_map"),
        _ => None,
    }
}

/// Does `work` while the kernel verifies the `wanted` packet programs, each on a thread of its own: that is most of the time
/// that a start takes. One that it refuses is loaded again when it is attached, and says why.
pub(super) fn while_packets_load<R>(
    ebpf: &mut Ebpf,
    wanted: impl Fn(&str) -> bool,
    work: impl FnOnce() -> R,
) -> R {
    std::thread::scope(|scope| {
        for (name, program) in ebpf.programs_mut() {
            if let Program::CgroupSkb(program) = program
                && wanted(name)
            {
                scope.spawn(|| _ = program.load());
            }
        }
        work()
    })
}

fn attach_packets(program: &mut Program, kind: CgroupSkbAttachType, plan: &Plan<'_>) -> anyhow::Result<()> {
    let path = plan.cgroup.context("cgroup v2 is not mounted")?;
    let cgroup = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let program: &mut CgroupSkb = program.try_into()?;
    if program.fd().is_err() {
        program.load()?;
    }
    // `Single`, though several may attach: links are always multi, and the kernel refuses the flag on them.
    program.attach(cgroup, kind, CgroupAttachMode::Single)?;
    Ok(())
}
