//! Datasets through their typed face: plans that name remote functions, run on a local session.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{Array as _, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use mobula::{Config, DataError, RunError, Session, WriteMode, WriteOptions, col, lit, read_parquet, remote};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

fn session() -> Session {
    Session::start(Config::default().num_cpus(2)).unwrap()
}

/// Rows `from..to`: `id`, `fare` = id / 2, `zone`.
fn rows(from: i64, to: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..to));
    let fares: ArrayRef = Arc::new(Float64Array::from_iter_values((from..to).map(|id| id as f64 / 2.0)));
    let zones: ArrayRef = Arc::new(StringArray::from_iter_values((from..to).map(|id| format!("z{}", id % 3))));
    RecordBatch::try_from_iter([("id", ids), ("fare", fares), ("zone", zones)]).unwrap()
}

/// `files` files of 100 rows in row groups of 10.
fn trips(dir: &Path, files: i64) {
    for file in 0..files {
        let batch = rows(file * 100, (file + 1) * 100);
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(10)).build();
        let out = File::create(dir.join(format!("trips-{file}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(out, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    let column = |batch: &RecordBatch| {
        let ids = batch.column_by_name("id").unwrap();
        ids.as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
    };
    batches.iter().flat_map(column).collect()
}

#[derive(Serialize, Deserialize, Clone)]
struct Limits {
    least: f64,
    most: f64,
}

#[remote]
fn clean(batch: RecordBatch, limits: Limits, zone: &str) -> Result<RecordBatch, ArrowError> {
    let missing = || ArrowError::SchemaError("no fare or zone".to_owned());
    let fares = batch.column_by_name("fare").and_then(|fares| fares.as_any().downcast_ref::<Float64Array>());
    let zones = batch.column_by_name("zone").and_then(|zones| zones.as_any().downcast_ref::<StringArray>());
    let pairs = fares.ok_or_else(missing)?.iter().zip(zones.ok_or_else(missing)?);
    let keep = pairs.map(|(fare, at)| Some((limits.least..=limits.most).contains(&fare?) && at? != zone)).collect();
    filter_record_batch(&batch, &keep)
}

#[remote]
fn same(batch: RecordBatch) -> RecordBatch {
    assert!(batch.num_rows() <= 17, "batches of at most 17 rows were asked for");
    batch
}

#[remote]
fn refuse(batch: &RecordBatch) -> Result<RecordBatch, String> {
    Err(format!("{} rows too many", batch.num_rows()))
}

#[test]
fn a_remote_function_cleans_batches_with_its_parameters() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 3);
    let limits = Limits { least: 10.0, most: 100.0 };
    let cleaned = read_parquet([dir.path()])
        .map_batches(clean.with(limits, "z1".to_owned()))
        .with_column("double", col("fare") * lit(2.0))
        .filter(col("double").lt(lit(150.0)));
    let expected: Vec<i64> = (20..=200).filter(|id| id % 3 != 1 && *id < 150).collect();
    assert_eq!(ids(&cleaned.take(1_000).unwrap()), expected);
    assert_eq!(cleaned.count().unwrap(), expected.len() as u64);
    assert_eq!(ids(&cleaned.take(3).unwrap()), expected[..3]);
    let names: Vec<_> = cleaned.schema().unwrap().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "fare", "zone", "double"]);

    let out = dir.path().join("_clean");
    let report = cleaned.write_parquet(&out).unwrap();
    assert_eq!((report.rows_in, report.rows_out), (300, expected.len() as u64));
    let read = read_parquet([&out]);
    assert_eq!(read.count().unwrap(), expected.len() as u64);
    assert_eq!(ids(&read.take(1_000).unwrap()), expected);
    read.show(3).unwrap();
}

#[test]
fn a_function_without_parameters_needs_no_with_and_gets_batches_of_the_size_asked_for() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 3);
    let all = read_parquet([dir.path().join("*.parquet")]);
    let expected: Vec<i64> = (0..300).collect();
    assert_eq!(ids(&all.clone().map_batches_of(17, same).take(300).unwrap()), expected);
    let error = all.map_batches_of(0, same).count().unwrap_err().to_string();
    assert!(error.contains('0') && error.contains("batch"), "{error}");
}

