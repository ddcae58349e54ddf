//! Datasets, with a user's own function inside the plan: files and workers are wherever they are.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use mobula::{Dataset, col, lit, read_parquet, remote};
use parquet::arrow::ArrowWriter;

use crate::gate::folder;
use crate::{Scenario, everywhere};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("map_batches with a parameter, rows in the order of their source", mapped),
    everywhere("filter, with_column, select, limit and count", relational),
    everywhere("what is written is read back", round_trip),
    everywhere("an error of a function in a plan keeps its message", failing),
];

/// Files of so many rows of `number`, counting up over all of them.
const FILES: i64 = 4;
const ROWS: i64 = 1_000;

struct Numbers(PathBuf);

impl Numbers {
    fn new(name: &str) -> Self {
        let folder = folder().join(format!("mobula-numbers-{name}-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("in")).expect("a folder for the numbers");
        for file in 0..FILES {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(file * ROWS..(file + 1) * ROWS));
            let batch = RecordBatch::try_from_iter([("number", numbers)]).expect("one column");
            let path = folder.join("in").join(format!("{file}.parquet"));
            let mut writer =
                ArrowWriter::try_new(File::create(path).expect("a file"), batch.schema(), None).expect("a writer");
            writer.write(&batch).expect("written");
            writer.close().expect("closed");
        }
        Self(folder)
    }

    fn read(&self) -> Dataset {
        read_parquet([self.0.join("in")])
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn column(batch: &RecordBatch, name: &str) -> Result<Int64Array, ArrowError> {
    let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
    column.cloned().ok_or_else(|| ArrowError::SchemaError(format!("there are no integers {name}")))
}

#[remote]
fn times(batch: RecordBatch, factor: i64) -> Result<RecordBatch, ArrowError> {
    let products: ArrayRef = Arc::new(column(&batch, "number")?.unary::<_, Int64Type>(|number| number * factor));
    RecordBatch::try_from_iter([("product", products)])
}

#[remote]
fn refuses(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    Err(ArrowError::ComputeError(format!("{} rows are too many", batch.num_rows())))
}

fn all(dataset: &Dataset, name: &str) -> Vec<i64> {
    let batches = dataset.take((FILES * ROWS) as u64).expect("the rows");
    batches.iter().flat_map(|batch| column(batch, name).expect("the column").values().to_vec()).collect()
}

fn mapped() {
    let numbers = Numbers::new("mapped");
    let products = numbers.read().batch_size(77).map_batches(times.with(3));
    assert!(all(&products, "product").into_iter().eq((0..FILES * ROWS).map(|number| 3 * number)));
}

fn relational() {
    let numbers = Numbers::new("relational");
    let large =
        numbers.read().filter(col("number").gt_eq(lit(ROWS))).with_column("twice", col("number") + col("number"));
    assert_eq!(large.count().expect("counted"), ((FILES - 1) * ROWS) as u64);
    let few = large.select(["twice"]).limit(10);
    assert_eq!(few.count().expect("counted"), 10);
    assert!(all(&few, "twice").into_iter().eq((0..10).map(|number| 2 * (ROWS + number))));
}

fn round_trip() {
    let numbers = Numbers::new("written");
    let out = numbers.0.join("out");
    let report = numbers.read().map_batches(times.with(-1)).write_parquet(&out).expect("written");
    assert_eq!((report.rows_in, report.rows_out), ((FILES * ROWS) as u64, (FILES * ROWS) as u64));
    assert!(all(&read_parquet([&out]), "product").into_iter().eq((0..FILES * ROWS).map(|number| -number)));
}

fn failing() {
    let numbers = Numbers::new("failing");
    let out: &Path = &numbers.0.join("out");
    let error = numbers.read().map_batches(refuses).write_parquet(out).expect_err("it refuses");
    assert!(error.to_string().contains("rows are too many"), "{error}");
    assert!(!out.exists(), "output was left behind");
}
