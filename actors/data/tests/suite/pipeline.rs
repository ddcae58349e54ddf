//! Plans over small files written here: the same answer however the rows lie in files.

use std::cell::Cell;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use mobula_core::value::Encoding;
use mobula_data::execute::{BatchFunctions, BlockContext, run_block};
use mobula_data::function::{Parameter, RegisteredFunctions};
use mobula_data::plan::MapBatches;
use mobula_data::{DataError, LogicalPlan, Sink, col, lit};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use crate::support::{batches, planned, write};

/// Writes 0..rows in `files` files with row groups of `group` rows.
fn numbers(dir: &Path, rows: i64, files: i64, group: usize) -> LogicalPlan {
    for file in 0..files {
        let (from, to) = (rows * file / files, rows * (file + 1) / files);
        let names = (from..to).map(|n| (n % 3 > 0).then(|| format!("n{n}")));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("n", Arc::new(Int64Array::from_iter_values(from..to)) as ArrayRef, false),
            ("name", Arc::new(StringArray::from_iter(names)) as ArrayRef, true),
        ])
        .unwrap();
        let options = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
        let file = File::create(dir.join(format!("{file:03}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(options)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
    let mut plan = LogicalPlan::read_parquet([dir.display().to_string()]);
    plan.source_mut().batch_rows = 64;
    // A block for every row group, so that what is tested crosses blocks.
    plan.source_mut().block_bytes = 1;
    plan
}

fn values(batches: &[RecordBatch], column: &str) -> Vec<i64> {
    let of = |b: &RecordBatch| b.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec();
    batches.iter().flat_map(of).collect()
}

/// Runs `check` over the same thousand rows in 1 and in 30 row groups or files.
fn in_every_layout(check: impl Fn(LogicalPlan)) {
    for (files, group) in [(1, 1000), (1, 34), (30, 1000), (4, 100)] {
        let dir = tempfile::tempdir().unwrap();
        let plan = numbers(dir.path(), 1000, files, group);
        let blocks = planned(&plan, &Sink::Batches, "").unwrap().tasks.len();
        assert_eq!(blocks > 1, (files, group) != (1, 1000), "{blocks} blocks");
        check(plan);
    }
}

#[test]
fn filters_columns_and_limits_keep_order() {
    in_every_layout(|plan| {
        let plan = plan
            .filter(col("n").gt_eq(lit(10)))
            .filter((col("n") % lit(2)).eq(lit(0)))
            .with_column("half", col("n") / lit(2))
            .select(["half"]);
        let all: Vec<i64> = (5..500).collect();
        let ran = batches(&plan, &RegisteredFunctions).unwrap();
        assert_eq!(values(&ran.batches, "half"), all);
        assert_eq!(ran.reports.iter().map(|r| r.operators[1].rows_in).sum::<u64>(), 990);
        let ran = batches(&plan.clone().limit(7), &RegisteredFunctions).unwrap();
        assert_eq!(values(&ran.batches, "half"), all[..7]);
        let again = plan.limit(7).filter(col("half").gt(lit(7)));
        assert_eq!(values(&batches(&again, &RegisteredFunctions).unwrap().batches, "half"), all[3..7]);
    });
}

#[test]
fn a_filter_that_may_fail_sees_only_what_the_one_before_left() {
    let dir = tempfile::tempdir().unwrap();
    let plan = numbers(dir.path(), 100, 1, 100);
    let safe = plan.clone().filter(col("n").gt(lit(0))).filter((lit(100) / col("n")).gt(lit(9)));
    assert_eq!(values(&batches(&safe, &RegisteredFunctions).unwrap().batches, "n"), (1..=10).collect::<Vec<_>>());
    let unsafe_plan = plan.filter((lit(100) / col("n")).gt(lit(9)));
    let error = batches(&unsafe_plan, &RegisteredFunctions).unwrap_err();
    assert!(matches!(&error, DataError::Compute { path, .. } if path.ends_with("000.parquet")), "{error}");
}

#[test]
fn writing_and_counting_agree_and_a_written_limit_is_exact() {
    in_every_layout(|plan| {
        let plan = plan.filter(col("name").is_not_null());
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("a");
        let ran = write(&plan, &dir).unwrap();
        assert_eq!(ran.rows_out(), 666);
        let back = LogicalPlan::read_parquet([dir.display().to_string()]);
        let kept: Vec<i64> = (0..1000).filter(|n| n % 3 > 0).collect();
        assert_eq!(values(&batches(&back, &RegisteredFunctions).unwrap().batches, "n"), kept);
        assert_eq!(values(&batches(&back.select(["n"]), &RegisteredFunctions).unwrap().batches, "n").len(), 666);
        let ran = write(&plan.limit(10), &out.path().join("b")).unwrap();
        assert_eq!((ran.rows_out(), ran.files.len()), (10, 1));
    });
}

#[test]
fn a_result_without_rows_still_has_its_columns() {
    let dir = tempfile::tempdir().unwrap();
    let plan = numbers(dir.path(), 100, 3, 10).filter(col("n").lt(lit(0))).with_column("x", lit(1.5));
    let ran = write(&plan, &dir.path().join("_out")).unwrap();
    assert_eq!(ran.files.len(), 1);
    let back = LogicalPlan::read_parquet(ran.files);
    let physical = planned(&back, &Sink::Batches, "").unwrap();
    let names: Vec<_> = physical.input_schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!((names, physical.tasks[0].pieces.len()), (vec!["n", "name", "x"], 0));
}

/// Adds the parameter to `n`, remembers batch sizes, and fails on request.
#[derive(Default)]
struct AddTo {
    sizes: Mutex<Vec<usize>>,
    fail_at: Option<i64>,
}

impl BatchFunctions for AddTo {
    fn call(&self, function: &str, params: &[Parameter], batch: RecordBatch) -> Result<RecordBatch, DataError> {
        assert_eq!(function, "test::add");
        self.sizes.lock().unwrap().push(batch.num_rows());
        let n = batch.column_by_name("n").unwrap().as_primitive::<Int64Type>();
        if self.fail_at.is_some_and(|at| n.values().contains(&at)) {
            return Err(DataError::Function { function: function.into(), cause: "asked to".into() });
        }
        let sum: Int64Array = n.unary(|n| n + i64::from(params[0].data[0]));
        Ok(RecordBatch::try_from_iter([("sum", Arc::new(sum) as ArrayRef)]).unwrap())
    }
}

fn add(batch_rows: Option<usize>) -> MapBatches {
    MapBatches {
        function: "test::add".into(),
        params: vec![Parameter { encoding: Encoding::RAW, data: Bytes::from_static(&[5]) }],
        batch_rows,
        name: "add".into(),
    }
}

#[test]
fn a_function_sees_every_row_once_in_batches_of_its_size() {
    in_every_layout(|plan| {
        for size in [None, Some(1), Some(17), Some(64), Some(300), Some(5000)] {
            let functions = AddTo::default();
            let plan = plan.clone().filter(col("n").gt_eq(lit(1))).map_batches(add(size));
            let ran = batches(&plan.filter(col("sum").gt(lit(0))), &functions).unwrap();
            assert_eq!(values(&ran.batches, "sum"), (6..1005).collect::<Vec<_>>());
            let sizes = functions.sizes.into_inner().unwrap();
            let largest = size.unwrap_or(64);
            assert!(sizes.iter().all(|s| *s <= largest));
            // Only the last batch of a block may be short.
            let short = sizes.iter().filter(|s| Some(**s) != size).count();
            assert!(size.is_none() || short <= ran.reports.len(), "{size:?}: {sizes:?}");
        }
    });
}

/// Gives other columns from the second batch on, in the way its id says.
struct Fickle(Mutex<u32>);

impl BatchFunctions for Fickle {
    fn call(&self, function: &str, _: &[Parameter], batch: RecordBatch) -> Result<RecordBatch, DataError> {
        let mut calls = self.0.lock().unwrap();
        *calls += 1;
        let n = batch.column_by_name("n").unwrap().clone();
        let small = arrow::compute::cast(&n, &arrow::datatypes::DataType::Int32).unwrap();
        let columns = match (function, *calls) {
            (_, 1) => [("a", n.clone()), ("b", n)],
            ("order", _) => [("b", n.clone()), ("a", n)],
            ("names", _) => [("a", n.clone()), ("c", n)],
            (_, _) => [("a", n), ("b", small)],
        };
        Ok(RecordBatch::try_from_iter(columns).unwrap())
    }
}

#[test]
fn a_function_whose_columns_change_is_refused_and_not_mixed_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut plan = numbers(dir.path(), 200, 1, 1000);
    for function in ["order", "names", "types"] {
        let map = MapBatches { function: function.into(), params: vec![], batch_rows: None, name: function.into() };
        for plan in [
            plan.clone().map_batches(map.clone()),
            plan.clone().map_batches(map.clone()).filter(col("a").gt_eq(lit(0))),
            plan.clone().map_batches(map.clone()).select(["a", "b"]),
            plan.clone().map_batches(map.clone()).with_column("d", col("a") + col("b")),
        ] {
            let error = batches(&plan, &Fickle(Mutex::new(0))).unwrap_err();
            assert!(
                matches!(&error, DataError::SchemaChanged { operator, .. } if operator.contains(function)),
                "{error}"
            );
        }
    }
    plan.source_mut().batch_rows = 1000;
    let map = MapBatches { function: "once".into(), params: vec![], batch_rows: None, name: "once".into() };
    assert!(batches(&plan.map_batches(map), &Fickle(Mutex::new(0))).is_ok());
}

#[test]
fn a_failing_function_or_a_missing_one_ends_the_run_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let plan = numbers(dir.path(), 1000, 3, 100).map_batches(add(None));
    let functions = AddTo { fail_at: Some(500), ..AddTo::default() };
    let error = batches(&plan, &functions).unwrap_err();
    assert_eq!(error.to_string(), "function test::add failed: asked to");
    assert!(matches!(batches(&plan, &RegisteredFunctions), Err(DataError::UnknownFunction { .. })));
    let out = dir.path().join("_out");
    assert!(write(&plan, &out).is_err() && !out.exists());
}

