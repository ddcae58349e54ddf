//! The same answer with less work.
//!
//! Entry type: [`optimise`], which applies the rules below to a plan whose files have been opened.
//! What is fused and how limits end reads is decided where a plan becomes tasks
//! ([`crate::executor`]); these rules move and remove operators before that.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::Schema;

use crate::error::DataError;
use crate::exchange::aggregate::AggregatePlan;
use crate::plan::{Exchange, Join, JoinKind, LogicalPlan, Operator, Repartition};
use crate::planner::{Schemas, files_schema, plan_schema};
use crate::source::{ReadFiles, Source};
use crate::stack::deep;

/// The plan to run instead of `plan`; `only_count` says that nobody looks at the rows.
///
/// # Errors
/// [`DataError`] as [`plan_schema`] gives; a plan that was checked gives none.
pub fn optimise(plan: &LogicalPlan, only_count: bool) -> Result<LogicalPlan, DataError> {
    let mut plan = if only_count { DropOrder.apply(plan) } else { plan.clone() };
    plan = PushFilters.apply(&plan)?;
    plan = MergeLimits.apply(&plan);
    let mut prune = PruneColumns::default();
    prune.apply(&plan, only_count.then(BTreeSet::new))
}

/// An order that nobody sees is not made.
struct DropOrder;

impl DropOrder {
    fn apply(&self, plan: &LogicalPlan) -> LogicalPlan {
        deep(|| match plan {
            LogicalPlan::Exchange { input, exchange } if keeps_rows(exchange) => self.apply(input),
            LogicalPlan::Op { input, op: op @ (Operator::Filter { .. } | Operator::Select { .. }) } => {
                self.apply(input).then(op.clone())
            }
            other => other.clone(),
        })
    }
}

/// Whether an exchange gives the rows it gets, in another order or in other blocks.
fn keeps_rows(exchange: &Exchange) -> bool {
    matches!(
        exchange,
        Exchange::Sort { .. } | Exchange::Shuffle { .. } | Exchange::ShuffleBlocks { .. } | Exchange::Repartition(_)
    )
}

/// A row that a filter drops need not be sorted, sent or joined first.
struct PushFilters;

impl PushFilters {
    fn apply(&self, plan: &LogicalPlan) -> Result<LogicalPlan, DataError> {
        deep(|| self.pushed(plan))
    }

    fn pushed(&self, plan: &LogicalPlan) -> Result<LogicalPlan, DataError> {
        let LogicalPlan::Op { input, op: op @ Operator::Filter { condition } } = plan else {
            return rebuild(plan, |input| self.apply(input));
        };
        // Blocks of so many rows are cut after the filter, as the plan says.
        match input.as_ref() {
            LogicalPlan::Exchange { input, exchange }
                if keeps_rows(exchange) && !matches!(exchange, Exchange::Repartition(_)) =>
            {
                let below = LogicalPlan::Op { input: Arc::clone(input), op: op.clone() };
                Ok(self.apply(&below)?.exchange(exchange.clone()))
            }
            LogicalPlan::Join { left, right, join } if keeps_left(join.kind) => {
                let from_left = match plan_schema(left)? {
                    Some(schema) => condition.columns().iter().all(|column| schema.index_of(column).is_ok()),
                    None => false,
                };
                if !from_left {
                    return rebuild(plan, |input| self.apply(input));
                }
                let below = LogicalPlan::Op { input: Arc::clone(left), op: op.clone() };
                let (left, right) = (Arc::new(self.apply(&below)?), Arc::new(self.apply(right)?));
                Ok(LogicalPlan::Join { left, right, join: join.clone() })
            }
            _ => rebuild(plan, |input| self.apply(input)),
        }
    }
}

/// Whether a row of the result has its left side's columns as they are.
fn keeps_left(kind: JoinKind) -> bool {
    matches!(kind, JoinKind::Inner | JoinKind::Left | JoinKind::Semi | JoinKind::Anti)
}

/// Of two limits, one after the other, the smaller one is enough.
struct MergeLimits;

impl MergeLimits {
    fn apply(&self, plan: &LogicalPlan) -> LogicalPlan {
        let rebuilt = deep(|| rebuild(plan, |input| Ok(self.apply(input)))).unwrap_or_else(|_| plan.clone());
        if let LogicalPlan::Op { input, op: Operator::Limit { rows } } = &rebuilt
            && let LogicalPlan::Op { input, op: Operator::Limit { rows: below } } = input.as_ref()
        {
            return LogicalPlan::Op { input: Arc::clone(input), op: Operator::Limit { rows: (*rows).min(*below) } };
        }
        rebuilt
    }
}

/// A column that nobody uses is neither read nor computed.
#[derive(Default)]
struct PruneColumns<'p> {
    /// Of the plan as it was before.
    schemas: Schemas<'p>,
}

