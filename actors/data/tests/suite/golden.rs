//! Real trip records against what DuckDB and pandas make of them.

use std::fs;

use arrow::array::AsArray;
use arrow::compute::sum;
use arrow::datatypes::Float64Type;
use arrow::record_batch::RecordBatch;
use mobula_data::function::RegisteredFunctions;
use mobula_data::schema::{ColumnName, Matching};
use mobula_data::{DataError, LogicalPlan, col, lit};
use serde_json::Value;

use crate::shared;
use crate::support::{batches, write};

const FILES: [&str; 4] = [
    "yellow_tripdata_2023-01_first100k.parquet",
    "yellow_tripdata_2023-q1_sample_with_nulls.parquet",
    "green_tripdata_2023-01.parquet",
    "green_tripdata_2023-02.parquet",
];

/// The cleaning of the golden file, whatever the files call their columns.
fn clean(paths: &[String]) -> LogicalPlan {
    let name = |name: &str, aliases: [&str; 2]| ColumnName {
        name: name.into(),
        aliases: aliases.map(str::to_owned).to_vec(),
        default_type: None,
    };
    let mut plan = LogicalPlan::read_parquet(paths.iter().cloned());
    plan.source_mut().matching = Matching {
        ignore_case: true,
        names: vec![
            name("pickup", ["tpep_pickup_datetime", "lpep_pickup_datetime"]),
            name("dropoff", ["tpep_dropoff_datetime", "lpep_dropoff_datetime"]),
        ],
        required: vec!["fare_amount".into(), "trip_distance".into()],
        microseconds: true,
    };
    plan.filter(col("fare_amount").gt_eq(lit(2.5))).filter(col("trip_distance").gt(lit(0.0)))
}

fn with_duration(plan: LogicalPlan, prefix: &str) -> LogicalPlan {
    let column = |name: &str| match prefix {
        "" => col(name),
        _ => col(format!("{prefix}_{name}_datetime")),
    };
    plan.with_column("trip_duration_min", column("dropoff").minutes_since(column("pickup")))
}

fn total(batches: &[RecordBatch], column: &str) -> f64 {
    let sums = batches.iter().map(|b| {
        let values = b.column_by_name(column).unwrap().as_primitive::<Float64Type>();
        sum(values).unwrap_or_default()
    });
    sums.sum()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= expected.abs() * 1e-9, "{found} is not {expected}");
}

fn golden() -> Option<Value> {
    shared::golden("taxi.json")
}

fn data(file: &str) -> Option<String> {
    Some(shared::data(file)?.display().to_string())
}

#[test]
fn every_file_cleans_to_the_golden_numbers() {
    let Some(golden) = golden() else { return };
    for file in FILES {
        let Some(path) = data(file) else { return };
        let expected = &golden["files"][file];
        let number = |name: &str| expected["clean_batch"][name].as_f64().unwrap();
        let prefix = if file.starts_with("green") { "lpep" } else { "tpep" };
        let ran = batches(&with_duration(clean(&[path]), prefix), &RegisteredFunctions).unwrap();
        let read: u64 = ran.reports.iter().map(|r| r.rows_in).sum();
        assert_eq!(read, expected["rows"].as_u64().unwrap(), "{file}");
        assert_eq!(ran.rows_out() as f64, number("rows"), "{file}");
        let dropped: u64 = ran.reports.iter().flat_map(|r| r.dropped_by_op()).map(|(_, n)| n).sum();
        assert_eq!(read - dropped, ran.rows_out(), "{file}");
        close(total(&ran.batches, "fare_amount"), number("sum_fare_amount"));
        close(total(&ran.batches, "trip_distance"), number("sum_trip_distance"));
        close(total(&ran.batches, "trip_duration_min"), number("sum_trip_duration_min"));
    }
}

#[test]
fn all_files_in_one_run_have_one_schema_and_the_sum_of_the_rows() {
    let (Some(golden), Some(paths)) = (golden(), FILES.iter().map(|f| data(f)).collect::<Option<Vec<_>>>()) else {
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let ran = write(&with_duration(clean(&paths), ""), &out.path().join("clean")).unwrap();
    let rows = |file: &&str| golden["files"][file]["clean_batch"]["rows"].as_u64().unwrap();
    assert_eq!(ran.rows_out(), FILES.iter().map(rows).sum::<u64>());
    let back = batches(&LogicalPlan::read_parquet(ran.files.clone()), &RegisteredFunctions).unwrap();
    assert_eq!(back.rows_out(), ran.rows_out());
    let schema = &back.reports[0].schema;
    assert!(schema.is_some() && back.reports.iter().all(|r| r.schema == *schema));
    let fare = |file: &&str| golden["files"][file]["clean_batch"]["sum_fare_amount"].as_f64().unwrap();
    close(total(&back.batches, "fare_amount"), FILES.iter().map(fare).sum());
}

#[test]
fn a_truncated_file_is_named_with_its_trouble() {
    let Some(path) = data("truncated.parquet") else {
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let error = write(&clean(std::slice::from_ref(&path)), &out.path().join("clean")).unwrap_err();
    assert!(matches!(&error, DataError::BadFile { path: named, .. } if *named == path), "{error}");
    assert!(fs::read_dir(out.path()).unwrap().next().is_none());
}

#[test]
fn a_file_without_the_column_is_named_even_among_others() {
    let Some(path) = data(FILES[0]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let plan = LogicalPlan::read_parquet([path.clone()]).select(["trip_distance"]).limit(10);
    let ran = write(&plan, &dir.path().join("narrow")).unwrap();
    let error = batches(&clean(&[path, ran.files[0].clone()]), &RegisteredFunctions).unwrap_err();
    assert_eq!(error.to_string(), format!("{} has no column fare_amount; it has trip_distance", ran.files[0]));
}
