//! The operators of a stage while a block passes through them.
//!
//! Neighbouring filters run as one.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::compute::{and, concat_batches, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use rand::RngExt;

use super::combine::each;
use super::meter::{INPUT, Meter};
use super::output::Output;
use super::{BatchFunctions, BlockContext, with_columns};
use crate::error::DataError;
use crate::exchange::aggregate::{Final, Partial};
use crate::exchange::join::Joiner;
use crate::exchange::keys::nullable;
use crate::exchange::partition::{Chance, generator};
use crate::exchange::rows::{Gathered, values_bytes};
use crate::expr::{BoundExpr, Expr};
use crate::plan::{MapBatches, Operator, SortKey};
use crate::planner::{all_columns, drop_indices, renamed, schema_after, select_indices};
use crate::stack::deep;
use crate::stage::{BlockTask, Branch, Combine, StageOperator};
use crate::words::plain;

/// The operators of a branch, and what they have done.
pub(super) struct Pipeline<'a> {
    steps: Vec<Step>,
    meter: Meter<'a>,
    functions: &'a dyn BatchFunctions,
    /// The file being read, for errors.
    path: String,
}

/// One or more operators that run together, with the place of their line, or of their first one's.
enum Step {
    /// Conditions of neighbouring filters.
    Filters { line: usize, conditions: Vec<(Expr, String)>, bound: Option<Vec<BoundExpr>> },
    /// Adds or replaces a column.
    WithColumn { line: usize, operator: Operator, bound: Option<(BoundExpr, SchemaRef, usize)> },
    /// Keeps, drops or renames columns.
    Columns { line: usize, operator: Operator, bound: Option<(SchemaRef, Vec<usize>)> },
    /// Computes columns, all of the rows as they were.
    Project { line: usize, operator: Operator, bound: Option<(SchemaRef, Vec<BoundExpr>)> },
    /// Passes on the first rows.
    Limit { line: usize, left: u64 },
    /// Passes on rows by chance.
    Sample { line: usize, fraction: f64, chance: Chance },
    /// Calls a function, with batches of its size.
    Map { line: usize, map: MapBatches, schema: Option<SchemaRef>, waiting: Waiting },
    /// Makes states of groups.
    Partial { line: usize, partial: Partial },
    /// Holds the first rows in an order.
    Top { line: usize, keys: Vec<SortKey>, rows: usize, held: Waiting },
    /// Joins rows with a side that it has whole.
    Join { line: usize, joiner: Joiner },
}

/// Batches that wait for more.
#[derive(Default)]
struct Waiting {
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: u64,
}

impl<'a> Pipeline<'a> {
    /// The steps of `branch`, whose lines are those of `meter`.
    pub(super) fn new(
        branch: &Branch,
        task: &BlockTask,
        context: &BlockContext<'a>,
        mut meter: Meter<'a>,
    ) -> Result<Self, DataError> {
        let mut steps: Vec<Step> = Vec::with_capacity(branch.operators.len());
        for (line, operator) in (INPUT + 1..).zip(&branch.operators) {
            if let StageOperator::Row(Operator::Filter { condition }) = operator
                && let Some(Step::Filters { conditions, .. }) = steps.last_mut()
                && condition.is_infallible()
            {
                // A condition that cannot fail may also see rows that the one before it drops:
                // the rows are then copied once for both.
                conditions.push((condition.clone(), operator.title()));
                continue;
            }
            // A join takes its right side.
            meter.runs(line);
            steps.push(Step::new(line, operator, task, context)?);
        }
        meter.runs(INPUT);
        Ok(Self { steps, meter, functions: context.functions, path: String::new() })
    }

    /// Names the file whose rows come next.
    pub(super) fn reads(&mut self, path: &str) {
        path.clone_into(&mut self.path);
    }

    /// What the input holds from now on, besides the batch that it hands on.
    pub(super) fn input_keeps(&mut self, bytes: u64) {
        self.meter.keeps(INPUT, bytes);
    }

