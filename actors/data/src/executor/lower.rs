//! From a plan to the tasks of its last stage.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use mobula_core::client::ObjectHandle;
use mobula_core::value::Encoding;

use super::needs::{Needs, side_by_side};
use super::stage_run::{Ran, node_totals};
use super::{Executor, RunError};
use crate::error::DataError;
use crate::exchange::keys::nullable;
use crate::expr::{BinaryOp, Expr, balanced};
use crate::ipc;
use crate::pieces::{ColumnSource, Piece, cut, group, pieces};
use crate::plan::{Exchange, LogicalPlan, MAX_BLOCKS, Operator};
use crate::planner::{files_schema, plan_schema, range_schema, schema_after, select_indices, zip_schema};
use crate::source::{Block, DEFAULT_BATCH_ROWS, DEFAULT_BLOCK_BYTES, FileFormat, ReadFiles, Source, slice_rows};
use crate::stack::deep;
use crate::stage::{Branch, Combine, Input, LEFT, RIGHT, Slice, Stage, StageOperator, StageSink};
use crate::storage::StorageOptions;

/// The tasks of a stage, without what becomes of their rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Lowered {
    /// The legs before the last one, which need something else: what the n-th task of a leg gives is
    /// what the n-th of the next one is given.
    pub(super) earlier: Vec<Vec<Branch>>,
    /// What the last leg does, or the only one.
    pub(super) branches: Vec<Branch>,
    /// Those of the first leg.
    pub(super) tasks: Vec<Todo>,
    /// The columns of its rows, where they are known.
    pub(super) schema: Option<SchemaRef>,
}

/// A task that is to be run.
#[derive(Debug, Clone)]
pub(super) struct Todo {
    /// Its branch in the first leg; the others have one.
    pub(super) branch: u32,
    pub(super) input: Input,
    /// The objects of its slices.
    pub(super) objects: Vec<ObjectHandle>,
    /// The rows of its input, where they are known.
    pub(super) rows: Option<u64>,
    /// About how many bytes they take in memory.
    pub(super) bytes: u64,
    /// Its rows come from outside the run.
    pub(super) is_source: bool,
}

impl Lowered {
    /// Tasks of one branch.
    pub(super) fn one(combine: Combine, schema: SchemaRef, result: Option<SchemaRef>, tasks: Vec<Todo>) -> Self {
        Self { earlier: Vec::new(), branches: vec![branch(combine, schema)], tasks, schema: result }
    }

    /// What follows is done in a leg of its own, by tasks or actors that need something else.
    fn next_leg(&mut self) {
        // The columns of its rows are read off the rows; where there are none, the leg before is asked.
        let schema = self.schema.clone().unwrap_or_else(|| Arc::new(Schema::empty()));
        let before = std::mem::replace(&mut self.branches, vec![branch(Combine::Stream, schema)]);
        self.earlier.push(before);
    }

    /// What each leg does, in order; the last one with `sink`.
    pub(super) fn legs(&self, sink: StageSink) -> Vec<Stage> {
        let leg = |branches: &Vec<Branch>, sink| Stage { branches: branches.clone(), sink, asks_columns: false };
        let earlier = self.earlier.iter().map(|branches| leg(branches, StageSink::Blocks));
        earlier.chain([leg(&self.branches, sink)]).collect()
    }

    /// The rows of blocks, a task each.
    pub(super) fn of_blocks(blocks: &[Block], schema: &SchemaRef, is_source: bool) -> Self {
        let mut tasks: Vec<Todo> = blocks.iter().map(|block| Todo { is_source, ..Todo::of(LEFT, [block]) }).collect();
        if tasks.is_empty() {
            tasks.push(Todo { is_source, ..Todo::of(LEFT, []) });
        }
        Self::one(Combine::Stream, Arc::clone(schema), Some(Arc::clone(schema)), tasks)
    }

    /// One more operator for every task.
    pub(super) fn push(&mut self, operator: &StageOperator) {
        for branch in &mut self.branches {
            branch.operators.push(operator.clone());
        }
    }

    /// About how many bytes its rows take in memory, as far as anything is known before it runs.
    pub(super) fn bytes(&self) -> u64 {
        // Operators may have added columns to those that were read.
        let width = self.width_bytes();
        self.tasks.iter().map(|task| task.bytes.max(task.rows.unwrap_or_default().saturating_mul(width))).sum()
    }

