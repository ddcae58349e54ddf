//! Running one block task: read, operators, sink, in one pass.
//!
//! Entry type: [`run_block`]. Batches stream from the reader through the operators into a file,
//! a count or the caller, one at a time: what a task holds is bounded by its batches and, when
//! it writes, by one compressed row group, never by its input. Neighbouring filters run as one.
//! It runs in the thread that calls it and blocks there; it knows no other task.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::BooleanArray;
use arrow::compute::{and, concat_batches, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::expr::{BoundExpr, Expr};
use crate::function::Parameter;
use crate::parquet_read::PieceReader;
use crate::parquet_write::{BlockFile, BlockWriter, check_staging};
use crate::plan::{MapBatches, Operator};
use crate::planner::{BlockTask, Stage, StageSink, WireSchema, schema_after, select_indices};

/// The functions that plans may name.
pub trait BatchFunctions: Send + Sync {
    /// Calls the function registered as `function`.
    fn call(&self, function: &str, params: &[Parameter], batch: RecordBatch) -> Result<RecordBatch, DataError>;
}

/// What a task needs from where it runs.
pub struct BlockContext<'a> {
    /// The functions that plans may name.
    pub functions: &'a dyn BatchFunctions,
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
    /// What every operator did, in the order of the plan.
    pub operators: Vec<OperatorReport>,
    /// Bytes read from files, as they lie on disk.
    pub bytes_in: u64,
    /// The file written.
    pub file: Option<BlockFile>,
    /// The columns of the rows that reached the sink, if any did or were certain to.
    pub schema: Option<WireSchema>,
    /// How long it took.
    pub seconds: f64,
}

/// What an operator did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorReport {
    /// The operator, as the plan prints it.
    pub name: String,
    /// Rows it was given.
    pub rows_in: u64,
    /// Rows it passed on.
    pub rows_out: u64,
}

impl BlockReport {
    /// The filters and how many rows each dropped, in the order of the plan.
    #[must_use]
    pub fn dropped_by_op(&self) -> Vec<(String, u64)> {
        dropped_by_filter(&self.operators)
    }
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
    /// Its rows, if the sink returns them.
    pub batches: Vec<RecordBatch>,
}

/// Runs one task of a stage in the calling thread.
pub fn run_block(task: &BlockTask, stage: &Stage, context: &BlockContext<'_>) -> Result<BlockOutput, DataError> {
    let start = (context.clock)();
    if let StageSink::WriteParquet { staging, .. } = &stage.sink {
        // A run that has ended has none: nothing is read for it in vain.
        check_staging(staging)?;
    }
    let mut pipeline = Pipeline::new(&stage.operators, context.functions);
    let mut sink = Sink::new(task.ordinal, &stage.sink, context.attempt);
    let mut rows_in = 0;
    let mut bytes_in = 0;
    'pieces: for piece in &task.pieces {
        if pipeline.is_full() {
            break;
        }
        let reader = PieceReader::open(piece, &stage.schema, stage.batch_rows)?;
        bytes_in += reader.bytes();
        pipeline.path.clone_from(&piece.path);
        for batch in reader {
            let batch = batch?;
            let rows = batch.num_rows() as u64;
            let before = sink.rows;
            rows_in += rows;
            pipeline.push(0, batch, &mut sink)?;
            let progress = Progress { rows_in: rows, rows_out: sink.rows - before };
            if (context.progress)(progress).is_break() {
                return Err(DataError::Cancelled);
            }
            if pipeline.is_full() {
                break 'pieces;
            }
        }
    }
    pipeline.finish(&mut sink)?;
    let is_known = matches!(stage.sink, StageSink::WriteParquet { schema: Some(_), .. } | StageSink::Count);
    if task.pieces.is_empty() && !is_known {
        sink.schema = Some(columns_of(&stage.schema, &stage.operators, context.functions)?);
    }
    let operators = pipeline.into_reports();
    let rows_out = sink.rows;
    let (file, schema, batches) = sink.finish()?;
    let seconds = ((context.clock)().saturating_sub(start)).as_secs_f64();
    let ordinal = task.ordinal;
    let schema = schema.map(WireSchema);
    let report = BlockReport { ordinal, rows_in, rows_out, operators, bytes_in, file, schema, seconds };
    Ok(BlockOutput { report, batches })
}

