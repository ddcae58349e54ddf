//! Running one block task: input, operators, sink, in one pass.
//!
//! Entry type: [`run_block`]. Batches stream from the task's input through the operators
//! (`pipeline.rs`) into what becomes of them (`output.rs`), one at a time: what a task holds is
//! bounded by its batches, by one compressed row group where it writes, and by the rows of its
//! parts where an exchange puts them together (`combine.rs`). It runs in the thread that calls it
//! and blocks there; it knows no other task.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::block_writer::{BlockFile, check_staging};
use crate::error::DataError;
use crate::exchange::keys::failed;
use crate::exchange::partition::KeySample;
use crate::function::{Parameter, RegisteredFunctions};
use crate::plan::Operator;
use crate::source::FileFormat;
use crate::stage::{BlockTask, Branch, Combine, Input, Slice, Stage, StageOperator, StageSink, WireSchema};
use crate::storage::StorageOptions;
use crate::words::plain;

mod combine;
mod meter;
mod output;
mod pipeline;

use meter::{INPUT, Meter};
use output::Output;
use pipeline::Pipeline;

/// The functions that plans may name.
pub trait BatchFunctions: Send + Sync {
    /// Calls the function registered as `function`.
    fn call(&self, function: &str, params: &[Parameter], batch: RecordBatch) -> Result<RecordBatch, DataError>;
}

/// What a task needs from where it runs.
pub struct BlockContext<'a> {
    /// The functions that plans may name.
    pub functions: &'a dyn BatchFunctions,
    /// The task's n-th object; none where it has no rows.
    pub object: &'a dyn Fn(usize) -> Result<Option<RecordBatch>, DataError>,
    /// Told of every batch read; it may end the task.
    pub progress: &'a dyn Fn(Progress) -> ControlFlow<()>,
    /// The time, from any origin.
    pub clock: &'a dyn Fn() -> Duration,
    /// Tells this attempt of the task from every other, in file names.
    pub attempt: &'a str,
}

/// What a task did since it last said so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Rows read.
    pub rows_in: u64,
    /// Rows that reached the sink.
    pub rows_out: u64,
}

/// What a task did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockReport {
    /// The task's ordinal.
    pub ordinal: u64,
    /// Rows read.
    pub rows_in: u64,
    /// Rows that reached the sink.
    pub rows_out: u64,
    /// What its steps did: first where the rows came from, then every operator in the order of the plan,
    /// and last the sink. Their seconds together are the task's.
    pub operators: Vec<OperatorReport>,
    /// Bytes read from files, as they lie on disk.
    pub bytes_in: u64,
    /// The files written.
    pub files: Vec<BlockFile>,
    /// The objects it gives, in order.
    pub objects: Vec<ObjectReport>,
    /// A sample of its keys, if that was asked for.
    pub sample: Option<KeySample>,
    /// The columns of the rows that reached the sink, if any did or were certain to.
    pub schema: Option<WireSchema>,
    /// How long it took.
    pub seconds: f64,
}

/// What an operator did; or what reads rows, puts those of an exchange together, or is the sink.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OperatorReport {
    /// The operator, as the plan prints it.
    pub name: String,
    /// Rows it was given.
    pub rows_in: u64,
    /// Rows it passed on.
    pub rows_out: u64,
    /// Bytes read from files, as they lie on disk: 0 for all but what reads them.
    pub bytes_in: u64,
    /// Bytes of the values that it passed on, as they lie in memory; of a sink, bytes put into files or
    /// into the object store. Neighbouring filters copy rows once: what all but the last let pass is
    /// told by the number of rows.
    pub bytes_out: u64,
    /// The most bytes that it held at once in one task: rows that it gathered, states of groups, the
    /// side of a join, files while they are written; or else the batch that it was given and the
    /// one that it made of it. Over several tasks, those of the one that held most.
    pub memory_bytes: u64,
    /// How long it took, added up over all tasks. Of neighbouring filters, which run as one, each has
    /// the time of its condition, and the last one that of copying the rows.
    pub seconds: f64,
}

impl OperatorReport {
    /// Adds what the same operator did in another task.
    pub(crate) fn add(&mut self, other: &Self) {
        self.rows_in += other.rows_in;
        self.rows_out += other.rows_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        self.seconds += other.seconds;
    }
}

/// What is in an object that a task gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectReport {
    /// Its rows.
    pub rows: u64,
    /// Its bytes, encoded.
    pub bytes: u64,
}

/// The filters among these and how many rows each dropped.
pub(crate) fn dropped_by_filter(operators: &[OperatorReport]) -> Vec<(String, u64)> {
    operators
        .iter()
        .filter_map(|op| Some((op.name.strip_prefix(FILTER)?, op)))
        .map(|(condition, op)| (condition.to_owned(), op.rows_in - op.rows_out))
        .collect()
}

/// What a task leaves.
#[derive(Debug)]
pub struct BlockOutput {
    /// What it did.
    pub report: BlockReport,
    /// The rows of each object that it gives: one, or one for each part.
    pub objects: Vec<Vec<RecordBatch>>,
}

