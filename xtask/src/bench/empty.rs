//! Programs that do nothing, at the tracepoints of podmeter's: what they cost is the price of the hook and of its measuring.

use std::{collections::HashMap, fs};

use anyhow::{Context as _, Result};

use super::{minimal::passes, sys::Attached};

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// One for each of podmeter's programs at tracepoints that events run, by its name.
pub(super) fn attach() -> Result<HashMap<&'static str, Attached>> {
    let btf =
        fs::read(BTF).with_context(|| format!("cannot read {BTF}: the kernel was built without BTF"))?;
    let tracepoint = |name: &str| {
        let id = typedef(&btf, &format!("btf_trace_{name}"));
        let id = id.with_context(|| format!("{BTF} has no tracepoint {name}"))?;
        Attached::tracepoint(id, &passes(0))
            .with_context(|| format!("cannot attach an empty program to {name}"))
    };
    Ok(HashMap::from([
        ("cpu_switch", tracepoint("sched_switch")?),
        ("block_complete", tracepoint("block_rq_complete")?),
        ("tcp_state", tracepoint("inet_sock_set_state")?),
    ]))
}

/// The id of a typedef in BTF (Documentation/bpf/btf.rst) of this machine's byte order.
fn typedef(btf: &[u8], name: &str) -> Option<u32> {
    const TYPEDEF: u32 = 8;
    let word = |at: usize| Some(u32::from_ne_bytes(btf.get(at..at + 4)?.try_into().ok()?));
    let field = |at: usize| word(at).map(|word| word as usize);
    let (header, types, length, strings) = (field(4)?, field(8)?, field(12)?, field(16)?);
    let (mut at, end) = (header + types, header + types + length);
    let mut id = 1;
    while at < end {
        let info = word(at + 4)?;
        let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        let own = btf.get(header + strings + field(at)?..)?;
        if kind == TYPEDEF && own.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0)) {
            return Some(id);
        }
        at += 12
            + match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                _ => 0,
            };
        id += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_typedef() {
        let types = [[1, 1 << 24, 4].as_slice(), &[32], &[5, 8 << 24, 1], &[1, 8 << 24, 2]].concat();
        let strings = b"\0int\0integer\0";
        let size = (types.len() * 4) as u32;
        let words = [&[0x0001_eb9f, 24, 0, size, size, strings.len() as u32], types.as_slice()].concat();
        let btf: Vec<u8> =
            words.iter().flat_map(|word: &u32| word.to_ne_bytes()).chain(strings.iter().copied()).collect();
        assert_eq!(typedef(&btf, "integer"), Some(2));
        assert_eq!(typedef(&btf, "int"), Some(3), "the whole name, and no other kind");
        assert_eq!(typedef(&btf, "float"), None);
        assert_eq!(typedef(&btf[..30], "float"), None);
    }
}
