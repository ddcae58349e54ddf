//! Nulls to a value.

use mobula_data::aggregate::{Aggregate, mean, median};
use mobula_data::executor::RunError;
use mobula_data::plan::Operator;
use mobula_data::{col, lit};
use serde::{Deserialize, Serialize};

use super::columns::{Pairs, computed, nothing_in};
use super::counts::Counted;
use super::learned::Learned;
use super::{Fitted, Preprocessor, Scalar};
use crate::Dataset;
use crate::dataset::Columns;

/// What it is called in errors.
pub(super) const NAME: &str = "SimpleImputer";

/// Puts a value in the place of each null. NaN is a number, and stays.
///
/// ```
/// use mobula::preprocessors::{Fill, SimpleImputer};
/// let ages = SimpleImputer::new("age", Fill::Mean);
/// let cities = SimpleImputer::new(["home", "work"], Fill::constant("unknown"));
/// ```
#[derive(Debug, Clone)]
pub struct SimpleImputer {
    columns: Pairs,
    fill: Fill,
}

/// What stands in the place of nulls.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fill {
    /// The mean of the numbers that are there.
    Mean,
    /// The number in the middle of them. One task holds all numbers to find it.
    Median,
    /// The value that is there most often; the least of several.
    MostFrequent,
    /// This one.
    Constant(Scalar),
}

/// A column without nulls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Filled {
    /// The column.
    pub column: String,
    /// Where the result goes.
    pub output: String,
    /// What stands in the place of nulls.
    pub value: Scalar,
}

impl Fill {
    /// This value.
    pub fn constant(value: impl Into<Scalar>) -> Self {
        Self::Constant(value.into())
    }
}

impl SimpleImputer {
    /// Fills these columns, in their places.
    pub fn new(columns: impl Columns, fill: Fill) -> Self {
        Self { columns: Pairs::of(columns.into_columns()), fill }
    }

    /// Keeps the columns as they are, and puts what becomes of them into these.
    #[must_use]
    pub fn output_columns(mut self, columns: impl Columns) -> Self {
        self.columns.set_outputs(columns.into_columns());
        self
    }
}

impl Preprocessor for SimpleImputer {
    fn fit(&self, dataset: &Dataset) -> Result<Fitted, RunError> {
        let columns = self.columns.inputs(NAME)?;
        let values = match &self.fill {
            Fill::Mean => numbers(dataset, columns, |column| mean(column))?,
            Fill::Median => numbers(dataset, columns, |column| median(column))?,
            Fill::MostFrequent => Counted::of(dataset, NAME, columns)?.into_iter().map(most_frequent).collect(),
            Fill::Constant(value) => vec![value.clone(); columns.len()],
        };
        let column = |((column, output), value): ((&String, &String), Scalar)| Filled {
            column: column.clone(),
            output: output.clone(),
            value,
        };
        Ok(Fitted::SimpleImputer(columns.iter().zip(self.columns.outputs()).zip(values).map(column).collect()))
    }
}

fn numbers(dataset: &Dataset, columns: &[String], of: fn(&String) -> Aggregate) -> Result<Vec<Scalar>, RunError> {
    let learned = Learned::of(dataset, NAME, columns.iter().map(of))?;
    let number = |(place, column): (usize, &String)| {
        let number = learned.number(place, column)?;
        number.map(Scalar::Float64).ok_or_else(|| nothing_in(NAME, column))
    };
    columns.iter().enumerate().map(number).collect()
}

/// The values are in order, and there is one at least.
fn most_frequent(counted: Vec<Counted>) -> Scalar {
    let first = counted.into_iter().reduce(|best, next| if next.rows > best.rows { next } else { best });
    first.map_or(Scalar::Null, |counted| counted.value)
}

pub(super) fn operators(columns: &[Filled]) -> Vec<Operator> {
    let value = |filled: &Filled| (filled.output.clone(), col(&filled.column).fill_null(lit(filled.value.clone())));
    vec![computed(columns.iter().map(value))]
}
