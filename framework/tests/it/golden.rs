//! Real trip records against what DuckDB and pandas make of them.

use std::fs;

use arrow::array::RecordBatch;
use arrow::datatypes::{Float64Type, Int64Type};
use mobula::aggregate::{count, count_of, max, mean, min, std, sum};
use mobula::{ColumnName, DataError, Dataset, Matching, RunError, SortKey, ValueType, col, lit, read_parquet};
use serde_json::Value;

use crate::data_support::{session, total, values};
use crate::shared;

const FILES: [&str; 4] = [
    "yellow_tripdata_2023-01_first100k.parquet",
    "yellow_tripdata_2023-q1_sample_with_nulls.parquet",
    "green_tripdata_2023-01.parquet",
    "green_tripdata_2023-02.parquet",
];

/// How the files call the same things.
fn trips(paths: &[String]) -> Dataset {
    let name = |name: &str, aliases: [&str; 2]| ColumnName {
        name: name.into(),
        aliases: aliases.map(str::to_owned).to_vec(),
        default_type: None,
    };
    read_parquet(paths).matching(Matching {
        ignore_case: true,
        names: vec![
            name("pickup", ["tpep_pickup_datetime", "lpep_pickup_datetime"]),
            name("dropoff", ["tpep_dropoff_datetime", "lpep_dropoff_datetime"]),
        ],
        required: vec!["fare_amount".into(), "trip_distance".into()],
        microseconds: true,
    })
}

/// The cleaning of the golden file, whatever the files call their columns.
fn clean(paths: &[String]) -> Dataset {
    trips(paths).filter(col("fare_amount").gt_eq(lit(2.5))).filter(col("trip_distance").gt(lit(0.0)))
}

fn with_duration(trips: Dataset, prefix: &str) -> Dataset {
    let column = |name: &str| match prefix {
        "" => col(name),
        _ => col(format!("{prefix}_{name}_datetime")),
    };
    trips.with_column("trip_duration_min", column("dropoff").minutes_since(column("pickup")))
}

fn prefix_of(file: &str) -> &'static str {
    if file.starts_with("green") { "lpep" } else { "tpep" }
}

/// How a file spells the name of a column.
fn spelt(file: &str, column: &str) -> String {
    if file.contains("with_nulls") { column.to_lowercase() } else { column.to_owned() }
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= expected.abs() * 1e-9, "{found} is not {expected}");
}

fn golden() -> Option<Value> {
    shared::golden("taxi.json")
}

fn data(file: &str) -> Option<String> {
    Some(shared::data(file)?.display().to_string())
}

fn rows(batches: &[RecordBatch]) -> u64 {
    batches.iter().map(|batch| batch.num_rows() as u64).sum()
}

#[test]
fn every_file_cleans_to_the_golden_numbers() {
    let session = session();
    let _entered = session.enter();
    let Some(golden) = golden() else { return };
    for file in FILES {
        let Some(path) = data(file) else { return };
        let expected = &golden["files"][file];
        let number = |name: &str| expected["clean_batch"][name].as_f64().unwrap();
        let cleaned = with_duration(clean(&[path]), prefix_of(file));
        let report = cleaned.clone().pushdown(false).stats().unwrap();
        assert_eq!(report.rows_in, expected["rows"].as_u64().unwrap(), "{file}");
        assert_eq!(report.rows_out as f64, number("rows"), "{file}");
        let dropped: u64 = report.dropped_by_filter().iter().map(|(_, n)| n).sum();
        assert_eq!(report.rows_in - dropped, report.rows_out, "{file}");
        let batches = cleaned.to_batches().unwrap();
        assert_eq!(rows(&batches), report.rows_out, "{file}");
        close(total(&batches, "fare_amount"), number("sum_fare_amount"));
        close(total(&batches, "trip_distance"), number("sum_trip_distance"));
        close(total(&batches, "trip_duration_min"), number("sum_trip_duration_min"));
    }
}

