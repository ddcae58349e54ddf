//! The operators of a stage while a block passes through them.
//!
//! Neighbouring filters run as one.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute::{and, concat_batches, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use rand::RngExt;

use super::combine::each;
use super::output::Output;
use super::{BatchFunctions, BlockContext, OperatorReport, with_columns};
use crate::error::DataError;
use crate::exchange::aggregate::{Final, Partial};
use crate::exchange::join::Joiner;
use crate::exchange::keys::nullable;
use crate::exchange::partition::{Chance, generator};
use crate::exchange::rows::Gathered;
use crate::expr::{BoundExpr, Expr};
use crate::plan::{MapBatches, Operator, SortKey};
use crate::planner::{all_columns, drop_indices, renamed, schema_after, select_indices};
use crate::stage::{BlockTask, Branch, Combine, StageOperator};

/// The operators of a branch, and what they have done.
pub(super) struct Pipeline<'a> {
    steps: Vec<Step>,
    reports: Vec<OperatorReport>,
    functions: &'a dyn BatchFunctions,
    clock: &'a dyn Fn() -> Duration,
    /// The step that runs now, and since when.
    running: Option<usize>,
    since: Duration,
    /// The file being read, for errors.
    path: String,
}

/// One or more operators that run together.
enum Step {
    /// Conditions of neighbouring filters; the index is that of the first one's report.
    Filters { report: usize, conditions: Vec<(Expr, String)>, bound: Option<Vec<BoundExpr>> },
    /// Adds or replaces a column.
    WithColumn { report: usize, operator: Operator, bound: Option<(BoundExpr, SchemaRef, usize)> },
    /// Keeps, drops or renames columns.
    Columns { report: usize, operator: Operator, bound: Option<(SchemaRef, Vec<usize>)> },
    /// Computes columns, all of the rows as they were.
    Project { report: usize, operator: Operator, bound: Option<(SchemaRef, Vec<BoundExpr>)> },
    /// Passes on the first rows.
    Limit { report: usize, left: u64 },
    /// Passes on rows by chance.
    Sample { report: usize, fraction: f64, chance: Chance },
    /// Calls a function, with batches of its size.
    Map { report: usize, map: MapBatches, schema: Option<SchemaRef>, waiting: Vec<RecordBatch>, waiting_rows: usize },
    /// Makes states of groups.
    Partial { report: usize, partial: Partial },
    /// Holds the first rows in an order.
    Top { report: usize, keys: Vec<SortKey>, rows: usize, held: Vec<RecordBatch>, held_rows: usize },
    /// Joins rows with a side that it has whole.
    Join { report: usize, joiner: Joiner },
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(branch: &Branch, task: &BlockTask, context: &BlockContext<'a>) -> Result<Self, DataError> {
        let mut steps: Vec<Step> = Vec::with_capacity(branch.operators.len());
        for (report, operator) in branch.operators.iter().enumerate() {
            if let StageOperator::Row(Operator::Filter { condition }) = operator
                && let Some(Step::Filters { conditions, .. }) = steps.last_mut()
                && condition.is_infallible()
            {
                // A condition that cannot fail may also see rows that the one before it drops:
                // the rows are then copied once for both.
                conditions.push((condition.clone(), operator.title()));
                continue;
            }
            steps.push(Step::new(report, operator, task, context)?);
        }
        let report = |op: &StageOperator| OperatorReport { name: shortened(op.title()), ..OperatorReport::default() };
        let reports = branch.operators.iter().map(report).collect();
        let (functions, clock) = (context.functions, context.clock);
        Ok(Self { steps, reports, functions, clock, running: None, since: Duration::ZERO, path: String::new() })
    }

    /// Names the file whose rows come next.
    pub(super) fn reads(&mut self, path: &str) {
        path.clone_into(&mut self.path);
    }