    /// About how many bytes the first `rows` rows of each task take together.
    pub(super) fn top_bytes(&self, rows: u64) -> u64 {
        let width = self.width_bytes().max(1);
        // How many rows a function makes of those that are read is not known.
        let certain = !self.may_grow();
        let top = |task: &Todo| task.rows.filter(|_| certain).unwrap_or(u64::MAX).min(rows).saturating_mul(width);
        self.tasks.iter().map(top).fold(0, u64::saturating_add)
    }

    /// About how many bytes a row takes.
    fn width_bytes(&self) -> u64 {
        self.schema.iter().flat_map(|schema| schema.fields()).map(|field| width_bytes(field.data_type())).sum()
    }

    /// Whether its rows can be more, or larger, than what is read: functions and joins make rows, and
    /// text may be compressed.
    pub(super) fn may_grow(&self) -> bool {
        self.branches.iter().any(|branch| {
            let combines = matches!(branch.combine, Combine::Groups { .. } | Combine::Join(_));
            let makes = |operator: &StageOperator| {
                matches!(operator, StageOperator::Row(Operator::MapBatches(_)) | StageOperator::Join { .. })
            };
            combines || branch.format != FileFormat::Parquet || branch.operators.iter().any(makes)
        })
    }

    /// Cuts rows of files as `other`, which reads other columns of the same files. Whether it could.
    pub(super) fn cut_as(&mut self, other: &Self) -> bool {
        let mut columns: BTreeMap<(u32, u64), Vec<ColumnSource>> = BTreeMap::new();
        for task in &self.tasks {
            if let Input::Files { pieces, .. } = &task.input {
                columns.extend(pieces.iter().map(|piece| ((task.branch, piece.file), piece.columns.clone())));
            }
        }
        let mut tasks = other.tasks.clone();
        for task in &mut tasks {
            let Input::Files { pieces, .. } = &mut task.input else { continue };
            for piece in pieces {
                match columns.get(&(task.branch, piece.file)) {
                    Some(found) => piece.columns.clone_from(found),
                    None => return false,
                }
            }
        }
        if self.branches.len() != other.branches.len() {
            return false;
        }
        self.tasks = tasks;
        true
    }

    /// Its rows, where they are certain without running it.
    pub(super) fn sure_rows(&self) -> Option<u64> {
        if self.branches.iter().all(keeps_rows) { self.tasks.iter().map(|task| task.rows).sum() } else { None }
    }

    /// The rows that come from outside the run.
    pub(super) fn source_rows(&self) -> u64 {
        self.tasks.iter().filter(|task| task.is_source).filter_map(|task| task.rows).sum()
    }

    /// Ends its input after `rows` rows, if that is the same as ending its output there.
    pub(super) fn cut(&mut self, rows: u64) -> bool {
        let reads = |task: &Todo| !matches!(task.input, Input::Objects(_)) || task.objects.len() == task.main_slices();
        let streams = self.branches.iter().all(|b| matches!(b.combine, Combine::Stream) && keeps_rows(b));
        if !streams || !self.tasks.iter().all(|task| task.rows.is_some() && reads(task)) {
            return false;
        }
        let mut left = rows;
        for task in &mut self.tasks {
            task.cut(left);
            left -= task.rows.unwrap_or_default();
        }
        let mut first = true;
        self.tasks.retain(|task| std::mem::take(&mut first) || task.rows != Some(0));
        true
    }

    /// The number by which the next side of a join is told apart from all others.
    pub(super) fn next_side(&self) -> u32 {
        let sides = self.tasks.iter().flat_map(|task| task.input.slices()).map(|slice| slice.side + 1);
        sides.max().unwrap_or_default().max(RIGHT + 1)
    }

    /// Whether it is nothing but blocks that lie in the store.
    fn is_blocks(&self) -> bool {
        let plain = |branch: &Branch| matches!(branch.combine, Combine::Stream) && branch.operators.is_empty();
        self.branches.iter().all(plain) && self.tasks.iter().all(|task| matches!(task.input, Input::Objects(_)))
    }

    /// What the tasks of its last leg need.
    fn needs(&self) -> Result<Needs, DataError> {
        Needs::of(&self.branches)
    }

    /// Whether all that its tasks need is a CPU.
    fn is_plain(&self) -> Result<bool, DataError> {
        Ok(self.earlier.is_empty() && self.needs()? == Needs::default())
    }
}