    /// Whether a limit has let all its rows pass, so that no more need be read.
    pub(super) fn is_full(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Limit { left: 0, .. }))
    }

    pub(super) fn into_meter(self) -> Meter<'a> {
        self.meter
    }

    /// Takes a batch through all steps.
    pub(super) fn push(&mut self, batch: RecordBatch, output: &mut Output<'_>) -> Result<(), DataError> {
        let rows = batch.num_rows();
        self.meter.count(INPUT, rows, rows);
        self.push_from(0, batch, output)
    }

    /// Takes a batch through the steps from `index` on.
    fn push_from(&mut self, index: usize, batch: RecordBatch, output: &mut Output<'_>) -> Result<(), DataError> {
        let bytes = values_bytes(&batch);
        let giver = index.checked_sub(1).and_then(|before| self.steps.get(before)).map_or(INPUT, Step::last_line);
        let taker = self.steps.get(index).map_or(self.meter.sink(), Step::line);
        self.meter.gives(giver, bytes);
        self.meter.takes(taker, bytes);
        let before = self.meter.runs(taker);
        // A stage has as many steps as its plan has operators.
        let result = deep(|| self.step(index, batch, bytes, output));
        self.meter.runs(before);
        result
    }

    /// What the step at `index`, and those behind it, do with a batch of so many bytes.
    fn step(&mut self, index: usize, batch: RecordBatch, bytes: u64, output: &mut Output<'_>) -> Result<(), DataError> {
        let rows = batch.num_rows();
        let meter = &mut self.meter;
        let Some(step) = self.steps.get_mut(index) else {
            let sink = meter.sink();
            meter.count(sink, rows, rows);
            output.take(batch, bytes)?;
            meter.keeps(sink, output.held_bytes());
            return Ok(());
        };
        if rows == 0 {
            return Ok(());
        }
        if let Step::Map { .. } = step {
            return self.map(index, batch, bytes, output);
        }
        let path = &self.path;
        let failed =
            |operator: &str, cause: String| DataError::Compute { operator: operator.into(), path: path.clone(), cause };
        match step {
            Step::Filters { line, conditions, bound } => {
                let batch = filter(*line, conditions, bound, meter, batch, bytes, &failed)?;
                self.push_from(index + 1, batch, output)
            }
            Step::WithColumn { line, operator, bound } => {
                let (expr, schema, position) = match bound {
                    Some(bound) => bound,
                    None => bound.insert(bind_column(operator, &batch.schema())?),
                };
                let name = meter.name(*line);
                let value = expr.evaluate(&batch).map_err(|e| failed(name, e))?;
                let mut columns = batch.columns().to_vec();
                match columns.get_mut(*position) {
                    Some(column) => *column = value,
                    None => columns.push(value),
                }
                let batch = RecordBatch::try_new(Arc::clone(schema), columns);
                let batch = batch.map_err(|e| failed(name, plain(&e)))?;
                meter.count(*line, rows, rows);
                self.push_from(index + 1, batch, output)
            }
            Step::Columns { line, operator, bound } => {
                let (schema, indices) = match bound {
                    Some(bound) => bound,
                    None => bound.insert(bind_columns(operator, &batch.schema())?),
                };
                let columns = indices.iter().map(|index| Arc::clone(batch.column(*index))).collect();
                let batch = rebuilt(schema, columns, rows).map_err(|e| failed(meter.name(*line), e))?;
                meter.count(*line, rows, rows);
                self.push_from(index + 1, batch, output)
            }
            Step::Project { line, operator, bound } => {
                let (schema, exprs) = match bound {
                    Some(bound) => bound,
                    None => bound.insert(bind_project(operator, &batch.schema())?),
                };
                let name = meter.name(*line);
                let columns = exprs.iter().map(|expr| expr.evaluate(&batch).map_err(|e| failed(name, e)));
                let columns = columns.collect::<Result<_, _>>()?;
                let batch = rebuilt(schema, columns, rows).map_err(|e| failed(name, e))?;
                meter.count(*line, rows, rows);
                self.push_from(index + 1, batch, output)
            }
            Step::Limit { line, left } => {
                let pass = rows.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= pass as u64;
                meter.count(*line, rows, pass);
                self.push_from(index + 1, batch.slice(0, pass), output)
            }
            Step::Sample { line, fraction, chance } => {
                let kept: BooleanArray = (0..rows).map(|_| Some(chance.random::<f64>() < *fraction)).collect();
                meter.count(*line, rows, kept.true_count());
                let name = meter.name(*line);
                let batch = filter_record_batch(&batch, &kept).map_err(|e| failed(name, plain(&e)))?;
                self.push_from(index + 1, batch, output)
            }
            Step::Partial { line, partial } => {
                let given = partial.push(&batch)?;
                meter.keeps(*line, partial.memory_bytes());
                meter.count(*line, rows, rows_of(&given));
                given.into_iter().try_for_each(|states| self.push_from(index + 1, states, output))
            }
            Step::Top { line, keys, rows: limit, held } => {
                meter.count(*line, rows, 0);
                held.push(batch, bytes);
                meter.keeps(*line, held.bytes);
                if held.rows > limit.saturating_mul(4).max(TOP_ROWS_HELD) {
                    let (first, most_bytes) = top(std::mem::take(held).batches, keys, *limit)?;
                    meter.keeps(*line, most_bytes);
                    let bytes = values_bytes(&first);
                    held.push(first, bytes);
                    meter.keeps(*line, held.bytes);
                }
                Ok(())
            }
            Step::Join { line, joiner } => {
                let given = joiner.push_left(&batch)?;
                meter.keeps(*line, joiner.memory_bytes());
                meter.count(*line, rows, rows_of(&given));
                given.into_iter().try_for_each(|joined| self.push_from(index + 1, joined, output))
            }
            Step::Map { .. } => Ok(()),
        }
    }

    /// Calls a function as soon as there are as many rows as it wants at a time.
    fn map(&mut self, index: usize, batch: RecordBatch, bytes: u64, output: &mut Output<'_>) -> Result<(), DataError> {
        let Some(Step::Map { line, map, waiting, .. }) = self.steps.get_mut(index) else {
            return Ok(());
        };
        let Some(size) = map.batch_rows else {
            return self.call(index, batch, output);
        };
        let line = *line;
        waiting.push(batch, bytes);
        self.meter.keeps(line, waiting.bytes);
        if waiting.rows < size {
            return Ok(());
        }
        let held_bytes = waiting.bytes;
        let together = waiting.gather().map_err(|cause| DataError::Compute {
            operator: map.name.clone(),
            path: self.path.clone(),
            cause,
        })?;
        let whole = together.num_rows() / size * size;
        let left = together.num_rows() - whole;
        let left_bytes = share(held_bytes, left, together.num_rows());
        if left > 0 {
            waiting.push(together.slice(whole, left), left_bytes);
        }
        for start in (0..whole).step_by(size) {
            self.call(index, together.slice(start, size), output)?;
        }
        self.meter.keeps(line, left_bytes);
        Ok(())
    }

    /// Calls the function of a map step and takes what it gives further.
    fn call(&mut self, index: usize, batch: RecordBatch, output: &mut Output<'_>) -> Result<(), DataError> {
        let Some(Step::Map { line, map, schema, .. }) = self.steps.get_mut(index) else {
            return Ok(());
        };
        let rows = batch.num_rows();
        let result = self.functions.call(&map.function, &map.params, batch)?;
        self.meter.count(*line, rows, result.num_rows());
        if result.num_rows() == 0 {
            return Ok(());
        }
        // The steps behind are bound to the columns of the first batch.
        let schema = schema.get_or_insert_with(|| nullable(&result.schema()));
        let result = with_columns(self.meter.name(*line), schema, result)?;
        self.push_from(index + 1, result, output)
    }

    /// Hands on what steps hold back, from the first to the last.
    pub(super) fn finish(&mut self, output: &mut Output<'_>) -> Result<(), DataError> {
        for index in 0..self.steps.len() {
            let Some(step) = self.steps.get_mut(index) else {
                continue;
            };
            self.meter.runs(step.line());
            match step {
                Step::Map { map, waiting, .. } if waiting.rows > 0 => {
                    let batch = waiting.gather().map_err(|cause| DataError::Compute {
                        operator: map.name.clone(),
                        path: self.path.clone(),
                        cause,
                    })?;
                    self.call(index, batch, output)?;
                }
                Step::Top { line, keys, rows, held } if held.rows > 0 => {
                    let (first, most_bytes) = top(std::mem::take(held).batches, keys, *rows)?;
                    self.meter.keeps(*line, most_bytes);
                    self.meter.count(*line, 0, first.num_rows());
                    self.push_from(index + 1, first, output)?;
                }
                _ => self.flow_out(index, output)?,
            }
        }
        self.meter.runs(INPUT);
        Ok(())
    }

    /// Hands on what DataFusion's operators still hold.
    fn flow_out(&mut self, index: usize, output: &mut Output<'_>) -> Result<(), DataError> {
        loop {
            let (line, next, held_bytes) = match self.steps.get_mut(index) {
                Some(Step::Partial { line, partial }) => (*line, partial.rest()?, partial.memory_bytes()),
                Some(Step::Join { line, joiner }) => (*line, joiner.rest()?, joiner.memory_bytes()),
                _ => return Ok(()),
            };
            self.meter.keeps(line, held_bytes);
            let Some(batch) = next else {
                return Ok(());
            };
            self.meter.count(line, 0, batch.num_rows());
            self.push_from(index + 1, batch, output)?;
        }
    }
}

