//! A write that ended early goes on where it ended, and only if it is the same write.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use mobula::{Dataset, EarlierRun, RunError, range_in_blocks, read_parquet, remote};

use crate::data_support::{numbers, session};

/// The first row at which `fragile` fails.
static FAILS_FROM: AtomicI64 = AtomicI64::new(0);

#[remote]
fn fragile(batch: RecordBatch, _limit: i64) -> Result<RecordBatch, String> {
    let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
    match ids.values().iter().find(|id| **id >= FAILS_FROM.load(Ordering::SeqCst)) {
        Some(id) => Err(format!("no luck with {id}")),
        None => Ok(batch),
    }
}

fn rows(limit: i64) -> Dataset {
    range_in_blocks(1000, 20).map_batches(fragile.with(limit)).resume(true)
}

/// Writes until a block fails, then again; how many blocks the second one took over.
fn resumed(first: &Dataset, second: &Dataset) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    FAILS_FROM.store(700, Ordering::SeqCst);
    let error = first.write_parquet(&out).unwrap_err();
    assert!(matches!(&error, RunError::Block { .. }) && error.to_string().contains("no luck with 700"), "{error}");
    assert!(!out.exists(), "a reader sees nothing of it");
    FAILS_FROM.store(i64::MAX, Ordering::SeqCst);
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    let second = second.clone().on_progress(move |progress| telling.lock().unwrap().push(progress));
    let report = second.write_parquet(&out).unwrap();
    assert_eq!(numbers(&read_parquet(&out), "id"), (0..1000).collect::<Vec<_>>());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing hidden is left");
    assert_eq!((report.rows_out, report.rows_resumed), (1000, report.blocks_resumed * 50));
    assert_eq!(report.earlier, Some(if report.blocks_resumed > 0 { EarlierRun::Same } else { EarlierRun::Other }));
    // What is done already is so from the start, and all is in the end.
    let told = told.lock().unwrap();
    let (begin, end) = (told.first().unwrap(), told.last().unwrap());
    assert_eq!((begin.tasks_done, begin.rows_in), (report.blocks_resumed, report.rows_resumed));
    assert_eq!((begin.rows_out, begin.rows_total), (report.rows_resumed, 1000));
    assert_eq!((end.tasks_done, end.rows_in, end.rows_out), (20, 1000, 1000));
    report.blocks_resumed
}

#[test]
fn a_write_goes_on_if_it_is_the_same() {
    let session = session();
    let _entered = session.enter();
    let same = resumed(&rows(1), &rows(1));
    assert!((1..=14).contains(&same), "{same}");
    assert_eq!(resumed(&rows(1), &rows(2)), 0, "other parameters of the function");
    assert_eq!(resumed(&rows(1), &rows(1).part_bytes(1 << 20)), 0, "rows may be dealt otherwise");
}