/// A branch without operators.
fn branch(combine: Combine, schema: SchemaRef) -> Branch {
    Branch {
        schema,
        combine,
        format: FileFormat::Parquet,
        storage: StorageOptions::default(),
        filter: None,
        batch_rows: DEFAULT_BATCH_ROWS,
        operators: Vec::new(),
    }
}

/// Whether a branch gives exactly one row for every row of its input.
fn keeps_rows(branch: &Branch) -> bool {
    let combines = matches!(
        branch.combine,
        Combine::Stream | Combine::Sort { .. } | Combine::Shuffle { .. } | Combine::Zip { .. }
    );
    combines
        && branch.operators.iter().all(|operator| {
            let StageOperator::Row(operator) = operator else { return false };
            matches!(
                operator,
                Operator::WithColumn { .. }
                    | Operator::WithColumns { .. }
                    | Operator::Select { .. }
                    | Operator::Drop { .. }
                    | Operator::Rename { .. }
                    | Operator::Project { .. }
            )
        })
}

impl Todo {
    /// A task whose rows are those of blocks.
    pub(super) fn of<'b>(side: u32, blocks: impl IntoIterator<Item = &'b Block>) -> Self {
        let input = Input::Objects(Vec::new());
        let mut task = Self { branch: 0, input, objects: Vec::new(), rows: Some(0), bytes: 0, is_source: false };
        task.add(side, blocks);
        task
    }

    /// Gives it the rows of more blocks.
    pub(super) fn add<'b>(&mut self, side: u32, blocks: impl IntoIterator<Item = &'b Block>) {
        for block in blocks {
            let Some(object) = &block.object else { continue };
            let slice = Slice { side, first_row: block.first_row, rows: block.rows };
            self.input.slices_mut().push(slice);
            self.objects.push(object.clone());
            if side == LEFT {
                self.rows = self.rows.map(|rows| rows + block.rows);
            }
            self.bytes += block.bytes;
        }
    }

    fn main_slices(&self) -> usize {
        self.input.slices().iter().filter(|slice| slice.side == LEFT).count()
    }

    /// Ends its input after `rows` rows.
    fn cut(&mut self, rows: u64) {
        self.rows = self.rows.map(|all| all.min(rows));
        match &mut self.input {
            Input::Files { pieces, .. } => {
                let mut with_bytes: Vec<(Piece, u64)> = pieces.drain(..).map(|piece| (piece, 0)).collect();
                cut(&mut with_bytes, rows);
                pieces.extend(with_bytes.into_iter().map(|(piece, _)| piece));
            }
            Input::Range { rows: all, .. } => *all = (*all).min(rows),
            Input::Objects(slices) => {
                let mut left = rows;
                for slice in slices.iter_mut().filter(|slice| slice.side == LEFT) {
                    slice.rows = slice.rows.min(left);
                    left -= slice.rows;
                }
            }
        }
    }
}

impl Executor<'_, '_> {
    /// The last stage of `plan`; what is below its exchanges has run.
    pub(super) fn lower(&mut self, plan: &LogicalPlan) -> Result<Lowered, RunError> {
        deep(|| self.lower_node(plan))
    }

    fn lower_node(&mut self, plan: &LogicalPlan) -> Result<Lowered, RunError> {
        match plan {
            LogicalPlan::Source(source) => self.source(source, None),
            LogicalPlan::Op { input, op: Operator::Limit { rows } } => {
                let mut lowered = self.lower_top(input, *rows)?;
                if lowered.cut(*rows) {
                    return Ok(lowered);
                }
                // Where the limit falls is known when the rows before it are there.
                lowered.push(&StageOperator::Row(Operator::Limit { rows: *rows }));
                let (blocks, schema) = self.blocks(lowered, Some(*rows))?;
                Ok(Lowered::of_blocks(&blocks, &schema, false))
            }
            LogicalPlan::Op { input, op } => {
                if let Some((source, filters)) = filtered_source(plan) {
                    return self.filtered(source, &filters);
                }
                let mut lowered = self.lower(input)?;
                if let Operator::MapBatches(map) = op {
                    let needs = Needs::of_function(map)?;
                    lowered = if needs.fuse_with(&lowered.needs()?) {
                        self.in_same_leg(lowered, needs)?
                    } else {
                        self.in_next_leg(lowered, needs)?
                    };
                }
                lowered.schema = match &lowered.schema {
                    Some(schema) => schema_after(op, schema)?,
                    None => None,
                };
                lowered.push(&StageOperator::Row(op.clone()));
                Ok(lowered)
            }
            LogicalPlan::Exchange { input, exchange } => self.exchange(input, exchange, None),
            LogicalPlan::Join { left, right, join } => self.join(left, right, join),
            LogicalPlan::Union { inputs } => self.union(inputs, plan),
            LogicalPlan::Zip { left, right } => self.zip(left, right),
        }
    }