impl Waiting {
    fn push(&mut self, batch: RecordBatch, bytes: u64) {
        self.rows += batch.num_rows();
        self.bytes += bytes;
        self.batches.push(batch);
    }

    /// The batches as one; none waits then.
    fn gather(&mut self) -> Result<RecordBatch, String> {
        let batches = std::mem::take(self).batches;
        match batches.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err("no batch to gather".into()),
            [first, ..] => concat_batches(&first.schema(), &batches).map_err(|e| plain(&e)),
        }
    }
}

impl Step {
    /// Its line, and that of the first one if it is several operators.
    fn line(&self) -> usize {
        match self {
            Self::Filters { line, .. }
            | Self::WithColumn { line, .. }
            | Self::Columns { line, .. }
            | Self::Project { line, .. }
            | Self::Limit { line, .. }
            | Self::Sample { line, .. }
            | Self::Map { line, .. }
            | Self::Partial { line, .. }
            | Self::Top { line, .. }
            | Self::Join { line, .. } => *line,
        }
    }

    /// The line of the operator that passes rows on.
    fn last_line(&self) -> usize {
        match self {
            Self::Filters { line, conditions, .. } => line + conditions.len() - 1,
            step => step.line(),
        }
    }

    fn new(
        line: usize,
        operator: &StageOperator,
        task: &BlockTask,
        context: &BlockContext<'_>,
    ) -> Result<Self, DataError> {
        let operator = match operator {
            StageOperator::PartialAggregate(plan) => return Ok(Self::Partial { line, partial: Partial::new(plan)? }),
            StageOperator::TopRows { keys, rows } => {
                let rows = usize::try_from(*rows).unwrap_or(usize::MAX);
                return Ok(Self::Top { line, keys: keys.clone(), rows, held: Waiting::default() });
            }
            StageOperator::Join { plan, side } => {
                let mut joiner = Joiner::new(plan)?;
                each(task.input.slices(), *side, context, &mut |batch| joiner.push_right(&batch).map(|()| true))?;
                joiner.end_right();
                return Ok(Self::Join { line, joiner });
            }
            StageOperator::Row(operator) => operator,
        };
        Ok(match operator {
            Operator::Filter { condition } => {
                Self::Filters { line, conditions: vec![(condition.clone(), operator.to_string())], bound: None }
            }
            Operator::WithColumn { .. } => Self::WithColumn { line, operator: operator.clone(), bound: None },
            Operator::Select { .. } | Operator::Drop { .. } | Operator::Rename { .. } => {
                Self::Columns { line, operator: operator.clone(), bound: None }
            }
            Operator::WithColumns { .. } | Operator::Project { .. } => {
                Self::Project { line, operator: operator.clone(), bound: None }
            }
            Operator::Limit { rows } => Self::Limit { line, left: *rows },
            Operator::Sample { fraction, seed } => {
                Self::Sample { line, fraction: *fraction, chance: generator(*seed, task.ordinal) }
            }
            Operator::MapBatches(map) => {
                Self::Map { line, map: map.clone(), schema: None, waiting: Waiting::default() }
            }
        })
    }
}

