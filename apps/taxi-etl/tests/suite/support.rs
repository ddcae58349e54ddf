//! What these tests share: cleaning in this process, and where the real files are.

use std::path::PathBuf;
use std::sync::OnceLock;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use mobula::{Config, Dataset, RunError, RunReport, Session, read_parquet};
use taxi_etl::clean::{Limits, clean, read};

/// What cleaning gave.
pub(crate) struct Cleaned {
    pub(crate) input: SchemaRef,
    pub(crate) report: RunReport,
    pub(crate) batches: Vec<RecordBatch>,
}

impl Cleaned {
    pub(crate) fn rows_read(&self) -> u64 {
        self.report.rows_in
    }

    pub(crate) fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.num_rows() as u64).sum()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.report.dropped_by_filter().iter().map(|(_, rows)| rows).sum()
    }
}

/// The session of all tests of this process.
pub(crate) fn session() {
    static SESSION: OnceLock<Session> = OnceLock::new();
    SESSION.get_or_init(|| mobula::init(Config::default()).unwrap());
}

/// Cleans files in this process.
pub(crate) fn clean_files(paths: &[PathBuf]) -> Result<Cleaned, RunError> {
    session();
    let trips = read(paths).pushdown(false);
    let input = trips.source_schema()?;
    run(&clean(trips, &input, &Limits::default())?, input)
}

/// Reads files as they are.
pub(crate) fn read_files(paths: &[PathBuf]) -> Result<Cleaned, RunError> {
    session();
    let trips = read_parquet(paths);
    let input = trips.source_schema()?;
    run(&trips, input)
}

fn run(rows: &Dataset, input: SchemaRef) -> Result<Cleaned, RunError> {
    Ok(Cleaned { input, report: rows.stats()?.report, batches: rows.to_batches()? })
}