    /// As [`Self::lower`], where only the first `rows` rows are wanted.
    pub(super) fn lower_top(&mut self, plan: &LogicalPlan, rows: u64) -> Result<Lowered, RunError> {
        match plan {
            LogicalPlan::Exchange { input, exchange: exchange @ Exchange::Sort { .. } } => {
                self.exchange(input, exchange, Some(rows))
            }
            _ => self.lower(plan),
        }
    }

    /// The operators still filter: the reader only leaves out what it can tell cheaply.
    fn filtered(&mut self, source: &Source, filters: &[&Expr]) -> Result<Lowered, RunError> {
        let all = balanced(filters.iter().map(|filter| (*filter).clone()).collect(), BinaryOp::And);
        let mut lowered = self.source(source, all.as_ref())?;
        for condition in filters {
            lowered.push(&StageOperator::Row(Operator::Filter { condition: (*condition).clone() }));
        }
        Ok(lowered)
    }

    fn source(&mut self, source: &Source, filter: Option<&Expr>) -> Result<Lowered, RunError> {
        match source {
            Source::Files(read) => Ok(files(read, filter)?),
            Source::Blocks(blocks) => Ok(Lowered::of_blocks(&blocks.blocks, &blocks.schema, true)),
            Source::Batches { schema, batches } => {
                let blocks = batches.iter().map(|batch| self.put(batch)).collect::<Result<Vec<_>, _>>()?;
                Ok(Lowered::of_blocks(&blocks, &nullable(schema), true))
            }
            Source::Range { rows, blocks } => Ok(range(*rows, *blocks)),
        }
    }

    /// Puts a batch into the store.
    fn put(&self, batch: &RecordBatch) -> Result<Block, RunError> {
        let rows = batch.num_rows() as u64;
        if rows == 0 {
            return Ok(Block { object: None, first_row: 0, rows: 0, bytes: 0 });
        }
        let pieces = ipc::encode(batch).map_err(|error| DataError::Compute {
            operator: "from_batches".into(),
            path: String::new(),
            cause: error.to_string(),
        })?;
        let parts: Vec<&[u8]> = pieces.iter().map(AsRef::as_ref).collect();
        let object = self.client.put_parts(Encoding::ARROW, &parts)?;
        Ok(Block { object: Some(object), first_row: 0, rows, bytes: parts.iter().map(|part| part.len() as u64).sum() })
    }

    fn union(&mut self, inputs: &[Arc<LogicalPlan>], plan: &LogicalPlan) -> Result<Lowered, RunError> {
        if let [one] = inputs {
            return self.lower(one);
        }
        let mut all = Lowered { schema: plan_schema(plan)?, ..Lowered::default() };
        for input in inputs {
            let mut lowered = self.lower(input)?;
            if !lowered.is_plain()? {
                // The tasks of a stage all need the same.
                lowered = self.ended(lowered)?;
            }
            if let (Some(wanted), Some(found)) = (&all.schema, &lowered.schema) {
                let names: Vec<String> = wanted.fields().iter().map(|field| field.name().clone()).collect();
                if select_indices(found, &names, "union")? != (0..names.len()).collect::<Vec<_>>() {
                    lowered.push(&StageOperator::Row(Operator::Select { columns: names }));
                }
            }
            let first = all.branches.len() as u32;
            all.branches.extend(lowered.branches);
            all.tasks.extend(lowered.tasks.into_iter().map(|task| Todo { branch: first + task.branch, ..task }));
        }
        Ok(all)
    }

