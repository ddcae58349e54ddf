//! Numbers to the range from 0 to 1.

use mobula_data::aggregate::{max, min};
use mobula_data::executor::RunError;
use mobula_data::plan::Operator;
use mobula_data::{col, lit};
use serde::{Deserialize, Serialize};

use super::columns::{Pairs, computed, nothing_in};
use super::learned::Learned;
use super::{Fitted, Preprocessor};
use crate::Dataset;
use crate::dataset::Columns;

/// What it is called in errors.
pub(super) const NAME: &str = "MinMaxScaler";

/// Puts the least number of its column at 0, the greatest at 1, and all others between them. A
/// column of equal numbers becomes zeros. Numbers beyond those that were learned of leave the range.
///
/// ```
/// use mobula::preprocessors::MinMaxScaler;
/// let scaler = MinMaxScaler::new("fare_amount");
/// ```
#[derive(Debug, Clone)]
pub struct MinMaxScaler {
    columns: Pairs,
}

/// A column that was put into the range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranged {
    /// The column.
    pub column: String,
    /// Where the result goes.
    pub output: String,
    /// The least number.
    pub min: f64,
    /// The greatest number.
    pub max: f64,
}

impl MinMaxScaler {
    /// Scales these columns, in their places.
    pub fn new(columns: impl Columns) -> Self {
        Self { columns: Pairs::of(columns.into_columns()) }
    }

    /// Keeps the columns as they are, and puts what becomes of them into these.
    #[must_use]
    pub fn output_columns(mut self, columns: impl Columns) -> Self {
        self.columns.set_outputs(columns.into_columns());
        self
    }
}

impl Preprocessor for MinMaxScaler {
    fn fit(&self, dataset: &Dataset) -> Result<Fitted, RunError> {
        let columns = self.columns.inputs(NAME)?;
        let learned = Learned::of(dataset, NAME, columns.iter().flat_map(|column| [min(column), max(column)]))?;
        let column = |(place, (column, output)): (usize, (&String, &String))| {
            let (Some(min), Some(max)) = (learned.number(place * 2, column)?, learned.number(place * 2 + 1, column)?)
            else {
                return Err(nothing_in(NAME, column));
            };
            Ok(Ranged { column: column.clone(), output: output.clone(), min, max })
        };
        let columns = columns.iter().zip(self.columns.outputs()).enumerate().map(column);
        Ok(Fitted::MinMaxScaler(columns.collect::<Result<_, _>>()?))
    }
}

pub(super) fn operators(columns: &[Ranged]) -> Vec<Operator> {
    let value = |ranged: &Ranged| {
        let above = col(&ranged.column) - lit(ranged.min);
        let value = if ranged.min == ranged.max { above } else { above / lit(ranged.max - ranged.min) };
        (ranged.output.clone(), value)
    };
    vec![computed(columns.iter().map(value))]
}
