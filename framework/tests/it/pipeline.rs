//! Plans over small files written here: the same answer however the rows lie in files, and
//! whether the reader leaves rows out or not.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use mobula::{
    DataError, Dataset, JoinKind, Matching, RunError, WriteMode, WriteOptions, col, lit, range, read_parquet, remote,
};
use mobula_data::source::Source;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use crate::data_support::{blocks, names, numbers, session};

/// Writes 0..rows in `files` files with row groups of `group` rows.
fn counted(dir: &Path, rows: i64, files: i64, group: usize) -> Dataset {
    for file in 0..files {
        let (from, to) = (rows * file / files, rows * (file + 1) / files);
        let texts = (from..to).map(|n| (n % 3 > 0).then(|| format!("n{n}")));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("n", Arc::new(Int64Array::from_iter_values(from..to)) as ArrayRef, false),
            ("name", Arc::new(StringArray::from_iter(texts)) as ArrayRef, true),
        ])
        .unwrap();
        let options = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
        let file = File::create(dir.join(format!("{file:03}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(options)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
    // A block for every row group, so that what is tested crosses blocks.
    read_parquet(dir).batch_size(64).block_bytes(1)
}

/// Runs `check` over the same thousand rows in 1 and in 30 row groups or files, with a reader that
/// leaves rows out and with one that does not.
fn in_every_layout(check: impl Fn(Dataset)) {
    let session = session();
    let _entered = session.enter();
    for (files, group) in [(1, 1000), (1, 34), (30, 1000), (4, 100)] {
        let dir = tempfile::tempdir().unwrap();
        let rows = counted(dir.path(), 1000, files, group);
        let count = blocks(rows.plan()).len();
        assert_eq!(count > 1, (files, group) != (1, 1000), "{count} blocks");
        check(rows.clone());
        check(rows.pushdown(false));
    }
}

#[test]
fn how_files_are_read_is_told_to_all_sources() {
    let matching = Matching { ignore_case: true, ..Matching::default() };
    let union = read_parquet("one/").union([range(3), read_parquet("two/")]);
    let joined = union.join(read_parquet("side/"), JoinKind::Inner, "n", "n");
    let told = joined.batch_size(7).block_bytes(9).pushdown(false).matching(matching.clone());
    let mut files = 0;
    for source in told.plan().sources() {
        if let Source::Files(read) = source {
            assert_eq!((read.batch_rows, read.block_bytes, read.pushdown), (7, 9, false), "{source}");
            assert_eq!(read.matching, matching, "{source}");
            files += 1;
        }
    }
    assert_eq!(files, 3);
}

#[test]
fn filters_columns_and_limits_keep_order() {
    in_every_layout(|rows| {
        let halves = rows
            .filter(col("n").gt_eq(lit(10)))
            .filter((col("n") % lit(2)).eq(lit(0)))
            .with_column("half", col("n") / lit(2))
            .select(["half"]);
        let all: Vec<i64> = (5..500).collect();
        assert_eq!(numbers(&halves, "half"), all);
        let report = halves.clone().pushdown(false).stats().unwrap();
        assert_eq!((report.rows_in, report.operators[0].rows_in, report.operators[1].rows_in), (1000, 1000, 990));
        assert_eq!(report.rows_out, 495);
        assert_eq!(numbers(&halves.clone().limit(7), "half"), all[..7]);
        assert_eq!(numbers(&halves.limit(7).filter(col("half").gt(lit(7))), "half"), all[3..7]);
    });
}

#[test]
fn a_filter_that_may_fail_sees_only_what_the_one_before_left() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    for pushdown in [true, false] {
        let rows = counted(dir.path(), 100, 1, 100).pushdown(pushdown);
        let safe = rows.clone().filter(col("n").gt(lit(0))).filter((lit(100) / col("n")).gt(lit(9)));
        assert_eq!(numbers(&safe, "n"), (1..=10).collect::<Vec<_>>());
        let error = rows.filter((lit(100) / col("n")).gt(lit(9))).to_batches().unwrap_err();
        let RunError::Block { error, .. } = error else { panic!("{error}") };
        assert!(matches!(&*error, DataError::Compute { path, .. } if path.ends_with("000.parquet")), "{error}");
    }
}

#[test]
fn writing_and_counting_agree_and_a_written_limit_is_exact() {
    in_every_layout(|rows| {
        let named = rows.filter(col("name").is_not_null());
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("a");
        let report = named.write_parquet(&dir).unwrap();
        assert_eq!((report.rows_out, named.count().unwrap()), (666, 666));
        let back = read_parquet(&dir);
        let kept: Vec<i64> = (0..1000).filter(|n| n % 3 > 0).collect();
        assert_eq!(numbers(&back, "n"), kept);
        assert_eq!(numbers(&back.select(["n"]), "n").len(), 666);
        let report = named.limit(10).write_parquet(out.path().join("b")).unwrap();
        assert_eq!((report.rows_out, report.files.len()), (10, 1));
        assert_eq!(numbers(&read_parquet(out.path().join("b")), "n"), kept[..10]);
    });
}

#[test]
fn a_result_without_rows_still_has_its_columns() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    let none = counted(dir.path(), 100, 3, 10).filter(col("n").lt(lit(0))).with_column("x", lit(1.5));
    let report = none.write_parquet(dir.path().join("_out")).unwrap();
    assert_eq!(report.files.len(), 1);
    let back = read_parquet(&report.files);
    assert_eq!(names(&back.schema().unwrap()), ["n", "name", "x"]);
    assert_eq!(blocks(back.plan()), [Vec::new()]);
}

