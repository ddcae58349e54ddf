//! What happens between two stages: how rows are told apart, and who puts them together.
//!
//! Into how many parts an exchange cuts rows depends on how many bytes they take, never on how
//! many workers there are.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};

use super::lower::{Lowered, Todo};
use super::stage_run::Ran;
use super::{Executor, RunError};
use crate::aggregate::Aggregate;
use crate::error::DataError;
use crate::exchange::aggregate::AggregatePlan;
use crate::exchange::join::JoinPlan;
use crate::exchange::partition::{KeySample, Partitioning, bounds, generator, shuffle};
use crate::plan::{Exchange, Join, LogicalPlan, MAX_BLOCKS, MAX_PARTS, MapBatches, Operator, Repartition, SortKey};
use crate::source::{Block, FileFormat, Source, slice_rows};
use crate::stack::deep;
use crate::stage::{Combine, LEFT, RIGHT, StageOperator, StageSink, WireSchema};

/// A side of a join that is not larger than this is given whole to every task of the other side.
const BROADCAST_BYTES: u64 = 32 << 20;
/// Parts are no smaller than this, for the sake of work for many cores.
const SMALL_PART_BYTES: u64 = 32 << 20;
/// As long as there are fewer parts than this, they may be small.
const MANY_PARTS: u64 = 64;

impl Executor<'_, '_> {
    /// Into how many parts rows of so many bytes are cut.
    fn parts_for(&self, bytes: u64) -> u64 {
        let part = self.options.part_bytes.max(1);
        let small = bytes.div_ceil(SMALL_PART_BYTES.min(part)).min(MANY_PARTS);
        bytes.div_ceil(part).max(small).clamp(1, MAX_PARTS)
    }

    /// The stage behind an exchange; `top` says that only the first rows are wanted.
    pub(super) fn exchange(
        &mut self,
        input: &LogicalPlan,
        exchange: &Exchange,
        top: Option<u64>,
    ) -> Result<Lowered, RunError> {
        match exchange {
            Exchange::Sort { keys } => self.sort(input, keys, top),
            Exchange::Shuffle { seed } => {
                let lowered = self.lower(input)?;
                let lowered = self.measured(lowered)?;
                let parts = self.parts_for(lowered.bytes());
                let combine = Combine::Shuffle { seed: *seed };
                if parts == 1 {
                    return self.all_in_one(lowered, combine);
                }
                self.through_parts(lowered, Partitioning::Random { seed: *seed }, parts, combine)
            }
            Exchange::ShuffleBlocks { seed } => {
                let mut lowered = self.lower(input)?;
                shuffle(&mut lowered.tasks, &mut generator(*seed, 0));
                Ok(lowered)
            }
            Exchange::Repartition(by) => self.repartition(input, by),
            Exchange::Aggregate { keys, aggregates } => self.aggregate(input, keys, aggregates, &exchange.to_string()),
            Exchange::MapGroups { keys, map } => self.map_groups(input, keys, map),
        }
    }

    /// One task for all rows.
    fn all_in_one(&mut self, lowered: Lowered, combine: Combine) -> Result<Lowered, RunError> {
        let result = lowered.schema.clone();
        let (blocks, schema) = self.blocks(lowered, None)?;
        let result = Some(result.unwrap_or_else(|| Arc::clone(&schema)));
        Ok(Lowered::one(combine, schema, result, vec![Todo::of(LEFT, &blocks)]))
    }

    /// A task for each part of what the stage gives.
    fn through_parts(
        &mut self,
        lowered: Lowered,
        by: Partitioning,
        parts: u64,
        combine: Combine,
    ) -> Result<Lowered, RunError> {
        let result = lowered.schema.clone();
        let (ran, schema) = self.parts(lowered, by, parts)?;
        let tasks = (0..parts as usize).map(|part| Todo::of(LEFT, ran.iter().map(|ran| &ran.objects[part]))).collect();
        let result = result.unwrap_or_else(|| Arc::clone(&schema));
        Ok(Lowered::one(combine, schema, Some(result), tasks))
    }

    fn parts(&mut self, mut lowered: Lowered, by: Partitioning, parts: u64) -> Result<(Vec<Ran>, SchemaRef), RunError> {
        let sink = StageSink::Parts { by, parts: parts as u32 };
        let ran = self.run_stage(&mut lowered, sink, None)?;
        let schema = self.schema_of(&lowered, &ran)?;
        Ok((ran, schema))
    }

