//! What these tests share: cleaning in one thread, and where the real files are.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use mobula_data::execute::{BlockContext, BlockReport, run_block};
use mobula_data::function::RegisteredFunctions;
use mobula_data::parquet_read::FileFooter;
use mobula_data::paths::expand;
use mobula_data::planner::{plan, schemas};
use mobula_data::{DataError, LogicalPlan, Sink};
use taxi_etl::clean::{Limits, clean, read};

/// What cleaning gave.
pub(crate) struct Cleaned {
    pub(crate) input: SchemaRef,
    pub(crate) reports: Vec<BlockReport>,
    pub(crate) batches: Vec<RecordBatch>,
}

impl Cleaned {
    pub(crate) fn rows_read(&self) -> u64 {
        self.reports.iter().map(|r| r.rows_in).sum()
    }

    pub(crate) fn rows(&self) -> u64 {
        self.reports.iter().map(|r| r.rows_out).sum()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.reports.iter().flat_map(BlockReport::dropped_by_op).map(|(_, rows)| rows).sum()
    }
}

/// Cleans files in this thread.
pub(crate) fn clean_files(paths: &[PathBuf]) -> Result<Cleaned, DataError> {
    let trips = read(paths);
    let footers = footers(trips.plan())?;
    let (input, _) = schemas(trips.plan(), &footers)?;
    let cleaned = clean(trips, &input, &Limits::default())?;
    run(cleaned.plan(), &footers, input)
}

/// Reads files as they are.
pub(crate) fn read_files(paths: &[PathBuf]) -> Result<Cleaned, DataError> {
    let trips = LogicalPlan::read_parquet(paths.iter().map(|p| p.display().to_string()));
    let footers = footers(&trips)?;
    let (input, _) = schemas(&trips, &footers)?;
    run(&trips, &footers, input)
}

fn footers(trips: &LogicalPlan) -> Result<Vec<FileFooter>, DataError> {
    expand(&trips.source().paths)?.iter().map(|path| FileFooter::read(path)).collect()
}

fn run(logical: &LogicalPlan, footers: &[FileFooter], input: SchemaRef) -> Result<Cleaned, DataError> {
    let physical = plan(logical, &Sink::Batches, footers, "")?;
    let context = BlockContext {
        functions: &RegisteredFunctions,
        progress: &|_| ControlFlow::Continue(()),
        clock: &|| Duration::ZERO,
        attempt: "0",
    };
    let mut cleaned = Cleaned { input, reports: Vec::new(), batches: Vec::new() };
    for task in &physical.tasks {
        let output = run_block(task, &physical.stage, &context)?;
        cleaned.reports.push(output.report);
        cleaned.batches.extend(output.batches);
    }
    Ok(cleaned)
}
