//! Datasets that lose a node on the way: the rows are those of a calm run, one by one.

use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Int64Array, RecordBatch};
use arrow::compute::kernels::numeric::mul;
use arrow::error::ArrowError;
use mobula::aggregate::{count, mean, median, sum};
use mobula::{Dataset, Error, JoinKind, RunError, RunProgress, SortKey, col, lit, range_in_blocks, remote};

use crate::gate::{folder, wait_until};

/// What is lost with the node depends on the stage that runs: blocks that are being cut into parts,
/// or the parts of those that have been.
const OPERATIONS: [(&str, &str); 8] = [
    ("sort", "range_partition"),
    ("sort", "sort"),
    ("shuffle", "random_shuffle"),
    ("group_by", "partial"),
    ("join", "inner"),
    ("write", "write_parquet"),
    ("pools", "random_shuffle"),
    ("pools", "sort"),
];

/// Keeps a state that its constructor made.
struct Times {
    factor: i64,
}

#[remote]
impl Times {
    fn new(factor: i64) -> Self {
        Self { factor }
    }

    fn call(&mut self, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let at = batch.schema().index_of("value")?;
        let mut columns = batch.columns().to_vec();
        columns[at] = mul(&columns[at], &Int64Array::new_scalar(self.factor))?;
        RecordBatch::try_new(batch.schema(), columns)
    }
}

/// Runs the operation of this name calmly, then again while a node dies in the stage of this name.
pub(crate) fn survives(which: usize) -> Result<(), Error> {
    let (operation, stage) = OPERATIONS[which];
    let calm = rows(operation, rows_of(operation)).expect("the calm run");
    let before = living();
    let told = AtomicBool::new(false);
    let disturbed = rows_of(operation).on_progress(move |progress: RunProgress| {
        let words = || progress.operators.split('>').any(|word| word == stage);
        if progress.tasks_done >= 2 && words() && !told.swap(true, Ordering::Relaxed) {
            println!("{operation} under way");
            // The run stands still meanwhile, so that the node dies in the middle of it.
            wait_until("a node to die", || living() < before);
        }
    });
    let disturbed = rows(operation, disturbed).expect("the run that loses a node");
    assert!(living() < before, "no node died");
    assert_eq!(calm, disturbed);
    Ok(())
}

fn living() -> usize {
    mobula::nodes().map_or(0, |nodes| nodes.iter().filter(|node| node.alive).count())
}

/// Rows enough that parts of their blocks lie in the stores of nodes.
fn rows_of(operation: &str) -> Dataset {
    let rows = range_in_blocks(480_000, 12)
        .with_column("key", (col("id") * lit(7919)) % lit(100_003))
        .with_column("group", col("id") % lit(97))
        .with_column("value", col("id") * lit(3))
        .part_bytes(2 << 20);
    match operation {
        "sort" => rows.sort([SortKey::descending("key"), SortKey::ascending("id")]),
        "shuffle" => rows.random_shuffle(7),
        // Actors make the blocks that are shuffled, and others those that are sorted.
        "pools" => {
            let shuffled = rows.map_batches(Times::with(5)).random_shuffle(7);
            shuffled.map_batches(Times::with(7)).sort([SortKey::descending("key"), SortKey::ascending("id")])
        }
        // A median keeps all values as its state: they do not fit into one part.
        "group_by" => rows.group_by("group").aggregate([count(), sum("value"), mean("value"), median("key")]),
        "join" => {
            let other = range_in_blocks(300_000, 8).rename([("id", "key")]).with_column("twice", col("key") * lit(2));
            rows.join(other, JoinKind::Inner, "key", "key")
        }
        _ => rows.filter((col("key") % lit(2)).eq(lit(0))),
    }
}

fn rows(operation: &str, rows: Dataset) -> Result<RecordBatch, RunError> {
    if operation != "write" {
        return rows.to_arrow();
    }
    let dir = folder().join(format!("written-{}", std::process::id()));
    let report = rows.write_parquet(&dir)?;
    let there = std::fs::read_dir(&dir).expect("the output is there").count();
    assert_eq!(there, report.files.len(), "files that nobody told of");
    let written = mobula::read_parquet(&dir).to_arrow();
    std::fs::remove_dir_all(&dir).expect("the output can be removed");
    written
}
