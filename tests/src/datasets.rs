//! Datasets, with a user's own function inside the plan: files and workers are wherever they are.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use arrow::error::ArrowError;
use mobula::preprocessors::{Preprocessor, StandardScaler};
use mobula::{
    Dataset, DatasetShard, IterOptions, MapOptions, NodeId, Rows, RunError, col, from_rows, lit, range, read_parquet,
    remote,
};
use parquet::arrow::ArrowWriter;
use serde::{Deserialize, Serialize};

use crate::gate::{Tally, count, folder};
use crate::{Scenario, everywhere, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("map_batches with a parameter, rows in the order of their source", mapped),
    everywhere("filter, with_column, select, limit and count", relational),
    everywhere("what is written is read back", round_trip),
    everywhere("an error of a function in a plan keeps its message", failing),
    everywhere("actors on all nodes iterate the shards of a dataset: every row once", sharded),
    everywhere("what a preprocessor learns on a cluster transforms every row", preprocessed),
    everywhere("one object with a state sees all rows, in order", one_object),
    everywhere("objects with a state share the blocks, rows stay in order", many_objects),
    everywhere("an error of a constructor in a plan keeps its message", failing_constructor),
    everywhere("rows of a type in, rows of another out", typed_rows),
    on_cluster("a block whose actor kills its worker runs again on another one", lost_actor),
    on_cluster("a block that always kills its worker fails the run in the end", always_lost),
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

/// Trains on its shard, as far as this test is concerned: it says what it has seen, and where.
struct Trainer {
    rows: DatasetShard,
}

#[remote]
impl Trainer {
    fn new(rows: DatasetShard) -> Self {
        Self { rows }
    }

    fn epoch(&mut self) -> Result<(u32, Vec<i64>), RunError> {
        let mut seen = Vec::new();
        for batch in self.rows.iter_batches(IterOptions { batch_size: 64, ..IterOptions::default() })? {
            seen.extend_from_slice(column(&batch?, "number").expect("the numbers").values());
        }
        Ok((std::process::id(), seen))
    }
}

fn sharded() {
    let nodes: Vec<NodeId> = mobula::nodes().expect("the cluster answers").into_iter().map(|node| node.id).collect();
    let workers = 2 * nodes.len();
    // Blocks that are so small that they travel in messages, and such as lie in the stores.
    for (rows, of_block) in [(1_000, 90), (200_000, 30_000)] {
        let numbers = range(rows).rename([("id", "number")]).repartition_rows(of_block);
        for equal in [false, true] {
            let shards = numbers.streaming_split(workers as u64, equal).expect("shards");
            let start =
                |(shard, node): (DatasetShard, &NodeId)| Trainer::options().on_node(*node).num_cpus(0.0).remote(shard);
            let trainers: Vec<_> = shards.into_iter().zip(nodes.iter().cycle()).map(start).collect();
            let expected = if equal { rows / workers as u64 * workers as u64 } else { rows };
            for _epoch in 0..2 {
                let calls: Vec<_> = trainers.iter().map(|trainer| trainer.epoch().remote()).collect();
                let (processes, seen): (BTreeSet<u32>, Vec<Vec<i64>>) =
                    mobula::get(&calls).expect("all rows").into_iter().unzip();
                assert!(processes.len() >= nodes.len(), "{processes:?} on {} nodes", nodes.len());
                assert!(!equal || seen.iter().all(|shard| shard.len() as u64 * workers as u64 == expected));
                assert!(seen.into_iter().flatten().eq(0..expected as i64));
            }
        }
    }
}

fn preprocessed() {
    let numbers = Numbers::new("preprocessed");
    let (fitted, scaled) = StandardScaler::new("number").fit_transform(&numbers.read()).expect("learned");
    let scaled = scaled.to_arrow().expect("the rows");
    let scaled = scaled.column(0).as_primitive::<Float64Type>().values();
    // Of the numbers from 0 to n - 1, it is (n^2 - 1) / 12.
    let n = (FILES * ROWS) as f64;
    let (mean, std) = ((n - 1.0) / 2.0, ((n * n - 1.0) / 12.0).sqrt());
    let expected = (0..FILES * ROWS).map(|number| (number as f64 - mean) / std);
    assert!(scaled.iter().zip(expected).all(|(one, other)| (one - other).abs() < 1e-9));
    assert_eq!(fitted.operators().len(), 1);
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    id: i64,
}

/// A row, and how many rows its object had seen before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Counted {
    id: i64,
    before: i64,
}

struct Counter {
    seen: i64,
}

#[remote]
impl Counter {
    fn new(first: i64) -> Result<Self, String> {
        if first < 0 { Err(format!("{first} is below zero")) } else { Ok(Self { seen: first }) }
    }

    fn call(&mut self, rows: Rows<Row>) -> Rows<Counted> {
        rows.map(|Row { id }| {
            self.seen += 1;
            Counted { id, before: self.seen - 1 }
        })
    }
}

fn one_object() {
    let counted = range(100).repartition(10);
    let counted = counted.map_batches_with(Counter::with(7), MapOptions::default().concurrency(1));
    let counted: Vec<Counted> = counted.to_rows().expect("counted");
    assert!(counted.into_iter().eq((0..100).map(|id| Counted { id, before: id + 7 })));
}

fn many_objects() {
    for options in [MapOptions::default(), MapOptions::default().concurrency(1..=3).num_cpus(0.5)] {
        let counted: Vec<Row> =
            range(200).repartition(20).map_batches_with(Counter::with(0), options).to_rows().expect("counted");
        assert!(counted.into_iter().eq((0..200).map(|id| Row { id })));
    }
}

fn failing_constructor() {
    let error = range(10).map_batches(Counter::with(-1)).count().expect_err("it cannot be made");
    assert!(error.to_string().contains("-1 is below zero"), "{error}");
}

#[remote(rows)]
fn doubled(row: Row, except: i64) -> Vec<Row> {
    if row.id == except { Vec::new() } else { vec![row.clone(), row] }
}

fn typed_rows() {
    let rows = from_rows((0..5).map(|id| Row { id })).flat_map(doubled.with(3));
    let ids: Vec<i64> = rows.to_rows::<Row>().expect("doubled").iter().map(|row| row.id).collect();
    assert_eq!(ids, [0, 0, 1, 1, 2, 2, 4, 4]);
}

/// Ends its process at a row, until it was there so often.
struct Mine {
    tally: String,
    row: i64,
    aborts: u64,
}

#[remote]
impl Mine {
    fn new(tally: String, row: i64, aborts: u64) -> Self {
        Self { tally, row, aborts }
    }

    fn call(&mut self, rows: Rows<Row>) -> Rows<Row> {
        if rows.iter().any(|row| row.id == self.row) && count(&self.tally) <= self.aborts {
            std::process::abort();
        }
        rows
    }
}

fn lost_actor() {
    let tally = Tally::new();
    let blocks = range(40).repartition(8);
    let options = MapOptions::default().concurrency(2).num_cpus(0.5);
    let rows: Vec<Row> =
        blocks.map_batches_with(Mine::with(tally.path(), 21, 2), options).to_rows().expect("the third time it works");
    assert!(rows.into_iter().eq((0..40).map(|id| Row { id })));
    assert_eq!(tally.get(), 3);
}

fn always_lost() {
    let tally = Tally::new();
    let mine = Mine::with(tally.path(), 3, u64::MAX);
    let error = range(8).repartition(2).map_batches_with(mine, MapOptions::default().concurrency(1)).count();
    error.expect_err("it never works");
    assert_eq!(tally.get(), 4, "as often as a task would have been tried");
}
