//! The kernel's own description of its structs, from `/sys/kernel/btf/vmlinux`: offsets, enumerators, tracepoint arguments.
//!
//! aya keeps its type tables to itself, and Rust emits no CO-RE relocations: so the offsets are resolved here and handed to
//! the programs as read-only globals, which the verifier folds into constants and checks against the same BTF.
//! The format is that of Documentation/bpf/btf.rst.

use std::collections::HashMap;

use exporter_ebpf::Source;

/// Why a value could not be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The bytes are no BTF.
    #[error("not BTF: {0}")]
    Malformed(&'static str),
    /// The kernel has no such struct, member, enumerator or tracepoint.
    #[error("{0} is not in this kernel's BTF")]
    Missing(String),
}

/// Parsed BTF.
pub struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Where each type begins; type ids count from 1.
    types: Vec<u32>,
    /// Ids of structs, unions, enums and typedefs by name.
    names: HashMap<String, Vec<u32>>,
}

const MAGIC: u16 = 0xeb9f;
/// In how many types a member is looked for: what is no BTF may have anonymous structs within themselves.
const MOST_TYPES: u32 = 1024;
const PTR: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const FUNC_PROTO: u32 = 13;
const ENUM64: u32 = 19;

impl Btf {
    /// Parses raw BTF of this machine's byte order.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Error> {
        if bytes.len() < 24 || u16::from_ne_bytes([bytes[0], bytes[1]]) != MAGIC {
            return Err(Error::Malformed("no magic number"));
        }
        let mut this = Self { bytes, strings: 0, types: vec![0], names: HashMap::new() };
        let field = |at| this.word(at).ok_or(Error::Malformed("no header")).map(|word| word as usize);
        let (header, type_off, type_len, str_off) = (field(4)?, field(8)?, field(12)?, field(16)?);
        let mut at = header.saturating_add(type_off);
        let end = at.saturating_add(type_len);
        this.strings = header.saturating_add(str_off);
        while at < end {
            let (kind, count) = this.head(at).ok_or(Error::Malformed("a type is cut short"))?;
            let id = this.types.len() as u32;
            this.types.push(at as u32);
            if matches!(kind, STRUCT | UNION | ENUM | TYPEDEF | ENUM64)
                && let Some(name) = this.word(at).and_then(|name| this.string(name))
                && !name.is_empty()
            {
                let name = name.to_owned();
                this.names.entry(name).or_default().push(id);
            }
            at += 12
                + match kind {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    STRUCT | UNION | 15 | ENUM64 => 12 * count,
                    ENUM | FUNC_PROTO => 8 * count,
                    2 | 7..=12 | 16 | 18 => 0,
                    _ => return Err(Error::Malformed("a kind of type that is not known")),
                };
        }
        Ok(this)
    }

    /// How many types it describes.
    pub fn count(&self) -> usize {
        self.types.len() - 1
    }

    /// The value that `source` names.
    ///
    /// # Errors
    /// [`Error::Missing`], with the name that was looked for.
    pub fn resolve(&self, source: &Source) -> Result<u32, Error> {
        match *source {
            Source::Offset(of, paths) => paths
                .iter()
                .find_map(|path| self.offset(of, path))
                .ok_or_else(|| Error::Missing(format!("struct {of}.{}", paths.join(" or .")))),
            Source::Perhaps(of, path) => Ok(self.offset(of, path).unwrap_or(0)),
            Source::Enumerator(of, name) => {
                self.enumerator(of, name).ok_or_else(|| Error::Missing(format!("enum {of} {{ {name} }}")))
            }
            Source::Argument(tracepoint, of) => self
                .argument(tracepoint, of)
                .ok_or_else(|| Error::Missing(format!("struct {of} * among the arguments of {tracepoint}"))),
        }
    }

    /// Whether the kernel has a tracepoint of this name with typed arguments.
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.names.contains_key(&format!("btf_trace_{name}"))
    }

    /// Whether the kernel has an iterator over objects of this kind.
    pub fn has_iterator(&self, kind: &str) -> bool {
        self.names.contains_key(&format!("bpf_iter__{kind}"))
    }

    fn offset(&self, of: &str, path: &str) -> Option<u32> {
        let mut ids = self.names.get(of)?.clone();
        let mut bits = 0u32;
        for member in path.split('.') {
            let (id, at) = ids.iter().find_map(|&id| self.member(id, member, &mut { MOST_TYPES }))?;
            bits = bits.checked_add(at)?;
            ids = vec![id];
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// The type and the bit offset of a member, also of anonymous structs and unions within; of no more than `left` of them.
    fn member(&self, id: u32, name: &str, left: &mut u32) -> Option<(u32, u32)> {
        *left = left.checked_sub(1)?;
        let at = *self.types.get(id as usize)? as usize;
        let (kind, count) = self.head(at)?;
        // typedef, volatile, const, restrict, type tag
        if matches!(kind, TYPEDEF..=11 | 18) {
            return self.member(self.word(at + 8)?, name, left);
        }
        if !matches!(kind, STRUCT | UNION) {
            return None;
        }
        let has_bitfields = self.word(at + 4)? >> 31 == 1;
        for i in 0..count {
            let member = at + 12 + 12 * i;
            let (own, of, mut bits) = (self.word(member)?, self.word(member + 4)?, self.word(member + 8)?);
            if has_bitfields {
                if bits >> 24 != 0 && self.string(own)? == name {
                    return None;
                }
                bits &= 0xff_ffff;
            }
            let own = self.string(own)?;
            if own == name {
                return Some((of, bits));
            }
            if own.is_empty()
                && let Some((id, inner)) = self.member(of, name, left)
            {
                return Some((id, bits.checked_add(inner)?));
            }
        }
        None
    }

    fn enumerator(&self, of: &str, name: &str) -> Option<u32> {
        for &id in self.names.get(of)? {
            let at = self.types[id as usize] as usize;
            let (kind, count) = self.head(at)?;
            let size = match kind {
                ENUM => 8,
                ENUM64 => 12,
                _ => continue,
            };
            for i in 0..count {
                let item = at + 12 + size * i;
                if self.string(self.word(item)?)? == name {
                    return self.word(item + 4);
                }
            }
        }
        None
    }

    fn argument(&self, tracepoint: &str, of: &str) -> Option<u32> {
        let typedef = *self.names.get(&format!("btf_trace_{tracepoint}"))?.first()?;
        let pointer = self.word(self.types[typedef as usize] as usize + 8)?;
        let proto = self.word(*self.types.get(pointer as usize)? as usize + 8)?;
        let at = *self.types.get(proto as usize)? as usize;
        let (FUNC_PROTO, count) = self.head(at)? else { return None };
        // The first parameter is the tracepoint's own data.
        (1..count).find_map(|i| {
            let parameter = *self.types.get(self.word(at + 12 + 8 * i + 4)? as usize)? as usize;
            let (PTR, _) = self.head(parameter)? else { return None };
            let target = *self.types.get(self.word(parameter + 8)? as usize)? as usize;
            let (STRUCT, _) = self.head(target)? else { return None };
            (self.string(self.word(target)?)? == of).then_some(i as u32 - 1)
        })
    }

    /// The kind and the count of the type at `at`.
    fn head(&self, at: usize) -> Option<(u32, usize)> {
        let info = self.word(at + 4)?;
        self.word(at + 8)?;
        Some(((info >> 24) & 0x1f, (info & 0xffff) as usize))
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
    }

    fn string(&self, offset: u32) -> Option<&str> {
        let bytes = self.bytes.get(self.strings.checked_add(offset as usize)?..)?;
        std::str::from_utf8(&bytes[..bytes.iter().position(|&byte| byte == 0)?]).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `struct a { int x; struct { int y; }; struct b z; }; struct b { int w; }; enum e { E = 7 };` by hand.
    fn sample() -> Vec<u8> {
        let strings = b"\0a\0x\0y\0b\0z\0w\0e\0E\0btf_trace_t\0";
        let at = |name: &str| {
            let needle = [b"\0", name.as_bytes(), b"\0"].concat();
            strings.windows(needle.len()).position(|window| window == needle).unwrap() as u32 + 1
        };
        let types: Vec<u32> = [
            vec![0, 1 << 24, 4, 32],                                                 // 1: int
            vec![0, 4 << 24 | 1, 4, at("y"), 1, 0],                                  // 2: anonymous struct
            vec![at("b"), 4 << 24 | 1, 8, at("w"), 1, 32],                           // 3: struct b, w at 4
            vec![at("a"), 4 << 24 | 3, 16, at("x"), 1, 0, 0, 2, 32, at("z"), 3, 64], // 4: struct a
            vec![at("e"), 6 << 24 | 1, 4, at("E"), 7],                               // 5: enum e
            vec![0, 2 << 24, 4],                                                     // 6: struct a *
            vec![0, 2 << 24, 0],                                                     // 7: void *
            vec![0, 13 << 24 | 3, 0, 0, 7, 0, 1, 0, 6], // 8: (void *, int, struct a *)
            vec![0, 2 << 24, 8],                        // 9: pointer to it
            vec![at("btf_trace_t"), 8 << 24, 9],        // 10
        ]
        .concat();
        let mut out = Vec::new();
        out.extend(MAGIC.to_ne_bytes());
        out.extend([1, 0]);
        for word in [24, 0, types.len() as u32 * 4, types.len() as u32 * 4, strings.len() as u32] {
            out.extend(word.to_ne_bytes());
        }
        out.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
        out.extend(strings);
        out
    }

    #[test]
    fn resolves_members_enumerators_and_arguments() {
        let btf = Btf::parse(sample()).unwrap();
        let offset = |path: &'static [&'static str]| btf.resolve(&Source::Offset("a", path));
        assert_eq!(offset(&["x"]), Ok(0));
        assert_eq!(offset(&["y"]), Ok(4), "within an anonymous struct");
        assert_eq!(offset(&["z.w"]), Ok(12), "by a dotted path");
        assert_eq!(offset(&["renamed", "z"]), Ok(8), "the first that exists");
        assert_eq!(offset(&["gone"]), Err(Error::Missing("struct a.gone".into())));
        assert_eq!(btf.resolve(&Source::Enumerator("e", "E")), Ok(7));
        assert_eq!(btf.resolve(&Source::Argument("t", "a")), Ok(1));
        assert!(btf.resolve(&Source::Argument("t", "b")).is_err());
        assert!(btf.has_tracepoint("t") && !btf.has_tracepoint("u"));
    }

    /// Found by fuzzing.
    #[test]
    fn what_is_no_btf_neither_panics_nor_takes_long() {
        let strings = b"\0a\0b\0";
        let parse = |types: &[u32]| {
            let len = 4 * types.len() as u32;
            let words = [24, 0, len, len, strings.len() as u32].into_iter().chain(types.iter().copied());
            let words: Vec<_> = words.flat_map(u32::to_ne_bytes).collect();
            Btf::parse([&MAGIC.to_ne_bytes()[..], &[1, 0], &words, strings].concat()).unwrap()
        };
        let find = |btf: &Btf| btf.resolve(&Source::Offset("a", &["b"]));
        // An anonymous member far out, and in it a member as far.
        let far = parse(&[1, 4 << 24 | 1, 8, 0, 2, u32::MAX - 7, 0, 4 << 24 | 1, 8, 3, 2, 8]);
        assert!(find(&far).is_err());
        // A struct that is 100 anonymous members of itself.
        let itself = parse(&[&[1, 4 << 24 | 100, 8][..], &[0, 1, 0].repeat(100)].concat());
        assert!(find(&itself).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..400), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
            for bytes in [&mut bytes, &mut sample()] {
                for (at, value) in &flips {
                    if !bytes.is_empty() {
                        let at = at.index(bytes.len());
                        bytes[at] = *value;
                    }
                }
                if let Ok(btf) = Btf::parse(bytes.clone()) {
                    for path in [&["x"], &["y"], &["z.w"]] {
                        _ = btf.resolve(&Source::Offset("a", path));
                    }
                    _ = btf.resolve(&Source::Enumerator("e", "E"));
                    _ = btf.resolve(&Source::Argument("t", "a"));
                }
            }
        }
    }
}