/// The columns after `operators`; functions are called with no rows to learn theirs.
fn columns_of(
    input: &SchemaRef,
    operators: &[Operator],
    functions: &dyn BatchFunctions,
) -> Result<SchemaRef, DataError> {
    let mut schema = Arc::clone(input);
    for operator in operators {
        schema = match operator {
            Operator::MapBatches(map) => {
                let empty = RecordBatch::new_empty(Arc::clone(&schema));
                let result = functions.call(&map.function, &map.params, empty);
                let result = result.map_err(|error| DataError::NoColumns {
                    function: map.function.clone(),
                    cause: match error {
                        DataError::Function { cause, .. } => cause,
                        error => error.to_string(),
                    },
                })?;
                nullable(&result.schema())
            }
            other => schema_after(other, &schema)?.unwrap_or(schema),
        };
    }
    Ok(schema)
}

/// The operators of a stage while a block passes through them.
struct Pipeline<'a> {
    steps: Vec<Step>,
    reports: Vec<OperatorReport>,
    functions: &'a dyn BatchFunctions,
    /// The file being read, for errors.
    path: String,
}

/// One or more operators that run together.
enum Step {
    /// Conditions of neighbouring filters; the index is that of the first one's report.
    Filters { report: usize, conditions: Vec<(Expr, String)>, bound: Option<Vec<BoundExpr>> },
    /// Adds or replaces a column.
    WithColumn { report: usize, operator: Operator, bound: Option<(BoundExpr, SchemaRef, usize)> },
    /// Keeps columns.
    Select { report: usize, columns: Vec<String>, bound: Option<Vec<usize>> },
    /// Passes on the first rows.
    Limit { report: usize, left: u64 },
    /// Calls a function, with batches of its size.
    Map { report: usize, map: MapBatches, schema: Option<SchemaRef>, waiting: Vec<RecordBatch>, waiting_rows: usize },
}

impl<'a> Pipeline<'a> {
    fn new(operators: &[Operator], functions: &'a dyn BatchFunctions) -> Self {
        let mut steps: Vec<Step> = Vec::with_capacity(operators.len());
        for (report, operator) in operators.iter().enumerate() {
            let step = match operator {
                Operator::Filter { condition } => {
                    let condition = (condition.clone(), operator.to_string());
                    match steps.last_mut() {
                        // A condition that cannot fail may also see rows that the one before
                        // it drops: the rows are then copied once for both.
                        Some(Step::Filters { conditions, .. }) if condition.0.is_infallible() => {
                            conditions.push(condition);
                            continue;
                        }
                        _ => Step::Filters { report, conditions: vec![condition], bound: None },
                    }
                }
                Operator::WithColumn { .. } => Step::WithColumn { report, operator: operator.clone(), bound: None },
                Operator::Select { columns } => Step::Select { report, columns: columns.clone(), bound: None },
                Operator::Limit { rows } => Step::Limit { report, left: *rows },
                Operator::MapBatches(map) => {
                    Step::Map { report, map: map.clone(), schema: None, waiting: Vec::new(), waiting_rows: 0 }
                }
            };
            steps.push(step);
        }
        let report = |op: &Operator| OperatorReport { name: op.to_string(), rows_in: 0, rows_out: 0 };
        Self { steps, reports: operators.iter().map(report).collect(), functions, path: String::new() }
    }