    /// Whether a limit has let all its rows pass, so that no more need be read.
    pub(super) fn is_full(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Limit { left: 0, .. }))
    }

    pub(super) fn into_reports(self) -> Vec<OperatorReport> {
        self.reports
    }

    /// Takes a batch through all steps.
    pub(super) fn push(&mut self, batch: RecordBatch, output: &mut Output<'_>) -> Result<(), DataError> {
        self.push_from(0, batch, output)
    }

    /// Takes a batch through the steps from `index` on.
    fn push_from(&mut self, index: usize, batch: RecordBatch, output: &mut Output<'_>) -> Result<(), DataError> {
        if let Some(report) = index.checked_sub(1).and_then(|before| self.steps.get(before)).map(Step::last_report) {
            self.reports[report].bytes_out += values_bytes(&batch);
        }
        let before = self.runs((index < self.steps.len()).then_some(index));
        let result = self.step(index, batch, output);
        self.runs(before);
        result
    }

    /// From here on the time is that of another step, or of none; the one it was.
    fn runs(&mut self, step: Option<usize>) -> Option<usize> {
        let now = (self.clock)();
        if let Some(report) = self.running.and_then(|step| self.steps.get(step)).map(Step::report) {
            self.reports[report].seconds += now.saturating_sub(self.since).as_secs_f64();
        }
        self.since = now;
        std::mem::replace(&mut self.running, step)
    }

    /// What the step at `index`, and those behind it, do with a batch.
    fn step(&mut self, index: usize, batch: RecordBatch, output: &mut Output<'_>) -> Result<(), DataError> {
        let Some(step) = self.steps.get_mut(index) else {
            return output.take(batch);
        };
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        if let Step::Map { .. } = step {
            return self.map(index, batch, output);
        }
        let path = &self.path;
        let failed =
            |operator: &str, cause: String| DataError::Compute { operator: operator.into(), path: path.clone(), cause };
        let reports = &mut self.reports;
        match step {
            Step::Filters { report, conditions, bound } => {
                let batch = filter(*report, conditions, bound, reports, batch, &failed)?;
                self.push_from(index + 1, batch, output)
            }
            Step::WithColumn { report, operator, bound } => {
                let (expr, schema, position) = match bound {
                    Some(bound) => bound,
                    None => bound.insert(bind_column(operator, &batch.schema())?),
                };
                let name = &reports[*report].name;
                let value = expr.evaluate(&batch).map_err(|e| failed(name, e))?;
                let mut columns = batch.columns().to_vec();
                match columns.get_mut(*position) {
                    Some(column) => *column = value,
                    None => columns.push(value),
                }
                let batch = RecordBatch::try_new(Arc::clone(schema), columns);
                let batch = batch.map_err(|e| failed(name, e.to_string()))?;
                reports[*report].count(rows, rows);
                self.push_from(index + 1, batch, output)
            }
            Step::Columns { report, operator, bound } => {
                let (schema, indices) = match bound {
                    Some(bound) => bound,
                    None => bound.insert(bind_columns(operator, &batch.schema())?),
                };
                let columns = indices.iter().map(|index| Arc::clone(batch.column(*index))).collect();
                let batch = rebuilt(schema, columns, rows).map_err(|e| failed(&reports[*report].name, e))?;
                reports[*report].count(rows, rows);
                self.push_from(index + 1, batch, output)
            }
            Step::Project { report, operator, bound } => {
                let (schema, exprs) = match bound {
                    Some(bound) => bound,
                    None => bound.insert(bind_project(operator, &batch.schema())?),
                };
                let name = &reports[*report].name;
                let columns = exprs.iter().map(|expr| expr.evaluate(&batch).map_err(|e| failed(name, e)));
                let columns = columns.collect::<Result<_, _>>()?;
                let batch = rebuilt(schema, columns, rows).map_err(|e| failed(name, e))?;
                reports[*report].count(rows, rows);
                self.push_from(index + 1, batch, output)
            }
            Step::Limit { report, left } => {
                let pass = rows.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= pass as u64;
                reports[*report].count(rows, pass);
                self.push_from(index + 1, batch.slice(0, pass), output)
            }
            Step::Sample { report, fraction, chance } => {
                let kept: BooleanArray = (0..rows).map(|_| Some(chance.random::<f64>() < *fraction)).collect();
                reports[*report].count(rows, kept.true_count());
                let name = &reports[*report].name;
                let batch = filter_record_batch(&batch, &kept).map_err(|e| failed(name, e.to_string()))?;
                self.push_from(index + 1, batch, output)
            }
            Step::Partial { report, partial } => {
                let given = partial.push(&batch)?;
                reports[*report].count(rows, rows_of(&given));
                given.into_iter().try_for_each(|states| self.push_from(index + 1, states, output))
            }
            Step::Top { report, keys, rows: limit, held, held_rows } => {
                reports[*report].count(rows, 0);
                held.push(batch);
                *held_rows += rows;
                if *held_rows > limit.saturating_mul(4).max(TOP_ROWS_HELD) {
                    *held = vec![top(std::mem::take(held), keys, *limit)?];
                    *held_rows = rows_of(held);
                }
                Ok(())
            }
            Step::Join { report, joiner } => {
                let given = joiner.push_left(&batch)?;
                reports[*report].count(rows, rows_of(&given));
                given.into_iter().try_for_each(|joined| self.push_from(index + 1, joined, output))
            }
            Step::Map { .. } => Ok(()),
        }
    }

    /// Calls a function as soon as there are as many rows as it wants at a time.
    fn map(&mut self, index: usize, batch: RecordBatch, output: &mut Output<'_>) -> Result<(), DataError> {
        let rows = batch.num_rows();
        let Some(Step::Map { map, waiting, waiting_rows, .. }) = self.steps.get_mut(index) else {
            return Ok(());
        };
        let Some(size) = map.batch_rows else {
            return self.call(index, batch, output);
        };
        waiting.push(batch);
        *waiting_rows += rows;
        if *waiting_rows < size {
            return Ok(());
        }
        let together = gather(waiting).map_err(|cause| DataError::Compute {
            operator: map.name.clone(),
            path: self.path.clone(),
            cause,
        })?;
        let whole = together.num_rows() / size * size;
        *waiting_rows = together.num_rows() - whole;
        if *waiting_rows > 0 {
            waiting.push(together.slice(whole, *waiting_rows));
        }
        for start in (0..whole).step_by(size) {
            self.call(index, together.slice(start, size), output)?;
        }
        Ok(())
    }

    /// Calls the function of a map step and takes what it gives further.
    fn call(&mut self, index: usize, batch: RecordBatch, output: &mut Output<'_>) -> Result<(), DataError> {
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
        self.push_from(index + 1, result, output)
    }

    /// Hands on what steps hold back, from the first to the last.
    pub(super) fn finish(&mut self, output: &mut Output<'_>) -> Result<(), DataError> {
        for index in 0..self.steps.len() {
            self.runs(Some(index));
            let Some(step) = self.steps.get_mut(index) else {
                continue;
            };
            match step {
                Step::Map { map, waiting, waiting_rows, .. } if !waiting.is_empty() => {
                    *waiting_rows = 0;
                    let batch = gather(waiting).map_err(|cause| DataError::Compute {
                        operator: map.name.clone(),
                        path: self.path.clone(),
                        cause,
                    })?;
                    self.call(index, batch, output)?;
                }
                Step::Top { report, keys, rows, held, .. } if !held.is_empty() => {
                    let batch = top(std::mem::take(held), keys, *rows)?;
                    self.reports[*report].count(0, batch.num_rows());
                    self.push_from(index + 1, batch, output)?;
                }
                _ => self.flow_out(index, output)?,
            }
        }
        self.runs(None);
        Ok(())
    }

    /// Hands on what DataFusion's operators still hold.
    fn flow_out(&mut self, index: usize, output: &mut Output<'_>) -> Result<(), DataError> {
        loop {
            let (report, next) = match self.steps.get_mut(index) {
                Some(Step::Partial { report, partial }) => (*report, partial.rest()?),
                Some(Step::Join { report, joiner }) => (*report, joiner.rest()?),
                _ => return Ok(()),
            };
            let Some(batch) = next else {
                return Ok(());
            };
            self.reports[report].count(0, batch.num_rows());
            self.push_from(index + 1, batch, output)?;
        }
    }
}

