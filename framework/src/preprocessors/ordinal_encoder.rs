//! Values to their number among all values.

use mobula_data::col;
use mobula_data::executor::RunError;
use mobula_data::plan::Operator;
use serde::{Deserialize, Serialize};

use super::columns::{Pairs, computed};
use super::counts::Counted;
use super::{Fitted, Preprocessor, Scalar};
use crate::Dataset;
use crate::dataset::Columns;

/// What it is called in errors.
pub(super) const NAME: &str = "OrdinalEncoder";

/// Makes a value its number, from 0, in the order of all values that its column had when they were
/// learned. All values must fit into the memory of the process that learns them.
///
/// ```
/// use mobula::preprocessors::{OrdinalEncoder, Unknown};
/// let encoder = OrdinalEncoder::new(["size", "colour"]).unknown(Unknown::Error);
/// ```
#[derive(Debug, Clone)]
pub struct OrdinalEncoder {
    columns: Pairs,
    unknown: Unknown,
}

/// What becomes of a value that was not there when the others were learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unknown {
    /// Null.
    #[default]
    Null,
    /// An error of the run.
    Error,
}

/// A column and its values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ordinals {
    /// The column.
    pub column: String,
    /// Where the result goes.
    pub output: String,
    /// The values, in order: each becomes its place here.
    pub values: Vec<Scalar>,
}

impl OrdinalEncoder {
    /// Encodes these columns, in their places.
    pub fn new(columns: impl Columns) -> Self {
        Self { columns: Pairs::of(columns.into_columns()), unknown: Unknown::default() }
    }

    /// Keeps the columns as they are, and puts what becomes of them into these.
    #[must_use]
    pub fn output_columns(mut self, columns: impl Columns) -> Self {
        self.columns.set_outputs(columns.into_columns());
        self
    }

    /// What becomes of a value that is not known: null, unless told otherwise.
    #[must_use]
    pub fn unknown(mut self, unknown: Unknown) -> Self {
        self.unknown = unknown;
        self
    }
}

impl Preprocessor for OrdinalEncoder {
    fn fit(&self, dataset: &Dataset) -> Result<Fitted, RunError> {
        let columns = self.columns.inputs(NAME)?;
        let counted = Counted::of(dataset, NAME, columns)?;
        let column = |((column, output), counted): ((&String, &String), Vec<Counted>)| Ordinals {
            column: column.clone(),
            output: output.clone(),
            values: counted.into_iter().map(|counted| counted.value).collect(),
        };
        let columns = columns.iter().zip(self.columns.outputs()).zip(counted).map(column).collect();
        Ok(Fitted::OrdinalEncoder { columns, unknown: self.unknown })
    }
}

pub(super) fn operators(columns: &[Ordinals], unknown: Unknown) -> Vec<Operator> {
    let value = |ordinals: &Ordinals| {
        let (column, values) = (col(&ordinals.column), ordinals.values.iter().cloned());
        let value = match unknown {
            Unknown::Null => column.index_of(values),
            Unknown::Error => column.index_of_known(values),
        };
        (ordinals.output.clone(), value)
    };
    vec![computed(columns.iter().map(value))]
}