/// The bytes of some rows out of those of more.
fn share(bytes: u64, rows: usize, of: usize) -> u64 {
    (u128::from(bytes) * rows as u128 / of.max(1) as u128) as u64
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

/// The rows for which all conditions are true. Each has the time of its own mask; the last one that
/// of copying the rows. About how many bytes it would have let pass is told by their number.
fn filter(
    first_line: usize,
    conditions: &[(Expr, String)],
    bound: &mut Option<Vec<BoundExpr>>,
    meter: &mut Meter<'_>,
    batch: RecordBatch,
    bytes: u64,
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
    let rows = batch.num_rows();
    let mut kept: Option<BooleanArray> = None;
    for (line, (condition, (_, name))) in (first_line..).zip(bound.iter().zip(conditions)) {
        let before = kept.as_ref().map_or(rows, BooleanArray::true_count);
        if line > first_line {
            meter.lets_pass(line - 1, share(bytes, before, rows));
            meter.takes(line, bytes);
            meter.runs(line);
        }
        let mask = condition.evaluate_mask(&batch).map_err(|e| failed(name, e))?;
        let mask = match kept {
            Some(kept) => and(&kept, &mask).map_err(|e| failed(name, plain(&e)))?,
            None => mask,
        };
        meter.count(line, before, mask.true_count());
        kept = Some(mask);
    }
    match kept.filter(|mask| mask.true_count() < mask.len()) {
        Some(mask) => filter_record_batch(&batch, &mask).map_err(|e| failed(&conditions[0].1, plain(&e))),
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
    let schema = before.project(&indices).map_err(|e| DataError::InvalidPlan { operator: title, cause: plain(&e) });
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
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|e| plain(&e))
}

/// The first `rows` rows of the batches by `keys`, as one batch, and what finding them took.
fn top(batches: Vec<RecordBatch>, keys: &[SortKey], rows: usize) -> Result<(RecordBatch, u64), DataError> {
    let mut gathered = Gathered::new(batches, "sort");
    gathered.sort(keys)?;
    Ok((gathered.batch(0, rows.min(gathered.len()))?, gathered.most_bytes()))
}

fn rows_of(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

/// How many rows a search for the first ones may hold before it looks which they are.
const TOP_ROWS_HELD: usize = 1 << 16;
