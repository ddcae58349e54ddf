//! Numbers to mean 0 and deviation 1.

use mobula_data::aggregate::{count_of, max, mean, min, variance};
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
pub(super) const NAME: &str = "StandardScaler";

/// Takes the mean of its column from a number, and divides it by the standard deviation of the
/// population (that of the sample divides by n - 1; this one by n, as Ray and scikit-learn do).
/// A column of equal numbers becomes zeros.
///
/// ```
/// use mobula::preprocessors::StandardScaler;
/// let scaler = StandardScaler::new(["height", "weight"]).output_columns(["height_scaled", "weight_scaled"]);
/// ```
#[derive(Debug, Clone)]
pub struct StandardScaler {
    columns: Pairs,
}

/// A column that was standardised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standardised {
    /// The column.
    pub column: String,
    /// Where the result goes.
    pub output: String,
    /// The mean.
    pub mean: f64,
    /// The standard deviation of the population.
    pub std: f64,
}

impl StandardScaler {
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

impl Preprocessor for StandardScaler {
    fn fit(&self, dataset: &Dataset) -> Result<Fitted, RunError> {
        let columns = self.columns.inputs(NAME)?;
        let aggregates = columns.iter().flat_map(|c| [mean(c), variance(c), count_of(c), min(c), max(c)]);
        let learned = Learned::of(dataset, NAME, aggregates)?;
        let column = |(place, (column, output)): (usize, (&String, &String))| {
            let number = |which: usize| learned.number(place * 5 + which, column);
            let (Some(mean), Some(least), Some(greatest)) = (number(0)?, number(3)?, number(4)?) else {
                return Err(nothing_in(NAME, column));
            };
            let (variance, count) = (number(1)?.unwrap_or_default(), number(2)?.unwrap_or_default());
            // Sums round: the mean of equal numbers may be another one.
            let (mean, std) = match least == greatest {
                true => (least, 0.0),
                false => (mean, (variance * (count - 1.0) / count).sqrt()),
            };
            Ok(Standardised { column: column.clone(), output: output.clone(), mean, std })
        };
        let columns = columns.iter().zip(self.columns.outputs()).enumerate().map(column);
        Ok(Fitted::StandardScaler(columns.collect::<Result<_, _>>()?))
    }
}

pub(super) fn operators(columns: &[Standardised]) -> Vec<Operator> {
    let value = |scaled: &Standardised| {
        let centred = col(&scaled.column) - lit(scaled.mean);
        let value = if scaled.std == 0.0 { centred } else { centred / lit(scaled.std) };
        (scaled.output.clone(), value)
    };
    vec![computed(columns.iter().map(value))]
}
