use super::*;
use crate::expr::{col, lit};
use crate::function::RegisteredFunctions;
use crate::pieces::{Piece, group, pieces};
use crate::plan::{Compute, MapBatches, Operator};
use crate::source::ReadFiles;
use crate::stage::{Branch, Combine, Input, StageOperator};
use crate::storage::StorageOptions;
use crate::write::WriteOptions;
use arrow::array::{ArrayRef, Int64Array};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use std::cell::Cell;
use std::fs::{self, File};
use std::path::Path;

/// Writes 0..rows as one file in row groups of `group`.
fn write(dir: &Path, rows: i64, group: usize) {
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let batch = RecordBatch::try_from_iter([("n", n)]).unwrap();
    let options = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let file = File::create(dir.join("000.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(options)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A stage over the file, with a task for every row group.
fn planned(dir: &Path, operators: Vec<Operator>, sink: StageSink) -> (Stage, Vec<BlockTask>) {
    let mut read = ReadFiles::parquet([dir.display().to_string()]);
    let opened = read.open().unwrap();
    let blocks = group(pieces(&opened.files, &opened.unified, &[0], None), 1);
    let branch = Branch {
        schema: Arc::clone(&opened.unified.schema),
        combine: Combine::Stream,
        format: read.format,
        storage: StorageOptions::default(),
        filter: None,
        batch_rows: 64,
        operators: operators.into_iter().map(StageOperator::Row).collect(),
    };
    let input = |pieces: Vec<Piece>| Input::Files { pieces, sides: Vec::new() };
    let task = |(ordinal, (pieces, _))| BlockTask { ordinal, branch: 0, input: input(pieces) };
    (Stage { branches: vec![branch], sink, asks_columns: false }, (0..).zip(blocks).map(task).collect())
}

fn context<'a>(progress: &'a dyn Fn(Progress) -> ControlFlow<()>) -> BlockContext<'a> {
    BlockContext {
        functions: &RegisteredFunctions,
        object: &|_| Ok(None),
        progress,
        clock: &|| Duration::ZERO,
        attempt: "0",
    }
}

fn goes_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn cancelling_stops_between_batches_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 1000, 1000);
    let staging = dir.path().join("_staging");
    fs::create_dir(&staging).unwrap();
    let sink = StageSink::Write {
        staging: staging.display().to_string(),
        options: WriteOptions::default(),
        schema: None,
        first_ordinal: 0,
    };
    let (stage, tasks) = planned(dir.path(), Vec::new(), sink);
    let seen = Cell::new(0);
    let progress = |progress: Progress| {
        seen.set(seen.get() + progress.rows_in);
        if seen.get() >= 128 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let error = run_block(&tasks[0], &stage, &context(&progress)).unwrap_err();
    assert_eq!((error, seen.get()), (DataError::Cancelled, 128));
    assert!(fs::read_dir(&staging).unwrap().next().is_none());
}

#[test]
fn a_file_that_changed_since_it_was_planned_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 1000, 100);
    let (stage, tasks) = planned(dir.path(), Vec::new(), StageSink::Blocks);
    write(dir.path(), 900, 100);
    let error = run_block(tasks.last().unwrap(), &stage, &context(&goes_on)).unwrap_err();
    assert!(matches!(error, DataError::FileChanged { .. }), "{error}");
}

#[test]
fn a_function_that_is_not_registered_ends_the_task_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 10, 10);
    let map = MapBatches {
        function: "test::add".into(),
        params: Vec::new(),
        batch_rows: None,
        name: "add".into(),
        compute: Compute::Tasks,
        resources: Vec::new(),
    };
    let (stage, tasks) = planned(dir.path(), vec![Operator::MapBatches(map)], StageSink::Blocks);
    let error = run_block(&tasks[0], &stage, &context(&goes_on)).unwrap_err();
    assert!(matches!(&error, DataError::UnknownFunction { function } if function == "test::add"), "{error}");
}

#[test]
fn a_limit_ends_the_read_and_operators_count_what_they_saw() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 1000, 1000);
    let operators = vec![Operator::Filter { condition: col("n").gt_eq(lit(10)) }, Operator::Limit { rows: 60 }];
    let (stage, tasks) = planned(dir.path(), operators, StageSink::Count);
    let report = run_block(&tasks[0], &stage, &context(&goes_on)).unwrap().report;
    assert_eq!((report.rows_in, report.rows_out), (128, 60));
    let counts: Vec<_> = report.operators.iter().map(|operator| (operator.rows_in, operator.rows_out)).collect();
    assert_eq!(counts, [(128, 118), (118, 60)]);
    assert_eq!(dropped_by_filter(&report.operators), [("n >= 10".to_owned(), 10)]);
}
