//! Functions of users over batches and rows.

use mobula_data::plan::MapBatches;

use super::Dataset;
use crate::batch_call::{BatchCall, FilterCall, FlatMapCall, MapCall};
use crate::map_options::MapOptions;

impl Dataset {
    /// Hands every batch to a remote function of a `RecordBatch`, of [`Rows`](crate::Rows) or of
    /// [`NdColumns`](crate::NdColumns): `clean.with(Limits { .. })`, or just `clean` where it has no
    /// other parameters.
    ///
    /// A class whose method `call` is such a function keeps a state from call to call: objects are
    /// made once each, on actors, with the arguments of the constructor.
    ///
    /// ```
    /// use mobula::{Rows, range, remote};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Number { id: i64 }
    ///
    /// struct Adder { by: i64 }
    ///
    /// #[remote]
    /// impl Adder {
    ///     fn new(by: i64) -> Self { Self { by } }
    ///     fn call(&mut self, rows: Rows<Number>) -> Rows<Number> {
    ///         rows.map(|row| Number { id: row.id + self.by })
    ///     }
    /// }
    ///
    /// let more = range(10).map_batches(Adder::with(5));
    /// ```
    pub fn map_batches(self, function: impl Into<BatchCall>) -> Self {
        self.map_batches_with(function, MapOptions::default())
    }

    /// As [`Dataset::map_batches`], with at most `batch_size` rows at a time. A size of 0 is an
    /// error of the sink.
    pub fn map_batches_of(self, batch_size: usize, function: impl Into<BatchCall>) -> Self {
        self.map_batches_with(function, MapOptions::default().batch_size(batch_size))
    }

    /// As [`Dataset::map_batches`], with how many rows at a time, by how many at once and on what
    /// told. A function that needs something else than what comes before it runs in tasks or actors
    /// of its own, so that reading holds no GPU.
    ///
    /// ```no_run
    /// # use mobula::{MapOptions, RecordBatch, read_parquet, remote};
    /// # struct Scorer;
    /// # #[remote]
    /// # impl Scorer {
    /// #     fn new(model: String) -> Self { Self }
    /// #     fn call(&mut self, batch: RecordBatch) -> RecordBatch { batch }
    /// # }
    /// let options = MapOptions::default().concurrency(1..=4).num_gpus(1);
    /// let scored = read_parquet("images/").map_batches_with(Scorer::with("model".to_owned()), options);
    /// ```
    pub fn map_batches_with(mut self, function: impl Into<BatchCall>, options: MapOptions) -> Self {
        match options.map(&function.into()) {
            Ok(map) => self.with_function(map),
            // Building a plan fails nowhere; the sink says what was wrong with it.
            Err(error) => {
                self.problem.get_or_insert(error);
                self
            }
        }
    }

    /// The row that a `#[remote(rows)]` function makes of each row.
    ///
    /// ```
    /// use mobula::{range, remote};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Number { id: i64 }
    /// #[derive(Serialize, Deserialize)]
    /// struct Square { id: i64, square: i64 }
    ///
    /// #[remote(rows)]
    /// fn square(number: Number) -> Square {
    ///     Square { id: number.id, square: number.id * number.id }
    /// }
    ///
    /// let squares = range(10).map(square);
    /// ```
    pub fn map(self, function: impl Into<MapCall>) -> Self {
        self.map_batches(function.into())
    }

    /// The rows that a `#[remote(rows)]` function makes of each row, as a `Vec` of any number.
    pub fn flat_map(self, function: impl Into<FlatMapCall>) -> Self {
        self.map_batches(function.into())
    }

    /// The rows of which a `#[remote(rows)]` function says `true`. Where an expression can say it,
    /// [`filter`](Dataset::filter) reads less.
    pub fn filter_rows(self, function: impl Into<FilterCall>) -> Self {
        self.map_batches(function.into())
    }

    fn with_function(self, map: MapBatches) -> Self {
        self.with(|plan| plan.map_batches(map))
    }
}
