//! Small tables in blocks, and what is in the columns of a result: for the scenarios of datasets.
//!
//! Every case holds with 1 and with 30 blocks, whether an exchange puts all rows together in one
//! task or sends them through parts: [`in_blocks`] runs it in all four ways.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, Int64Type};
use mobula::{Dataset, LogicalPlan, from_batches};
use mobula_data::source::Source;

use crate::gate::fresh;

/// A column of whole numbers.
pub(crate) fn ints(values: impl IntoIterator<Item = impl Into<Option<i64>>>) -> ArrayRef {
    Arc::new(values.into_iter().map(Into::into).collect::<Int64Array>())
}

/// A column of floats.
pub(crate) fn floats(values: impl IntoIterator<Item = impl Into<Option<f64>>>) -> ArrayRef {
    Arc::new(values.into_iter().map(Into::into).collect::<Float64Array>())
}

/// A column of texts.
pub(crate) fn texts<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Columns as a table; all of them may have nulls.
pub(crate) fn table<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
    let columns = columns.map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length")
}

/// The rows in so many blocks of about as many rows each; some have none if there are too few.
pub(crate) fn cut(rows: &RecordBatch, blocks: usize) -> Vec<RecordBatch> {
    let at = |block: usize| block * rows.num_rows() / blocks;
    (0..blocks).map(|block| rows.slice(at(block), at(block + 1) - at(block))).collect()
}

/// Runs `check` over the rows in 1 and in 30 blocks, with exchanges of one part and of several.
pub(crate) fn in_blocks(rows: &RecordBatch, check: impl Fn(Dataset)) {
    for blocks in [1, 30] {
        let dataset = from_batches(cut(rows, blocks));
        check(dataset.clone());
        check(dataset.part_bytes(small_part(rows, blocks)));
    }
}

/// So few bytes that an exchange cuts these rows into some parts, and not into thousands.
fn small_part(rows: &RecordBatch, blocks: usize) -> u64 {
    // A block of few rows is mostly Arrow's description of it.
    const BLOCK_BYTES: usize = 300;
    ((rows.get_array_memory_size() + blocks * BLOCK_BYTES) / 5) as u64
}

/// All rows.
pub(crate) fn all(dataset: &Dataset) -> RecordBatch {
    let batches = dataset.to_batches().expect("the rows");
    concat_batches(&batches[0].schema(), &batches).expect("one schema")
}

/// The whole numbers of a column, with its nulls.
#[track_caller]
pub(crate) fn int_column(rows: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    let column = column(rows, name);
    let column = column.as_primitive_opt::<Int64Type>();
    column.unwrap_or_else(|| panic!("{name} has no whole numbers: {rows:?}")).iter().collect()
}

/// The whole numbers of a column that has no null.
#[track_caller]
pub(crate) fn whole(rows: &RecordBatch, name: &str) -> Vec<i64> {
    let some = |value: Option<i64>| value.unwrap_or_else(|| panic!("{name} has a null: {rows:?}"));
    int_column(rows, name).into_iter().map(some).collect()
}

/// The floats of a column, with its nulls.
#[track_caller]
pub(crate) fn float_column(rows: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    let column = column(rows, name);
    let column = column.as_primitive_opt::<Float64Type>();
    column.unwrap_or_else(|| panic!("{name} has no floats: {rows:?}")).iter().collect()
}

#[track_caller]
fn column<'a>(rows: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    rows.column_by_name(name).unwrap_or_else(|| panic!("there is no column {name}: {:?}", rows.schema()))
}

/// The names of the columns.
pub(crate) fn names(rows: &RecordBatch) -> Vec<String> {
    rows.schema().fields().iter().map(|field| field.name().clone()).collect()
}

/// How many rows each block of the result has.
pub(crate) fn block_rows(dataset: &Dataset) -> Vec<u64> {
    let whole = dataset.materialize().expect("the blocks");
    match whole.plan() {
        LogicalPlan::Source(Source::Blocks(blocks)) => blocks.blocks.iter().map(|block| block.rows).collect(),
        other => panic!("{other} are no blocks"),
    }
}

/// The message of what went wrong.
#[track_caller]
pub(crate) fn error<T>(result: Result<T, mobula::RunError>) -> String {
    result.err().expect("it is refused").to_string()
}

/// A folder for files, gone with the scenario.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = fresh("folder");
        std::fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