#[test]
fn cancelling_stops_between_batches_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let plan = numbers(dir.path(), 1000, 1, 1000);
    let staging = dir.path().join("_staging");
    fs::create_dir(&staging).unwrap();
    let sink = Sink::WriteParquet { dir: "unused".into(), options: Default::default() };
    let physical = planned(&plan, &sink, staging.to_str().unwrap()).unwrap();
    let seen = Cell::new(0);
    let context = BlockContext {
        functions: &RegisteredFunctions,
        progress: &|progress| {
            seen.set(seen.get() + progress.rows_in);
            if seen.get() >= 128 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
        clock: &|| Duration::ZERO,
        attempt: "0",
    };
    let error = run_block(&physical.tasks[0], &physical.stage, &context).unwrap_err();
    assert_eq!((error, seen.get()), (DataError::Cancelled, 128));
    assert!(fs::read_dir(&staging).unwrap().next().is_none());
}

#[test]
fn a_file_that_changed_since_it_was_planned_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let plan = numbers(dir.path(), 1000, 1, 100);
    let physical = planned(&plan, &Sink::Batches, "").unwrap();
    numbers(dir.path(), 900, 1, 100);
    let context = BlockContext {
        functions: &RegisteredFunctions,
        progress: &|_| ControlFlow::Continue(()),
        clock: &|| Duration::ZERO,
        attempt: "0",
    };
    let error = run_block(physical.tasks.last().unwrap(), &physical.stage, &context).unwrap_err();
    assert!(matches!(error, DataError::FileChanged { .. }), "{error}");
}