impl Step {
    /// The place of its report, and of the first one's if it is several operators.
    fn report(&self) -> usize {
        match self {
            Self::Filters { report, .. }
            | Self::WithColumn { report, .. }
            | Self::Columns { report, .. }
            | Self::Project { report, .. }
            | Self::Limit { report, .. }
            | Self::Sample { report, .. }
            | Self::Map { report, .. }
            | Self::Partial { report, .. }
            | Self::Top { report, .. }
            | Self::Join { report, .. } => *report,
        }
    }

    /// The place of the report of the operator that passes rows on.
    fn last_report(&self) -> usize {
        match self {
            Self::Filters { report, conditions, .. } => report + conditions.len() - 1,
            step => step.report(),
        }
    }

    fn new(
        report: usize,
        operator: &StageOperator,
        task: &BlockTask,
        context: &BlockContext<'_>,
    ) -> Result<Self, DataError> {
        let operator = match operator {
            StageOperator::PartialAggregate(plan) => return Ok(Self::Partial { report, partial: Partial::new(plan)? }),
            StageOperator::TopRows { keys, rows } => {
                let rows = usize::try_from(*rows).unwrap_or(usize::MAX);
                return Ok(Self::Top { report, keys: keys.clone(), rows, held: Vec::new(), held_rows: 0 });
            }
            StageOperator::Join { plan, side } => {
                let mut joiner = Joiner::new(plan)?;
                each(task.input.slices(), *side, context, &mut |batch| joiner.push_right(&batch).map(|()| true))?;
                joiner.end_right();
                return Ok(Self::Join { report, joiner });
            }
            StageOperator::Row(operator) => operator,
        };
        Ok(match operator {
            Operator::Filter { condition } => {
                Self::Filters { report, conditions: vec![(condition.clone(), operator.to_string())], bound: None }
            }
            Operator::WithColumn { .. } => Self::WithColumn { report, operator: operator.clone(), bound: None },
            Operator::Select { .. } | Operator::Drop { .. } | Operator::Rename { .. } => {
                Self::Columns { report, operator: operator.clone(), bound: None }
            }
            Operator::WithColumns { .. } | Operator::Project { .. } => {
                Self::Project { report, operator: operator.clone(), bound: None }
            }
            Operator::Limit { rows } => Self::Limit { report, left: *rows },
            Operator::Sample { fraction, seed } => {
                Self::Sample { report, fraction: *fraction, chance: generator(*seed, task.ordinal) }
            }
            Operator::MapBatches(map) => {
                Self::Map { report, map: map.clone(), schema: None, waiting: Vec::new(), waiting_rows: 0 }
            }
        })
    }
}