    fn sort(&mut self, input: &LogicalPlan, keys: &[SortKey], top: Option<u64>) -> Result<Lowered, RunError> {
        let mut lowered = self.lower(input)?;
        let combine = Combine::Sort { keys: keys.to_vec() };
        if let Some(rows) = top.filter(|rows| lowered.top_bytes(*rows) <= self.options.part_bytes) {
            lowered.push(&StageOperator::TopRows { keys: keys.to_vec(), rows });
            return self.all_in_one(lowered, combine);
        }
        lowered = self.measured(lowered)?;
        if self.parts_for(lowered.bytes()) == 1 {
            return self.all_in_one(lowered, combine);
        }
        let only_keys = if reads_again(input) { self.only_keys(input, &lowered, keys)? } else { None };
        let samples = match only_keys {
            Some(only_keys) => self.sample(&only_keys, keys)?,
            None => {
                lowered = self.ended(lowered)?;
                self.sample(&lowered, keys)?
            }
        };
        let parts = self.parts_for(lowered.bytes());
        let bounds = bounds(&samples, parts, true);
        let parts = bounds.len() as u64 + 1;
        self.through_parts(lowered, Partitioning::Range { keys: keys.to_vec(), bounds }, parts, combine)
    }

    /// The keys alone of the rows of `lowered`, a column or two, in the same blocks: equal keys are told
    /// apart by their places in them.
    fn only_keys(
        &mut self,
        input: &LogicalPlan,
        lowered: &Lowered,
        keys: &[SortKey],
    ) -> Result<Option<Lowered>, RunError> {
        let columns = keys.iter().map(|key| key.column.clone()).collect();
        let plan = crate::optimise::optimise(&input.clone().then(Operator::Select { columns }), false)?;
        let mut only_keys = self.lower(&plan)?;
        Ok(only_keys.cut_as(lowered).then_some(only_keys))
    }

    fn sample(&mut self, lowered: &Lowered, keys: &[SortKey]) -> Result<Vec<KeySample>, RunError> {
        let mut again = lowered.clone();
        let ran = self.run_stage(&mut again, StageSink::KeySample { keys: keys.to_vec() }, None)?;
        Ok(ran.into_iter().map(|ran| ran.sample.unwrap_or_default()).collect())
    }

    fn repartition(&mut self, input: &LogicalPlan, by: &Repartition) -> Result<Lowered, RunError> {
        let lowered = self.lower(input)?;
        let (count, rows_at): (u64, Box<dyn Fn(u64, u64) -> u64>) = match by {
            Repartition::ByKey { keys, blocks } => {
                let by = Partitioning::Hash { keys: keys.clone(), types: None };
                return self.through_parts(lowered, by, *blocks, Combine::Stream);
            }
            Repartition::Blocks(blocks) => {
                let blocks = *blocks;
                (
                    blocks,
                    Box::new(move |block, rows| (u128::from(block) * u128::from(rows) / u128::from(blocks)) as u64),
                )
            }
            Repartition::Rows(rows) => {
                let at_most = *rows;
                (0, Box::new(move |block, rows| block.saturating_mul(at_most).min(rows)))
            }
        };
        let result = lowered.schema.clone();
        let (blocks, schema) = self.blocks(lowered, None)?;
        let rows: u64 = blocks.iter().map(|block| block.rows).sum();
        let count = if let Repartition::Rows(at_most) = by { rows.div_ceil(*at_most).max(1) } else { count };
        if count > MAX_BLOCKS {
            let cause = format!("{rows} rows would make {count} blocks, and there may be {MAX_BLOCKS} at most");
            return Err(
                DataError::InvalidPlan { operator: Exchange::Repartition(by.clone()).to_string(), cause }.into()
            );
        }
        let task = |block: u64| {
            let (start, end) = (rows_at(block, rows), rows_at(block + 1, rows));
            Todo::of(LEFT, &slice_rows(&blocks, start, end - start))
        };
        let tasks = (0..count).map(task).collect();
        let result = result.unwrap_or_else(|| Arc::clone(&schema));
        Ok(Lowered::one(Combine::Stream, schema, Some(result), tasks))
    }

    fn aggregate(
        &mut self,
        input: &LogicalPlan,
        keys: &[String],
        aggregates: &[Aggregate],
        operator: &str,
    ) -> Result<Lowered, RunError> {
        let mut lowered = self.lower(input)?;
        let schema = match &lowered.schema {
            Some(schema) => Arc::clone(schema),
            None => {
                let (blocks, schema) = self.blocks(lowered, None)?;
                lowered = Lowered::of_blocks(&blocks, &schema, false);
                schema
            }
        };
        let plan = AggregatePlan::new(keys, aggregates, operator, &schema)?;
        lowered.push(&StageOperator::PartialAggregate(plan.clone()));
        lowered.schema = None;
        let result = plan.schema()?;
        let (states, states_schema) = self.blocks(lowered, None)?;
        let bytes: u64 = states.iter().map(|block| block.bytes).sum();
        let combine = Combine::Aggregate(plan.clone());
        let parts = bytes.div_ceil(self.options.part_bytes.max(1));
        if parts <= 1 || keys.is_empty() {
            return Ok(Lowered::one(combine, states_schema, Some(result), vec![Todo::of(LEFT, &states)]));
        }
        let lowered = Lowered::of_blocks(&states, &states_schema, false);
        let samples = self.sample(&lowered, &plan.state_keys())?;
        let bounds = bounds(&samples, parts.min(MAX_PARTS), false);
        let parts = bounds.len() as u64 + 1;
        let by = Partitioning::Range { keys: plan.state_keys(), bounds };
        let mut lowered = self.through_parts(lowered, by, parts, combine)?;
        lowered.schema = Some(result);
        Ok(lowered)
    }