/// What the functions of a test have seen, each under a number of its own: the tests of this
/// binary run side by side.
static SIZES: Mutex<Vec<(u64, usize)>> = Mutex::new(Vec::new());

fn next_run() -> u64 {
    static NEXT: Mutex<u64> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap();
    *next += 1;
    *next
}

/// The sizes of the batches that a run has seen so far.
fn sizes_of(run: u64) -> Vec<usize> {
    SIZES.lock().unwrap().iter().filter(|(of, _)| *of == run).map(|(_, size)| *size).collect()
}

/// Adds the parameter to `n`, and remembers the sizes of batches.
#[remote]
fn add(batch: RecordBatch, amount: i64, run: u64) -> RecordBatch {
    SIZES.lock().unwrap().push((run, batch.num_rows()));
    let n = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>();
    let sum: Int64Array = n.unary(|n| n + amount);
    RecordBatch::try_from_iter([("sum", Arc::new(sum) as ArrayRef)]).unwrap()
}

#[remote]
fn fail_at(batch: RecordBatch, at: i64) -> Result<RecordBatch, String> {
    let n = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>();
    if n.values().contains(&at) { Err("asked to".to_owned()) } else { Ok(batch) }
}

#[test]
fn a_function_sees_every_row_once_in_batches_of_its_size() {
    in_every_layout(|rows| {
        for size in [None, Some(1), Some(17), Some(64), Some(300), Some(5000)] {
            let run = next_run();
            let from_one = rows.clone().filter(col("n").gt_eq(lit(1)));
            let mapped = match size {
                Some(size) => from_one.map_batches_of(size, add.with(5, run)),
                None => from_one.map_batches(add.with(5, run)),
            };
            let positive = mapped.filter(col("sum").gt(lit(0)));
            assert_eq!(numbers(&positive, "sum"), (6..1005).collect::<Vec<_>>());
            let sizes = sizes_of(run);
            let largest = size.unwrap_or(64);
            assert_eq!(sizes.iter().sum::<usize>(), 999);
            assert!(sizes.iter().all(|s| *s <= largest));
            // Only the last batch of a block may be short.
            let short = sizes.iter().filter(|s| Some(**s) != size).count();
            assert!(size.is_none() || short <= blocks(positive.plan()).len(), "{size:?}: {sizes:?}");
        }
    });
}

