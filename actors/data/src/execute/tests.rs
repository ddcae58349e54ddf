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
    assert_eq!(counts, [(128, 128), (128, 118), (118, 60), (60, 60)]);
    assert_eq!(dropped_by_filter(&report.operators), [("n >= 10".to_owned(), 10)]);
}

/// A clock that is a millisecond further whenever it is looked at.
fn ticking(ticks: &Cell<u64>) -> Duration {
    ticks.set(ticks.get() + 1);
    Duration::from_millis(ticks.get())
}

#[test]
fn filters_that_run_as_one_have_each_its_share() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 1000, 1000);
    let conditions = [col("n").gt_eq(lit(10)), col("n").lt(lit(500)), col("n").gt_eq(lit(20))];
    let operators = conditions.map(|condition| Operator::Filter { condition }).to_vec();
    let (stage, tasks) = planned(dir.path(), operators, StageSink::Blocks);
    let (ticks, progress) = (Cell::new(0), goes_on);
    let clock = || ticking(&ticks);
    let context = BlockContext { clock: &clock, ..context(&progress) };
    let report = run_block(&tasks[0], &stage, &context).unwrap().report;
    let names: Vec<&str> = report.operators.iter().map(|operator| operator.name.as_str()).collect();
    assert_eq!(names, ["read_parquet", "filter n >= 10", "filter n < 500", "filter n >= 20", "blocks"]);
    let of = |what: fn(&OperatorReport) -> u64| report.operators.iter().map(what).collect::<Vec<_>>();
    assert_eq!(of(|o| o.rows_in), [1000, 1000, 990, 490, 480]);
    assert_eq!(of(|o| o.rows_out), [1000, 990, 490, 480, 480]);
    // Eight bytes a row; those of a sink are told when they are encoded.
    assert_eq!(of(|o| o.bytes_out), [8000, 7920, 3920, 3840, 0]);
    // A batch of 64 rows; the last filter has those that it copies besides, the sink all that it gathers.
    assert_eq!(of(|o| o.memory_bytes), [512, 512, 512, 1024, 3840]);
    assert_eq!(report.operators.iter().map(|o| o.bytes_in).collect::<Vec<_>>(), [report.bytes_in, 0, 0, 0, 0]);
    assert!(report.bytes_in > 0 && report.operators.iter().all(|o| o.seconds > 0.0), "{report:?}");
    // All but the moments before the first step and behind the last one.
    let together: f64 = report.operators.iter().map(|o| o.seconds).sum();
    assert!((report.seconds - together - 0.002).abs() < 1e-9, "{} and {together}", report.seconds);
    let dropped = dropped_by_filter(&report.operators);
    assert_eq!(dropped.iter().map(|(_, rows)| *rows).collect::<Vec<_>>(), [10, 500, 10]);
}

#[test]
fn what_puts_rows_together_tells_what_it_held() {
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values((0..1000).rev()));
    let batch = RecordBatch::try_from_iter([("n", n)]).unwrap();
    let keys = vec![crate::plan::SortKey::ascending("n")];
    let top = StageOperator::TopRows { keys: keys.clone(), rows: 3 };
    let branch = Branch {
        schema: batch.schema(),
        combine: Combine::Sort { keys },
        format: FileFormat::Parquet,
        storage: StorageOptions::default(),
        filter: None,
        batch_rows: 100,
        operators: vec![top],
    };
    let stage = Stage { branches: vec![branch], sink: StageSink::Blocks, asks_columns: false };
    let slices = vec![Slice { side: 0, first_row: 0, rows: 1000 }];
    let task = BlockTask { ordinal: 0, branch: 0, input: Input::Objects(slices) };
    let progress = goes_on;
    let object = |_: usize| -> Result<Option<RecordBatch>, DataError> { Ok(Some(batch.clone())) };
    let context = BlockContext { object: &object, ..context(&progress) };
    let report = run_block(&task, &stage, &context).unwrap().report;
    let [sort, top, sink] = report.operators.as_slice() else { panic!("{report:?}") };
    assert_eq!((sort.name.as_str(), sort.rows_in, sort.rows_out), ("sort n", 1000, 1000));
    // The rows, their order, and the keys of the sort.
    assert!(sort.memory_bytes > 3 * 8000, "{sort:?}");
    assert_eq!((top.rows_in, top.rows_out), (1000, 3));
    assert!(top.memory_bytes >= 8000 && top.bytes_out == 24, "{top:?}");
    assert_eq!((sink.rows_in, sink.memory_bytes), (3, 24));
}

#[test]
fn tasks_add_up_but_for_memory() {
    let mut sum = OperatorReport { rows_in: 1, memory_bytes: 5, seconds: 1.0, ..OperatorReport::default() };
    let other = OperatorReport { rows_in: 2, bytes_in: 3, memory_bytes: 4, seconds: 0.5, ..OperatorReport::default() };
    sum.add(&other);
    assert_eq!((sum.rows_in, sum.bytes_in, sum.memory_bytes, sum.seconds), (3, 3, 5, 1.5));
}

/// Every operator is a step, and a step hands its batch to the next one.
#[test]
fn a_batch_goes_through_thousands_of_steps() {
    let n: ArrayRef = Arc::new(Int64Array::from(vec![0, 1]));
    let batch = RecordBatch::try_from_iter([("n", n)]).unwrap();
    let step = Operator::WithColumn { name: "n".into(), value: col("n") + lit(1) };
    let result = run_operators(&vec![step; 5_000], &batch).unwrap();
    let expected: ArrayRef = Arc::new(Int64Array::from(vec![5_000, 5_001]));
    assert_eq!(result.column(0), &expected);
}
