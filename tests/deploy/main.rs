//! The files of deploy/: they name what exists, and agree where they say a thing twice. Nothing is run for this; what real programs
//! make of the files is in `deploy-programs`.

mod adapter;
mod dashboards;
mod documented;
mod manifests;
mod names;
mod rules;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// A path below the repository's root.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root").join(name)
}

/// What a file says.
fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The documents of a YAML file.
fn yaml(name: &str) -> Vec<Value> {
    use serde::Deserialize as _;
    let documents = serde_yaml_ng::Deserializer::from_str(&read(name)).map(Value::deserialize).collect();
    let documents: Result<Vec<_>, _> = documents;
    documents.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The files of a folder with this ending, in order.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(path(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| entry.expect("a name").file_name().into_string().expect("text"));
    let mut names: Vec<_> =
        names.filter(|name| name.ends_with(ending)).map(|name| format!("{folder}/{name}")).collect();
    names.sort();
    assert!(!names.is_empty(), "{folder} has none");
    names
}