#[test]
fn what_goes_wrong_says_where() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 1);
    let all = || read_parquet([dir.path()]);
    let out = dir.path().join("_out");
    let error = all().map_batches(refuse).write_parquet(&out).unwrap_err().to_string();
    assert!(error.contains("refuse") && error.contains("rows too many"), "{error}");
    assert!(!out.exists(), "a failed run leaves nothing behind");
    let error = all().filter(col("fair").gt(lit(1.0))).count().unwrap_err().to_string();
    assert!(error.contains("fair") && error.contains("fare"), "{error}");
    let error = read_parquet([dir.path().join("nothing.parquet")]).count().unwrap_err().to_string();
    assert!(error.contains("nothing.parquet"), "{error}");
}

/// Its column is called after the block, as far as the block knows.
#[remote]
fn fickle(batch: RecordBatch) -> RecordBatch {
    let first = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().first().copied();
    let name = if first.is_some_and(|id| id >= 50) { "late" } else { "early" };
    RecordBatch::try_from_iter([(name, batch.column(0).clone())]).unwrap()
}

#[remote]
fn nobody(batch: RecordBatch) -> RecordBatch {
    RecordBatch::try_from_iter([("person", batch.column(2).slice(0, 0))]).unwrap()
}

#[remote]
fn nobody_or_error(batch: RecordBatch) -> Result<RecordBatch, String> {
    if batch.num_rows() == 0 { Err("no rows".to_owned()) } else { Ok(batch.slice(0, 0)) }
}

#[remote]
fn slow(batch: RecordBatch) -> RecordBatch {
    std::thread::sleep(std::time::Duration::from_millis(1));
    batch
}

#[test]
fn blocks_whose_columns_differ_are_refused_before_anything_appears() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 1);
    let blocks = read_parquet(dir.path()).block_bytes(1).map_batches(fickle);
    let out = dir.path().join("_out");
    let errors = [blocks.write_parquet(&out).map(drop).unwrap_err(), blocks.take(100).map(drop).unwrap_err()];
    for error in errors {
        assert!(matches!(error, RunError::Data(DataError::SchemaChanged { .. })), "{error}");
    }
    assert!(!out.exists());
    assert_eq!(blocks.take(50).unwrap().len(), 5);
}

#[test]
fn a_result_without_rows_has_the_columns_that_a_function_makes() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 1);
    let out = dir.path().join("_out");
    let none = read_parquet(dir.path()).block_bytes(1).map_batches(nobody);
    let report = none.write_parquet(&out).unwrap();
    assert_eq!((report.rows_out, report.files.len()), (0, 1));
    let back = read_parquet(&out);
    assert_eq!(back.count().unwrap(), 0);
    let names =
        |schema: &arrow::datatypes::Schema| schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
    assert_eq!(names(&back.schema().unwrap()), ["person"]);
    assert_eq!(names(&none.schema().unwrap()), ["person"]);
    let rows = none.take(5).unwrap();
    assert_eq!((names(&rows[0].schema()), rows[0].num_rows()), (vec!["person".to_owned()], 0));

    let fails = read_parquet(dir.path()).map_batches(nobody_or_error);
    assert!(fails.take(5).unwrap().is_empty());
    let error = fails.write_parquet(dir.path().join("_fails")).unwrap_err().to_string();
    assert!(error.contains("nobody_or_error") && error.contains("without rows"), "{error}");
    assert!(!dir.path().join("_fails").exists());
}

#[test]
fn a_run_that_is_cancelled_ends_soon_and_leaves_nothing() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 1);
    let out = dir.path().join("_out");
    let flag = Arc::new(AtomicBool::new(false));
    let (set, seen) = (flag.clone(), Arc::new(Mutex::new(Vec::new())));
    let told = seen.clone();
    let run = read_parquet(dir.path()).batch_size(1).map_batches(slow).cancel_when(flag).on_progress(move |progress| {
        // Of the one block, before it ends.
        set.store(progress.rows_in > 0, Ordering::Relaxed);
        told.lock().unwrap().push(progress);
    });
    // Long enough for a tick to come first: the rows of the file, over and over.
    let copies: Vec<_> = (0..20).map(|i| dir.path().join(format!("copy-{i}.parquet"))).collect();
    for copy in &copies {
        std::fs::copy(dir.path().join("trips-0.parquet"), copy).unwrap();
    }
    let error = run.write_parquet(&out).unwrap_err();
    assert_eq!(error, RunError::Data(DataError::Cancelled));
    assert!(std::fs::read_dir(dir.path()).unwrap().count() == 21, "something was left behind");
    let seen = seen.lock().unwrap();
    assert_eq!((seen[0].rows_in, seen[0].rows_total, seen[0].tasks_done), (0, 2100, 0));
    assert!(seen.last().unwrap().tasks_done == 0 && seen.last().unwrap().rows_in > 0);
}

