//! The worked example of CONTRIBUTING.md is real: put into a copy of the project, both halves compile.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::{fs, path::Path, process::Command};

const KERNEL_CARGO: &str = "/usr/bin/cargo";

fn block<'a>(text: &'a str, kind: &str) -> &'a str {
    let start = format!("```rust,{kind}\n");
    let rest = text.split_once(&start).unwrap_or_else(|| panic!("CONTRIBUTING.md has no block {kind}")).1;
    rest.split_once("```").expect("an end").0
}

fn insert(path: &Path, before: &str, line: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(before), "{} has no {before:?}", path.display());
    fs::write(path, text.replacen(before, &format!("{line}{before}"), 1)).unwrap();
}

#[test]
fn the_worked_example_compiles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    // Within the target directory, so that a compiled copy serves the next run.
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("contributing");
    _ = fs::remove_dir_all(&copy);
    fs::create_dir_all(&copy).unwrap();
    for item in ["Cargo.toml", "Cargo.lock", "exporter", "exporter-ebpf", "xtask", "tests", "clippy.toml"] {
        let status = Command::new("cp").arg("-r").arg(root.join(item)).arg(&copy).status().unwrap();
        assert!(status.success(), "cp {item}");
    }
    fs::write(copy.join("exporter-ebpf/src/execs.rs"), block(&text, "kernel")).unwrap();
    fs::write(copy.join("exporter/src/collector/execs.rs"), block(&text, "user")).unwrap();
    let library = copy.join("exporter-ebpf/src/lib.rs");
    insert(&library, "pub mod histogram;", "pub mod execs;\n");
    insert(&library, "&http::SIGNAL", "&execs::SIGNAL, ");
    let list = copy.join("exporter/src/collector/mod.rs");
    insert(&list, "pub mod http;", "pub mod execs;\n");
    insert(&list, "    Entry { signal: &exporter_ebpf::http::SIGNAL", block(&text, "entry"));
    // The dependencies are the project's own: what clippy and the build of the object left is used again.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let check = |cargo: &str, target: &Path, arguments: &[&str], environment: &[(&str, &str)]| {
        let output = Command::new(cargo)
            .args(["check", "--quiet", "--locked"])
            .args(arguments)
            .arg("--target-dir")
            .arg(target)
            .envs(environment.iter().copied())
            .env_remove("RUSTUP_TOOLCHAIN")
            .current_dir(&copy)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    check(env!("CARGO"), target, &["--package", "podmeter"], &[]);
    if !Path::new("/usr/bin/rustc").exists() {
        println!(
            "SKIPPED the kernel half: no {KERNEL_CARGO} that compiles for BPF; cargo xtask ebpf installs it"
        );
        return;
    }
    let bpf = ["--package", "exporter-ebpf", "--lib", "--target", "bpfel-unknown-none", "-Zbuild-std=core"];
    let environment = [
        ("RUSTC", "/usr/bin/rustc"),
        ("RUSTC_BOOTSTRAP", "1"),
        ("RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\""),
    ];
    check(KERNEL_CARGO, &target.join("ebpf"), &bpf, &environment);
}
