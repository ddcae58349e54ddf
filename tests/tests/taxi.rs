//! `taxi-etl` on real trips, read back by pyarrow and DuckDB and held against the golden numbers.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::binaries::binary;
use crate::support::cluster::Cluster;
use crate::support::process::{Family, Finished, Program};
use crate::support::{oracle, shared};

const SAMPLE: &str = "yellow_tripdata_2023-01_first100k.parquet";
const WITH_NULLS: &str = "yellow_tripdata_2023-q1_sample_with_nulls.parquet";
const GREEN: [&str; 2] = ["green_tripdata_2023-01.parquet", "green_tripdata_2023-02.parquet"];

/// How far a sum of floats may be from the golden one, relative to it.
const TOLERANCE: f64 = 1e-9;

fn etl(mut command: Command) -> Finished {
    command.args(["--format", "json"]);
    Program::run("taxi-etl", command).expect_success("taxi-etl")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn assert_near(what: &str, found: f64, expected: f64) {
    let off = (found - expected).abs() / expected.abs().max(f64::MIN_POSITIVE);
    assert!(off <= TOLERANCE, "{what} is {found}, the golden one is {expected}");
}

/// The report's own sums hold: what was read was dropped by a rule, or by the query, or written.
#[track_caller]
pub(crate) fn assert_adds_up(report: &Value) {
    let dropped = |by: &str| -> f64 {
        let counts = report[by].as_object().unwrap_or_else(|| panic!("no {by} in {report}"));
        counts.values().map(number).sum()
    };
    let dropped = dropped("dropped_by_rule") + dropped("dropped_by_query");
    assert_eq!(number(&report["rows_read"]), number(&report["rows_written"]) + dropped, "{report}");
    assert!(number(&report["seconds"]) > 0.0, "{report}");
}

/// What the oracle sees in `output` is what the golden numbers of `files` together say.
#[track_caller]
fn assert_golden(output: &Path, report: &Value, files: &[&str]) {
    let (Some(golden), Some(seen)) = (shared::golden("taxi.json"), oracle::describe(output)) else {
        return;
    };
    let of = |name: &str, key: &str| number(&golden["files"][name]["clean_batch"][key]);
    let sum = |key: &str| -> f64 { files.iter().map(|name| of(name, key)).sum() };

    assert_eq!(
        number(&report["rows_read"]),
        files.iter().map(|name| number(&golden["files"][*name]["rows"])).sum::<f64>()
    );
    assert_eq!(number(&report["rows_written"]), sum("rows"));
    assert_eq!(number(&seen["pyarrow_rows"]), sum("rows"), "pyarrow counts otherwise");
    assert_eq!(number(&seen["duckdb_rows"]), sum("rows"), "DuckDB counts otherwise");
    // One schema out, and nothing in the directory but the files.
    assert_eq!(seen["schemas"], 1, "{}", seen["columns"]);
    assert_eq!(seen["hidden"], serde_json::json!([]));
    assert_eq!(number(&seen["files"]), number(&report["files_written"]));

    let columns = &seen["numeric"];
    for (column, key) in [
        ("fare_amount", "sum_fare_amount"),
        ("trip_distance", "sum_trip_distance"),
        ("trip_duration_min", "sum_trip_duration_min"),
    ] {
        assert_near(key, number(&columns[column]["sum"]), sum(key));
    }
    let least = files.iter().map(|name| of(name, "min_trip_duration_min")).fold(f64::INFINITY, f64::min);
    let most = files.iter().map(|name| of(name, "max_trip_duration_min")).fold(f64::NEG_INFINITY, f64::max);
    assert_near("the shortest trip", number(&columns["trip_duration_min"]["min"]) + 1.0, least + 1.0);
    assert_near("the longest trip", number(&columns["trip_duration_min"]["max"]), most);
    assert!(number(&columns["fare_amount"]["min"]) >= 2.5);
    assert!(number(&columns["trip_distance"]["min"]) > 0.0);
    assert_eq!(seen["columns"]["trip_duration_min"], "double");
}

/// A run over these inputs, in this process unless it is given an address.
pub(crate) fn command(family: &Family, output: &Path, inputs: &[&Path]) -> Command {
    let mut command = family.command(binary("taxi-etl"));
    command.arg("--input").args(inputs).arg("--output").arg(output);
    command
}

#[test]
fn the_sample_as_the_golden_file_has_it() {
    let Some(sample) = shared::data(SAMPLE) else {
        return;
    };
    let family = Family::new();
    let output = family.path("clean");
    let report = etl(command(&family, &output, &[&sample])).json();
    assert_eq!(report["rows_read"], 100_000, "{report}");
    assert_eq!(report["rows_written"], 97_327, "{report}");
    assert_adds_up(&report);
    assert_golden(&output, &report, &[SAMPLE]);
    family.wait_until_empty();
}

#[test]
fn both_green_months_and_the_sample_with_nulls_in_one_run() {
    let names = [GREEN[0], GREEN[1], WITH_NULLS];
    let Some(files) = names.iter().map(|name| shared::data(name)).collect::<Option<Vec<_>>>() else {
        return;
    };
    let family = Family::new();
    let output = family.path("clean");
    let inputs: Vec<&Path> = files.iter().map(|file| file.as_path()).collect();
    let report = etl(command(&family, &output, &inputs)).json();
    assert_adds_up(&report);
    assert_golden(&output, &report, &names);
}

#[test]
fn the_same_on_a_cluster_with_work_on_more_than_one_node() {
    let Some(sample) = shared::data(SAMPLE) else { return };
    // One CPU each, so that two blocks at once need two nodes; and enough files for two blocks.
    let cluster = Cluster::start(2, 1);
    let copies = [SAMPLE; 6];
    let files: Vec<PathBuf> = (0..copies.len()).map(|i| cluster.family().path(&format!("trips-{i}.parquet"))).collect();
    for file in &files {
        std::fs::copy(&sample, file).expect("the sample can be copied");
    }
    let inputs: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let output = cluster.family().path("clean");
    let mut run = command(cluster.family(), &output, &inputs);
    run.args(["--address", cluster.address()]);
    let report = etl(run).json();
    assert_adds_up(&report);
    assert_golden(&output, &report, &copies);
    let nodes = report["blocks_by_node"].as_object().unwrap_or_else(|| panic!("the report shows no nodes: {report}"));
    assert!(nodes.len() > 1, "work ran on one node only: {report}");
}

/// A worker has the directory of its node, not of the program that sent it work.
#[test]
fn relative_paths_are_those_of_the_program_on_a_cluster_too() {
    let Some(sample) = shared::data(WITH_NULLS) else { return };
    let cluster = Cluster::start(1, 1);
    let here = cluster.family().path("here");
    std::fs::create_dir(&here).expect("a directory");
    std::fs::copy(sample, here.join("trips.parquet")).expect("the sample can be copied");
    let mut run = command(cluster.family(), Path::new("clean"), &[Path::new("trips.parquet")]);
    run.current_dir(&here).args(["--address", cluster.address()]);
    let report = etl(run).json();
    assert_adds_up(&report);
    assert_golden(&here.join("clean"), &report, &[WITH_NULLS]);
}

/// Principle 8: the same answer whatever the number of workers, and whatever the batch size.
#[test]
fn the_output_does_not_depend_on_concurrency_or_batch_size() {
    let Some(sample) = shared::data(WITH_NULLS) else {
        return;
    };
    let Some(green) = shared::data(GREEN[1]) else {
        return;
    };
    let family = Family::new();
    let mut digests = Vec::new();
    for (name, options) in [
        ("one", vec!["--concurrency", "1"]),
        ("four", vec!["--concurrency", "4"]),
        ("odd", vec!["--batch-size", "777"]),
    ] {
        let output = family.path(name);
        let mut run = command(&family, &output, &[&sample, &green]);
        run.args(options);
        etl(run);
        let Some(seen) = oracle::describe(&output) else {
            return;
        };
        digests.push((seen["digest"].clone(), seen["files"].clone()));
    }
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
}

#[test]
fn generated_trips_are_the_same_for_a_seed_and_clean_well() {
    let family = Family::new();
    let generate = |name: &str, seed: &str| {
        let output = family.path(name);
        let mut command = family.command(binary("taxi-etl"));
        command
            .args(["generate", "--rows", "20000", "--months", "2023-01..2023-02", "--seed", seed, "--output"])
            .arg(&output);
        Program::run("taxi-etl generate", command).expect_success("taxi-etl generate");
        output
    };
    let first = generate("first", "7");
    let clean = family.path("clean");
    let report = etl(command(&family, &clean, &[&first])).json();
    assert_eq!(report["rows_read"], 20_000, "{report}");
    assert_adds_up(&report);
    assert!(number(&report["rows_written"]) < 20_000.0, "the trips have no dirt: {report}");

    let (second, third) = (generate("second", "7"), generate("third", "8"));
    let described = [&first, &second, &third].map(|output| oracle::describe(output));
    let [Some(first), Some(second), Some(third)] = described else {
        return;
    };
    assert_eq!(first["pyarrow_rows"], 20_000);
    assert_eq!(first["digest"], second["digest"], "the same seed, other trips");
    assert_ne!(first["digest"], third["digest"], "another seed, the same trips");
    let columns: Vec<&str> = first["columns"].as_object().expect("columns").keys().map(String::as_str).collect();
    for name in ["VendorID", "tpep_pickup_datetime", "PULocationID", "fare_amount", "total_amount", "airport_fee"] {
        let found = columns.iter().any(|column| column.eq_ignore_ascii_case(name));
        assert!(found, "no column {name} in {columns:?}");
    }
    assert_eq!(columns.len(), 19, "{columns:?}");
}

#[test]
fn without_arguments_it_generates_cleans_and_shows() {
    if cfg!(debug_assertions) {
        eprintln!("SKIPPED: a whole month of trips takes minutes in a debug build; run it with --release");
        return;
    }
    let family = Family::new();
    let mut command = family.command(binary("taxi-etl"));
    command.current_dir(family.home());
    let finished = Program::run("taxi-etl", command).expect_success("taxi-etl without arguments");
    let shown = finished.stdout.to_lowercase();
    for word in ["read", "dropped", "written", "rows/s"] {
        assert!(shown.contains(word), "no {word:?} in\n{}", finished.stdout);
    }
}
