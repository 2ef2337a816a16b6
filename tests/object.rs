//! The checked-in object is what both halves declare: not a program or map more or less, and a licence for every helper.

use std::{collections::BTreeSet, fs, path::Path};

use exporter_ebpf::{Hook, SIGNALS, loss::LOSSES, series};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

/// The maps of no signal alone. Those of aya's log are its own.
const SHARED: [&str; 7] =
    [series::SERIES, series::ROWS, series::FREE_ROWS, "SERIES_CACHE", LOSSES, "AYA_LOGS", "AYA_LOG_LEVEL"];

/// What the daemon says to the programs, beside what it finds in BTF: see `agent::build`.
const GLOBALS: [&str; 6] = [
    "HIERARCHIES",
    "IO_ON_V1",
    "HTTP_ROUTE_BUDGET",
    "HTTP_PATTERNS",
    "HTTP_SCOPED_PATTERNS",
    "HTTP_LITERALS_MASK",
];

fn bytes() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../exporter/object/podmeter.bpf.o");
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The global symbols of a kind, in the sections that a name chooses.
fn symbols(file: &object::File<'_>, kind: SymbolKind, section: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let found =
        file.symbols().filter(|symbol| symbol.is_global() && symbol.kind() == kind).filter(|symbol| {
            let index = symbol.section_index();
            index.is_some_and(|index| {
                section(file.section_by_index(index).and_then(|it| it.name()).expect("a name"))
            })
        });
    found.map(|symbol| symbol.name().expect("a name").to_owned()).collect()
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn its_programs_are_those_that_are_declared() {
    let bytes = bytes();
    let file = object::File::parse(&*bytes).expect("an ELF file");
    // What is in .text are functions that programs call.
    let found = symbols(&file, SymbolKind::Text, |section| section != ".text");
    let declared = SIGNALS.iter().flat_map(|signal| signal.probes).flat_map(|probe| match probe.hook {
        Hook::IterSockets { by_file, .. } => vec![probe.program, by_file],
        _ => vec![probe.program],
    });
    assert_eq!(found, names(declared));
}

#[test]
fn its_maps_are_those_that_are_declared() {
    let bytes = bytes();
    let file = object::File::parse(&*bytes).expect("an ELF file");
    let mut found = symbols(&file, SymbolKind::Data, |section| [".maps", "maps"].contains(&section));
    // A constant that stands for a map: without it the log could not be switched off.
    found.extend(
        symbols(&file, SymbolKind::Data, |section| section == ".rodata")
            .into_iter()
            .filter(|name| name == "AYA_LOG_LEVEL"),
    );
    let declared = SIGNALS.iter().flat_map(|signal| signal.maps).copied();
    assert_eq!(found, names(declared.chain(SHARED)));
}

#[test]
fn its_globals_are_those_that_are_set() {
    let bytes = bytes();
    let file = object::File::parse(&*bytes).expect("an ELF file");
    let mut found = symbols(&file, SymbolKind::Data, |section| section == ".rodata");
    found.remove("AYA_LOG_LEVEL");
    let fields = SIGNALS.iter().flat_map(|signal| signal.probes).flat_map(|probe| probe.fields);
    assert_eq!(found, names(fields.map(|field| field.global).chain(GLOBALS)));
}

#[test]
fn its_licence_lets_it_call_every_helper() {
    let bytes = bytes();
    let file = object::File::parse(&*bytes).expect("an ELF file");
    let licence = file.section_by_name("license").expect("a licence").data().expect("its text");
    // One of those in the kernel's license_is_gpl_compatible().
    assert_eq!(licence, b"Dual MIT/GPL\0");
}

#[test]
fn every_signal_with_metrics_is_documented() {
    let documented: BTreeSet<_> =
        podmeter::catalogue().iter().map(|section| section.signal.to_owned()).collect();
    // The cgroups are the ground that the others stand on; what the agent says of itself, and the cluster of it, is of no signal.
    let declared = SIGNALS.iter().map(|signal| signal.name).filter(|name| *name != "cgroup");
    assert_eq!(documented, names(declared.chain(["kubernetes", "security", "podmeter"])));
    for section in podmeter::catalogue() {
        assert!(!section.metrics.is_empty(), "{} has metrics", section.signal);
    }
    let catalogue = podmeter::catalogue();
    let all: Vec<_> =
        catalogue.iter().flat_map(|section| &section.metrics).map(|metric| metric.name).collect();
    assert_eq!(names(all.iter().copied()).len(), all.len(), "each metric stands in one section: {all:?}");
}
