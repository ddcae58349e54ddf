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

fn write(path: &Path, rows: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

/// What people see.
fn text(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A directory with some trips in it.
fn with_trips() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    assert!(generate(&root.path().join("trips"), &[]).output().unwrap().status.success());
    root
}

#[test]
fn sizes_have_the_units_of_the_library() {
    let root = tempfile::tempdir().unwrap();
    let made = text(&mut generate(&root.path().join("trips"), &[]));
    let cleaned = text(clean(root.path(), &["trips"]).arg("--stats"));
    for told in [made, cleaned] {
        assert!(told.contains(" KiB") && !told.contains(" KB") && !told.contains(" MB"), "{told}");
    }
}

#[test]
fn a_plan_is_explained_once_with_what_it_reads_and_writes() {
    let root = with_trips();
    let explain = |more: &[&str]| {
        let mut command = clean(root.path(), &["trips"]);
        command.arg("--explain").args(more);
        command
    };
    let told = text(&mut explain(&[]));
    let written = format!("write_parquet {} (overwrite)", root.path().join("clean").display());
    let written = written.as_str();
    for part in [written, "filter fare_amount >= 2.5", "1 file, all 19 columns; no filter pushed down", "One stage"] {
        assert!(told.contains(part), "{part} is missing in\n{told}");
    }
    assert!(told.matches("read_parquet").count() == 1 && !told.contains("as it is written"), "{told}");
    let query = ["--sql", "select PULocationID, count(*) as n from trips group by 1"];
    let told = text(&mut explain(&query));
    for part in ["[exchange]", "1 file, 3 of 19 columns", "A stage ends at every", "as it is written"] {
        assert!(told.contains(part), "{part} is missing in\n{told}");
    }
    let plans = json(&mut explain(&query));
    for plan in ["plan", "optimised"] {
        assert!(plans[plan].as_str().is_some_and(|text| text.starts_with(written)), "{plan}: {plans}");
    }
    assert_ne!(plans["plan"], plans["optimised"]);
    assert!(!root.path().join("clean").exists(), "nothing was to be run");
}

#[test]
fn the_stages_are_in_the_json_and_nothing_is_beside_it() {
    let root = with_trips();
    let told = json(clean(root.path(), &["trips"]).arg("--stats"));
    let stages = told["stages"].as_array().unwrap();
    assert!(stages.iter().any(|stage| stage["operators"].as_array().is_some_and(|all| !all.is_empty())), "{told}");
}

#[test]
fn what_the_query_drops_is_no_rule_of_the_cleaning() {
    let root = with_trips();
    let all = json(&mut clean(root.path(), &["trips"]));
    let query = ["--sql", "select * from trips where tip_amount > 3"];
    let asked = json(clean(root.path(), &["trips"]).args(query));
    assert_eq!(all["dropped_by_query"], json!({}));
    assert_eq!(asked["dropped_by_rule"], all["dropped_by_rule"]);
    assert_eq!(asked["dropped_by_rule"].as_object().unwrap().len(), 2);
    let dropped = all["rows_written"].as_u64().unwrap() - asked["rows_written"].as_u64().unwrap();
    assert!(dropped > 0, "{asked}");
    assert_eq!(asked["dropped_by_query"], json!({ "tip_amount > 3": dropped }));
    let told = text(clean(root.path(), &["trips"]).args(query));
    assert!(told.contains("dropped by the query, not tip_amount > 3"), "{told}");
}

#[test]
fn files_of_both_kinds_are_told_what_their_times_are_called() {
    let root = with_trips();
    let trips = read_files(&[root.path().join("trips")]).unwrap().batches.remove(0);
    let of_green = |field: &Arc<Field>| field.as_ref().clone().with_name(field.name().replace("tpep", "lpep"));
    let fields: Vec<Field> = trips.schema().fields().iter().map(of_green).collect();
    let green = RecordBatch::try_new(Arc::new(Schema::new(fields)), trips.columns().to_vec()).unwrap();
    write(&root.path().join("green.parquet"), &green);
    assert_eq!(json(&mut clean(root.path(), &["green.parquet"]))["columns_renamed"], json!({}));
    let both = json(&mut clean(root.path(), &["trips", "green.parquet"]));
    let expected = json!({
        "dropoff_datetime": ["lpep_dropoff_datetime", "tpep_dropoff_datetime"],
        "pickup_datetime": ["lpep_pickup_datetime", "tpep_pickup_datetime"],
    });
    assert_eq!(both["columns_renamed"], expected);
    let told = text(&mut clean(root.path(), &["trips", "green.parquet"]));
    assert!(told.contains("lpep_pickup_datetime and tpep_pickup_datetime called pickup_datetime"), "{told}");
}

#[test]
fn a_first_run_that_is_to_be_resumed_says_that_there_was_nothing() {
    let root = with_trips();
    let told = text(clean(root.path(), &["trips"]).arg("--resume"));
    assert!(told.contains("nothing to resume: no earlier --resume run"), "{told}");
    assert!(!text(&mut clean(root.path(), &["trips"])).contains("resume"));
}

#[test]
fn the_help_says_what_may_surprise() {
    let help = text(Command::new(env!("CARGO_BIN_EXE_taxi-etl")).arg("--help"));
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "refused by its name: window functions",
        ".DIR.mobula-",
        "the next one with the same output removes it",
        "the one that is done first wins",
        "tpep_pickup_datetime and lpep_pickup_datetime are called pickup_datetime",
        "rows_resumed",
    ] {
        assert!(help.contains(part), "{part} is missing in\n{help}");
    }
}

#[test]
fn a_window_function_is_refused_by_its_name() {
    let root = with_trips();
    let query = "select row_number() over (order by fare_amount) as place from trips";
    let error = error(&clean(root.path(), &["trips"]).args(["--sql", query]).output().unwrap());
    assert!(error.contains("(a window function) cannot be used"), "{error}");
    assert!(!root.path().join("clean").exists());
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
    write(&root.path().join("zoned.parquet"), &zoned);

    let mixed = json(&mut clean(root.path(), &["trips", "zoned.parquet"]));
    assert_eq!(mixed["zones_dropped"], json!(["tpep_pickup_datetime", "tpep_dropoff_datetime"]));
    let people = clean(root.path(), &["trips", "zoned.parquet"]).output().unwrap();
    let people = String::from_utf8(people.stdout).unwrap();
    assert!(people.contains("differ in the time zone of tpep_pickup_datetime and tpep_dropoff_datetime"), "{people}");
    assert_eq!(json(&mut clean(root.path(), &["zoned.parquet"]))["zones_dropped"], json!([]));
}
