//! What workers find around them. The test gives it by variables: `drivers` need none of it.

use std::path::PathBuf;

use mobula::{RuntimeEnv, get, nodes, remote};

use crate::gate::folder;
use crate::{Scenario, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    on_cluster("workers start in a copy of the working directory, on every node", working_directory),
    on_cluster("files lie beside it, and variables are set", files_and_variables),
    on_cluster("what a worker changes there its driver does not see", copies),
];

/// Makes the files, and says which they are.
pub(crate) fn make() -> RuntimeEnv {
    let assets = folder().join("assets");
    std::fs::create_dir_all(assets.join("deep")).expect("the family's home can be written");
    std::fs::write(assets.join("deep/number"), "42").expect("it can be written");
    std::fs::write(folder().join("model.bin"), [7; 5_000_000]).expect("it can be written");
    RuntimeEnv::default().working_dir(assets).file(folder().join("model.bin")).env_var("MODE", "fast")
}

#[remote]
fn reads(path: String) -> Result<(String, Vec<u8>), std::io::Error> {
    let here = std::env::current_dir()?;
    Ok((here.to_string_lossy().into_owned(), std::fs::read(path)?))
}

#[remote(num_cpus = 0.1)]
fn variable(name: String) -> Option<String> {
    std::env::var(name).ok()
}

fn working_directory() {
    let mut directories = Vec::new();
    for node in nodes().expect("the cluster answers") {
        let there = reads.options().on_node(node.id);
        let (directory, number) = get(&there.remote("deep/number")).expect("it is there");
        assert_eq!(number, b"42");
        let (own, _) = get(&there.process_worker().remote("deep/number")).expect("and in other processes");
        assert_eq!(own, directory, "the node has it once");
        directories.push(directory);
    }
    directories.dedup();
    assert!(directories.len() > 1, "nodes have their own: {directories:?}");
    assert!(!directories.contains(&folder().join("assets").to_string_lossy().into_owned()));
}

fn files_and_variables() {
    let (_, model) = get(&reads.remote("model.bin")).expect("it is there");
    assert_eq!(model, [7; 5_000_000]);
    assert_eq!(get(&variable.remote("MODE")).expect("it runs"), Some("fast".to_owned()));
}

#[remote]
fn writes(path: String) -> Result<PathBuf, std::io::Error> {
    std::fs::write(&path, "changed")?;
    std::path::absolute(path)
}

fn copies() {
    let written = get(&writes.remote("deep/number")).expect("it may");
    assert_ne!(written, folder().join("assets/deep/number"));
    assert_eq!(std::fs::read(folder().join("assets/deep/number")).expect("it is there"), b"42");
}
