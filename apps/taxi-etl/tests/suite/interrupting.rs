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
