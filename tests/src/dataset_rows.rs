//! Row by row: functions over batches, columns, and what is not done before somebody asks.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use mobula::{Dataset, col, from_batches, lit, read_parquet, remote};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use crate::gate::{Tally, count as tell};
use crate::tables::{Folder, all, cut, error, in_blocks, int_column, ints, names, table, texts, whole};
use crate::{Scenario, everywhere};

pub(crate) const MAP: &[Scenario] = &[
    everywhere("a function sees every row once, in batches of at most its size", batches),
    everywhere("a function is not called for blocks without rows where others have some", empty_blocks),
    everywhere("a batch size of 0 is refused", no_size),
    everywhere("filters, and functions that give more or fewer rows", more_and_fewer),
    everywhere("columns are added, replaced, dropped, selected, renamed", columns),
    everywhere("an unknown column is named with those that exist", unknown),
    everywhere("limits give the first rows", limits),
];

pub(crate) const LAZINESS: &[Scenario] = &[
    everywhere("nothing is read until a sink", nothing_before_a_sink),
    everywhere("two functions in a row run as one stage", one_stage),
    everywhere("a limit stops reading early", stops_early),
    everywhere("columns that no one uses are not read", unused_columns),
    everywhere("what is materialized runs once", materialized),
];

/// Tells how many rows a batch has, and hands it on.
#[remote]
fn sized(batch: RecordBatch, tally: &str, most: u64) -> Result<RecordBatch, String> {
    tell(tally);
    let rows = batch.num_rows();
    if rows as u64 > most { Err(format!("{rows} rows are more than {most}")) } else { Ok(batch) }
}

fn batches() {
    in_blocks(&table([("x", ints(0..300))]), |rows| {
        let tally = Tally::new();
        let mapped = rows.map_batches_of(17, sized.with(tally.path(), 17));
        assert!(whole(&all(&mapped), "x").into_iter().eq(0..300));
        assert!(tally.get() >= 300_u64.div_ceil(17), "{} calls", tally.get());
        assert_eq!(mapped.count().expect("counted"), 300);
    });
}

/// Bears no batch without rows.
#[remote]
fn some_rows(batch: RecordBatch) -> Result<RecordBatch, String> {
    if batch.num_rows() == 0 { Err("no rows".to_owned()) } else { Ok(batch) }
}

fn empty_blocks() {
    for (rows, blocks) in [(10, 30), (1, 30), (300, 30)] {
        let rows = table([("x", ints(0..rows))]);
        let mapped = from_batches(cut(&rows, blocks)).map_batches(some_rows);
        assert_eq!(whole(&all(&mapped), "x"), whole(&rows, "x"));
        assert_eq!(mapped.count().expect("counted"), rows.num_rows() as u64);
        let folder = Folder::new();
        let report = mapped.write_parquet(folder.path().join("out")).expect("written");
        assert_eq!(report.files.len(), rows.num_rows().min(blocks), "a file for each block with rows");
        let sorted = mapped.clone().sort("x").map_batches(some_rows);
        assert_eq!(whole(&all(&sorted), "x"), whole(&rows, "x"));
    }
}

fn no_size() {
    in_blocks(&table([("x", ints(0..300))]), |rows| {
        let tally = Tally::new();
        let message = error(rows.map_batches_of(0, sized.with(tally.path(), 17)).count());
        assert!(message.contains("batch size of 0"), "{message}");
        assert_eq!(tally.get(), 0);
    });
}

/// Every row as often as its number says, divided by 3.
#[remote]
fn repeated(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let numbers = batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    let places = (0_u32..).zip(numbers).flat_map(|(row, x)| std::iter::repeat_n(row, (x % 3) as usize));
    take_record_batch(&batch, &UInt32Array::from_iter_values(places))
}

fn more_and_fewer() {
    in_blocks(&table([("x", ints(0..100))]), |rows| {
        let expected: Vec<i64> = (0..100).flat_map(|x| std::iter::repeat_n(x, (x % 3) as usize)).collect();
        let more = rows.clone().map_batches(repeated);
        assert_eq!((whole(&all(&more), "x"), more.count().expect("counted")), (expected.clone(), 99));
        let sorted = more.sort("x").filter(col("x").gt(lit(50)));
        let large: Vec<i64> = expected.into_iter().filter(|x| *x > 50).collect();
        assert_eq!(whole(&all(&sorted), "x"), large);
        let even = rows.filter((col("x") % lit(2)).eq(lit(0))).filter(col("x").lt(lit(20)));
        assert!(whole(&all(&even), "x").into_iter().eq((0..20).step_by(2)));
        assert_eq!(even.count().expect("counted"), 10);
        let none = even.filter(col("x").gt(lit(1000)));
        assert_eq!(
            (none.count().expect("counted"), all(&none).num_rows(), names(&all(&none))),
            (0, 0, vec!["x".into()])
        );
    });
}

