//! Reading YAML as JSON, and finding the files.

use std::path::{Path, PathBuf};
use std::process::Command;

use ipwarden_e2e::{program, root};
use serde::de::Deserialize as _;
use serde_json::Value;

/// All files below `envoy/` with this ending, sorted.
pub(crate) fn files(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root().join("envoy")];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|found| found == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The documents of a YAML text.
pub(crate) fn documents(name: &Path, text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| {
            Value::deserialize(document)
                .unwrap_or_else(|error| panic!("{}: {error}", name.display()))
        })
        .filter(|document| !document.is_null())
        .collect()
}

/// The documents of a file.
pub(crate) fn read(path: &Path) -> Vec<Value> {
    documents(path, &std::fs::read_to_string(path).expect("a file"))
}

/// What `ipwarden check-config` says of a configuration: the command line runs the filter's
/// own code.
pub(crate) fn check_config(name: &str, text: &str) -> Result<(), String> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join(name);
    std::fs::write(&file, text).expect("a file");
    let ended = Command::new(program("E2E_BIN", "target/debug/ipwarden"))
        .arg("check-config")
        .arg(&file)
        .output()
        .expect("the ipwarden binary");
    if ended.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&ended.stderr).into_owned())
}