/// The batch under two names, in another way from the second batch of a run on.
fn fickle(batch: &RecordBatch, run: u64, later: impl Fn(ArrayRef) -> [(&'static str, ArrayRef); 2]) -> RecordBatch {
    let calls = {
        let mut sizes = SIZES.lock().unwrap();
        sizes.push((run, batch.num_rows()));
        sizes.iter().filter(|(of, _)| *of == run).count()
    };
    let n = batch.column_by_name("n").unwrap().clone();
    let columns = if calls == 1 { [("a", n.clone()), ("b", n)] } else { later(n) };
    RecordBatch::try_from_iter(columns).unwrap()
}

#[remote]
fn other_order(batch: RecordBatch, run: u64) -> RecordBatch {
    fickle(&batch, run, |n| [("b", n.clone()), ("a", n)])
}

#[remote]
fn other_names(batch: RecordBatch, run: u64) -> RecordBatch {
    fickle(&batch, run, |n| [("a", n.clone()), ("c", n)])
}

#[remote]
fn other_types(batch: RecordBatch, run: u64) -> RecordBatch {
    fickle(&batch, run, |n| [("a", n.clone()), ("b", cast(&n, &DataType::Int32).unwrap())])
}

#[test]
fn a_function_whose_columns_change_is_refused_and_not_mixed_up() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    let rows = counted(dir.path(), 200, 1, 1000);
    let follow: [fn(Dataset) -> Dataset; 4] = [
        |mapped| mapped,
        |mapped| mapped.filter(col("a").gt_eq(lit(0))),
        |mapped| mapped.select(["a", "b"]),
        |mapped| mapped.with_column("d", col("a") + col("b")),
    ];
    for then in follow {
        for (function, mapped) in [
            ("other_order", rows.clone().map_batches(other_order.with(next_run()))),
            ("other_names", rows.clone().map_batches(other_names.with(next_run()))),
            ("other_types", rows.clone().map_batches(other_types.with(next_run()))),
        ] {
            let error = then(mapped).to_batches().unwrap_err();
            let RunError::Block { error, .. } = error else { panic!("{error}") };
            assert!(
                matches!(&*error, DataError::SchemaChanged { operator, .. } if operator.contains(function)),
                "{error}"
            );
        }
    }
    // One batch has one set of columns.
    let once = rows.batch_size(1000).map_batches(other_types.with(next_run()));
    assert_eq!(numbers(&once, "b").len(), 200);
}

#[test]
fn a_failing_function_ends_the_run_with_its_name() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    let failing = counted(dir.path(), 1000, 3, 100).map_batches(fail_at.with(500));
    let text = failing.to_batches().unwrap_err().to_string();
    assert!(text.starts_with("function ") && text.contains("fail_at failed: asked to"), "{text}");
    let out = dir.path().join("_out");
    assert!(failing.write_parquet(&out).is_err() && !out.exists());
}

#[test]
fn a_count_that_footers_tell_reads_nothing() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    let opened = counted(dir.path(), 60, 2, 10).with_column("d", lit(1)).opened().unwrap();
    for file in ["000.parquet", "001.parquet"] {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    assert_eq!(opened.count().unwrap(), 60);
    assert_eq!(opened.clone().limit(25).count().unwrap(), 25);
    assert_eq!(opened.clone().limit(100).count().unwrap(), 60);
    assert!(opened.filter(col("n").gt(lit(1))).count().is_err(), "the rows themselves are gone");
}

#[test]
fn a_limit_ends_the_read_where_rows_can_be_counted() {
    let (session, dir) = (session(), tempfile::tempdir().unwrap());
    let _entered = session.enter();
    let rows = counted(dir.path(), 60, 2, 10).pushdown(false);
    let read = |dataset: Dataset| {
        let report = dataset.stats().unwrap();
        (report.rows_in, report.rows_out)
    };
    assert_eq!(read(rows.clone().with_column("d", lit(1)).limit(15)), (15, 15));
    // The second limit may end the run before all of the first one's rows are read.
    let (rows_in, rows_out) = read(rows.clone().limit(15).filter(col("n").gt(lit(1))).limit(3));
    assert!((5..=15).contains(&rows_in) && rows_out == 3, "{rows_in} rows for {rows_out}");
    assert_eq!(read(rows.clone().limit(0)), (0, 0));
    assert_eq!(read(rows.clone().limit(1000)), (60, 60));
    // Behind a filter nobody knows where it falls; every task gives as many rows as are wanted.
    let (rows_in, rows_out) = read(rows.filter(col("n").gt(lit(1))).limit(5));
    assert!((7..=60).contains(&rows_in) && rows_out == 5, "{rows_in} rows for {rows_out}");
}

#[test]
fn a_limit_behind_a_filter_is_the_first_rows_whatever_follows() {
    in_every_layout(|rows| {
        let out = tempfile::tempdir().unwrap();
        let first = rows.filter((col("n") % lit(7)).eq(lit(6))).limit(50);
        let expected: Vec<i64> = (0..50).map(|n| 7 * n + 6).collect();
        assert_eq!(numbers(&first, "n"), expected);
        for (mode, copies) in [(WriteMode::ErrorIfExists, 1), (WriteMode::Append, 2), (WriteMode::Overwrite, 1)] {
            let report = first.write(out.path(), WriteOptions { mode, ..WriteOptions::default() }).unwrap();
            assert_eq!(report.rows_out, 50);
            assert_eq!(numbers(&read_parquet(out.path()), "n"), expected.repeat(copies));
        }
        let odd: Vec<i64> = expected.iter().copied().filter(|n| n % 2 == 1).collect();
        let again = first.filter((col("n") % lit(2)).eq(lit(1)));
        assert_eq!((numbers(&again, "n"), again.count().unwrap()), (odd.clone(), odd.len() as u64));
        assert_eq!(numbers(&again.limit(9), "n"), odd[..9]);
    });
}
