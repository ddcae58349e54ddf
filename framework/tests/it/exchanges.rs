//! How rows are dealt to the tasks behind an exchange: by the bytes that there are, whatever was
//! guessed before, and whatever their keys.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use mobula::{Dataset, DatasetStats, JoinKind, aggregate, col, lit, range, range_in_blocks, read_parquet, remote};

use crate::data_support::{numbers, session, values};

/// How many rows a batch has.
#[remote]
fn rows_of(batch: RecordBatch) -> RecordBatch {
    let rows = Arc::new(Int64Array::from(vec![batch.num_rows() as i64])) as ArrayRef;
    RecordBatch::try_from_iter([("rows", rows)]).unwrap()
}

/// A thousand rows for each.
#[remote]
fn thousandfold(batch: RecordBatch) -> RecordBatch {
    let ids = Int64Array::from_iter_values(0..batch.num_rows() as i64 * 1000);
    RecordBatch::try_from_iter([("n", Arc::new(ids) as ArrayRef)]).unwrap()
}

/// How many rows each task behind the last exchange was given.
fn dealt(dataset: Dataset) -> Vec<i64> {
    let parts = dataset.map_batches(rows_of).to_batches().unwrap();
    parts.iter().map(|part| values::<Int64Type>(std::slice::from_ref(part), "rows").iter().sum()).collect()
}

/// `rows` rows in row groups of a thousand, with eight columns, of which `same` has one value.
fn wide(dir: &Path, rows: u64) -> Dataset {
    let mut table = range_in_blocks(rows, rows.div_ceil(1000)).with_column("same", lit(7_i64) + col("id") * lit(0_i64));
    for column in 0..6 {
        table = table.with_column(format!("value{column}"), col("id") * lit(column + 3));
    }
    table.write_parquet(dir.join("wide")).unwrap();
    read_parquet(dir.join("wide"))
}

#[test]
fn equal_keys_are_sorted_in_parts_of_equal_size() {
    let session = session();
    let _entered = session.enter();
    let dir = tempfile::tempdir().unwrap();
    // A block for every row group if all columns are read, and fewer if only the key is.
    let table = wide(dir.path(), 64_000).block_bytes(40_000).part_bytes(400_000);
    let sorted = table.sort("same");
    let parts = dealt(sorted.clone());
    let largest = *parts.iter().max().unwrap();
    assert!(parts.len() >= 8 && largest < 64_000 / 4, "{parts:?}");
    assert_eq!(numbers(&sorted, "id"), (0..64_000).collect::<Vec<_>>(), "a stable sort");
}

#[test]
fn rows_that_a_function_makes_are_measured_before_they_are_dealt() {
    let session = session();
    let _entered = session.enter();
    let grown = range_in_blocks(400, 4).map_batches(thousandfold).part_bytes(500_000);
    for all in [grown.clone().random_shuffle(3), grown.clone().sort("n")] {
        let parts = dealt(all.clone());
        assert_eq!(parts.iter().sum::<i64>(), 400_000);
        assert!(parts.len() >= 4, "{parts:?}");
        assert!(parts.iter().all(|rows| *rows < 200_000), "{parts:?}");
    }
    // A side of a join that was taken for small.
    let joined = range(10).join(grown, JoinKind::Inner, "id", "n").part_bytes(500_000);
    assert_eq!(joined.count().unwrap(), 40);
    let names: Vec<String> = joined.stats().unwrap().stages.iter().map(|stage| stage.name.clone()).collect();
    assert!(names.iter().any(|name| name.contains("hash_partition")), "{names:?}");
}

#[test]
fn many_first_rows_are_not_put_into_one_task() {
    let session = session();
    let _entered = session.enter();
    let table = range_in_blocks(50_000, 10).part_bytes(50_000).sort("id");
    for rows in [10, 40_000] {
        let first = table.clone().limit(rows);
        assert_eq!(numbers(&first, "id"), (0..rows as i64).collect::<Vec<_>>());
        let stages: DatasetStats = first.stats().unwrap();
        let largest = stages.stages.iter().map(|stage| stage.rows_in / stage.tasks.max(1)).max().unwrap();
        assert!(largest < 10_000, "{stages}");
    }
}

#[test]
fn rows_of_which_no_column_is_needed_are_counted() {
    let session = session();
    let _entered = session.enter();
    let dir = tempfile::tempdir().unwrap();
    for part_bytes in [1_000, 1 << 30] {
        let shuffled = wide(dir.path(), 3_000).block_bytes(1).part_bytes(part_bytes).random_shuffle(7);
        assert_eq!(shuffled.clone().count().unwrap(), 3_000);
        assert_eq!(shuffled.clone().limit(10).count().unwrap(), 10);
        let count = shuffled.aggregate([aggregate::count()]).unwrap();
        assert_eq!(values::<Int64Type>(&[count], "count()"), [3_000]);
        let sql = shuffled.sql("select count(*) as rows from ds").unwrap();
        assert_eq!(numbers(&sql, "rows"), [3_000]);
        std::fs::remove_dir_all(dir.path().join("wide")).unwrap();
    }
}

#[test]
fn more_blocks_than_can_be_are_refused() {
    let session = session();
    let _entered = session.enter();
    let rows = range(3_000_000);
    let refused = [
        rows.clone().repartition(u64::MAX),
        rows.clone().repartition_by_key(["id"], (1 << 32) + 3),
        rows.repartition_rows(1),
    ];
    for dataset in refused {
        let error = dataset.materialize().unwrap_err().to_string();
        assert!(error.contains("repartition") && error.contains("at most"), "{error}");
    }
}
