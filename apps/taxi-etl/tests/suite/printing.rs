//! What the program prints when things are not as usual.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::support::read_files;

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

fn json(command: &mut Command) -> Value {
    let output = command.args(["--format", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn clean(root: &Path, inputs: &[&str]) -> Command {
    clean_to(root, inputs, "clean")
}

fn clean_to(root: &Path, inputs: &[&str], output: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taxi-etl"));
    command.current_dir(root).env_remove("MOBULA_ADDRESS").arg("--input").args(inputs).args(["--output", output]);
    command
}

#[test]
fn files_are_told_from_the_root_however_they_were_named() {
    let root = tempfile::tempdir().unwrap();
    let made = json(generate(Path::new("trips"), &[]).current_dir(root.path()));
    let trips = root.path().join("trips/yellow_tripdata_2023-01.parquet");
    assert_eq!(made["files"], json!([trips]));
    let cleaned = json(&mut clean(root.path(), &["trips"]));
    assert_eq!(cleaned["files"], json!([root.path().join("clean/part-00000.parquet")]));
    assert_eq!(cleaned["zones_dropped"], json!([]));
}

#[test]
fn an_output_in_the_input_is_told_without_dots() {
    let root = tempfile::tempdir().unwrap();
    generate(&root.path().join("trips"), &[]).output().unwrap();
    let error = error(&clean_to(root.path(), &["./trips"], "trips/../trips/clean").output().unwrap());
    let real = root.path().canonicalize().unwrap().join("trips");
    assert!(error.contains(&format!("output {} ", real.join("clean").display())), "{error}");
    assert!(error.contains(&format!("input {} ", real.display())), "{error}");
}

#[test]
fn a_run_over_times_with_and_without_a_zone_says_so() {
    let root = tempfile::tempdir().unwrap();
    generate(&root.path().join("trips"), &[]).output().unwrap();
    let trips = read_files(&[root.path().join("trips")]).unwrap().batches.remove(0);
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let with_zone = |(field, column): (&Arc<Field>, &ArrayRef)| match field.data_type() {
        DataType::Timestamp(..) => (Field::new(field.name(), zoned.clone(), true), cast(column, &zoned).unwrap()),
        _ => (field.as_ref().clone(), Arc::clone(column)),
    };
    let schema = trips.schema();
    let (fields, columns): (Vec<_>, Vec<_>) = schema.fields().iter().zip(trips.columns()).map(with_zone).unzip();
    let zoned = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let file = File::create(root.path().join("zoned.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, zoned.schema(), None).unwrap();
    writer.write(&zoned).unwrap();
    writer.close().unwrap();

    let mixed = json(&mut clean(root.path(), &["trips", "zoned.parquet"]));
    assert_eq!(mixed["zones_dropped"], json!(["tpep_pickup_datetime", "tpep_dropoff_datetime"]));
    let people = clean(root.path(), &["trips", "zoned.parquet"]).output().unwrap();
    let people = String::from_utf8(people.stdout).unwrap();
    assert!(people.contains("differ in the time zone of tpep_pickup_datetime and tpep_dropoff_datetime"), "{people}");
    assert_eq!(json(&mut clean(root.path(), &["zoned.parquet"]))["zones_dropped"], json!([]));
}