fn columns() {
    let rows = table([("a", ints(0..60)), ("b", ints(100..160)), ("c", texts((0..60).map(|_| "c")))]);
    in_blocks(&rows, |rows| {
        let added = all(&rows.clone().with_column("d", col("a") + col("b")));
        assert_eq!(names(&added), ["a", "b", "c", "d"]);
        assert!(whole(&added, "d").into_iter().eq((0..60).map(|x| 100 + 2 * x)));
        let replaced = all(&rows.clone().with_column("a", col("a") * lit(2)));
        assert_eq!(names(&replaced), ["a", "b", "c"]);
        assert!(whole(&replaced, "a").into_iter().eq((0..60).map(|x| 2 * x)));
        assert_eq!(names(&all(&rows.clone().drop_columns(["a", "c"]))), ["b"]);
        let selected = all(&rows.clone().select(["b", "a"]));
        assert_eq!(names(&selected), ["b", "a"]);
        assert!(whole(&selected, "b").into_iter().eq(100..160));
        assert_eq!(names(&all(&rows.clone().rename([("a", "x"), ("c", "y")]))), ["x", "b", "y"]);
        // Names change places, and only one of them is used.
        let swapped = rows.rename([("a", "b"), ("b", "a")]);
        assert_eq!(names(&all(&swapped)), ["b", "a", "c"]);
        assert!(whole(&all(&swapped.clone().select(["a"])), "a").into_iter().eq(100..160));
        assert!(whole(&all(&swapped.sort("b").select(["b"])), "b").into_iter().eq(0..60));
    });
}

fn unknown() {
    in_blocks(&table([("a", ints(0..60)), ("b", ints(0..60))]), |rows| {
        for wrong in [
            rows.clone().filter(col("z").gt(lit(1))),
            rows.clone().with_column("c", col("z") + lit(1)),
            rows.clone().select(["a", "z"]),
            rows.clone().drop_columns("z"),
            rows.clone().rename([("z", "y")]),
            rows.sort("a").select("z"),
        ] {
            for message in [error(wrong.count()), error(wrong.to_batches()), error(wrong.schema())] {
                assert!(message.contains("no column z; there are a, b"), "{message}");
            }
        }
    });
}

fn limits() {
    in_blocks(&table([("x", ints(0..300))]), |rows| {
        for most in [0, 1, 10, 299, 300, 1000] {
            let first = rows.clone().limit(most);
            let expected = 300.min(most as i64);
            assert!(whole(&all(&first), "x").into_iter().eq(0..expected), "the first {most}");
            assert_eq!(first.count().expect("counted"), expected as u64);
            assert!(whole(&all(&first.sort("x").limit(5)), "x").into_iter().eq(0..5.min(expected)));
        }
        let odd = rows.clone().filter((col("x") % lit(2)).eq(lit(1))).limit(20).limit(50);
        assert!(whole(&all(&odd), "x").into_iter().eq((0..40).skip(1).step_by(2)));
        assert_eq!(odd.filter(col("x").gt(lit(20))).count().expect("counted"), 10);
        let taken = rows.random_shuffle(1).sort("x").take(3).expect("taken");
        assert_eq!(taken.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    });
}

/// 300 rows in so many row groups of one file: a block each.
fn file_of(dir: &Path, groups: usize) -> Dataset {
    let wide = (0..300).map(|x| format!("{x:>1000}")).collect::<Vec<_>>();
    let rows = table([("x", ints(0..300)), ("wide", texts(wide.iter().map(String::as_str)))]);
    // What lies on disk is as large as what it means.
    let options = WriterProperties::builder()
        .set_max_row_group_row_count(Some(300 / groups))
        .set_dictionary_enabled(false)
        .build();
    let file = File::create(dir.join("rows.parquet")).expect("a file");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(options)).expect("a writer");
    writer.write(&rows).expect("written");
    writer.close().expect("closed");
    read_parquet(dir).block_bytes(1)
}