    fn map_groups(&mut self, input: &LogicalPlan, keys: &[String], map: &MapBatches) -> Result<Lowered, RunError> {
        let lowered = self.lower(input)?;
        let lowered = self.measured(lowered)?;
        let parts = self.parts_for(lowered.bytes());
        let combine = Combine::Groups { keys: keys.to_vec(), map: map.clone() };
        let mut grouped = if parts == 1 {
            self.all_in_one(lowered, combine)?
        } else {
            let by = Partitioning::Hash { keys: keys.to_vec(), types: None };
            self.through_parts(lowered, by, parts, combine)?
        };
        grouped.schema = None;
        Ok(grouped)
    }

    pub(super) fn join(&mut self, left: &LogicalPlan, right: &LogicalPlan, join: &Join) -> Result<Lowered, RunError> {
        let (mut left, left_schema) = self.known(left)?;
        let (mut right, right_schema) = self.known(right)?;
        let plan = JoinPlan::new(join, &left_schema, &right_schema)?;
        if plan.may_broadcast_right() && right.bytes() <= BROADCAST_BYTES.min(self.options.part_bytes) {
            let (blocks, schema) = self.blocks(right, None)?;
            // It was a guess until now.
            let bytes: u64 = blocks.iter().map(|block| block.bytes).sum();
            if bytes <= BROADCAST_BYTES.min(self.options.part_bytes) {
                left = self.in_one_leg(left)?;
                let side = left.next_side();
                for task in &mut left.tasks {
                    let bytes = task.bytes;
                    task.add(side, &blocks);
                    // It is read in place, once for all tasks of a node.
                    task.bytes = bytes;
                }
                left.schema = Some(plan.schema()?);
                left.push(&StageOperator::Join { plan, side });
                return Ok(left);
            }
            right = Lowered::of_blocks(&blocks, &schema, false);
        }
        let (left, right) = (self.measured(left)?, self.measured(right)?);
        let types = Some(WireSchema(key_types(&plan)?));
        let parts = self.parts_for(left.bytes().max(right.bytes()));
        let (left_on, right_on) = plan.keys();
        let by = |keys: &[String]| Partitioning::Hash { keys: keys.to_vec(), types: types.clone() };
        let (left, left_schema) = self.parts(left, by(left_on), parts)?;
        let (right, _) = self.parts(right, by(right_on), parts)?;
        let task = |part: usize| {
            let mut task = Todo::of(LEFT, left.iter().map(|ran| &ran.objects[part]));
            task.add(RIGHT, right.iter().map(|ran| &ran.objects[part]));
            task
        };
        let tasks = (0..parts as usize).map(task).collect();
        let result = plan.schema()?;
        Ok(Lowered::one(Combine::Join(plan), left_schema, Some(result), tasks))
    }

    /// A stage whose columns are known: it has run where only that tells.
    fn known(&mut self, plan: &LogicalPlan) -> Result<(Lowered, SchemaRef), RunError> {
        let lowered = self.lower(plan)?;
        if let Some(schema) = lowered.schema.clone() {
            return Ok((lowered, schema));
        }
        let (blocks, schema): (Vec<Block>, SchemaRef) = self.blocks(lowered, None)?;
        Ok((Lowered::of_blocks(&blocks, &schema, false), schema))
    }
}

/// Whether reading the input of a sort twice costs little and gives the same rows: its sources are
/// read again, and no function is called.
fn reads_again(plan: &LogicalPlan) -> bool {
    deep(|| match plan {
        // Of text, all columns would be read twice.
        LogicalPlan::Source(Source::Files(read)) => read.format == FileFormat::Parquet,
        LogicalPlan::Source(source) => !matches!(source, Source::Batches { .. }),
        LogicalPlan::Op { op: Operator::MapBatches(_) | Operator::Limit { .. }, .. } => false,
        LogicalPlan::Op { input, .. } => reads_again(input),
        LogicalPlan::Union { inputs } => inputs.iter().all(|input| reads_again(input)),
        LogicalPlan::Exchange { .. } | LogicalPlan::Join { .. } | LogicalPlan::Zip { .. } => false,
    })
}

/// The types in which the keys of a join are compared, as columns.
fn key_types(plan: &JoinPlan) -> Result<SchemaRef, RunError> {
    let field = |(place, data_type)| Field::new(format!("k{place}"), data_type, true);
    Ok(Arc::new(Schema::new(plan.key_types()?.into_iter().enumerate().map(field).collect::<Vec<_>>())))
}
