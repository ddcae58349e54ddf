//! Preprocessors: what is learned of the rows once, and then done to every row, while a model is
//! trained and when it serves.
//!
//! | preprocessor | does |
//! |---|---|
//! | [`StandardScaler`] | numbers to mean 0 and deviation 1 |
//! | [`MinMaxScaler`] | numbers to the range from 0 to 1 |
//! | [`OrdinalEncoder`] | values to their number among all values |
//! | [`OneHotEncoder`] | values to a column of 0 and 1 for each of them |
//! | [`SimpleImputer`] | nulls to a value |
//! | [`Concatenator`] | several columns to one list of numbers |
//! | [`Chain`] | one after the other |
//!
//! A [`Preprocessor`] says what to learn. [`fit`](Preprocessor::fit) runs over a dataset and gives a
//! [`Fitted`], which is plain data: it can be sent, saved beside a model and read again, and only
//! it can transform, so nothing is transformed by what was never learned. What it does are
//! expressions of the plan, which run fused with their neighbours and print.
//!
//! ```no_run
//! use mobula::preprocessors::{Chain, Concatenator, Fill, OneHotEncoder, Preprocessor, SimpleImputer, StandardScaler};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let session = mobula::init(mobula::Config::default())?;
//! let people = mobula::read_parquet("people/");
//! let chain = Chain::new()
//!     .then(SimpleImputer::new("age", Fill::Median))
//!     .then(StandardScaler::new(["age", "income"]))
//!     .then(OneHotEncoder::new("city"))
//!     .then(Concatenator::new(["age", "income"], "features").float32());
//! let (fitted, train) = chain.fit_transform(&people)?;
//! println!("{train}");
//! let saved = mobula::put(fitted)?; // or serde_json::to_string(&fitted)
//! # session.shutdown();
//! # Ok(())
//! # }
//! ```
//!
//! A null stays null, but for [`SimpleImputer`]; NaN is a number here, and no place for nulls:
//! a column with NaN in it cannot be scaled. Each step of a chain runs over the dataset as the steps
//! before it left it: [`materialize`](crate::Dataset::materialize) what is costly to make.

use std::fmt;

use mobula_data::executor::RunError;

use crate::Dataset;

mod chain;
mod columns;
mod concatenator;
mod counts;
mod fitted;
mod learned;
mod min_max_scaler;
mod one_hot_encoder;
mod ordinal_encoder;
mod simple_imputer;
mod standard_scaler;

/// A constant, as categories and filled-in values are kept.
pub use mobula_data::expr::Scalar;

pub use chain::Chain;
pub use concatenator::{Concatenated, Concatenator};
pub use fitted::Fitted;
pub use min_max_scaler::{MinMaxScaler, Ranged};
pub use one_hot_encoder::{Hot, OneHot, OneHotEncoder};
pub use ordinal_encoder::{OrdinalEncoder, Ordinals, Unknown};
pub use simple_imputer::{Fill, Filled, SimpleImputer};
pub use standard_scaler::{StandardScaler, Standardised};

/// What is to be learned of a dataset.
///
/// Those of this module are built in; one of your own learns what it wants, and gives
/// [`Fitted::Expressions`]:
///
/// ```
/// use mobula::preprocessors::{Fitted, Preprocessor};
/// use mobula::{Dataset, RunError, col};
///
/// /// Numbers as their logarithm.
/// #[derive(Debug)]
/// struct Logarithm(&'static str);
///
/// impl Preprocessor for Logarithm {
///     fn fit(&self, _: &Dataset) -> Result<Fitted, RunError> {
///         let columns = vec![(self.0.to_owned(), col(self.0).ln())];
///         Ok(Fitted::Expressions { name: "Logarithm".to_owned(), columns })
///     }
/// }
/// ```
pub trait Preprocessor: fmt::Debug + Send + Sync {
    /// Learns of the rows of `dataset`.
    ///
    /// # Errors
    /// [`RunError`], naming preprocessor and column.
    fn fit(&self, dataset: &Dataset) -> Result<Fitted, RunError>;

    /// Learns of the rows of `dataset`, and transforms them.
    ///
    /// # Errors
    /// As [`fit`](Preprocessor::fit) and [`Fitted::transform`].
    fn fit_transform(&self, dataset: &Dataset) -> Result<(Fitted, Dataset), RunError> {
        let fitted = self.fit(dataset)?;
        let transformed = fitted.transform(dataset)?;
        Ok((fitted, transformed))
    }
}