    /// Whether a limit has let all its rows pass, so that no more need be read.
    fn is_full(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Limit { left: 0, .. }))
    }

    fn into_reports(self) -> Vec<OperatorReport> {
        self.reports
    }

    /// Takes a batch through the steps from `index` on.
    fn push(&mut self, index: usize, batch: RecordBatch, sink: &mut Sink<'_>) -> Result<(), DataError> {
        let Some(step) = self.steps.get_mut(index) else {
            return sink.take(batch);
        };
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let path = &self.path;
        let compute =
            |operator: &str, cause: String| DataError::Compute { operator: operator.into(), path: path.clone(), cause };
        match step {
            Step::Filters { report, conditions, bound } => {
                if bound.is_none() {
                    let schema = batch.schema();
                    let bind = |(c, name): &(Expr, String)| BoundExpr::bind_condition(c, &schema, name);
                    *bound = Some(conditions.iter().map(bind).collect::<Result<_, _>>()?);
                }
                let mut kept: Option<BooleanArray> = None;
                for (i, condition) in bound.iter().flatten().enumerate() {
                    let name = &conditions[i].1;
                    let mask = condition.evaluate_mask(&batch).map_err(|e| compute(name, e))?;
                    let before = kept.as_ref().map_or(rows, BooleanArray::true_count);
                    let mask = match kept {
                        Some(kept) => and(&kept, &mask).map_err(|e| compute(name, e.to_string()))?,
                        None => mask,
                    };
                    self.reports[*report + i].count(before, mask.true_count());
                    kept = Some(mask);
                }
                let kept = kept.filter(|mask| mask.true_count() < mask.len());
                let batch = match kept {
                    Some(mask) => {
                        filter_record_batch(&batch, &mask).map_err(|e| compute(&conditions[0].1, e.to_string()))?
                    }
                    None => batch,
                };
                self.push(index + 1, batch, sink)
            }
            Step::WithColumn { report, operator, bound } => {
                let Operator::WithColumn { name, value } = &*operator else {
                    return Ok(());
                };
                if bound.is_none() {
                    let before = batch.schema();
                    let title = operator.to_string();
                    let expr = BoundExpr::bind(value, &before, &title)?;
                    let after = schema_after(operator, &before)?.unwrap_or(before);
                    let position = after.index_of(name).unwrap_or_default();
                    *bound = Some((expr, after, position));
                }
                let Some((expr, schema, position)) = bound else {
                    return Ok(());
                };
                let title = || self.reports[*report].name.clone();
                let value = expr.evaluate(&batch).map_err(|e| compute(&title(), e))?;
                let mut columns = batch.columns().to_vec();
                match columns.get_mut(*position) {
                    Some(column) => *column = value,
                    None => columns.push(value),
                }
                let batch =
                    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| compute(&title(), e.to_string()))?;
                self.reports[*report].count(rows, rows);
                self.push(index + 1, batch, sink)
            }
            Step::Select { report, columns, bound } => {
                let name = &self.reports[*report].name;
                if bound.is_none() {
                    *bound = Some(select_indices(&batch.schema(), columns, name)?);
                }
                let indices = bound.as_deref().unwrap_or_default();
                let batch = batch.project(indices).map_err(|e| compute(name, e.to_string()))?;
                self.reports[*report].count(rows, rows);
                self.push(index + 1, batch, sink)
            }
            Step::Limit { report, left } => {
                let pass = rows.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= pass as u64;
                self.reports[*report].count(rows, pass);
                self.push(index + 1, batch.slice(0, pass), sink)
            }
            Step::Map { map, waiting, waiting_rows, .. } => {
                let Some(size) = map.batch_rows else {
                    return self.call(index, batch, sink);
                };
                waiting.push(batch);
                *waiting_rows += rows;
                if *waiting_rows < size {
                    return Ok(());
                }
                let together = gather(waiting).map_err(|e| compute(&map.name, e))?;
                let whole = together.num_rows() / size * size;
                *waiting_rows = together.num_rows() - whole;
                if *waiting_rows > 0 {
                    waiting.push(together.slice(whole, *waiting_rows));
                }
                for start in (0..whole).step_by(size) {
                    self.call(index, together.slice(start, size), sink)?;
                }
                Ok(())
            }
        }
    }

    /// Calls the function of a map step and takes what it gives further.
    fn call(&mut self, index: usize, batch: RecordBatch, sink: &mut Sink<'_>) -> Result<(), DataError> {
        let Some(Step::Map { report, map, schema, .. }) = self.steps.get_mut(index) else {
            return Ok(());
        };
        let rows = batch.num_rows();
        let result = self.functions.call(&map.function, &map.params, batch)?;
        self.reports[*report].count(rows, result.num_rows());
        if result.num_rows() == 0 {
            return Ok(());
        }
        // The steps behind are bound to the columns of the first batch.
        let schema = schema.get_or_insert_with(|| nullable(&result.schema()));
        let result = with_columns(&self.reports[*report].name, schema, result)?;
        self.push(index + 1, result, sink)
    }

    /// Hands on what steps hold back, from the first to the last.
    fn finish(&mut self, sink: &mut Sink<'_>) -> Result<(), DataError> {
        for index in 0..self.steps.len() {
            let Some(Step::Map { map, waiting, waiting_rows, .. }) = self.steps.get_mut(index) else {
                continue;
            };
            if waiting.is_empty() {
                continue;
            }
            *waiting_rows = 0;
            let batch = gather(waiting).map_err(|cause| DataError::Compute {
                operator: map.name.clone(),
                path: self.path.clone(),
                cause,
            })?;
            self.call(index, batch, sink)?;
        }
        Ok(())
    }
}

