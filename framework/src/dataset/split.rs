//! One dataset as several.

use std::sync::Arc;

use mobula_data::DataError;
use mobula_data::executor::RunError;
use mobula_data::plan::LogicalPlan;
use mobula_data::source::{Blocks, Source, slice_rows};

use super::{Dataset, not_in_store};

impl Dataset {
    /// Cuts the rows into `n` datasets of about as many rows each, in order. The rows are
    /// materialized.
    ///
    /// # Errors
    /// [`RunError`]; no datasets at all is [`DataError::InvalidPlan`].
    pub fn split(&self, n: u64) -> Result<Vec<Dataset>, RunError> {
        self.cut("split", |rows| {
            let at = |part: u64| (u128::from(part) * u128::from(rows) / u128::from(n.max(1))) as u64;
            if n == 0 { Err("into how many?".to_owned()) } else { Ok((0..=n).map(at).collect()) }
        })
    }

    /// As [`Dataset::split`], with exactly as many rows in each: up to `n` - 1 rows at the end are
    /// left out.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn split_equal(&self, n: u64) -> Result<Vec<Dataset>, RunError> {
        self.cut("split", |rows| {
            if n == 0 { Err("into how many?".to_owned()) } else { Ok((0..=n).map(|part| part * (rows / n)).collect()) }
        })
    }

    /// Cuts the rows before those with these numbers: `[5]` of ten rows gives the first five and
    /// the last five.
    ///
    /// # Errors
    /// [`RunError`]; numbers that are not sorted are [`DataError::InvalidPlan`].
    pub fn split_at_indices(&self, indices: &[u64]) -> Result<Vec<Dataset>, RunError> {
        self.cut("split_at_indices", |rows| {
            if !indices.is_sorted() {
                return Err(format!("the indices {indices:?} must be sorted"));
            }
            let within = indices.iter().map(|index| (*index).min(rows));
            Ok(std::iter::once(0).chain(within).chain([rows]).collect())
        })
    }

    /// Cuts the rows by fractions, whose sum is less than 1; the last dataset has the rest.
    ///
    /// # Errors
    /// [`RunError`]; fractions that are not greater than 0 with a sum below 1 are
    /// [`DataError::InvalidPlan`].
    pub fn split_proportionately(&self, fractions: &[f64]) -> Result<Vec<Dataset>, RunError> {
        self.cut("split_proportionately", |rows| {
            let sum: f64 = fractions.iter().sum();
            if fractions.is_empty() || fractions.iter().any(|f| f.is_nan() || *f <= 0.0) || sum >= 1.0 {
                return Err(format!("the fractions {fractions:?} must be greater than 0, with a sum below 1"));
            }
            let mut ends = vec![0];
            let mut so_far = 0.0;
            for fraction in fractions {
                so_far += fraction;
                // What is a whole number but for rounding is that number.
                ends.push(((so_far * rows as f64 + 1e-9) as u64).min(rows));
            }
            ends.push(rows);
            Ok(ends)
        })
    }

    /// Cuts the last fraction of the rows off: first the rows to train on, then those to test with.
    /// With a seed, the rows are shuffled before.
    ///
    /// # Errors
    /// [`RunError`]; a fraction that is not between 0 and 1 is [`DataError::InvalidPlan`].
    pub fn train_test_split(&self, test_size: f64, seed: Option<u64>) -> Result<(Dataset, Dataset), RunError> {
        if test_size.is_nan() || test_size <= 0.0 || test_size >= 1.0 {
            let cause = format!("a test size of {test_size}: it must be between 0 and 1");
            return Err(DataError::InvalidPlan { operator: "train_test_split".to_owned(), cause }.into());
        }
        let rows = match seed {
            Some(seed) => self.clone().random_shuffle(seed),
            None => self.clone(),
        };
        let mut parts = rows.split_proportionately(&[1.0 - test_size])?.into_iter();
        match (parts.next(), parts.next()) {
            (Some(train), Some(test)) => Ok((train, test)),
            _ => Err(DataError::InvalidPlan { operator: "train_test_split".into(), cause: "no rows".into() }.into()),
        }
    }

    /// Materializes the rows and cuts them at the places that `places` gives for so many rows.
    fn cut(&self, operator: &str, places: impl Fn(u64) -> Result<Vec<u64>, String>) -> Result<Vec<Dataset>, RunError> {
        let invalid = |cause: String| DataError::InvalidPlan { operator: operator.to_owned(), cause };
        // What is wrong with them whatever the rows are is told before anything runs.
        places(u64::MAX >> 32).map_err(invalid)?;
        let whole = self.materialize()?;
        let LogicalPlan::Source(Source::Blocks(blocks)) = &whole.plan else {
            return Err(not_in_store(operator));
        };
        let places = places(blocks.rows()).map_err(invalid)?;
        let part = |pair: &[u64]| {
            let slices = slice_rows(&blocks.blocks, pair[0], pair[1] - pair[0]);
            let blocks = Blocks { schema: Arc::clone(&blocks.schema), blocks: Arc::new(slices) };
            Dataset { plan: LogicalPlan::Source(Source::Blocks(blocks)), ..whole.clone() }
        };
        Ok(places.windows(2).map(part).collect())
    }
}
