//! What `taxi-etl` does when it cannot: an exit code, one clear error with file and cause, and no
//! output left behind.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;

use crate::support::binaries::binary;
use crate::support::cluster::Cluster;
use crate::support::process::{Family, Program};
use crate::support::shared;

/// Runs it on these inputs; the error must name each of `named`.
#[track_caller]
fn assert_refused(family: &Family, inputs: &[&Path], output: &Path, more: &[&str], named: &[&str]) {
    let existed = output.exists();
    let mut command = family.command(binary("taxi-etl"));
    command.arg("--input").args(inputs).arg("--output").arg(output).args(more);
    let finished = Program::run("taxi-etl", command).expect_failure("taxi-etl");
    for name in named {
        assert!(finished.stderr.contains(name), "{name:?} is not named:\n{}", finished.stderr);
    }
    let lines = finished.stderr.lines().filter(|line| !line.trim().is_empty()).count();
    assert!((1..=4).contains(&lines), "not one clear error:\n{}", finished.stderr);
    assert_eq!(output.exists(), existed, "output was left behind");
    if existed && output.is_dir() {
        assert_eq!(std::fs::read_dir(output).expect("readable").count(), 0, "output was left behind");
    }
}

/// A small Parquet file with these columns of floats.
fn write(file: &Path, columns: &[&str]) {
    let fields: Vec<Field> = columns.iter().map(|name| Field::new(*name, DataType::Float64, true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let arrays = columns.iter().map(|_| Arc::new(Float64Array::from(vec![1.0, 20.0, 3.0])) as _).collect();
    let batch = RecordBatch::try_new(schema.clone(), arrays).expect("the columns are of one length");
    let mut writer = ArrowWriter::try_new(File::create(file).expect("the file"), schema, None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
}

fn small_trips(family: &Family) -> std::path::PathBuf {
    let output = family.path("trips");
    let mut command = family.command(binary("taxi-etl"));
    command
        .args(["generate", "--rows", "1000", "--months", "2023-01..2023-01", "--seed", "1", "--output"])
        .arg(&output);
    Program::run("taxi-etl generate", command).expect_success("taxi-etl generate");
    output
}

#[test]
fn a_truncated_file() {
    let Some(truncated) = shared::data("truncated.parquet") else {
        return;
    };
    let family = Family::new();
    assert_refused(&family, &[&truncated], &family.path("out"), &[], &["truncated.parquet"]);
    // Beside good files too, and in an output directory that exists.
    let trips = small_trips(&family);
    assert_refused(&family, &[&trips, &truncated], &family.path("out"), &[], &["truncated.parquet"]);
    std::fs::create_dir(family.path("there")).expect("a directory");
    assert_refused(&family, &[&trips, &truncated], &family.path("there"), &[], &["truncated.parquet"]);
}

#[test]
fn a_missing_path() {
    let family = Family::new();
    let missing = family.path("nowhere.parquet");
    assert_refused(&family, &[&missing], &family.path("out"), &[], &["nowhere.parquet"]);
    let pattern = family.path("nothing-*.parquet");
    assert_refused(&family, &[&pattern], &family.path("out"), &[], &["nothing-*.parquet"]);
}

#[test]
fn an_output_that_cannot_be_written() {
    let family = Family::new();
    let trips = small_trips(&family);
    let file = family.path("a-file");
    std::fs::write(&file, "").expect("a file");
    assert_refused(&family, &[&trips], &file.join("out"), &[], &["a-file"]);
    // Where not even root may make a directory.
    assert_refused(&family, &[&trips], Path::new("/proc/mobula-out"), &[], &["/proc/mobula-out"]);
}

#[test]
fn a_file_without_fares() {
    let family = Family::new();
    let file = family.path("no-fares.parquet");
    write(&file, &["trip_distance", "tip_amount"]);
    assert_refused(&family, &[&file], &family.path("out"), &[], &["fare_amount", "no-fares.parquet"]);
}

#[test]
fn a_directory_without_parquet() {
    let family = Family::new();
    let empty = family.path("empty");
    std::fs::create_dir(&empty).expect("a directory");
    std::fs::write(empty.join("notes.txt"), "no trips here").expect("a file");
    assert_refused(&family, &[&empty], &family.path("out"), &[], &["empty"]);
}

#[test]
fn batches_of_no_rows() {
    let family = Family::new();
    let trips = small_trips(&family);
    assert_refused(&family, &[&trips], &family.path("out"), &["--batch-size", "0"], &["batch", "0"]);
}

#[test]
fn an_address_where_no_cluster_answers() {
    let family = Family::new();
    let trips = small_trips(&family);
    assert_refused(&family, &[&trips], &family.path("out"), &["--address", "127.0.0.1:9"], &["127.0.0.1:9"]);
}

/// The errors of work on other nodes reach the user as those of his own process do.
#[test]
fn on_a_cluster_too() {
    let Some(truncated) = shared::data("truncated.parquet") else {
        return;
    };
    let cluster = Cluster::start(1, 1);
    let family = cluster.family();
    let trips = small_trips(family);
    let address = ["--address", cluster.address()];
    assert_refused(family, &[&trips, &truncated], &family.path("out"), &address, &["truncated.parquet"]);
    let no_fares = family.path("no-fares.parquet");
    write(&no_fares, &["trip_distance", "tip_amount"]);
    assert_refused(family, &[&no_fares], &family.path("out"), &address, &["fare_amount", "no-fares.parquet"]);
    assert_refused(family, &[&trips], Path::new("/proc/mobula-out"), &address, &["/proc/mobula-out"]);
}
