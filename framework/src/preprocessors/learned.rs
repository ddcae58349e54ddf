//! One row of aggregates over a whole dataset.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::record_batch::RecordBatch;
use mobula_data::DataError;
use mobula_data::aggregate::Aggregate;
use mobula_data::executor::RunError;

use super::columns::invalid;
use crate::Dataset;

/// What was computed of all rows.
pub(super) struct Learned {
    row: RecordBatch,
    preprocessor: &'static str,
}

impl Learned {
    /// Runs once over `dataset`.
    pub(super) fn of(
        dataset: &Dataset,
        preprocessor: &'static str,
        aggregates: impl IntoIterator<Item = Aggregate>,
    ) -> Result<Self, RunError> {
        let row = dataset.aggregate(aggregates).map_err(|error| named(error, preprocessor))?;
        Ok(Self { row, preprocessor })
    }

    /// The aggregate at `place`, which is of numbers of `column`. None where there were none.
    pub(super) fn number(&self, place: usize, column: &str) -> Result<Option<f64>, RunError> {
        let refuse = |cause: String| invalid(self.preprocessor, cause);
        let value = self.row.column(place);
        let found = value.data_type();
        if !found.is_numeric() && *found != DataType::Null {
            return Err(refuse(format!("column {column} is {found}, which is no number")));
        }
        let value = cast(value, &DataType::Float64).map_err(|error| refuse(format!("column {column}: {error}")))?;
        let number = value.as_primitive::<Float64Type>().iter().next().flatten();
        match number {
            Some(number) if !number.is_finite() => Err(refuse(format!(
                "column {column} has values that are infinite, or NaN: filter them, or make them null"
            ))),
            number => Ok(number),
        }
    }
}

/// The error as that of a preprocessor, where it tells what is wrong with a plan: users know the
/// preprocessor, and not what plan it makes.
pub(super) fn named(error: RunError, preprocessor: &str) -> RunError {
    let operator = preprocessor.to_owned();
    match error {
        RunError::Data(DataError::UnknownColumn { column, available, .. }) => {
            DataError::UnknownColumn { operator, column, available }.into()
        }
        RunError::Data(DataError::Expression { cause, .. }) => DataError::Expression { operator, cause }.into(),
        RunError::Data(DataError::InvalidPlan { cause, .. }) => DataError::InvalidPlan { operator, cause }.into(),
        other => other,
    }
}
