//! What preprocessors have learned.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use mobula_data::Expr;
use mobula_data::execute::run_operators;
use mobula_data::executor::RunError;
use mobula_data::plan::Operator;
use mobula_data::planner::schema_after;
use serde::{Deserialize, Serialize};

use super::learned::named;
use super::{
    Concatenated, Filled, Hot, Ordinals, Ranged, Standardised, Unknown, concatenator, min_max_scaler, one_hot_encoder,
    ordinal_encoder, simple_imputer, standard_scaler,
};
use crate::Dataset;

/// What a preprocessor has learned: plain data, which transforms datasets and batches.
///
/// ```
/// use mobula::preprocessors::{Fitted, Preprocessor, StandardScaler};
///
/// # fn learn(flowers: &mobula::Dataset) -> Result<(), Box<dyn std::error::Error>> {
/// let fitted = StandardScaler::new("petal_length").fit(flowers)?;
/// if let Fitted::StandardScaler(columns) = &fitted {
///     println!("{} is {} on average", columns[0].column, columns[0].mean);
/// }
/// let scaled = fitted.transform(flowers)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Fitted {
    /// Of a [`StandardScaler`](super::StandardScaler).
    StandardScaler(Vec<Standardised>),
    /// Of a [`MinMaxScaler`](super::MinMaxScaler).
    MinMaxScaler(Vec<Ranged>),
    /// Of an [`OrdinalEncoder`](super::OrdinalEncoder).
    OrdinalEncoder {
        /// The columns and their values.
        columns: Vec<Ordinals>,
        /// What becomes of other values.
        unknown: Unknown,
    },
    /// Of a [`OneHotEncoder`](super::OneHotEncoder).
    OneHotEncoder(Vec<Hot>),
    /// Of a [`SimpleImputer`](super::SimpleImputer).
    SimpleImputer(Vec<Filled>),
    /// Of a [`Concatenator`](super::Concatenator).
    Concatenator(Concatenated),
    /// Of a [`Chain`](super::Chain), in order.
    Chain(Vec<Fitted>),
    /// Of a preprocessor of your own.
    Expressions {
        /// What it is called in errors.
        name: String,
        /// Columns that are added, or replaced in their places, one after the other.
        columns: Vec<(String, Expr)>,
    },
}

impl Fitted {
    /// The dataset with what was learned done to its rows. Reads the footers of its files, if it
    /// has some, to check that it fits, and runs nothing.
    ///
    /// # Errors
    /// [`RunError`], naming preprocessor and column. Where only running a function tells the
    /// columns, the sink tells of them.
    pub fn transform(&self, dataset: &Dataset) -> Result<Dataset, RunError> {
        if let Some(schema) = dataset.known_schema()? {
            self.check(schema)?;
        }
        Ok(dataset.clone().with_operators(self.operators()))
    }

    /// The batch with what was learned done to its rows, in this thread: it needs no session.
    ///
    /// # Errors
    /// As [`Fitted::transform`], and a value that does not fit.
    pub fn transform_batch(&self, batch: &RecordBatch) -> Result<RecordBatch, RunError> {
        match self {
            // One by one, since what a step makes may be in the way of a later one.
            Self::Chain(steps) => {
                return steps.iter().try_fold(batch.clone(), |batch, step| step.transform_batch(&batch));
            }
            Self::OneHotEncoder(columns) => one_hot_encoder::check(columns, &batch.schema())?,
            _ => {}
        }
        run_operators(&self.operators(), batch).or_else(|error| {
            // Says which preprocessor it is, if the columns are at fault.
            self.check(batch.schema())?;
            Err(error.into())
        })
    }

    /// What it does, as operators of a plan.
    #[must_use]
    pub fn operators(&self) -> Vec<Operator> {
        self.steps().into_iter().map(|(_, operator)| operator).collect()
    }

    /// The operators, and whose they are.
    fn steps(&self) -> Vec<(&str, Operator)> {
        let (name, operators) = match self {
            Self::StandardScaler(columns) => (standard_scaler::NAME, standard_scaler::operators(columns)),
            Self::MinMaxScaler(columns) => (min_max_scaler::NAME, min_max_scaler::operators(columns)),
            Self::OrdinalEncoder { columns, unknown } => {
                (ordinal_encoder::NAME, ordinal_encoder::operators(columns, *unknown))
            }
            Self::OneHotEncoder(columns) => (one_hot_encoder::NAME, one_hot_encoder::operators(columns)),
            Self::SimpleImputer(columns) => (simple_imputer::NAME, simple_imputer::operators(columns)),
            Self::Concatenator(columns) => (concatenator::NAME, concatenator::operators(columns)),
            Self::Chain(steps) => return steps.iter().flat_map(Self::steps).collect(),
            Self::Expressions { name, columns } => {
                let columns = columns.iter().cloned();
                (name.as_str(), columns.map(|(name, value)| Operator::WithColumn { name, value }).collect())
            }
        };
        operators.into_iter().map(|operator| (name, operator)).collect()
    }

    /// Finds all columns, and agrees their types. Returns those that there are afterwards.
    fn check(&self, mut schema: SchemaRef) -> Result<SchemaRef, RunError> {
        match self {
            Self::Chain(steps) => return steps.iter().try_fold(schema, |schema, step| step.check(schema)),
            Self::OneHotEncoder(columns) => one_hot_encoder::check(columns, &schema)?,
            _ => {}
        }
        for (name, operator) in self.steps() {
            let after = schema_after(&operator, &schema).map_err(|error| named(error.into(), name))?;
            schema = after.unwrap_or(schema);
        }
        Ok(schema)
    }
}
