//! Aggregates of users: what is computed of the rows of a group, in parallel.
//!
//! Entry type: [`Aggregator`]. [`GroupedDataset::aggregate_with`](crate::GroupedDataset::aggregate_with)
//! puts it into a plan as two functions of batches:
//!
//! ```text
//!   rows ─▶ partial: a state for each group of a batch ─▶ exchange by key ─▶ merge ─▶ finish ─▶ a row
//! ```

use std::any::type_name;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, BinaryArray, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use mobula_core::value::Value as Encoded;
use mobula_data::DataError;
use mobula_data::error::FormatError;
use mobula_data::exchange::rows::Gathered;
use mobula_data::function::BatchError;
use mobula_data::plan::SortKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch_call::{BatchCall, CalledAs};
use crate::format::{FromBatch, IntoBatch, Rows};
use crate::run::Arguments;
use crate::value::{Value, encode};

/// An aggregate of the user's own, made usable by `#[remote]` on its `impl` block. The value itself
/// is what its parameters are: it goes where the rows are.
///
/// ```
/// use mobula::{Aggregator, from_rows, remote};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Trip { zone: String, fare: f64 }
///
/// #[derive(Serialize, Deserialize)]
/// struct Geometric { mean: f64 }
///
/// #[derive(Serialize, Deserialize)]
/// struct GeometricMean { least: f64 }
///
/// #[remote]
/// impl Aggregator for GeometricMean {
///     type Row = Trip;
///     type State = (f64, u32);
///     type Output = Geometric;
///
///     fn start(&self) -> (f64, u32) { (0.0, 0) }
///     fn add(&self, state: &mut (f64, u32), row: Trip) {
///         *state = (state.0 + row.fare.max(self.least).ln(), state.1 + 1);
///     }
///     fn merge(&self, state: &mut (f64, u32), other: (f64, u32)) {
///         *state = (state.0 + other.0, state.1 + other.1);
///     }
///     fn finish(&self, (sum, count): (f64, u32)) -> Geometric {
///         Geometric { mean: (sum / f64::from(count)).exp() }
///     }
/// }
///
/// let trips = from_rows([Trip { zone: "JFK".to_owned(), fare: 52.0 }]);
/// let means = trips.group_by("zone").aggregate_with(GeometricMean { least: 0.01 });
/// ```
pub trait Aggregator: Value {
    /// What it reads of a row: each field is the column of its name.
    type Row: DeserializeOwned;
    /// What is known of a group so far.
    type State: Serialize + DeserializeOwned;
    /// The columns that it gives for a group, besides the keys.
    type Output: Serialize + DeserializeOwned;

    /// The state of a group without rows.
    fn start(&self) -> Self::State;

    /// A row of the group.
    fn add(&self, state: &mut Self::State, row: Self::Row);

    /// The state of other rows of the group, which come after those that it has.
    fn merge(&self, state: &mut Self::State, other: Self::State);

    /// The result of a group.
    fn finish(&self, state: Self::State) -> Self::Output;
}

/// An [`Aggregator`] that `#[remote]` has registered.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an aggregate that workers know",
    note = "write `#[remote]` on its `impl Aggregator for {Self}`"
)]
pub trait RemoteAggregator: Aggregator {
    #[doc(hidden)]
    const NAME: &'static str;
    #[doc(hidden)]
    const PARTIAL: &'static str;
    #[doc(hidden)]
    const MERGE: &'static str;
}

/// The two functions of an aggregate over groups by `keys`.
pub(crate) fn calls<A: RemoteAggregator>(aggregator: A, keys: &[String]) -> (BatchCall, BatchCall) {
    let aggregator = encode(aggregator);
    let call = |name| {
        let encode = || Ok(vec![encode(keys.to_vec())?, aggregator.clone()?]);
        BatchCall::__of(CalledAs::Function(name), encode)
    };
    (call(A::PARTIAL), call(A::MERGE))
}

/// The column of the states.
const STATE: &str = "__state";