/// Runs one task of a stage in the calling thread.
pub fn run_block(task: &BlockTask, stage: &Stage, context: &BlockContext<'_>) -> Result<BlockOutput, DataError> {
    let start = (context.clock)();
    let branch = stage.branches.get(task.branch as usize).ok_or_else(|| DataError::InvalidPlan {
        operator: "stage".into(),
        cause: format!("it has no branch {}", task.branch),
    })?;
    let mut meter = Meter::new(task, branch, &stage.sink, context.clock);
    let sink = meter.sink();
    if let StageSink::Write { staging, options, .. } = &stage.sink {
        // A run that has ended has none: nothing is read for it in vain.
        meter.runs(sink);
        check_staging(staging, options)?;
        meter.runs(INPUT);
    }
    let mut run = Run {
        pipeline: Pipeline::new(branch, task, context, meter)?,
        output: Output::new(task.ordinal, &stage.sink, context.attempt),
        context,
        rows_in: 0,
        bytes_in: 0,
    };
    combine::feed(task, branch, &mut run)?;
    run.pipeline.finish(&mut run.output)?;
    // A function is not called without rows for every block that happens to have none: it may not
    // bear that, and others may have some.
    if stage.asks_columns && run.output.schema().is_none() && !run.output.knows_its_columns() {
        run.output.set_schema(pipeline::columns_of(branch, context.functions)?);
    }
    let Run { pipeline, output, rows_in, bytes_in, .. } = run;
    let mut meter = pipeline.into_meter();
    meter.runs(sink);
    let rows_out = output.rows();
    let given = output.finish()?;
    let mut operators = meter.into_reports();
    if let Some(input) = operators.first_mut() {
        input.bytes_in = bytes_in;
        input.rows_in = combine::rows_given(task, branch).unwrap_or(input.rows_in);
    }
    if let Some(sink) = operators.last_mut() {
        sink.bytes_out = given.files.iter().map(|file| file.bytes).sum();
    }
    let seconds = ((context.clock)().saturating_sub(start)).as_secs_f64();
    let rows_of = |batches: &Vec<RecordBatch>| batches.iter().map(|batch| batch.num_rows() as u64).sum();
    let objects = given.objects.iter().map(|batches| ObjectReport { rows: rows_of(batches), bytes: 0 }).collect();
    let report = BlockReport {
        ordinal: task.ordinal,
        rows_in,
        rows_out,
        operators,
        bytes_in,
        files: given.files,
        objects,
        sample: given.sample,
        schema: given.schema.map(WireSchema),
        seconds,
    };
    Ok(BlockOutput { report, objects: given.objects })
}

/// Takes one batch through operators, in the calling thread, as a task would: the columns of the
/// result may all be null.
///
/// # Errors
/// [`DataError`], naming operator and column.
pub fn run_operators(operators: &[Operator], batch: &RecordBatch) -> Result<RecordBatch, DataError> {
    let branch = Branch {
        schema: batch.schema(),
        combine: Combine::Stream,
        format: FileFormat::default(),
        storage: StorageOptions::default(),
        filter: None,
        batch_rows: batch.num_rows().max(1),
        operators: operators.iter().cloned().map(StageOperator::Row).collect(),
    };
    let stage = Stage { branches: vec![branch], sink: StageSink::Blocks, asks_columns: batch.num_rows() == 0 };
    let rows = Slice { side: 0, first_row: 0, rows: batch.num_rows() as u64 };
    let task = BlockTask { ordinal: 0, branch: 0, input: Input::Objects(vec![rows]) };
    let context = BlockContext {
        functions: &RegisteredFunctions,
        object: &|_| Ok(Some(batch.clone())),
        progress: &|_| ControlFlow::Continue(()),
        clock: &|| Duration::ZERO,
        attempt: "",
    };
    let BlockOutput { report, objects } = run_block(&task, &stage, &context)?;
    let schema = match report.schema {
        Some(WireSchema(schema)) => schema,
        None => batch.schema(),
    };
    concat_batches(&schema, objects.iter().flatten()).map_err(|error| failed("run_operators", &error))
}

/// A task while it runs.
struct Run<'a> {
    pipeline: Pipeline<'a>,
    output: Output<'a>,
    context: &'a BlockContext<'a>,
    rows_in: u64,
    bytes_in: u64,
}

impl Run<'_> {
    /// Rows that were read, on their way; whether more are wanted.
    fn push(&mut self, batch: RecordBatch) -> Result<bool, DataError> {
        let rows = batch.num_rows() as u64;
        let before = self.output.rows();
        self.rows_in += rows;
        self.pipeline.push(batch, &mut self.output)?;
        let progress = Progress { rows_in: rows, rows_out: self.output.rows() - before };
        if (self.context.progress)(progress).is_break() {
            return Err(DataError::Cancelled);
        }
        Ok(!self.pipeline.is_full())
    }
}

/// The batch under the columns `expected`, if they are the same. Whether a field may be null and
/// what its metadata says is the function's whim and is not compared.
fn with_columns(operator: &str, expected: &SchemaRef, batch: RecordBatch) -> Result<RecordBatch, DataError> {
    let found = batch.schema_ref();
    if Arc::ptr_eq(expected, found) || expected == found {
        return Ok(batch);
    }
    check_same_columns(operator, expected, found)?;
    let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().to_vec();
    RecordBatch::try_new_with_options(Arc::clone(expected), columns, &options).map_err(|error| DataError::Compute {
        operator: operator.into(),
        path: String::new(),
        cause: plain(&error),
    })
}

/// Checks the names, the types and the order of columns.
pub(crate) fn check_same_columns(operator: &str, expected: &Schema, found: &Schema) -> Result<(), DataError> {
    let columns = |schema: &Schema| -> Vec<_> {
        schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
    };
    if columns(expected) == columns(found) {
        return Ok(());
    }
    Err(DataError::SchemaChanged {
        operator: operator.into(),
        expected: columns_text(expected),
        found: columns_text(found),
    })
}

fn columns_text(schema: &Schema) -> String {
    let columns = schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type()));
    columns.collect::<Vec<_>>().join(", ")
}

/// What the name of a filter's report begins with.
const FILTER: &str = "filter ";

#[cfg(test)]
mod tests;