    fn zip(&mut self, left: &LogicalPlan, right: &LogicalPlan) -> Result<Lowered, RunError> {
        let (left, right) = (self.lower(left)?, self.lower(right)?);
        let ((left, left_schema), (right, right_schema)) = (self.blocks(left, None)?, self.blocks(right, None)?);
        let rows = |blocks: &[Block]| blocks.iter().map(|block| block.rows).sum::<u64>();
        if rows(&left) != rows(&right) {
            let cause = format!("the left side has {} rows and the right side {}", rows(&left), rows(&right));
            return Err(DataError::InvalidPlan { operator: "zip".into(), cause }.into());
        }
        let mut first = 0;
        let mut tasks = Vec::new();
        for block in &left {
            let mut task = Todo::of(LEFT, [block]);
            task.add(RIGHT, &slice_rows(&right, first, block.rows));
            first += block.rows;
            tasks.push(task);
        }
        let schema = zip_schema(&left_schema, &right_schema);
        let combine = Combine::Zip { schema: Arc::clone(&schema), right: right_schema };
        Ok(Lowered::one(combine, left_schema, Some(schema), tasks))
    }

    /// What follows needs something else. Where there is room for both, it takes each block as soon as
    /// it is there; else it begins when the stage has ended.
    fn in_next_leg(&mut self, mut lowered: Lowered, needs: Needs) -> Result<Lowered, RunError> {
        let before = lowered.earlier.iter().chain([&lowered.branches]);
        let mut legs = before.map(|branches| Needs::of(branches)).collect::<Result<Vec<_>, _>>()?;
        legs.push(needs);
        if !self.have_room(legs)? {
            return self.ended(lowered);
        }
        lowered.next_leg();
        Ok(lowered)
    }

    /// What follows joins the last leg, if there is room for what that needs then beside those before it.
    fn in_same_leg(&mut self, lowered: Lowered, needs: Needs) -> Result<Lowered, RunError> {
        if lowered.earlier.is_empty() {
            return Ok(lowered);
        }
        let mut legs = lowered.earlier.iter().map(|branches| Needs::of(branches)).collect::<Result<Vec<_>, _>>()?;
        legs.push(lowered.needs()?.and(needs));
        if self.have_room(legs)? { Ok(lowered) } else { self.ended(lowered) }
    }

    /// Whether the cluster has room for legs that need this.
    fn have_room(&self, legs: Vec<Needs>) -> Result<bool, RunError> {
        Ok(side_by_side(legs, node_totals(self.client)?).is_some())
    }

    /// Its tasks as those of one leg, which can be given more objects.
    pub(super) fn in_one_leg(&mut self, lowered: Lowered) -> Result<Lowered, RunError> {
        if lowered.earlier.is_empty() { Ok(lowered) } else { self.ended(lowered) }
    }

    /// Runs a stage; what follows begins with its rows.
    pub(super) fn ended(&mut self, lowered: Lowered) -> Result<Lowered, RunError> {
        let (blocks, schema) = self.blocks(lowered, None)?;
        Ok(Lowered::of_blocks(&blocks, &schema, false))
    }

    /// The same rows, of which it is known how many bytes they take: a stage whose rows may be more than
    /// what it reads has run.
    pub(super) fn measured(&mut self, lowered: Lowered) -> Result<Lowered, RunError> {
        if lowered.is_blocks() || !lowered.may_grow() { Ok(lowered) } else { self.ended(lowered) }
    }

    /// Runs a stage whose rows stay in the store; they are there already where they are blocks.
    pub(super) fn blocks(
        &mut self,
        mut lowered: Lowered,
        limit: Option<u64>,
    ) -> Result<(Vec<Block>, SchemaRef), RunError> {
        if let (true, None, Some(schema)) = (lowered.is_blocks(), limit, &lowered.schema) {
            let blocks = lowered.tasks.iter().flat_map(blocks_of_task).collect();
            return Ok((blocks, Arc::clone(schema)));
        }
        let ran = self.run_stage(&mut lowered, StageSink::Blocks, limit)?;
        let schema = self.schema_of(&lowered, &ran)?;
        Ok((blocks_of(ran, limit), schema))
    }

    /// The columns of the rows that a stage gave.
    pub(super) fn schema_of(&mut self, lowered: &Lowered, ran: &[Ran]) -> Result<SchemaRef, RunError> {
        let found = ran.iter().find_map(|ran| ran.schema.clone()).or_else(|| lowered.schema.clone());
        let found = match found {
            Some(schema) => schema,
            None => {
                let columns = self.columns(lowered, StageSink::Blocks)?;
                columns.schema.unwrap_or_else(|| Arc::new(Schema::empty()))
            }
        };
        Ok(nullable(&found))
    }
}

