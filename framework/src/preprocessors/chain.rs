//! Preprocessors, one after the other.

use mobula_data::executor::RunError;

use super::{Fitted, Preprocessor};
use crate::Dataset;

/// Several preprocessors, each of which learns of what the one before it gives.
///
/// ```
/// use mobula::preprocessors::{Chain, Fill, MinMaxScaler, SimpleImputer};
/// let chain = Chain::new().then(SimpleImputer::new("age", Fill::Mean)).then(MinMaxScaler::new("age"));
/// ```
#[derive(Debug, Default)]
pub struct Chain {
    steps: Vec<Box<dyn Preprocessor>>,
}

impl Chain {
    /// Without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// And then this one.
    #[must_use]
    pub fn then(mut self, next: impl Preprocessor + 'static) -> Self {
        self.steps.push(Box::new(next));
        self
    }
}

impl Preprocessor for Chain {
    fn fit(&self, dataset: &Dataset) -> Result<Fitted, RunError> {
        Ok(self.fit_transform(dataset)?.0)
    }

    fn fit_transform(&self, dataset: &Dataset) -> Result<(Fitted, Dataset), RunError> {
        let mut fitted = Vec::with_capacity(self.steps.len());
        let mut dataset = dataset.clone();
        for step in &self.steps {
            let (next, transformed) = step.fit_transform(&dataset)?;
            fitted.push(next);
            dataset = transformed;
        }
        Ok((Fitted::Chain(fitted), dataset))
    }
}
