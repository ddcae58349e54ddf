//! A signal ends the program with its exit code and leaves nothing behind.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use taxi_etl::calendar::Month;
use taxi_etl::generate::{Generate, generate};

fn hidden(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Sends `signal` to the program once it has begun to write into `dir`, and returns its exit code.
fn interrupt(mut program: Child, dir: &Path, signal: &str) -> Option<i32> {
    while !hidden(dir) {
        assert!(program.try_wait().unwrap().is_none(), "it ended before it wrote anything");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = program.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    program.wait().unwrap().code()
}

fn taxi_etl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taxi-etl"));
    command.env_remove("MOBULA_ADDRESS").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn cleaning() {
    let root = tempfile::tempdir().unwrap();
    let months = Month::parse_range("2023-01").unwrap();
    let trips = root.path().join("trips");
    let what = Generate { rows: 400_000, months, seed: 1, output: trips.clone(), threads: 2, overwrite: false };
    generate(&what, &|_| ControlFlow::Continue(())).unwrap();
    for (signal, exit_code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        // One row at a time takes minutes, and is never finished.
        let mut command = taxi_etl();
        command.args(["--batch-size", "1", "--input"]).arg(&trips).arg("--output").arg(root.path().join("new/clean"));
        assert_eq!(interrupt(command.spawn().unwrap(), &root.path().join("new"), signal), Some(exit_code));
        assert!(!root.path().join("new").exists());
    }
}

#[test]
fn generating() {
    let root = tempfile::tempdir().unwrap();
    let output = root.path().join("new/trips");
    let mut command = taxi_etl();
    command.args(["generate", "--rows", "500000000", "--output"]).arg(&output);
    assert_eq!(interrupt(command.spawn().unwrap(), &output, "-TERM"), Some(143));
    assert!(!root.path().join("new").exists());
}

#[test]
fn a_killed_run_is_resumed() {
    let root = tempfile::tempdir().unwrap();
    let months = Month::parse_range("2023-01..2023-12").unwrap();
    let trips = root.path().join("trips");
    let what = Generate { rows: 240_000, months, seed: 1, output: trips.clone(), threads: 2, overwrite: false };
    generate(&what, &|_| ControlFlow::Continue(())).unwrap();
    let clean = |output: &Path| {
        let mut command = taxi_etl();
        command
            .args(["--format", "json", "--batch-size", "256", "--block-bytes", "100000", "--input"])
            .arg(&trips)
            .arg("--output")
            .arg(output);
        command
    };
    let summary = |mut command: Command| -> serde_json::Value {
        let output = command.stdout(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{:?}", output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let output = root.path().join("new/clean");
    let mut first = clean(&output).arg("--resume").spawn().unwrap();
    while !has_finished_block(&root.path().join("new")) {
        assert!(first.try_wait().unwrap().is_none(), "it ended before a block was done");
        std::thread::sleep(Duration::from_millis(2));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!output.exists(), "a reader sees nothing of it");
    let mut second = clean(&output);
    second.arg("--resume");
    let (resumed, whole) = (summary(second), summary(clean(&root.path().join("other"))));
    assert!(resumed["blocks_resumed"].as_u64().unwrap() >= 1, "{resumed}");
    assert_eq!(resumed["rows_written"], whole["rows_written"]);
    assert_eq!(names(&output), names(&root.path().join("other")));
    assert!(!hidden(&root.path().join("new")) && !hidden(&output));
}

/// Whether a run into a directory below this one has finished a block.
fn has_finished_block(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let staged = entries.filter(|entry| entry.path().is_dir());
    let mut files = staged.flat_map(|entry| fs::read_dir(entry.path()).into_iter().flatten().flatten());
    files.any(|file| file.path().extension().is_some_and(|end| end == "done"))
}

/// The files of a directory, with their sizes.
fn names(dir: &Path) -> Vec<(std::ffi::OsString, u64)> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().len())).collect();
    names.sort();
    names
}