static RELEASED: AtomicBool = AtomicBool::new(false);

/// Keeps its CPU until it is released.
#[remote]
fn hold() {
    while !RELEASED.load(Ordering::Relaxed) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_run_that_waits_for_a_cpu_says_so() {
    let (session, dir) = (Session::start(Config::default().num_cpus(1)).unwrap(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 1);
    let holding = hold.remote();
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let told = reasons.clone();
    let run = read_parquet(dir.path()).filter(col("id").gt_eq(lit(0))).on_waiting(move |reason| {
        told.lock().unwrap().push(reason.to_owned());
        RELEASED.store(true, Ordering::Relaxed);
    });
    assert_eq!(run.count().unwrap(), 100);
    mobula::get(&holding).unwrap();
    let reasons = reasons.lock().unwrap();
    assert!(reasons[0].contains("CPU"), "{reasons:?}");
}

static GOES_ON: AtomicBool = AtomicBool::new(false);

/// Takes its time.
#[remote]
fn linger(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    while !GOES_ON.load(Ordering::Relaxed) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(batch)
}

#[test]
fn a_run_that_is_only_slow_does_not_say_that_it_waits() {
    let (session, dir) = (Session::start(Config::default().num_cpus(1)).unwrap(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 1);
    // Something else waits, and for ever.
    let _never = hold.options().num_gpus(1.0).remote();
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let told = reasons.clone();
    let run = read_parquet(dir.path()).map_batches(linger).on_waiting(move |reason| {
        told.lock().unwrap().push(reason.to_owned());
        GOES_ON.store(true, Ordering::Relaxed);
    });
    assert_eq!(run.take(200).unwrap().iter().map(RecordBatch::num_rows).sum::<usize>(), 100);
    assert_eq!(*reasons.lock().unwrap(), [""]);
}

#[test]
fn a_failing_block_says_on_which_node_and_the_first_one_is_told() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 2);
    let missing = dir.path().join("trips-1.parquet");
    let opened = read_parquet(dir.path()).opened().unwrap();
    std::fs::remove_file(&missing).unwrap();
    let error = opened.filter(col("id").gt(lit(0))).count().unwrap_err();
    let text = error.to_string();
    // There is no other node.
    assert!(text.ends_with("trips-1.parquet does not exist"), "{text}");
    assert!(matches!(error, RunError::Block { .. }));
}

#[test]
fn a_result_among_its_own_input_is_refused_before_anything_is_touched() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 1);
    let before = std::fs::read(dir.path().join("trips-0.parquet")).unwrap();
    let overwrite = WriteOptions { mode: WriteMode::Overwrite, ..WriteOptions::default() };
    for out in [dir.path().to_path_buf(), dir.path().join("clean")] {
        for input in [dir.path().to_path_buf(), dir.path().join("*")] {
            let error = read_parquet(&input).write(&out, overwrite.clone()).unwrap_err();
            assert!(matches!(error, RunError::Data(DataError::OutputInInput { .. })), "{error}");
        }
    }
    assert_eq!(std::fs::read(dir.path().join("trips-0.parquet")).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

    // A run again reads what the first one read.
    let out = dir.path().join("_out");
    for _ in 0..2 {
        let report = read_parquet(dir.path()).write(&out, overwrite.clone()).unwrap();
        assert_eq!((report.rows_in, report.rows_out), (100, 100));
    }
}

#[test]
fn a_path_that_is_not_utf8_is_refused_and_not_rewritten() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 1);
    let strange = dir.path().join(OsStr::from_bytes(b"\xff"));
    let errors = [
        read_parquet(&strange).count().unwrap_err(),
        read_parquet(dir.path()).write_parquet(&strange).map(drop).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, RunError::Data(DataError::NotUtf8 { .. })), "{error}");
    }
}

#[test]
fn printing_shows_the_plan_and_the_columns_and_runs_nothing() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    trips(dir.path(), 1);
    let path = dir.path().display().to_string();
    let text = read_parquet([&path]).filter(col("fare").gt(lit(2.5))).map_batches(refuse).to_string();
    assert!(text.starts_with("map_batches refuse\n  filter fare > 2.5\n    read_parquet "), "{text}");
    let text = read_parquet([&path]).select(["zone", "id"]).to_string();
    assert!(text.ends_with("columns: zone Utf8, id Int64"), "{text}");
    let text = read_parquet(["nowhere.parquet"]).to_string();
    assert!(text.contains("read_parquet nowhere.parquet") && text.contains("columns: unknown"), "{text}");
}