fn nothing_before_a_sink() {
    for groups in [1, 30] {
        let (folder, tally) = (Folder::new(), Tally::new());
        let missing = read_parquet(folder.path().join("later.parquet"));
        let rows = file_of(folder.path(), groups).map_batches(sized.with(tally.path(), 300));
        let plan = rows.filter(col("x").gt(lit(1))).sort("x").limit(10);
        assert!(plan.to_string().contains("limit 10"));
        assert_eq!(tally.get(), 0, "building a plan runs nothing");
        assert_eq!(plan.count().expect("counted"), 10);
        assert!(tally.get() > 0);
        // A file that is there when somebody asks is early enough.
        std::fs::copy(folder.path().join("rows.parquet"), folder.path().join("later.parquet")).expect("copied");
        assert_eq!(missing.count().expect("counted"), 300);
    }
}

#[remote]
fn plus_one(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let more: Int64Array = batch.column(0).as_primitive::<Int64Type>().unary(|x| x + 1);
    RecordBatch::try_from_iter([("x", Arc::new(more) as ArrayRef)])
}

fn one_stage() {
    for groups in [1, 30] {
        let folder = Folder::new();
        let twice = file_of(folder.path(), groups).map_batches(plus_one).map_batches(plus_one);
        let report = twice.stats().expect("it ran");
        assert_eq!(report.stages.len(), 1, "{:?}", report.stages);
        assert_eq!((report.stages[0].tasks, report.stages[0].rows_in), (groups as u64, 300));
        assert_eq!(report.stages[0].name.matches("map_batches").count(), 2, "{}", report.stages[0].name);
        assert!(whole(&all(&twice), "x").into_iter().eq(2..302));
    }
}

fn stops_early() {
    let (folder, tally) = (Folder::new(), Tally::new());
    // One after the other, so that those behind the limit need not begin.
    let rows = file_of(folder.path(), 30).concurrency(1).map_batches(sized.with(tally.path(), 300));
    assert!(whole(&all(&rows.clone().limit(15)), "x").into_iter().eq(0..15));
    assert!(tally.get() < 30, "all {} blocks were read", tally.get());
    let first = file_of(folder.path(), 30).limit(15).stats().expect("it ran");
    assert_eq!((first.rows_in, first.rows_out), (15, 15));
    let (folder, whole_file) = (Folder::new(), 300);
    let batched = file_of(folder.path(), 1).batch_size(10).map_batches(sized.with(tally.path(), 300)).limit(15);
    let report = batched.stats().expect("it ran");
    assert!(report.rows_in < whole_file, "{} rows were read for 15", report.rows_in);
}

fn unused_columns() {
    for groups in [1, 30] {
        let folder = Folder::new();
        let rows = file_of(folder.path(), groups);
        let read = |dataset: &Dataset| dataset.stats().expect("it ran").bytes_in;
        let everything = read(&rows);
        assert!(everything > 300_000, "{everything} bytes for 300 wide rows");
        for narrow in [
            rows.clone().select("x"),
            rows.clone().drop_columns("wide").filter(col("x").gt(lit(10))).select("x"),
            rows.clone().with_column("wide", col("x")).select(["x", "wide"]),
            rows.clone().drop_columns("wide"),
            rows.clone().sort("x").select("x"),
            rows.clone().group_by("x").count(),
        ] {
            // Even where it is read twice, and with what the file says of itself.
            let bytes = read(&narrow);
            assert!(bytes < everything / 3, "{bytes} of {everything} bytes for {narrow}");
        }
    }
}

fn materialized() {
    for groups in [1, 30] {
        let (folder, tally) = (Folder::new(), Tally::new());
        let rows = file_of(folder.path(), groups).map_batches(sized.with(tally.path(), 300)).materialize();
        let rows = rows.expect("materialized");
        let calls = tally.get();
        assert!(whole(&all(&rows), "x").into_iter().eq(0..300));
        assert_eq!(rows.count().expect("counted"), 300);
        let sums = rows.clone().with_column("y", col("x") % lit(7)).group_by("y").sum("x");
        assert_eq!(whole(&all(&sums), "sum(x)").iter().sum::<i64>(), 299 * 150);
        assert_eq!(tally.get(), calls, "it ran again");
        std::fs::remove_file(folder.path().join("rows.parquet")).expect("removed");
        assert_eq!(all(&rows.limit(3)).num_rows(), 3);
    }
    let none = from_batches(cut(&table([("x", ints([None; 30]))]), 30)).materialize().expect("materialized");
    assert_eq!(int_column(&all(&none), "x"), [None; 30]);
}
