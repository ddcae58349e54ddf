//! Made-up trips look like real ones and are the same every time.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use mobula_data::DataError;
use taxi_etl::calendar::Month;
use taxi_etl::columns::yellow_schema;
use taxi_etl::generate::{Generate, generate};

use crate::support::{Cleaned, clean_files, read_files};

fn make(output: &Path, rows: u64, months: &str, seed: u64, threads: usize) -> Vec<Vec<u8>> {
    let months = Month::parse_range(months).unwrap();
    let what = Generate { rows, months, seed, output: output.to_path_buf(), threads, overwrite: false };
    let files = generate(&what, &|_| ControlFlow::Continue(())).unwrap();
    assert_eq!(files.iter().map(|f| f.rows).sum::<u64>(), rows);
    assert_eq!(fs::read_dir(output).unwrap().count(), files.len());
    files.iter().map(|f| fs::read(&f.path).unwrap()).collect()
}

fn real(cleaned: &Cleaned, column: &str) -> Vec<Option<f64>> {
    let of = |b: &arrow::record_batch::RecordBatch| -> Vec<Option<f64>> {
        b.column_by_name(column).unwrap().as_primitive::<Float64Type>().iter().collect()
    };
    cleaned.batches.iter().flat_map(of).collect()
}

fn whole(cleaned: &Cleaned, column: &str) -> Vec<i64> {
    let of = |b: &arrow::record_batch::RecordBatch| {
        b.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec()
    };
    cleaned.batches.iter().flat_map(of).collect()
}

#[test]
fn the_seed_and_nothing_else_decides() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, seed, threads| make(&dir.path().join(name), 70_001, "2023-01..2023-03", seed, threads);
    let one = run("one", 7, 1);
    assert_eq!(one.len(), 3);
    assert!(one == run("three", 7, 3), "the number of threads changed the files");
    assert!(one != run("other", 8, 1), "the seed changed nothing");
    assert!(one[0] != one[1]);
}

#[test]
fn a_month_looks_like_the_real_thing() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 200_000, "2023-01", 1, 2);
    let path = [dir.path().join("yellow_tripdata_2023-01.parquet")];
    let trips = read_files(&path).unwrap();
    assert_eq!(trips.input, yellow_schema());

    let fares = real(&trips, "fare_amount");
    let share = |hits: usize| hits as f64 / 200_000.0;
    let within = |what: &str, found: f64, low: f64, high: f64| {
        assert!((low..=high).contains(&found), "{what}: {found} is not within {low} and {high}");
    };
    let count = |values: &[Option<f64>], test: &dyn Fn(f64) -> bool| {
        share(values.iter().flatten().filter(|v| test(**v)).count())
    };
    within("negative fares", count(&fares, &|f| f < 0.0), 0.004, 0.02);
    let distances = real(&trips, "trip_distance");
    within("no distance", count(&distances, &|d| d == 0.0), 0.01, 0.03);
    let passengers = real(&trips, "passenger_count");
    within("nulls", share(passengers.iter().filter(|p| p.is_none()).count()), 0.02, 0.04);
    within("card", share(whole(&trips, "payment_type").iter().filter(|p| **p == 1).count()), 0.7, 0.82);
    within("JFK", share(whole(&trips, "PULocationID").iter().filter(|z| **z == 132).count()), 0.04, 0.1);

    let median = |values: &[Option<f64>], at: f64| {
        let mut sorted: Vec<f64> = values.iter().flatten().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted[(sorted.len() as f64 * at) as usize]
    };
    within("median distance", median(&distances, 0.5), 1.6, 2.6);
    within("long distance", median(&distances, 0.95), 12.0, 21.0);
    within("median fare", median(&fares, 0.5), 11.0, 16.0);
    within("high fare", median(&fares, 0.95), 55.0, 80.0);

    let cleaned = clean_files(&path).unwrap();
    within("kept", share(cleaned.rows() as usize), 0.95, 0.985);
    let duration = real(&cleaned, "trip_duration_min");
    within("median duration", median(&duration, 0.5), 9.0, 15.0);
    within("days on the meter", count(&duration, &|d| d > 1_200.0), 0.0003, 0.004);
}

