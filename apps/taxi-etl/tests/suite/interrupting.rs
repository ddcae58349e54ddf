//! A signal ends the program with its exit code and leaves nothing behind.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
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
    self::signal(&program, signal);
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
    let trips = a_year(root.path());
    let output = root.path().join("new/clean");
    kill_half_way(slow(&trips, &output).arg("--resume"), &root.path().join("new"));
    assert!(!output.exists(), "a reader sees nothing of it");
    let resumed = summary(slow(&trips, &output).arg("--resume"));
    let whole = summary(&mut slow(&trips, &root.path().join("other")));
    let number =
        |summary: &Value, figure: &str| summary[figure].as_u64().unwrap_or_else(|| panic!("{figure}: {summary}"));
    let (blocks, total) = (number(&resumed, "blocks_resumed"), number(&resumed, "blocks_total"));
    assert!(blocks >= 1 && blocks < total, "{resumed}");
    assert_eq!(resumed["resume"], format!("resumed: {blocks} of {total} blocks were there"));
    assert_eq!((&whole["resume"], number(&whole, "rows_resumed")), (&Value::Null, 0));
    assert_eq!((number(&whole, "blocks_resumed"), number(&whole, "blocks_total")), (0, total));
    // What is read and dropped is this run's, what is written that of both.
    assert_eq!(resumed["rows_written"], whole["rows_written"]);
    let dropped: u64 = resumed["dropped_by_rule"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    let written_now = number(&resumed, "rows_written") - number(&resumed, "rows_resumed");
    assert_eq!(number(&resumed, "rows_read"), written_now + dropped, "{resumed}");
    assert!(number(&resumed, "rows_read") < number(&whole, "rows_read"), "{resumed}");
    assert_eq!(names(&output), names(&root.path().join("other")));
    assert!(!hidden(&root.path().join("new")) && !hidden(&output));
}

#[test]
fn who_interrupts_a_run_is_told_what_is_kept_and_how_to_go_on() {
    let root = tempfile::tempdir().unwrap();
    let (trips, above) = (a_year(root.path()), root.path().join("new"));
    let output = above.join("clean");
    let interrupted = |command: &mut Command| {
        let mut program = command.stderr(Stdio::piped()).spawn().unwrap();
        wait_for_a_block(&mut program, &above);
        signal(&program, "-INT");
        let ended = program.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(130), "{said}");
        said
    };
    let said = interrupted(&mut slow(&trips, &output));
    assert!(said.ends_with("interrupted; nothing was written\n"), "{said}");
    assert!(!above.exists());
    let said = interrupted(slow(&trips, &output).arg("--resume"));
    assert!(said.contains("the blocks that are finished are kept") && said.contains("--resume"), "{said}");
    assert!(!output.exists());
    let resumed = summary(slow(&trips, &output).arg("--resume"));
    assert!(resumed["blocks_resumed"].as_u64().unwrap() >= 1, "{resumed}");
    assert!(!hidden(&above) && !hidden(&output));
}

#[test]
fn why_a_run_begins_anew_is_told() {
    let root = tempfile::tempdir().unwrap();
    let trips = a_year(root.path());
    let output = root.path().join("new/clean");
    kill_half_way(slow(&trips, &output).arg("--resume"), &root.path().join("new"));
    let resume = |summary: Value| {
        assert_eq!(summary["blocks_resumed"], 0, "{summary}");
        summary["resume"].as_str().unwrap_or_else(|| panic!("{summary}")).to_owned()
    };
    // Batches of another size are another plan.
    let other = resume(summary(quick(&trips, &output).arg("--resume")));
    assert!(other.starts_with("nothing to resume: ") && other.contains("other options"), "{other}");
    let nothing = resume(summary(quick(&trips, &output).arg("--resume")));
    assert!(nothing.starts_with("nothing to resume: no earlier --resume run"), "{nothing}");
    assert!(nothing.ends_with(&output.display().to_string()), "{nothing}");
    assert_eq!(summary(&mut quick(&trips, &output))["resume"], Value::Null);
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let root = tempfile::tempdir().unwrap();
    let (trips, above) = (a_year(root.path()), root.path().join("new"));
    let output = above.join("clean");
    kill_half_way(&mut slow(&trips, &output), &above);
    assert!(hidden(&above) && !output.exists());
    summary(&mut quick(&trips, &output));
    assert!(!hidden(&above) && !hidden(&output));
}

#[test]
fn of_two_runs_into_one_directory_the_later_one_is_told() {
    let root = tempfile::tempdir().unwrap();
    let (trips, above) = (a_year(root.path()), root.path().join("new"));
    let output = above.join("clean");
    let mut late = slow(&trips, &output).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_a_block(&mut late, &above);
    signal(&late, "-STOP");
    // With other columns, so that one result is told from the other.
    let first = summary(quick(&trips, &output).args(["--columns", "model"]));
    let files = names(&output);
    assert_eq!(first["files_written"], files.len());
    signal(&late, "-CONT");
    let late = late.wait_with_output().unwrap();
    let said = String::from_utf8(late.stderr).unwrap();
    assert_eq!(late.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("another run has written {} while", output.display())), "{said}");
    assert_eq!(names(&output), files, "what is there is the first one's");
    assert!(!hidden(&above) && !hidden(&output));
}

/// A year of trips, a file for each month.
fn a_year(root: &Path) -> PathBuf {
    let months = Month::parse_range("2023-01..2023-12").unwrap();
    let trips = root.join("trips");
    let what = Generate { rows: 240_000, months, seed: 1, output: trips.clone(), threads: 2, overwrite: false };
    generate(&what, &|_| ControlFlow::Continue(())).unwrap();
    trips
}

/// Cleans them in several blocks.
fn quick(trips: &Path, output: &Path) -> Command {
    let mut command = taxi_etl();
    command.args(["--format", "json", "--block-bytes", "100000", "--input"]).arg(trips).arg("--output").arg(output);
    command
}

/// The same, so that there is time to disturb it.
fn slow(trips: &Path, output: &Path) -> Command {
    let mut command = quick(trips, output);
    command.args(["--batch-size", "256"]);
    command
}

fn summary(command: &mut Command) -> Value {
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Kills it when it has finished a block for an output below `above`.
fn kill_half_way(command: &mut Command, above: &Path) {
    let mut program = command.spawn().unwrap();
    wait_for_a_block(&mut program, above);
    program.kill().unwrap();
    program.wait().unwrap();
}

fn wait_for_a_block(program: &mut Child, above: &Path) {
    while !has_finished_block(above) {
        assert!(program.try_wait().unwrap().is_none(), "it ended before a block was done");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(program: &Child, signal: &str) {
    let pid = program.id().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
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
