//! Datasets of, and as, values of serde's.

use mobula_data::DataError;
use mobula_data::error::FormatError;
use mobula_data::executor::RunError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Dataset, from_batches, range};
use crate::format::{rows_of, traced_batches};

/// Rows in a block of [`from_rows`].
const BLOCK_ROWS: usize = 1 << 16;

/// A row for each value; the columns are the fields of its type, whose types all values together
/// tell.
///
/// ```
/// #[derive(serde::Serialize)]
/// struct City<'a> { name: &'a str, people: Option<u64> }
///
/// let cities = mobula::from_rows([
///     City { name: "Delft", people: Some(109_600) },
///     City { name: "Atlantis", people: None },
/// ]);
/// ```
pub fn from_rows<T: Serialize>(rows: impl IntoIterator<Item = T>) -> Dataset {
    let rows: Vec<T> = rows.into_iter().collect();
    match traced_batches(&rows, BLOCK_ROWS) {
        Ok(batches) => from_batches(batches),
        // Building a plan fails nowhere; the sink says what was wrong with it.
        Err(error) => Dataset { problem: Some(in_function("from_rows", error)), ..range(0) },
    }
}

impl Dataset {
    /// The first `rows` rows as values; a field of `T` is the column of its name.
    ///
    /// ```no_run
    /// #[derive(serde::Deserialize)]
    /// struct Trip { fare: f64, tip: Option<f64> }
    ///
    /// # fn main() -> Result<(), mobula::RunError> {
    /// for trip in mobula::read_parquet("trips/").take_rows::<Trip>(10)? {
    ///     println!("{}", trip.fare + trip.tip.unwrap_or(0.0));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RunError`]; [`DataError::Format`], naming the column that does not fit.
    pub fn take_rows<T: DeserializeOwned>(&self, rows: u64) -> Result<Vec<T>, RunError> {
        all(&self.take(rows)?, "take_rows")
    }

    /// All rows as values.
    ///
    /// # Errors
    /// As [`Dataset::take_rows`].
    pub fn to_rows<T: DeserializeOwned>(&self) -> Result<Vec<T>, RunError> {
        all(&self.to_batches()?, "to_rows")
    }
}

fn all<T: DeserializeOwned>(batches: &[arrow::record_batch::RecordBatch], function: &str) -> Result<Vec<T>, RunError> {
    let mut all = Vec::with_capacity(batches.iter().map(|batch| batch.num_rows()).sum());
    for batch in batches {
        all.extend(rows_of::<T>(batch).map_err(|error| in_function(function, error))?);
    }
    Ok(all)
}

fn in_function(function: &str, error: FormatError) -> RunError {
    DataError::Format { function: function.to_owned(), error }.into()
}