#[test]
fn paths_mean_sorted_files_and_what_means_none_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().display().to_string();
    fs::create_dir_all(dir.path().join("b/.hidden")).unwrap();
    fs::create_dir_all(dir.path().join("empty")).unwrap();
    for file in ["b/2.parquet", "b/.hidden/3.parquet", "b/1.PARQUET", "a.parquet", "b/notes.txt"] {
        fs::write(dir.path().join(file), "").unwrap();
    }
    let expand = |paths: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|p| format!("{root}/{p}")).collect();
        let found = mobula_data::paths::expand(&paths)?;
        Ok(found.iter().map(|f| f[root.len() + 1..].to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(expand(&[""]).map(|f: Vec<_>| f.len()), Ok(3));
    assert_eq!(expand(&["b", "a.parquet"]).unwrap(), ["b/1.PARQUET", "b/2.parquet", "a.parquet"]);
    assert_eq!(expand(&["*.parquet"]).unwrap(), ["a.parquet"]);
    assert_eq!(expand(&["b/notes.txt"]).unwrap(), ["b/notes.txt"]);
    let error = |paths: &[&str]| -> DataError { expand(paths).unwrap_err() };
    assert!(matches!(error(&["empty"]), DataError::NoParquet { path } if path.ends_with("/empty")));
    assert!(matches!(error(&["x*.parquet"]), DataError::NoParquet { .. }));
    assert!(matches!(error(&["missing.parquet"]), DataError::NotFound { .. }));
    assert!(mobula_data::paths::expand(&[]).is_err());
}
