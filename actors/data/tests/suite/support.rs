//! What the tests of this crate share: running a plan in one thread, and the shared data.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use mobula_data::execute::{BatchFunctions, BlockContext, BlockReport, run_block};
use mobula_data::function::RegisteredFunctions;
use mobula_data::output_dir::OutputDir;
use mobula_data::parquet_read::FileFooter;
use mobula_data::parquet_write::WriteOptions;
use mobula_data::paths::expand;
use mobula_data::planner::{PhysicalPlan, plan};
use mobula_data::{DataError, LogicalPlan, Sink};

/// What a run gave.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    pub(crate) reports: Vec<BlockReport>,
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) files: Vec<String>,
}

impl Ran {
    pub(crate) fn rows_out(&self) -> u64 {
        self.reports.iter().map(|r| r.rows_out).sum()
    }
}

/// Plans without running.
pub(crate) fn planned(logical: &LogicalPlan, sink: &Sink, staging: &str) -> Result<PhysicalPlan, DataError> {
    let footers = footers(logical)?;
    plan(logical, sink, &footers, staging)
}

/// Runs a plan whose batches come back.
pub(crate) fn batches(logical: &LogicalPlan, functions: &dyn BatchFunctions) -> Result<Ran, DataError> {
    let physical = planned(logical, &Sink::Batches, "")?;
    let mut ran = run(&physical, functions)?;
    let mut left = usize::try_from(physical.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    for batch in &mut ran.batches {
        *batch = batch.slice(0, batch.num_rows().min(left));
        left -= batch.num_rows();
    }
    Ok(ran)
}

/// Runs a plan that writes to `dir`.
pub(crate) fn write(logical: &LogicalPlan, dir: &Path) -> Result<Ran, DataError> {
    let dir = dir.to_str().unwrap();
    let options = WriteOptions::default();
    let sink = Sink::WriteParquet { dir: dir.into(), options: options.clone() };
    let footers = footers(logical)?;
    let output = OutputDir::prepare(dir, options.mode, "test")?;
    let mut ran = run(&plan(logical, &sink, &footers, &output.staging())?, &RegisteredFunctions)?;
    let files: Vec<_> = ran.reports.iter().filter_map(|r| r.file.clone()).collect();
    ran.files = output.commit(&files)?;
    Ok(ran)
}

fn footers(logical: &LogicalPlan) -> Result<Vec<FileFooter>, DataError> {
    expand(&logical.source().paths)?.iter().map(|path| FileFooter::read(path)).collect()
}

fn run(physical: &PhysicalPlan, functions: &dyn BatchFunctions) -> Result<Ran, DataError> {
    let context =
        BlockContext { functions, progress: &|_| ControlFlow::Continue(()), clock: &|| Duration::ZERO, attempt: "0" };
    let mut ran = Ran::default();
    for task in &physical.tasks {
        let output = run_block(task, &physical.stage, &context)?;
        ran.reports.push(output.report);
        ran.batches.extend(output.batches);
    }
    Ok(ran)
}