/// The columns that are used; none means all.
type Needed = Option<BTreeSet<String>>;

impl<'p> PruneColumns<'p> {
    fn apply(&mut self, plan: &'p LogicalPlan, needed: Needed) -> Result<LogicalPlan, DataError> {
        deep(|| match plan {
            LogicalPlan::Source(Source::Files(read)) => Ok(LogicalPlan::Source(Source::Files(pruned(read, &needed)?))),
            LogicalPlan::Source(_) => Ok(plan.clone()),
            LogicalPlan::Op { input, op } => self.operator(input, op, needed),
            LogicalPlan::Exchange { input, exchange } => self.exchange(input, exchange, needed),
            LogicalPlan::Join { left, right, join } => self.join(left, right, join, needed),
            LogicalPlan::Union { inputs } => self.union(inputs, plan, needed),
            LogicalPlan::Zip { .. } => rebuild(plan, |input| self.apply(input, None)),
        })
    }

    fn operator(
        &mut self,
        input: &'p LogicalPlan,
        op: &Operator,
        mut needed: Needed,
    ) -> Result<LogicalPlan, DataError> {
        // It is sent to tasks, and its conditions are asked of statistics.
        let mut op = op.balanced();
        match &mut op {
            Operator::Filter { condition } => use_columns(&mut needed, condition.columns()),
            Operator::WithColumn { name, value } => {
                if let Some(columns) = &mut needed {
                    if !columns.remove(name) {
                        return self.apply(input, needed);
                    }
                    use_columns(&mut needed, value.columns());
                }
            }
            Operator::WithColumns { columns } => {
                if let Some(names) = &mut needed {
                    columns.retain(|(name, _)| names.contains(name));
                    for (name, _) in columns.iter() {
                        names.remove(name);
                    }
                    names.extend(columns.iter().flat_map(|(_, value)| value.columns()).map(str::to_owned));
                    if columns.is_empty() {
                        return self.apply(input, needed);
                    }
                }
            }
            Operator::Select { columns } => {
                retain(columns, &needed, |column| column);
                needed = Some(columns.iter().cloned().collect());
            }
            Operator::Drop { columns } => match self.schemas.of(input)? {
                // The others are selected: what is dropped need not be read.
                Some(schema) => {
                    let mut kept: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
                    kept.retain(|column| !columns.contains(column));
                    return self.operator(input, &Operator::Select { columns: kept }, needed);
                }
                None => needed = None,
            },
            Operator::Rename { columns } => match (&needed, self.schemas.of(input)?) {
                (Some(names), Some(schema)) => return self.rename(input, columns, names, &schema),
                _ => needed = None,
            },
            Operator::Project { columns } => {
                retain(columns, &needed, |(name, _)| name);
                let used = columns.iter().flat_map(|(_, value)| value.columns());
                needed = Some(used.map(str::to_owned).collect());
            }
            Operator::Limit { .. } => {}
            // Chance is told by the place in a block, and how blocks are cut by the columns that are
            // read: fewer of them would be a sample of other rows.
            Operator::Sample { .. } | Operator::MapBatches(_) => needed = None,
        }
        Ok(self.apply(input, needed)?.then(op))
    }

    /// A column that nobody uses under its new name must not keep its old one: another may have got
    /// that meanwhile.
    fn rename(
        &mut self,
        input: &'p LogicalPlan,
        columns: &[(String, String)],
        needed: &BTreeSet<String>,
        schema: &Schema,
    ) -> Result<LogicalPlan, DataError> {
        let new_name = |old: &String| {
            columns.iter().find(|(from, _)| from == old).map_or_else(|| old.clone(), |(_, to)| to.clone())
        };
        let mut kept: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        kept.retain(|old| needed.contains(&new_name(old)));
        let columns: Vec<_> = columns.iter().filter(|(from, _)| kept.contains(from)).cloned().collect();
        let selected = self.operator(input, &Operator::Select { columns: kept }, None)?;
        Ok(if columns.is_empty() { selected } else { selected.then(Operator::Rename { columns }) })
    }

    /// What one input needs for itself, or cannot leave out, the others may not have: where some
    /// columns are enough, each input gives just these.
    fn union(
        &mut self,
        inputs: &'p [Arc<LogicalPlan>],
        plan: &'p LogicalPlan,
        needed: Needed,
    ) -> Result<LogicalPlan, DataError> {
        let columns = match (&needed, self.schemas.of(plan)?) {
            (Some(needed), Some(schema)) => {
                let names = schema.fields().iter().map(|field| field.name().clone());
                Some(names.filter(|name| needed.contains(name)).collect::<Vec<_>>())
            }
            _ => None,
        };
        let mut input = |input: &'p Arc<LogicalPlan>| match &columns {
            Some(columns) => self.operator(input, &Operator::Select { columns: columns.clone() }, None),
            None => self.apply(input, None),
        };
        let inputs = inputs.iter().map(|one| input(one).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(LogicalPlan::Union { inputs })
    }

