//! What the program prints when things are not as usual.

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn generate(output: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taxi-etl"));
    command.env_remove("MOBULA_ADDRESS").args(["generate", "--rows", "100", "--output"]).arg(output).args(more);
    command
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let root = tempfile::tempdir().unwrap();
    let mut command = generate(&root.path().join("trips"), &[]);
    let mut program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(program.stdout.take());
    let ended = program.wait_with_output().unwrap();
    assert!(ended.status.success());
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "");
}

#[test]
fn what_would_be_replaced_is_named_with_the_way_to_do_it() {
    let root = tempfile::tempdir().unwrap();
    assert!(generate(root.path(), &[]).output().unwrap().status.success());
    let error = error(&generate(root.path(), &[]).output().unwrap());
    assert!(error.contains("yellow_tripdata_2023-01.parquet") && error.contains("--overwrite"), "{error}");
    assert!(generate(root.path(), &["--overwrite"]).output().unwrap().status.success());
}

#[test]
fn a_cluster_that_does_not_answer_is_told_before_any_trip_is_made_up() {
    let root = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_taxi-etl"));
    command.env("XDG_CACHE_HOME", root.path()).env("HOME", root.path()).env("MOBULA_ADDRESS", "127.0.0.1:9");
    let error = error(&command.output().unwrap());
    assert!(error.contains("127.0.0.1:9"), "{error}");
    assert!(!root.path().join("mobula/taxi-etl").exists());
}
