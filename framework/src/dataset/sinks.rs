//! What asks a dataset for its rows.

use std::io::Write as _;
use std::path::Path;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use mobula_data::DataError;
use mobula_data::aggregate::Aggregate;
use mobula_data::executor::{RunError, RunReport};
use mobula_data::plan::{Exchange, LogicalPlan, Sink};
use mobula_data::source::Source;
use mobula_data::write::WriteOptions;

use super::{Dataset, text_of};

impl Dataset {
    /// Writes the rows into a directory, one file for each block, in source order. A directory
    /// that does not exist yet appears in one step, whole. In one that does, nothing appears before
    /// every block is written; the files are then moved in one by one, and all of them back if
    /// one cannot be. What a run that was killed left half done, the next one into the same
    /// directory takes back.
    ///
    /// The directory may not lie in the input, nor hold some of it.
    ///
    /// One at `s3://bucket/…` is in a store: see [`Dataset::storage`]. Nothing is visible there
    /// before every block is uploaded; then all files become so, one soon after the other, and none
    /// stays if one cannot.
    ///
    /// # Errors
    /// [`RunError`], naming file, column or operator.
    pub fn write_parquet(&self, dir: impl AsRef<Path>) -> Result<RunReport, RunError> {
        self.write(dir, WriteOptions::default())
    }

    /// As [`Dataset::write_parquet`], with the format, the compression, the mode and the columns
    /// to partition by given.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn write(&self, dir: impl AsRef<Path>, mut options: WriteOptions) -> Result<RunReport, RunError> {
        options.storage = options.storage.or_else(|| self.storage.clone());
        let dir = text_of(dir.as_ref())?;
        self.run(&self.plan, &Sink::Write { dir, options })
    }

    /// Writes the rows as CSV, with a header, as [`Dataset::write_parquet`] does.
    ///
    /// # Errors
    /// [`RunError`]; columns of lists and the like are [`DataError::InvalidPlan`].
    pub fn write_csv(&self, dir: impl AsRef<Path>) -> Result<RunReport, RunError> {
        self.write(dir, WriteOptions::csv())
    }

    /// Writes the rows as lines of JSON objects, as [`Dataset::write_parquet`] does.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn write_json(&self, dir: impl AsRef<Path>) -> Result<RunReport, RunError> {
        self.write(dir, WriteOptions::json())
    }

    /// How many rows there are. Where the files' footers tell, nothing else is read.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn count(&self) -> Result<u64, RunError> {
        Ok(self.run(&self.plan, &Sink::Count)?.rows_out)
    }

    /// The first `rows` rows, in order. Where there are none, one batch without rows tells
    /// the columns.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn take(&self, rows: u64) -> Result<Vec<RecordBatch>, RunError> {
        self.batches(&self.plan.clone().limit(rows))
    }

    /// The first `rows` rows as one batch.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn take_batch(&self, rows: u64) -> Result<RecordBatch, RunError> {
        one(self.take(rows)?)
    }

    /// All rows, in order, as they lie in the object store. Where there are none, one batch
    /// without rows tells the columns.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn to_batches(&self) -> Result<Vec<RecordBatch>, RunError> {
        self.batches(&self.plan)
    }

    /// All rows as one batch.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn to_arrow(&self) -> Result<RecordBatch, RunError> {
        one(self.to_batches()?)
    }

    fn batches(&self, plan: &LogicalPlan) -> Result<Vec<RecordBatch>, RunError> {
        let mut report = self.run(plan, &Sink::Batches)?;
        if let (true, Some(schema)) = (report.batches.is_empty(), report.schema) {
            report.batches.push(RecordBatch::new_empty(schema));
        }
        Ok(report.batches)
    }

    /// What is computed of all rows: one row.
    ///
    /// ```no_run
    /// use mobula::aggregate::{max, mean};
    /// # fn main() -> Result<(), mobula::RunError> {
    /// let fares = mobula::read_parquet("trips/").aggregate([mean("fare_amount"), max("fare_amount")])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RunError`].
    pub fn aggregate(&self, aggregates: impl IntoIterator<Item = Aggregate>) -> Result<RecordBatch, RunError> {
        let aggregates = aggregates.into_iter().collect();
        let plan = self.plan.clone().exchange(Exchange::Aggregate { keys: Vec::new(), aggregates });
        one(self.batches(&plan)?)
    }

    /// Prints the first `rows` rows as a table, or only the columns where there are none. A reader
    /// that has gone away (`| head`) is no failure.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn show(&self, rows: u64) -> Result<(), RunError> {
        let table = crate::table::of_batches(&self.take(rows)?);
        match writeln!(std::io::stdout().lock(), "{table}") {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(DataError::write(Path::new("/dev/stdout"), &error).into())
            }
            _ => Ok(()),
        }
    }

    /// Runs the plan now and keeps its blocks in the object store (on disk where there is no room)
    /// as long as some dataset needs them: what follows does not run it again. One that is
    /// materialized already stays as it is.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn materialize(&self) -> Result<Dataset, RunError> {
        if let (None, LogicalPlan::Source(Source::Blocks(_))) = (&self.problem, &self.plan) {
            return Ok(self.clone());
        }
        let report = self.run(&self.plan, &Sink::Blocks)?;
        let blocks = report.blocks.ok_or_else(|| {
            let cause = "a function makes the columns, there is no row to give it, and it fails without any".to_owned();
            RunError::Data(DataError::InvalidPlan { operator: "materialize".to_owned(), cause })
        })?;
        Ok(Dataset { plan: LogicalPlan::Source(Source::Blocks(blocks)), ..self.clone() })
    }
}

/// The batches as one.
fn one(batches: Vec<RecordBatch>) -> Result<RecordBatch, RunError> {
    match batches.as_slice() {
        [one] => Ok(one.clone()),
        [] => Ok(RecordBatch::new_empty(std::sync::Arc::new(arrow::datatypes::Schema::empty()))),
        [first, ..] => concat_batches(first.schema_ref(), &batches).map_err(|error| {
            let (operator, cause) = ("to_arrow".to_owned(), error.to_string());
            RunError::Data(DataError::Compute { operator, path: String::new(), cause })
        }),
    }
}