impl OperatorReport {
    fn count(&mut self, rows_in: usize, rows_out: usize) {
        self.rows_in += rows_in as u64;
        self.rows_out += rows_out as u64;
    }
}

/// Bytes of the values of a batch: not of what else lies in the buffers that it is a part of.
fn values_bytes(batch: &RecordBatch) -> u64 {
    let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default() as u64;
    batch.columns().iter().map(bytes).sum()
}

/// As much of a name as is worth sending with every report.
fn shortened(mut name: String) -> String {
    if let Some((end, _)) = name.char_indices().nth(NAME_CHARS) {
        name.truncate(end);
        name.push('…');
    }
    name
}

/// The columns after a branch; functions are called with no rows to learn theirs.
pub(super) fn columns_of(branch: &Branch, functions: &dyn BatchFunctions) -> Result<SchemaRef, DataError> {
    let ask = |map: &MapBatches, schema: &SchemaRef| {
        let empty = RecordBatch::new_empty(Arc::clone(schema));
        let result = functions.call(&map.function, &map.params, empty);
        let result = result.map_err(|error| DataError::NoColumns {
            function: map.function.clone(),
            cause: match error {
                DataError::Function { cause, .. } => cause,
                error => error.to_string(),
            },
        })?;
        Ok(nullable(&result.schema()))
    };
    let mut schema = match &branch.combine {
        Combine::Aggregate(plan) => plan.schema()?,
        Combine::Join(plan) => plan.schema()?,
        Combine::Zip { schema, .. } => Arc::clone(schema),
        Combine::Groups { map, .. } => ask(map, &branch.schema)?,
        Combine::Stream | Combine::Sort { .. } | Combine::Shuffle { .. } => Arc::clone(&branch.schema),
    };
    for operator in &branch.operators {
        schema = match operator {
            StageOperator::Row(Operator::MapBatches(map)) => ask(map, &schema)?,
            StageOperator::Row(operator) => schema_after(operator, &schema)?.unwrap_or(schema),
            StageOperator::PartialAggregate(plan) => Final::new(plan)?.states(),
            StageOperator::TopRows { .. } => schema,
            StageOperator::Join { plan, .. } => plan.schema()?,
        };
    }
    Ok(schema)
}