/// A state for each group of a batch.
pub fn partial<A: RemoteAggregator>(batch: RecordBatch, values: &[Encoded]) -> Result<RecordBatch, BatchError> {
    let (keys, aggregator) = arguments::<A>(A::PARTIAL, values)?;
    let (batch, starts) = if batch.num_rows() == 0 { (batch, Vec::new()) } else { grouped(batch, &keys)? };
    let firsts = UInt64Array::from_iter_values(starts.iter().map(|start| *start as u64));
    let of_keys = project(&batch, &keys)?;
    let of_keys = take_record_batch(&of_keys, &firsts).map_err(|error| failed::<A>(&error))?;
    let mut states: Vec<A::State> = Vec::with_capacity(starts.len());
    for (index, row) in Rows::<A::Row>::from_batch(batch)?.into_iter().enumerate() {
        if starts.get(states.len()) == Some(&index) {
            states.push(aggregator.start());
        }
        if let Some(state) = states.last_mut() {
            aggregator.add(state, row);
        }
    }
    let states = states.iter().map(rmp_serde::to_vec_named).collect::<Result<Vec<_>, _>>();
    let states = BinaryArray::from_iter_values(states.map_err(|error| failed::<A>(&error))?);
    beside::<A>(&of_keys, [(Field::new(STATE, DataType::Binary, true), Arc::new(states) as ArrayRef)])
}

/// The result of a group, of all its states.
pub fn merge<A: RemoteAggregator>(batch: RecordBatch, values: &[Encoded]) -> Result<RecordBatch, BatchError> {
    let (keys, aggregator) = arguments::<A>(A::MERGE, values)?;
    let states = batch.column_by_name(STATE).and_then(|states| states.as_binary_opt::<i32>());
    let states = states.ok_or_else(|| failed::<A>(&"there are no states"))?;
    let mut merged: Option<A::State> = None;
    for index in 0..states.len() {
        let state = rmp_serde::from_slice(states.value(index)).map_err(|error| failed::<A>(&error))?;
        match &mut merged {
            Some(merged) => aggregator.merge(merged, state),
            None => merged = Some(state),
        }
    }
    let of_keys = project(&batch, &keys)?.slice(0, batch.num_rows().min(1));
    let outputs: Rows<A::Output> = merged.map(|state| aggregator.finish(state)).into_iter().collect();
    let outputs = outputs.into_batch()?;
    let fields = outputs.schema_ref().fields().iter().map(|field| field.as_ref().clone());
    beside::<A>(&of_keys, fields.zip(outputs.columns().iter().cloned()))
}

fn arguments<A: RemoteAggregator>(name: &'static str, values: &[Encoded]) -> Result<(Vec<String>, A), BatchError> {
    let mut arguments = Arguments::new(name, values.to_vec(), 2)?;
    Ok((arguments.take("keys")?, arguments.take("aggregator")?))
}

/// The rows in the order of the keys, and where groups begin. Rows of a group keep their order.
fn grouped(batch: RecordBatch, keys: &[String]) -> Result<(RecordBatch, Vec<usize>), FormatError> {
    let keys: Vec<SortKey> = keys.iter().map(SortKey::ascending).collect();
    let mut rows = Gathered::new(vec![batch], "aggregate_with");
    let starts = rows.group(&keys).map_err(of_key)?;
    Ok((rows.batch(0, rows.len()).map_err(of_key)?, starts))
}

/// The columns of the keys.
fn project(batch: &RecordBatch, keys: &[String]) -> Result<RecordBatch, FormatError> {
    let index = |key: &String| {
        let available = || batch.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        let found = batch.schema_ref().index_of(key);
        found.map_err(|_| FormatError::MissingColumn { column: key.clone(), available: available() })
    };
    let indices = keys.iter().map(index).collect::<Result<Vec<_>, _>>()?;
    batch.project(&indices).map_err(|error| FormatError::Column { column: keys.join(", "), cause: error.to_string() })
}

/// Columns beside those of the keys.
fn beside<A>(
    keys: &RecordBatch,
    columns: impl IntoIterator<Item = (Field, ArrayRef)>,
) -> Result<RecordBatch, BatchError> {
    let mut fields: Vec<Field> = keys.schema_ref().fields().iter().map(|field| field.as_ref().clone()).collect();
    let mut values = keys.columns().to_vec();
    for (field, column) in columns {
        if keys.schema_ref().index_of(field.name()).is_ok() {
            let (column, cause) = (field.name().clone(), "a key has this name: give the output another one".to_owned());
            return Err(FormatError::Column { column, cause }.into());
        }
        fields.push(field);
        values.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(keys.num_rows()));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), values, &options);
    batch.map_err(|error| failed::<A>(&error))
}

fn of_key(error: DataError) -> FormatError {
    match error {
        DataError::UnknownColumn { column, available, .. } => FormatError::MissingColumn { column, available },
        error => FormatError::Rows { type_name: "aggregate_with".to_owned(), cause: error.to_string() },
    }
}

fn failed<A>(cause: &dyn std::fmt::Display) -> BatchError {
    FormatError::Rows { type_name: type_name::<A>().to_owned(), cause: cause.to_string() }.into()
}