/// The source under nothing but filters, and these, the lowest first.
fn filtered_source(mut plan: &LogicalPlan) -> Option<(&Source, Vec<&Expr>)> {
    let mut filters = Vec::new();
    loop {
        match plan {
            LogicalPlan::Source(source) => {
                filters.reverse();
                return Some((source, filters));
            }
            LogicalPlan::Op { input, op: Operator::Filter { condition } } => {
                filters.push(condition);
                plan = input;
            }
            _ => return None,
        }
    }
}

/// The blocks that the tasks of a stage gave, in order, cut to the limit.
pub(super) fn blocks_of(ran: Vec<Ran>, limit: Option<u64>) -> Vec<Block> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut blocks = Vec::new();
    for block in ran.into_iter().flat_map(|ran| ran.objects) {
        let block = block.slice(0, left);
        left -= block.rows;
        blocks.push(block);
    }
    blocks
}

fn blocks_of_task(task: &Todo) -> Vec<Block> {
    let slices = task.input.slices().iter().zip(&task.objects);
    let all: u64 = task.rows.unwrap_or_default();
    let block = |(slice, object): (&Slice, &ObjectHandle)| {
        let bytes = u128::from(task.bytes) * u128::from(slice.rows) / u128::from(all.max(1));
        Block { object: Some(object.clone()), first_row: slice.first_row, rows: slice.rows, bytes: bytes as u64 }
    };
    slices.map(block).collect()
}

fn files(read: &ReadFiles, filter: Option<&Expr>) -> Result<Lowered, DataError> {
    let schema = files_schema(read)?;
    let opened = read.opened.as_ref().ok_or_else(|| DataError::InvalidPlan {
        operator: read.format.operator().into(),
        cause: "its files have not been opened".into(),
    })?;
    let all = &opened.unified.schema;
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let needed = select_indices(all, &names, read.format.operator())?;
    let width: u64 = schema.fields().iter().map(|field| width_bytes(field.data_type())).sum();
    let filter = filter.filter(|_| read.pushdown);
    let pieces = pieces(&opened.files, &opened.unified, &needed, filter);
    // Where no column is read and footers tell everything, one task is enough.
    let told = needed.is_empty() && pieces.iter().all(|(piece, _)| piece.rows.is_some());
    let blocks = group(pieces, if told { u64::MAX } else { read.block_bytes });
    let task = |(pieces, bytes): (Vec<Piece>, u64)| {
        let rows: Option<u64> = pieces.iter().map(|piece| piece.rows).sum();
        let input = Input::Files { pieces, sides: Vec::new() };
        let bytes = bytes.max(rows.unwrap_or_default().saturating_mul(width));
        Todo { branch: 0, input, objects: Vec::new(), rows, bytes, is_source: true }
    };
    let tasks = blocks.into_iter().map(task).collect();
    let mut lowered = Lowered::one(Combine::Stream, Arc::clone(&schema), Some(schema), tasks);
    let branch = &mut lowered.branches[0];
    branch.batch_rows = read.batch_rows;
    branch.format = read.format.clone();
    branch.storage = read.storage.clone();
    branch.filter = filter.cloned();
    Ok(lowered)
}

/// About how many bytes a value takes in memory.
fn width_bytes(data_type: &DataType) -> u64 {
    match data_type {
        DataType::Boolean => 1,
        other => other.primitive_width().map_or(TEXT_BYTES, |bytes| bytes as u64),
    }
}

/// What a text is taken to have on average.
const TEXT_BYTES: u64 = 16;

fn range(rows: u64, blocks: Option<u64>) -> Lowered {
    let schema = range_schema();
    let by_size = rows.div_ceil(DEFAULT_BLOCK_BYTES / 8);
    let blocks = blocks.unwrap_or(by_size).clamp(1, MAX_BLOCKS);
    let task = |block: u64| {
        let at = |n: u64| (u128::from(n) * u128::from(rows) / u128::from(blocks)) as u64;
        let (first, rows) = (at(block), at(block + 1) - at(block));
        let input = Input::Range { first, rows, sides: Vec::new() };
        Todo { branch: 0, input, objects: Vec::new(), rows: Some(rows), bytes: rows * 8, is_source: true }
    };
    Lowered::one(Combine::Stream, Arc::clone(&schema), Some(schema), (0..blocks).map(task).collect())
}
