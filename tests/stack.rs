//! No chain of calls in the checked-in object needs more stack than a kernel gives it, as the strictest of them counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SymbolKind,
};

/// `MAX_BPF_STACK` in include/linux/filter.h: what all frames of a chain of calls may take, bytes.
const STACK: u32 = 512;

/// What a frame is rounded up to: `check_max_stack_depth()` in kernel/bpf/verifier.c, as of 6.1. Later ones round up to 16 where
/// programs are compiled: 6.12 took what 6.1 refused with "combined stack size of 4 calls is 544".
const FRAME: u32 = 32;

/// A function, by its section and its place in there.
type Place = (SectionIndex, u64);

/// What one takes of the stack, and what it calls.
#[derive(Default)]
struct Function {
    name: String,
    frame: u32,
    calls: BTreeSet<Place>,
}

/// The fields of an instruction that matter here: linux/bpf.h, `struct bpf_insn`.
struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn read(bytes: &[u8]) -> Self {
        let [code, registers, a, b, rest @ ..] = bytes else { panic!("eight bytes") };
        let immediate = i32::from_le_bytes(rest.try_into().expect("eight bytes"));
        Self {
            code: *code,
            to: registers & 15,
            from: registers >> 4,
            offset: i16::from_le_bytes([*a, *b]),
            immediate,
        }
    }

    /// How far below the frame's end it reaches; `copied` is the register that the one before made the frame's end.
    fn depth(&self, copied: Option<u8>) -> u32 {
        const FRAME_END: u8 = 10;
        let [load, store_immediate, store] = [1, 2, 3];
        let class = self.code & 7;
        let is_access = class == load && self.from == FRAME_END
            || [store_immediate, store].contains(&class) && self.to == FRAME_END;
        let below = match () {
            () if is_access => i32::from(self.offset),
            () if self.code == ADD && copied == Some(self.to) => self.immediate,
            () => 0,
        };
        below.min(0).unsigned_abs()
    }
}

/// `BPF_ALU64 | BPF_ADD | BPF_K`, `BPF_ALU64 | BPF_MOV | BPF_X`, `BPF_JMP | BPF_CALL` and `BPF_LD | BPF_IMM | BPF_DW`.
const ADD: u8 = 0x07;
const COPY: u8 = 0xbf;
const CALL: u8 = 0x85;
const WIDE: u8 = 0x18;

fn functions(file: &object::File<'_>) -> BTreeMap<Place, Function> {
    let mut found = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let Some(index) = symbol.section_index() else { continue };
        let section = file.section_by_index(index).expect("the symbol's");
        let bytes = section.data().expect("code");
        let targets: BTreeMap<_, _> = section.relocations().collect();
        let mut function =
            Function { name: symbol.name().expect("a name").to_owned(), ..Function::default() };
        let (mut at, mut copied) = (symbol.address(), None);
        while at < symbol.address() + symbol.size() {
            let start = usize::try_from(at).expect("a small file");
            let one = Instruction::read(&bytes[start..start + 8]);
            function.frame = function.frame.max(one.depth(copied));
            copied = (one.code == COPY && one.from == 10).then_some(one.to);
            // Of a function of the object, and not of a helper.
            if one.code == CALL && one.from == 1 {
                function.calls.insert(called(file, index, at, &one, targets.get(&at)));
            }
            at += if one.code == WIDE { 16 } else { 8 };
        }
        found.insert((index, symbol.address()), function);
    }
    found
}

/// Where a call goes: instructions count from the next one, or from the start of the section that a relocation names.
fn called(
    file: &object::File<'_>,
    section: SectionIndex,
    at: u64,
    call: &Instruction,
    relocation: Option<&object::Relocation>,
) -> Place {
    let behind = i64::from(call.immediate) * 8 + 8;
    let Some(relocation) = relocation else {
        return (section, at.checked_add_signed(behind).expect("in the section"));
    };
    let RelocationTarget::Symbol(index) = relocation.target() else { panic!("{relocation:?}") };
    let symbol = file.symbol_by_index(index).expect("the relocation's");
    let to = symbol.section_index().expect("a function of the object");
    let is_section = symbol.kind() == SymbolKind::Section;
    (to, if is_section { u64::try_from(behind).expect("in the section") } else { symbol.address() })
}

/// What the deepest chain from a function takes, and the names along it with what each takes.
fn deepest(functions: &BTreeMap<Place, Function>, place: &Place) -> (u32, Vec<String>) {
    let function = &functions[place];
    let below = function.calls.iter().map(|call| deepest(functions, call));
    let (rest, names) = below.max_by_key(|(bytes, _)| *bytes).unwrap_or_default();
    let own = format!("{}: {}", function.name, function.frame);
    (function.frame.max(1).next_multiple_of(FRAME) + rest, [vec![own], names].concat())
}

#[test]
fn every_chain_of_calls_fits_the_stack() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../exporter/object/podmeter.bpf.o");
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let functions = functions(&object::File::parse(&*bytes).expect("an ELF file"));
    let chains: Vec<_> = functions.keys().map(|place| deepest(&functions, place)).collect();
    // What is known of the largest: without it the count would prove nothing.
    assert!(chains.iter().any(|(bytes, names)| *bytes > STACK / 2 && names.len() > 2), "{chains:#?}");
    let wrong: Vec<_> = chains.iter().filter(|(bytes, _)| *bytes > STACK).collect();
    assert!(wrong.is_empty(), "more than {STACK} bytes of stack: {wrong:#?}");
}