#[test]
fn fares_follow_the_rules() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 100_000, "2023-05", 3, 2);
    let trips = read_files(&[dir.path().join("yellow_tripdata_2023-05.parquet")]).unwrap();
    let money = ["fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount", "improvement_surcharge"];
    let [fare, extra, tax, tip, tolls, improvement] = money.map(|name| real(&trips, name));
    let (total, congestion, airport) =
        (real(&trips, "total_amount"), real(&trips, "congestion_surcharge"), real(&trips, "airport_fee"));
    let (rate, vendor) = (real(&trips, "RatecodeID"), whole(&trips, "VendorID"));
    let (pickup, payment) = (whole(&trips, "PULocationID"), whole(&trips, "payment_type"));
    let (mut flat, mut airports) = (0, 0);
    for i in 0..100_000 {
        let Some(code) = rate[i] else {
            assert!(payment[i] == 0 && congestion[i].is_none() && airport[i].is_none());
            continue;
        };
        let (fare, congestion, airport) = (fare[i].unwrap(), congestion[i].unwrap(), airport[i].unwrap());
        if code == 2.0 {
            assert!(fare.abs() == 70.0 || fare == 0.0 || fare >= 500.0, "{fare}");
            flat += 1;
        }
        if airport != 0.0 {
            assert_eq!(airport.abs(), 1.75);
            airports += u32::from(matches!(pickup[i], 132 | 138));
        }
        // Vendor 1 puts the surcharges among the extras too.
        let doubled = if vendor[i] == 1 { congestion + airport } else { 0.0 };
        let parts = [&extra, &tax, &tip, &tolls, &improvement].map(|column| column[i].unwrap());
        let sum = fare + parts.iter().sum::<f64>() + congestion + airport - doubled;
        assert!((sum - total[i].unwrap()).abs() < 0.005, "row {i}: {sum} and {:?}", total[i]);
    }
    assert!(flat > 2_000 && airports > 5_000, "{flat} flat fares, {airports} from airports");
}

#[test]
fn trips_lie_in_their_month_in_order_of_hours() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), 50_000, "2023-02", 9, 1);
    let trips = read_files(&[dir.path().join("yellow_tripdata_2023-02.parquet")]).unwrap();
    let month = 1_675_209_600_000_000..1_677_628_800_000_000_i64;
    let (mut outside, mut last_hour, mut disorder) = (0, 0, 0);
    for batch in &trips.batches {
        let column = batch.column_by_name("tpep_pickup_datetime").unwrap();
        assert_eq!(column.null_count(), 0);
        for at in column.as_primitive::<TimestampMicrosecondType>().values() {
            if !month.contains(at) {
                outside += 1;
                continue;
            }
            let hour = at / 3_600_000_000;
            disorder += u32::from(hour < last_hour);
            last_hour = hour;
        }
    }
    assert!((1..60).contains(&outside), "{outside} trips of other months");
    assert_eq!(disorder, 0);
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let months = Month::parse_range("2023-01").unwrap();
    let what = Generate { rows: 10, months, seed: 1, output: file.join("below"), threads: 1, overwrite: false };
    let error = generate(&what, &|_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, DataError::Write { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn files_that_exist_are_replaced_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("yellow_tripdata_2023-02.parquet");
    fs::write(&real, "downloaded").unwrap();
    let months = Month::parse_range("2023-01..2023-02").unwrap();
    let mut what =
        Generate { rows: 100, months, seed: 1, output: dir.path().to_path_buf(), threads: 1, overwrite: false };
    let error = generate(&what, &|_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(&error, DataError::OutputExists { found, .. } if real.ends_with(found)), "{error}");
    assert_eq!(fs::read(&real).unwrap(), b"downloaded");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    what.overwrite = true;
    let files = generate(&what, &|_| ControlFlow::Continue(())).unwrap();
    assert_eq!(files[1].path, real);
    assert_eq!(fs::metadata(&real).unwrap().len(), files[1].bytes);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced_and_none_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let late = dir.path().join("yellow_tripdata_2023-02.parquet");
    let months = Month::parse_range("2023-01..2023-02").unwrap();
    let what = Generate { rows: 100, months, seed: 1, output: dir.path().to_path_buf(), threads: 1, overwrite: false };
    let download = |_| {
        fs::write(&late, "downloaded").unwrap();
        ControlFlow::Continue(())
    };
    let error = generate(&what, &download).unwrap_err();
    assert!(matches!(error, DataError::OutputExists { .. }), "{error}");
    assert_eq!(fs::read(&late).unwrap(), b"downloaded");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_interrupted_run_and_one_that_panics_end_and_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let output = root.path().join("a/b");
    let months = Month::parse_range("2023-01..2023-03").unwrap();
    let what = Generate { rows: 5_000_000, months, seed: 1, output, threads: 3, overwrite: false };
    let error = generate(&what, &|_| ControlFlow::Break(())).unwrap_err();
    assert_eq!(error, DataError::Cancelled);
    assert!(fs::read_dir(root.path()).unwrap().next().is_none());
    let panicked = std::panic::catch_unwind(|| generate(&what, &|_| panic!("asked to")));
    assert!(panicked.is_err());
    assert!(fs::read_dir(root.path()).unwrap().next().is_none());
}
