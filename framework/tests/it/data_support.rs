//! What the tests of datasets share: a session in this process, columns of results, and how a
//! dataset's source is cut.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{ArrowPrimitiveType, Float64Type, Int64Type, SchemaRef};
use mobula::{Config, Dataset, LogicalPlan, RunError, Session};
use mobula_data::executor::opened;
use mobula_data::pieces::{Piece, group, pieces};
use mobula_data::source::{ReadFiles, Source};

/// A session in this process.
pub(crate) fn session() -> Session {
    Session::start(Config::default().num_cpus(2)).unwrap()
}

/// The values of a column, without its nulls, in order.
pub(crate) fn values<T: ArrowPrimitiveType>(batches: &[RecordBatch], column: &str) -> Vec<T::Native> {
    let of = |batch: &RecordBatch| -> Vec<T::Native> {
        let column = batch.column_by_name(column).unwrap_or_else(|| panic!("no {column} in {:?}", batch.schema()));
        let column = column.as_primitive_opt::<T>().unwrap_or_else(|| panic!("{} is no such type", column.data_type()));
        column.iter().flatten().collect()
    };
    batches.iter().flat_map(of).collect()
}

/// The whole numbers of a column of all rows of a dataset.
pub(crate) fn numbers(dataset: &Dataset, column: &str) -> Vec<i64> {
    values::<Int64Type>(&dataset.to_batches().unwrap(), column)
}

/// The sum of a column of floats.
pub(crate) fn total(batches: &[RecordBatch], column: &str) -> f64 {
    values::<Float64Type>(batches, column).iter().sum()
}

/// The names of columns.
pub(crate) fn names(schema: &SchemaRef) -> Vec<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

/// The first source of a plan, with its files opened.
pub(crate) fn opened_files(plan: &LogicalPlan) -> Result<ReadFiles, RunError> {
    let plan = opened(plan)?;
    match plan.sources()[0] {
        Source::Files(read) => Ok(read.clone()),
        other => panic!("{other} is no source of files"),
    }
}

/// The blocks into which the files of a plan are cut, all columns read.
pub(crate) fn blocks(plan: &LogicalPlan) -> Vec<Vec<Piece>> {
    let read = opened_files(plan).unwrap();
    let opened = Arc::clone(read.opened.as_ref().unwrap());
    let needed: Vec<usize> = (0..opened.unified.schema.fields().len()).collect();
    let blocks = group(pieces(&opened.files, &opened.unified, &needed, None), read.block_bytes);
    blocks.into_iter().map(|(pieces, _)| pieces).collect()
}