#[test]
fn all_files_in_one_run_have_one_schema_and_the_sum_of_the_rows() {
    let session = session();
    let _entered = session.enter();
    let (Some(golden), Some(paths)) = (golden(), FILES.iter().map(|f| data(f)).collect::<Option<Vec<_>>>()) else {
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let report = with_duration(clean(&paths), "").write_parquet(out.path().join("clean")).unwrap();
    let expected = |file: &&str| golden["files"][file]["clean_batch"]["rows"].as_u64().unwrap();
    assert_eq!(report.rows_out, FILES.iter().map(expected).sum::<u64>());
    let back = read_parquet(&report.files);
    let batches = back.to_batches().unwrap();
    assert_eq!(rows(&batches), report.rows_out);
    let schema = back.schema().unwrap();
    for file in &report.files {
        assert_eq!(read_parquet(file).schema().unwrap(), schema, "{file}");
    }
    let fare = |file: &&str| golden["files"][file]["clean_batch"]["sum_fare_amount"].as_f64().unwrap();
    close(total(&batches, "fare_amount"), FILES.iter().map(fare).sum());
}

#[test]
fn a_truncated_file_is_named_with_its_trouble() {
    let session = session();
    let _entered = session.enter();
    let Some(path) = data("truncated.parquet") else {
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let error = clean(std::slice::from_ref(&path)).write_parquet(out.path().join("clean")).unwrap_err();
    assert!(matches!(&error, RunError::Data(DataError::BadFile { path: named, .. }) if *named == path), "{error}");
    assert!(fs::read_dir(out.path()).unwrap().next().is_none());
}

#[test]
fn a_file_without_the_column_is_named_even_among_others() {
    let session = session();
    let _entered = session.enter();
    let Some(path) = data(FILES[0]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let narrow = read_parquet(&path).select(["trip_distance"]).limit(10);
    let report = narrow.write_parquet(dir.path().join("narrow")).unwrap();
    let error = clean(&[path, report.files[0].clone()]).to_batches().unwrap_err();
    assert_eq!(error.to_string(), format!("{} has no column fare_amount; it has trip_distance", report.files[0]));
}

/// Runs `check` over every file in one part and through the parts of real exchanges.
fn every_file(check: impl Fn(&str, &Value, Dataset)) {
    let session = session();
    let _entered = session.enter();
    let Some(golden) = golden() else { return };
    for file in FILES {
        let Some(path) = data(file) else { return };
        for part_bytes in [None, Some(1 << 20)] {
            let dataset = trips(std::slice::from_ref(&path));
            let dataset = match part_bytes {
                Some(bytes) => dataset.block_bytes(100_000).part_bytes(bytes),
                None => dataset,
            };
            check(file, &golden["files"][file], dataset);
        }
    }
}

#[test]
fn fares_by_payment_type_are_the_golden_ones() {
    every_file(|file, expected, trips| {
        let fare = "fare_amount";
        let grouped = trips
            .group_by("payment_type")
            .aggregate([count(), sum(fare), mean(fare), min(fare), max(fare), std(fare)])
            .cast("payment_type", ValueType::Float64)
            .to_arrow()
            .unwrap();
        let expected = expected["groupby_payment_type"].as_array().unwrap();
        assert_eq!(grouped.num_rows(), expected.len(), "{file}: {grouped:?}");
        for (row, expected) in expected.iter().enumerate() {
            let one = [grouped.slice(row, 1)];
            let key = values::<Float64Type>(&one, "payment_type");
            assert_eq!(key.first().copied(), expected[0].as_f64(), "{file}");
            assert_eq!(values::<Int64Type>(&one, "count()")[0], expected[1].as_i64().unwrap(), "{file}");
            for (place, name) in ["sum", "mean", "min", "max", "std"].iter().enumerate() {
                let found = values::<Float64Type>(&one, &format!("{name}({fare})"));
                match expected[2 + place].as_f64() {
                    Some(expected) => close(found[0], expected),
                    None => assert!(found.is_empty(), "{file}: {name} of one row is {found:?}"),
                }
            }
        }
    });
}

#[test]
fn the_five_zones_with_most_trips_are_the_golden_ones() {
    every_file(|file, expected, trips| {
        let zone = spelt(file, "PULocationID");
        let counted = trips.cast(&zone, ValueType::Int64).group_by(&zone).count();
        let most = counted.sort([SortKey::descending("count()"), SortKey::ascending(&zone)]);
        let top = most.limit(5).to_batches().unwrap();
        let found: Vec<(i64, i64)> =
            values::<Int64Type>(&top, &zone).into_iter().zip(values::<Int64Type>(&top, "count()")).collect();
        let pair = |pair: &Value| (pair[0].as_i64().unwrap(), pair[1].as_i64().unwrap());
        let expected: Vec<_> = expected["top5_pickup_zones_by_trips"].as_array().unwrap().iter().map(pair).collect();
        assert_eq!(found, expected, "{file}");
    });
}

#[test]
fn the_ten_largest_fares_are_the_golden_ones() {
    every_file(|file, expected, trips| {
        let largest = trips.select(["fare_amount"]).sort(SortKey::descending("fare_amount"));
        let expected: Vec<f64> =
            expected["ten_largest_fares"].as_array().unwrap().iter().map(|fare| fare.as_f64().unwrap()).collect();
        let top = values::<Float64Type>(&largest.clone().limit(10).to_batches().unwrap(), "fare_amount");
        assert_eq!(top, expected, "{file}");
        // The same from all rows in order.
        let all = values::<Float64Type>(&largest.to_batches().unwrap(), "fare_amount");
        assert_eq!(all[..10], expected, "{file}");
        assert!(all.is_sorted_by(|a, b| a >= b), "{file}");
    });
}

/// The features of a model of fares, as the golden file has them: no outliers, weeks begin with
/// Monday, which is 0.
fn prepare_for_model(file: &str, trips: Dataset) -> Dataset {
    let pickup = || col(format!("{}_pickup_datetime", prefix_of(file)));
    let prepared = trips
        .filter(col("fare_amount").gt_eq(lit(2.5)))
        .filter(col("trip_distance").gt(lit(0.0)))
        .filter(col("fare_amount").lt_eq(lit(300.0)))
        .filter(col("trip_distance").lt_eq(lit(60.0)));
    let names = ["RatecodeID", "PULocationID", "DOLocationID", "passenger_count"];
    with_duration(prepared, prefix_of(file))
        .with_column("pickup_hour", pickup().hour())
        .with_column("pickup_dow", pickup().day_of_week())
        .rename(names.map(|name| (spelt(file, name), name)).into_iter().filter(|(from, to)| from != to))
}

#[test]
fn what_a_model_is_trained_on_is_the_golden_table() {
    every_file(|file, expected, trips| {
        let expected = &expected["prepare_for_model"];
        let features = expected["sums"].as_object().unwrap();
        let mut prepared = prepare_for_model(file, trips).select(features.keys().cloned().collect::<Vec<_>>());
        for feature in features.keys() {
            prepared = prepared.cast(feature, ValueType::Float64);
        }
        assert_eq!(prepared.count().unwrap(), expected["rows"].as_u64().unwrap(), "{file}");
        let asked = features.keys().flat_map(|feature| [sum(feature), count_of(feature)]);
        let whole = [prepared.aggregate(asked).unwrap()];
        for (feature, total) in features {
            close(values::<Float64Type>(&whole, &format!("sum({feature})"))[0], total.as_f64().unwrap());
            let nulls =
                expected["rows"].as_i64().unwrap() - values::<Int64Type>(&whole, &format!("count({feature})"))[0];
            assert_eq!(Some(nulls), expected["nulls"][feature].as_i64(), "{file}: {feature}");
        }
        for (feature, name, keys) in [("pickup_hour", "hour_counts", 24), ("pickup_dow", "dow_counts_monday_first", 7)]
        {
            let counted = prepared.clone().group_by(feature).count().to_batches().unwrap();
            let mut counts = vec![0; keys];
            let keys = values::<Float64Type>(&counted, feature);
            for (key, count) in keys.into_iter().zip(values::<Int64Type>(&counted, "count()")) {
                counts[key as usize] = count;
            }
            let expected: Vec<i64> = expected[name].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
            assert_eq!(counts, expected, "{file}: {feature}");
        }
    });
}