    fn exchange(
        &mut self,
        input: &'p LogicalPlan,
        exchange: &Exchange,
        mut needed: Needed,
    ) -> Result<LogicalPlan, DataError> {
        let mut exchange = exchange.clone();
        match &mut exchange {
            Exchange::Sort { keys } => use_columns(&mut needed, keys.iter().map(|key| key.column.as_str())),
            Exchange::Repartition(Repartition::ByKey { keys, .. }) => {
                use_columns(&mut needed, keys.iter().map(String::as_str));
            }
            Exchange::Aggregate { keys, aggregates } => {
                if let Some(needed) = &needed {
                    let first = aggregates.first().cloned();
                    aggregates.retain(|aggregate| needed.contains(&aggregate.output()));
                    if keys.is_empty() && aggregates.is_empty() {
                        // The one group of all rows is a row whatever is looked at of it.
                        aggregates.extend(first);
                    }
                }
                needed = None;
                if let Some(schema) = self.schemas.of(input)? {
                    let plan = AggregatePlan::new(keys, aggregates, "group_by", &schema)?;
                    needed = Some(plan.columns().into_iter().collect());
                }
            }
            Exchange::MapGroups { .. } => needed = None,
            Exchange::Shuffle { .. } | Exchange::ShuffleBlocks { .. } | Exchange::Repartition(_) => {}
        }
        Ok(self.apply(input, needed)?.exchange(exchange))
    }

    fn join(
        &mut self,
        left: &'p LogicalPlan,
        right: &'p LogicalPlan,
        join: &Join,
        needed: Needed,
    ) -> Result<LogicalPlan, DataError> {
        let (mut of_left, mut of_right) = (None, None);
        if let (Some(needed), Some(left), Some(right)) = (needed, self.schemas.of(left)?, self.schemas.of(right)?) {
            let mut lefts: BTreeSet<String> = join.left_on.iter().cloned().collect();
            lefts.extend(left.fields().iter().map(|f| f.name().clone()).filter(|name| needed.contains(name)));
            let mut rights: BTreeSet<String> = join.right_on.iter().cloned().collect();
            for name in right.fields().iter().map(|field| field.name()) {
                let taken = left.index_of(name).is_ok();
                let called = if taken { format!("{name}{}", join.suffix) } else { name.clone() };
                if needed.contains(&called) {
                    rights.insert(name.clone());
                    // Without it the other one would not get its suffix.
                    lefts.extend(taken.then(|| name.clone()));
                }
            }
            (of_left, of_right) = (Some(lefts), Some(rights));
        }
        let (left, right) = (Arc::new(self.apply(left, of_left)?), Arc::new(self.apply(right, of_right)?));
        Ok(LogicalPlan::Join { left, right, join: join.clone() })
    }
}

fn use_columns<'a>(needed: &mut Needed, columns: impl IntoIterator<Item = &'a str>) {
    if let Some(needed) = needed {
        needed.extend(columns.into_iter().map(str::to_owned));
    }
}

fn retain<T>(columns: &mut Vec<T>, needed: &Needed, name: impl Fn(&T) -> &String) {
    if let Some(needed) = needed {
        columns.retain(|column| needed.contains(name(column)));
    }
}

/// The read without the columns that are not needed; the others keep their order.
fn pruned(read: &ReadFiles, needed: &Needed) -> Result<ReadFiles, DataError> {
    let mut read = read.clone();
    if let Some(needed) = needed {
        let schema = files_schema(&read)?;
        let names = schema.fields().iter().map(|field| field.name().clone());
        read.columns = Some(names.filter(|name| needed.contains(name)).collect());
    }
    Ok(read)
}

/// The node with its inputs changed.
fn rebuild<'p>(
    plan: &'p LogicalPlan,
    mut change: impl FnMut(&'p LogicalPlan) -> Result<LogicalPlan, DataError>,
) -> Result<LogicalPlan, DataError> {
    let mut change = |input: &'p Arc<LogicalPlan>| change(input).map(Arc::new);
    Ok(match plan {
        LogicalPlan::Source(_) => plan.clone(),
        LogicalPlan::Op { input, op } => LogicalPlan::Op { input: change(input)?, op: op.clone() },
        LogicalPlan::Exchange { input, exchange } => {
            LogicalPlan::Exchange { input: change(input)?, exchange: exchange.clone() }
        }
        LogicalPlan::Join { left, right, join } => {
            LogicalPlan::Join { left: change(left)?, right: change(right)?, join: join.clone() }
        }
        LogicalPlan::Union { inputs } => {
            LogicalPlan::Union { inputs: inputs.iter().map(change).collect::<Result<_, _>>()? }
        }
        LogicalPlan::Zip { left, right } => LogicalPlan::Zip { left: change(left)?, right: change(right)? },
    })
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