impl OperatorReport {
    fn count(&mut self, rows_in: usize, rows_out: usize) {
        self.rows_in += rows_in as u64;
        self.rows_out += rows_out as u64;
    }
}

/// The batches as one; they are taken out of the list.
fn gather(waiting: &mut Vec<RecordBatch>) -> Result<RecordBatch, String> {
    match waiting.as_slice() {
        [one] => {
            let one = one.clone();
            waiting.clear();
            Ok(one)
        }
        [] => Err("no batch to gather".into()),
        [first, ..] => {
            let all = concat_batches(&first.schema(), waiting.iter()).map_err(|e| e.to_string())?;
            waiting.clear();
            Ok(all)
        }
    }
}

/// Where the rows of a block go.
struct Sink<'a> {
    ordinal: u64,
    kind: &'a StageSink,
    attempt: &'a str,
    rows: u64,
    schema: Option<SchemaRef>,
    writer: Option<BlockWriter>,
    batches: Vec<RecordBatch>,
}

type Finished = (Option<BlockFile>, Option<SchemaRef>, Vec<RecordBatch>);

impl<'a> Sink<'a> {
    fn new(ordinal: u64, kind: &'a StageSink, attempt: &'a str) -> Self {
        Self { ordinal, kind, attempt, rows: 0, schema: None, writer: None, batches: Vec::new() }
    }

    fn take(&mut self, batch: RecordBatch) -> Result<(), DataError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        if matches!(self.kind, StageSink::Count) {
            return Ok(());
        }
        let batch = self.check(batch)?;
        match self.kind {
            StageSink::WriteParquet { .. } => {
                let writer = self.writer(batch.schema())?;
                writer.write(&batch)
            }
            StageSink::Count | StageSink::Batches => {
                self.batches.push(batch);
                Ok(())
            }
        }
    }

    /// Every batch of a block must have the columns of the first.
    fn check(&mut self, batch: RecordBatch) -> Result<RecordBatch, DataError> {
        let expected = self.schema.get_or_insert_with(|| match self.kind {
            StageSink::WriteParquet { schema: Some(schema), .. } => Arc::clone(&schema.0),
            _ => nullable(&batch.schema()),
        });
        with_columns(self.kind.name(), expected, batch)
    }

    fn writer(&mut self, schema: SchemaRef) -> Result<&mut BlockWriter, DataError> {
        let StageSink::WriteParquet { staging, options, .. } = self.kind else {
            return Err(DataError::InvalidPlan {
                operator: self.kind.name().into(),
                cause: "only a write has a file".into(),
            });
        };
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => BlockWriter::create(staging, self.ordinal, self.attempt, schema, options)?,
        };
        Ok(self.writer.insert(writer))
    }

    /// A block without rows writes no file, but for the first one: a result without rows is
    /// still one file with its columns.
    fn finish(mut self) -> Result<Finished, DataError> {
        if let StageSink::WriteParquet { schema, .. } = self.kind {
            if let Some(schema) = schema {
                self.schema.get_or_insert_with(|| Arc::clone(&schema.0));
            }
            if let (None, 0, Some(schema)) = (&self.writer, self.ordinal, self.schema.clone()) {
                self.writer(schema)?;
            }
        }
        let file = self.writer.take().map(BlockWriter::finish).transpose()?;
        Ok((file, self.schema, self.batches))
    }
}

impl StageSink {
    /// The operator of a plan that it stands for.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            StageSink::WriteParquet { .. } => "write_parquet",
            StageSink::Count => "count",
            StageSink::Batches => "batches",
        }
    }
}

/// The same columns, any of which may be null: what one batch happens not to hold, the next may.
fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The batch under the columns `expected`, if they are the same. Whether a field may be null and
/// what its metadata says is the function's whim and is not compared.
fn with_columns(operator: &str, expected: &SchemaRef, batch: RecordBatch) -> Result<RecordBatch, DataError> {
    let found = batch.schema_ref();
    if Arc::ptr_eq(expected, found) || expected == found {
        return Ok(batch);
    }
    check_same_columns(operator, expected, found)?;
    let columns = batch.columns().to_vec();
    RecordBatch::try_new(Arc::clone(expected), columns).map_err(|error| DataError::Compute {
        operator: operator.into(),
        path: String::new(),
        cause: error.to_string(),
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
