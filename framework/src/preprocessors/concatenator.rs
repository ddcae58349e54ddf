//! Several columns to one list of numbers.

use mobula_data::executor::RunError;
use mobula_data::expr::{ValueType, vector};
use mobula_data::plan::Operator;
use mobula_data::{Expr, col};
use serde::{Deserialize, Serialize};

use super::columns::{Pairs, invalid};
use super::{Fitted, Preprocessor};
use crate::Dataset;
use crate::dataset::Columns;

/// What it is called in errors.
pub(super) const NAME: &str = "Concatenator";

/// Puts the numbers of several columns side by side into one, whose values are lists of so many
/// numbers: what a model is trained with. The columns themselves are left out. A null among
/// the numbers stays a null in the list.
///
/// ```
/// use mobula::preprocessors::Concatenator;
/// let features = Concatenator::new(["height", "weight"], "features").float32();
/// ```
#[derive(Debug, Clone)]
pub struct Concatenator {
    columns: Pairs,
    output: String,
    element: Option<ValueType>,
}

/// Columns that become one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Concatenated {
    /// The columns, in order.
    pub columns: Vec<String>,
    /// What they become.
    pub output: String,
    /// The type of the numbers, where it is not that of the columns.
    pub element: Option<ValueType>,
}

impl Concatenator {
    /// Puts `columns` into `output`. The numbers have 32 bits if all columns have no more, and 64
    /// otherwise.
    pub fn new(columns: impl Columns, output: impl Into<String>) -> Self {
        Self { columns: Pairs::of(columns.into_columns()), output: output.into(), element: None }
    }

    /// With numbers of 32 bits, whatever the columns have.
    #[must_use]
    pub fn float32(mut self) -> Self {
        self.element = Some(ValueType::Float32);
        self
    }

    /// With numbers of 64 bits, whatever the columns have.
    #[must_use]
    pub fn float64(mut self) -> Self {
        self.element = Some(ValueType::Float64);
        self
    }
}

impl Preprocessor for Concatenator {
    /// There is nothing to learn, and nothing runs.
    fn fit(&self, _: &Dataset) -> Result<Fitted, RunError> {
        let columns = self.columns.inputs(NAME)?.to_vec();
        if columns.contains(&self.output) {
            let cause = format!("{} is one of the columns that are put together: name another output", self.output);
            return Err(invalid(NAME, cause));
        }
        Ok(Fitted::Concatenator(Concatenated { columns, output: self.output.clone(), element: self.element }))
    }
}

pub(super) fn operators(concatenated: &Concatenated) -> Vec<Operator> {
    let number = |column: &String| -> Expr {
        match concatenated.element {
            Some(element) => col(column).cast(element),
            None => col(column),
        }
    };
    let value = vector(concatenated.columns.iter().map(number));
    vec![
        Operator::WithColumn { name: concatenated.output.clone(), value },
        Operator::Drop { columns: concatenated.columns.clone() },
    ]
}
