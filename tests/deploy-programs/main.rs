//! What real programs make of deploy/: helm, kustomize, promtool, amtool, and, in `live`, a Prometheus and an Alertmanager with an
//! agent. `cargo xtask test` builds the programs and says where they are.

mod live;
mod objects;
mod programs;
mod rendered;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A path below the repository's root.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root").join(name)
}

/// A program, by the variable that has its path.
fn program(variable: &str) -> Command {
    let path = std::env::var_os(variable).unwrap_or_else(|| {
        panic!("`cargo xtask test` sets {variable}; or set it to the path of the program")
    });
    let mut command = Command::new(path);
    command.current_dir(self::path(""));
    command
}

/// Runs it to its end.
fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Both things that it printed.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Runs it to its good end; what it printed to its standard output.
fn succeeds(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said(&output));
    String::from_utf8(output.stdout).expect("text")
}
