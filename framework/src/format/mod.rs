//! The forms in which a dataset hands rows to a function and takes them from it.
//!
//! | a function over | is called with | made of a batch by |
//! |---|---|---|
//! | `RecordBatch` | Arrow's columns | nothing |
//! | [`NdColumns`] | columns as `ndarray` arrays | nothing where there are no nulls |
//! | [`Rows<T>`](Rows) | rows as a type of serde's | a value of `T` for each |
//!
//! Another type implements [`FromBatch`] and [`IntoBatch`], and its functions say
//! `#[remote(batches)]`.

use std::any::{Any, type_name};

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use mobula_data::error::FormatError;
use mobula_data::function::BatchError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::value::Batch;

mod nd_columns;
mod rows;

pub use nd_columns::{NdColumns, NdNumber};
pub use rows::Rows;
pub(crate) use rows::{rows_of, traced_batches};

/// What can be made of the rows of a batch: the first parameter of a function over batches.
pub trait FromBatch: Sized {
    /// Takes the rows.
    ///
    /// # Errors
    /// [`FormatError`], naming the column that does not fit.
    fn from_batch(batch: RecordBatch) -> Result<Self, FormatError>;
}

/// What rows of a batch can be made of: the result of a function over batches.
pub trait IntoBatch {
    /// Gives the rows. The columns may not depend on them.
    ///
    /// # Errors
    /// [`FormatError`], naming the column that does not fit.
    fn into_batch(self) -> Result<RecordBatch, FormatError>;
}

impl FromBatch for RecordBatch {
    fn from_batch(batch: RecordBatch) -> Result<Self, FormatError> {
        Ok(batch)
    }
}

impl IntoBatch for RecordBatch {
    fn into_batch(self) -> Result<RecordBatch, FormatError> {
        Ok(self)
    }
}

impl FromBatch for Batch {
    fn from_batch(batch: RecordBatch) -> Result<Self, FormatError> {
        Ok(Self::from(batch))
    }
}

impl IntoBatch for Batch {
    fn into_batch(self) -> Result<RecordBatch, FormatError> {
        Ok(self.into_inner())
    }
}

// ---- what the macros' code calls -----------------------------------------------------------------

/// Calls a function with a batch.
pub fn call_batch<I: FromBatch, O: IntoBatch>(
    batch: RecordBatch,
    call: impl FnOnce(I) -> Result<O, BatchError>,
) -> Result<RecordBatch, BatchError> {
    let asked = batch.num_rows();
    given(asked, call(I::from_batch(batch)?)?)
}

/// Calls a function with each row.
pub fn map_rows<T, U>(
    batch: RecordBatch,
    call: impl FnMut(T) -> Result<U, BatchError>,
) -> Result<RecordBatch, BatchError>
where
    T: DeserializeOwned,
    U: Serialize + DeserializeOwned,
{
    let asked = batch.num_rows();
    let rows: Vec<U> = Rows::from_batch(batch)?.into_iter().map(call).collect::<Result<_, _>>()?;
    given(asked, Rows::from(rows))
}

/// Calls a function with each row, for any number of others.
pub fn flat_map_rows<T, U, I>(
    batch: RecordBatch,
    mut call: impl FnMut(T) -> Result<I, BatchError>,
) -> Result<RecordBatch, BatchError>
where
    T: DeserializeOwned,
    U: Serialize + DeserializeOwned,
    I: IntoIterator<Item = U>,
{
    let asked = batch.num_rows();
    let mut rows: Vec<U> = Vec::new();
    for row in Rows::from_batch(batch)? {
        rows.extend(call(row)?);
    }
    given(asked, Rows::from(rows))
}

/// Keeps the rows of which a function says so.
pub fn filter_rows<T: DeserializeOwned>(
    batch: RecordBatch,
    call: impl FnMut(T) -> Result<bool, BatchError>,
) -> Result<RecordBatch, BatchError> {
    let kept: Vec<bool> = Rows::from_batch(batch.clone())?.into_iter().map(call).collect::<Result<_, _>>()?;
    let kept = BooleanArray::from(kept);
    if kept.true_count() == kept.len() {
        return Ok(batch);
    }
    let kept = filter_record_batch(&batch, &kept);
    Ok(kept.map_err(|error| FormatError::Rows { type_name: "bool".to_owned(), cause: error.to_string() })?)
}

/// The error of a function, if it is one of these, which goes on as it is.
///
/// # Errors
/// Any other, back.
pub fn as_format_error<E: 'static>(error: E) -> Result<FormatError, E> {
    let mut slot = Some(error);
    if let Some(error) = (&mut slot as &mut dyn Any).downcast_mut::<Option<FormatError>>().and_then(Option::take) {
        return Ok(error);
    }
    match slot {
        Some(error) => Err(error),
        None => Ok(FormatError::Rows { type_name: type_name::<E>().to_owned(), cause: "an error got lost".to_owned() }),
    }
}

/// What a function gave for so many rows. That none came of some is no failure, even where only
/// rows tell the columns; asked without any, it is asked for the columns.
fn given(asked: usize, result: impl IntoBatch) -> Result<RecordBatch, BatchError> {
    match result.into_batch() {
        Err(FormatError::NoRows { .. }) if asked > 0 => Ok(RecordBatch::new_empty(Schema::empty().into())),
        result => Ok(result?),
    }
}
