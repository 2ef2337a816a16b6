use podmeter::probes::*;
fn main() {
    let signals = exporter_ebpf::SIGNALS.iter().map(|s| s.name).collect();
    let plan = Plan { btf: "/sys/kernel/btf/vmlinux".as_ref(), cgroup: Some("/sys/fs/cgroup/unified".as_ref()), signals: &signals, globals: &[], sizes: &[], debug: false };
    let mut p = Probes::load(&plan);
    p.attach(&plan);
    for v in p.verdicts() { println!("{v:?}"); }
    if let Some(e) = p.object() { for (n, pr) in e.programs() { if let Ok(i) = pr.info() { println!("{n} insns {:?} jited {:?}", i.verified_instruction_count(), i.size_jitted()); } } }
}
