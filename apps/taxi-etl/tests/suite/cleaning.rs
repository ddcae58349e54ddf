//! Cleaning real trips gives what DuckDB gives.

use std::path::PathBuf;

use arrow::array::AsArray;
use arrow::compute::{max, min, sum};
use arrow::datatypes::Float64Type;
use serde_json::Value;

use crate::shared;
use crate::support::{Cleaned, clean_files};

const YELLOW: [&str; 2] =
    ["yellow_tripdata_2023-01_first100k.parquet", "yellow_tripdata_2023-q1_sample_with_nulls.parquet"];
const GREEN: [&str; 2] = ["green_tripdata_2023-01.parquet", "green_tripdata_2023-02.parquet"];

fn golden() -> Option<Value> {
    shared::golden("taxi.json")
}

fn files(names: &[&str]) -> Option<Vec<PathBuf>> {
    names.iter().map(|name| shared::data(name)).collect()
}

fn values(cleaned: &Cleaned, column: &str) -> Vec<arrow::array::Float64Array> {
    let of = |batch: &arrow::record_batch::RecordBatch| {
        batch.column_by_name(column).unwrap().as_primitive::<Float64Type>().clone()
    };
    cleaned.batches.iter().map(of).collect()
}

fn total(cleaned: &Cleaned, column: &str) -> f64 {
    values(cleaned, column).iter().filter_map(sum).sum()
}

fn close(found: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= expected.abs() * 1e-9, "{found} is not {expected}");
}

fn names(cleaned: &Cleaned) -> Vec<&str> {
    cleaned.input.fields().iter().map(|f| f.name().as_str()).collect()
}

#[test]
fn every_file_alone() {
    let Some(golden) = golden() else { return };
    for name in YELLOW.iter().chain(&GREEN) {
        let cleaned = clean_files(&files(&[name]).unwrap()).unwrap();
        let expected = &golden["files"][name];
        let clean = &expected["clean_batch"];
        assert_eq!(cleaned.rows_read(), expected["rows"].as_u64().unwrap(), "{name}");
        assert_eq!(cleaned.rows(), clean["rows"].as_u64().unwrap(), "{name}");
        assert_eq!(cleaned.dropped(), cleaned.rows_read() - cleaned.rows(), "{name}");
        close(total(&cleaned, "fare_amount"), &clean["sum_fare_amount"]);
        close(total(&cleaned, "trip_distance"), &clean["sum_trip_distance"]);
        close(total(&cleaned, "trip_duration_min"), &clean["sum_trip_duration_min"]);
        let durations = values(&cleaned, "trip_duration_min");
        let least = durations.iter().filter_map(min).fold(f64::INFINITY, f64::min);
        let most = durations.iter().filter_map(max).fold(f64::NEG_INFINITY, f64::max);
        close(least, &clean["min_trip_duration_min"]);
        close(most, &clean["max_trip_duration_min"]);
    }
}

#[test]
fn one_kind_keeps_its_names_in_the_usual_case() {
    let Some(yellow) = files(&YELLOW) else { return };
    let expected: Vec<String> = taxi_etl::columns::yellow_schema().fields().iter().map(|f| f.name().clone()).collect();
    for some in [&yellow[..], &yellow[1..]] {
        assert_eq!(names(&clean_files(some).unwrap()), expected);
    }
    let green = clean_files(&files(&GREEN).unwrap()).unwrap();
    assert!(names(&green).contains(&"lpep_pickup_datetime") && names(&green).contains(&"ehail_fee"));
}

#[test]
fn a_column_that_was_always_null_has_the_type_of_other_months() {
    let Some(january) = files(&GREEN[..1]) else {
        return;
    };
    let cleaned = clean_files(&january).unwrap();
    let fee = cleaned.input.field_with_name("ehail_fee").unwrap();
    assert_eq!(*fee.data_type(), arrow::datatypes::DataType::Float64);
}

#[test]
fn both_kinds_in_one_run_are_the_sum_of_their_files() {
    let (Some(golden), Some(all)) = (golden(), files(&[YELLOW[1], GREEN[0], GREEN[1]])) else {
        return;
    };
    let cleaned = clean_files(&all).unwrap();
    let sum = |what: &dyn Fn(&Value) -> f64| -> f64 {
        [YELLOW[1], GREEN[0], GREEN[1]].iter().map(|name| what(&golden["files"][name])).sum()
    };
    assert_eq!(cleaned.rows() as f64, sum(&|file| file["clean_batch"]["rows"].as_f64().unwrap()));
    let fares = sum(&|file| file["clean_batch"]["sum_fare_amount"].as_f64().unwrap());
    close(total(&cleaned, "fare_amount"), &fares.into());
    assert_eq!(names(&cleaned)[..3], ["VendorID", "pickup_datetime", "dropoff_datetime"]);
    let first = cleaned.batches[0].schema();
    assert!(cleaned.batches.iter().all(|batch| batch.schema() == first));
}