/// The rows for which all conditions are true.
fn filter(
    report: usize,
    conditions: &[(Expr, String)],
    bound: &mut Option<Vec<BoundExpr>>,
    reports: &mut [OperatorReport],
    batch: RecordBatch,
    failed: &dyn Fn(&str, String) -> DataError,
) -> Result<RecordBatch, DataError> {
    let bound = match bound {
        Some(bound) => bound,
        None => {
            let schema = batch.schema();
            let bind = |(c, name): &(Expr, String)| BoundExpr::bind_condition(c, &schema, name);
            bound.insert(conditions.iter().map(bind).collect::<Result<_, _>>()?)
        }
    };
    let mut kept: Option<BooleanArray> = None;
    for (i, (condition, (_, name))) in bound.iter().zip(conditions).enumerate() {
        let mask = condition.evaluate_mask(&batch).map_err(|e| failed(name, e))?;
        let before = kept.as_ref().map_or(batch.num_rows(), BooleanArray::true_count);
        let mask = match kept {
            Some(kept) => and(&kept, &mask).map_err(|e| failed(name, e.to_string()))?,
            None => mask,
        };
        reports[report + i].count(before, mask.true_count());
        kept = Some(mask);
    }
    match kept.filter(|mask| mask.true_count() < mask.len()) {
        Some(mask) => filter_record_batch(&batch, &mask).map_err(|e| failed(&conditions[0].1, e.to_string())),
        None => Ok(batch),
    }
}

fn bind_column(operator: &Operator, before: &SchemaRef) -> Result<(BoundExpr, SchemaRef, usize), DataError> {
    let title = operator.to_string();
    let Operator::WithColumn { name, value } = operator else {
        return Err(no_such_step(title));
    };
    let expr = BoundExpr::bind(value, before, &title)?;
    let after = schema_after(operator, before)?.unwrap_or_else(|| Arc::clone(before));
    let position = after.index_of(name).unwrap_or_default();
    Ok((expr, after, position))
}

fn bind_columns(operator: &Operator, before: &Schema) -> Result<(SchemaRef, Vec<usize>), DataError> {
    let title = operator.to_string();
    let all = (0..before.fields().len()).collect();
    let indices = match operator {
        Operator::Select { columns } => select_indices(before, columns, &title)?,
        Operator::Drop { columns } => drop_indices(before, columns, &title)?,
        Operator::Rename { columns } => return Ok((renamed(before, columns, &title)?, all)),
        _ => return Err(no_such_step(title)),
    };
    let schema = before.project(&indices).map_err(|e| DataError::InvalidPlan { operator: title, cause: e.to_string() });
    Ok((Arc::new(schema?), indices))
}

fn bind_project(operator: &Operator, before: &SchemaRef) -> Result<(SchemaRef, Vec<BoundExpr>), DataError> {
    let title = operator.to_string();
    let all;
    let columns = match operator {
        Operator::Project { columns } => columns,
        Operator::WithColumns { columns } => {
            all = all_columns(before, columns, &title)?;
            &all
        }
        _ => return Err(no_such_step(title)),
    };
    let after = schema_after(operator, before)?.unwrap_or_else(|| Arc::clone(before));
    let bind = |(_, value): &(String, Expr)| BoundExpr::bind(value, before, &title);
    Ok((after, columns.iter().map(bind).collect::<Result<_, _>>()?))
}

fn no_such_step(operator: String) -> DataError {
    DataError::InvalidPlan { operator, cause: "it does not run as this step".into() }
}

/// A batch of `columns`, which may be none.
fn rebuilt(schema: &SchemaRef, columns: Vec<arrow::array::ArrayRef>, rows: usize) -> Result<RecordBatch, String> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|e| e.to_string())
}

/// The first `rows` rows of the batches by `keys`, as one batch.
fn top(batches: Vec<RecordBatch>, keys: &[SortKey], rows: usize) -> Result<RecordBatch, DataError> {
    let mut gathered = Gathered::new(batches, "sort");
    gathered.sort(keys)?;
    gathered.batch(0, rows.min(gathered.len()))
}

fn rows_of(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
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

/// An operator whose expressions are longer than this is cut in reports.
const NAME_CHARS: usize = 1_000;

/// How many rows a search for the first ones may hold before it looks which they are.
const TOP_ROWS_HELD: usize = 1 << 16;
