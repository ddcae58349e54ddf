//! What can be known of a plan before it runs: its columns, and what is wrong with it.
//!
//! Entry types: [`plan_schema`], the columns of a plan's rows, with everything that it names
//! found and its types agreed, and [`schema_after`], the same for one operator. Both are pure:
//! the files of a plan have been opened before. `Schemas` is for who asks for the columns of many parts
//! of a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use mobula_core::resources::{CPU, FRACTIONS_PER_UNIT, Resources, group};

use crate::error::DataError;
use crate::exchange::aggregate::AggregatePlan;
use crate::exchange::join::JoinPlan;
use crate::exchange::keys::Keys;
use crate::expr::{BoundExpr, Expr};
use crate::plan::{
    Compute, Exchange, LogicalPlan, MAX_ACTORS, MAX_BLOCKS, MAX_PARTS, MapBatches, Operator, Repartition,
};
use crate::source::{ReadFiles, Source};
use crate::stack::deep;
use crate::words::plain;

/// The columns of the rows of `plan`. None where only running a function tells.
///
/// # Errors
/// [`DataError`], naming operator and column. What comes after a function is checked as far as it
/// can be.
pub fn plan_schema(plan: &LogicalPlan) -> Result<Option<SchemaRef>, DataError> {
    deep(|| node_schema(plan, &mut plan_schema))
}

/// The columns of the parts of a plan, each of them looked at once: who goes down a plan and asks at every
/// operator for the columns below it would else look at all that is below, over and over.
#[derive(Default)]
pub(crate) struct Schemas<'p> {
    /// By where the part lies, which is what tells it from others as long as the plan is there.
    known: BTreeMap<*const LogicalPlan, Option<SchemaRef>>,
    plan: PhantomData<&'p LogicalPlan>,
}

impl<'p> Schemas<'p> {
    /// As [`plan_schema`].
    pub(crate) fn of(&mut self, part: &'p LogicalPlan) -> Result<Option<SchemaRef>, DataError> {
        if let Some(known) = self.known.get(&std::ptr::from_ref(part)) {
            return Ok(known.clone());
        }
        let schema = deep(|| node_schema(part, &mut |input| self.of(input)))?;
        self.known.insert(std::ptr::from_ref(part), schema.clone());
        Ok(schema)
    }
}

/// Says what the columns of an input are.
type OfInput<'f, 'p> = &'f mut dyn FnMut(&'p LogicalPlan) -> Result<Option<SchemaRef>, DataError>;

/// The columns of `plan`, where `of` tells those of its inputs.
fn node_schema<'p>(plan: &'p LogicalPlan, of: OfInput<'_, 'p>) -> Result<Option<SchemaRef>, DataError> {
    match plan {
        LogicalPlan::Source(source) => source_schema(source).map(Some),
        LogicalPlan::Op { input, op } => match of(input)? {
            Some(schema) => schema_after(op, &schema),
            None => check_alone(op).map(|()| None),
        },
        LogicalPlan::Exchange { input, exchange } => exchange_schema(exchange, of(input)?),
        LogicalPlan::Join { left, right, join } => match (of(left)?, of(right)?) {
            (Some(left), Some(right)) => JoinPlan::new(join, &left, &right)?.schema().map(Some),
            _ => Ok(None),
        },
        LogicalPlan::Union { inputs } => union_schema(inputs, of),
        LogicalPlan::Zip { left, right } => match (of(left)?, of(right)?) {
            (Some(left), Some(right)) => Ok(Some(zip_schema(&left, &right))),
            _ => Ok(None),
        },
    }
}

fn source_schema(source: &Source) -> Result<SchemaRef, DataError> {
    match source {
        Source::Files(read) => files_schema(read),
        Source::Blocks(blocks) => Ok(Arc::clone(&blocks.schema)),
        Source::Batches { schema, .. } => Ok(Arc::clone(schema)),
        Source::Range { .. } => Ok(range_schema()),
    }
}

/// The columns that are read of opened files.
pub fn files_schema(read: &ReadFiles) -> Result<SchemaRef, DataError> {
    let operator = read.format.operator();
    check_batch_rows(operator, read.batch_rows)?;
    let opened = read.opened.as_ref().ok_or_else(|| invalid(operator, "its files have not been opened".into()))?;
    match &read.columns {
        None => Ok(Arc::clone(&opened.unified.schema)),
        Some(columns) => {
            let indices = select_indices(&opened.unified.schema, columns, operator)?;
            project(&opened.unified.schema, &indices, operator)
        }
    }
}

/// The columns of a range: `id`.
#[must_use]
pub fn range_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]))
}

fn exchange_schema(exchange: &Exchange, input: Option<SchemaRef>) -> Result<Option<SchemaRef>, DataError> {
    let operator = exchange.to_string();
    if let Exchange::MapGroups { map, .. } = exchange {
        check_map(&operator, map)?;
    }
    match exchange {
        Exchange::Repartition(Repartition::Blocks(0) | Repartition::ByKey { blocks: 0, .. }) => {
            return Err(invalid(&operator, "there must be one block or more".into()));
        }
        Exchange::Repartition(Repartition::Blocks(blocks)) if *blocks > MAX_BLOCKS => {
            return Err(invalid(&operator, format!("there may be {MAX_BLOCKS} blocks at most")));
        }
        Exchange::Repartition(Repartition::ByKey { blocks, .. }) if *blocks > MAX_PARTS => {
            return Err(invalid(&operator, format!("there may be {MAX_PARTS} blocks by key at most")));
        }
        Exchange::Repartition(Repartition::Rows(0)) => {
            return Err(invalid(&operator, "a block must have room for one row or more".into()));
        }
        Exchange::Sort { keys } if keys.is_empty() => {
            return Err(invalid(&operator, "name a column to sort by".into()));
        }
        Exchange::Aggregate { keys, aggregates } if keys.is_empty() && aggregates.is_empty() => {
            return Err(invalid(&operator, "name the columns of a key, or what is computed of all rows".into()));
        }
        Exchange::MapGroups { keys, .. } | Exchange::Repartition(Repartition::ByKey { keys, .. })
            if keys.is_empty() =>
        {
            return Err(invalid(&operator, "name the columns of the key".into()));
        }
        _ => {}
    }
    let Some(input) = input else {
        return Ok(None);
    };
    match exchange {
        Exchange::Sort { keys } => Keys::sorted(keys, &input, &operator).map(drop)?,
        Exchange::Repartition(Repartition::ByKey { keys, .. }) => Keys::grouped(keys, &input, &operator).map(drop)?,
        Exchange::MapGroups { keys, .. } => {
            Keys::grouped(keys, &input, &operator)?;
            return Ok(None);
        }
        Exchange::Aggregate { keys, aggregates } => {
            return AggregatePlan::new(keys, aggregates, &operator, &input)?.schema().map(Some);
        }
        Exchange::Shuffle { .. } | Exchange::ShuffleBlocks { .. } | Exchange::Repartition(_) => {}
    }
    Ok(Some(input))
}

/// All inputs must have the columns of the first, by name, in any order.
fn union_schema<'p>(inputs: &'p [Arc<LogicalPlan>], of: OfInput<'_, 'p>) -> Result<Option<SchemaRef>, DataError> {
    let mut first: Option<SchemaRef> = None;
    for input in inputs {
        let Some(schema) = of(input)? else {
            return Ok(None);
        };
        let Some(known) = &mut first else {
            first = Some(schema);
            continue;
        };
        let names: Vec<String> = known.fields().iter().map(|field| field.name().clone()).collect();
        let indices = select_indices(&schema, &names, "union")?;
        if indices.len() != schema.fields().len() {
            let extra = schema.fields().iter().find(|field| known.index_of(field.name()).is_err());
            let extra = extra.map_or("", |field| field.name());
            return Err(invalid("union", format!("column {extra} is not in the first dataset: drop it")));
        }
        let mut fields = Vec::new();
        for (field, index) in known.fields().iter().zip(indices) {
            let other = schema.field(index);
            if field.data_type() != other.data_type() {
                let types = format!("{} in one dataset and {} in another", field.data_type(), other.data_type());
                return Err(invalid("union", format!("column {} is {types}: cast one of them", field.name())));
            }
            fields.push(field.as_ref().clone().with_nullable(field.is_nullable() || other.is_nullable()));
        }
        *known = Arc::new(Schema::new(fields));
    }
    Ok(Some(first.unwrap_or_else(|| Arc::new(Schema::empty()))))
}

/// The columns of two sides, side by side.
#[must_use]
pub fn zip_schema(left: &Schema, right: &Schema) -> SchemaRef {
    let mut fields: Vec<Field> = left.fields().iter().map(|field| field.as_ref().clone()).collect();
    for field in right.fields() {
        let mut name = field.name().clone();
        while fields.iter().any(|taken| *taken.name() == name) {
            name.push_str("_1");
        }
        fields.push(field.as_ref().clone().with_name(name));
    }
    Arc::new(Schema::new(fields))
}

/// The schema after an operator, with everything it names found and its types agreed. None
/// where only running it tells.
pub fn schema_after(operator: &Operator, schema: &SchemaRef) -> Result<Option<SchemaRef>, DataError> {
    let title = operator.to_string();
    check_alone(operator)?;
    Ok(Some(match operator {
        Operator::Filter { condition } => {
            BoundExpr::bind_condition(condition, schema, &title)?;
            Arc::clone(schema)
        }
        Operator::WithColumn { name: column, value } => {
            let field = BoundExpr::bind(value, schema, &title)?.field(column);
            let mut fields = schema.fields().to_vec();
            match schema.index_of(column) {
                Ok(index) => fields[index] = Arc::new(field),
                Err(_) => fields.push(Arc::new(field)),
            }
            Arc::new(Schema::new(fields))
        }
        Operator::WithColumns { columns } => projected(&all_columns(schema, columns, &title)?, schema, &title)?,
        Operator::Select { columns } => project(schema, &select_indices(schema, columns, &title)?, &title)?,
        Operator::Drop { columns } => project(schema, &drop_indices(schema, columns, &title)?, &title)?,
        Operator::Rename { columns } => renamed(schema, columns, &title)?,
        Operator::Project { columns } => projected(columns, schema, &title)?,
        Operator::Limit { .. } | Operator::Sample { .. } => Arc::clone(schema),
        Operator::MapBatches(_) => return Ok(None),
    }))
}

fn projected(columns: &[(String, Expr)], schema: &Schema, operator: &str) -> Result<SchemaRef, DataError> {
    let mut names = BTreeSet::new();
    let mut fields = Vec::with_capacity(columns.len());
    for (name, value) in columns {
        if !names.insert(name) {
            return Err(named_twice(operator, name));
        }
        fields.push(BoundExpr::bind(value, schema, operator)?.field(name));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// All columns after some were added or replaced: those that there were give themselves.
pub(crate) fn all_columns(
    schema: &Schema,
    columns: &[(String, Expr)],
    operator: &str,
) -> Result<Vec<(String, Expr)>, DataError> {
    let itself = |field: &Arc<Field>| (field.name().clone(), Expr::Column(field.name().clone()));
    let mut all: Vec<(String, Expr)> = schema.fields().iter().map(itself).collect();
    let mut names = BTreeSet::new();
    for (name, value) in columns {
        if !names.insert(name) {
            return Err(named_twice(operator, name));
        }
        match schema.index_of(name) {
            Ok(index) => all[index].1 = value.clone(),
            Err(_) => all.push((name.clone(), value.clone())),
        }
    }
    Ok(all)
}

fn named_twice(operator: &str, column: &str) -> DataError {
    invalid(operator, format!("column {column} is named twice"))
}

/// What is certain of an operator without the columns that it is given.
fn check_alone(operator: &Operator) -> Result<(), DataError> {
    match operator {
        Operator::MapBatches(map) => check_map(&operator.to_string(), map),
        Operator::Sample { fraction, .. } if !(0.0..=1.0).contains(fraction) => {
            Err(invalid(&operator.to_string(), "the fraction must be from 0 to 1".into()))
        }
        _ => Ok(()),
    }
}

fn check_map(operator: &str, map: &MapBatches) -> Result<(), DataError> {
    check_batch_rows(operator, map.batch_rows.unwrap_or(1))?;
    map_demand(operator, map)?;
    match map.compute {
        Compute::FewTasks { max: 0 } => Err(invalid(operator, "a concurrency of 0: it must be 1 or more".into())),
        Compute::Actors { min: 0, .. } => Err(invalid(operator, "0 actors: there must be one or more".into())),
        Compute::Actors { min, max } if min > max => {
            Err(invalid(operator, format!("{min} actors at least and {max} at most: the first may not be larger")))
        }
        Compute::Actors { max, .. } if max > MAX_ACTORS => {
            Err(invalid(operator, format!("{max} actors: there may be {MAX_ACTORS}")))
        }
        _ => Ok(()),
    }
}

/// What a task or actor that calls the function of `map` needs.
pub(crate) fn map_demand(operator: &str, map: &MapBatches) -> Result<Resources, DataError> {
    let mut demand = Resources::new();
    demand.set(CPU, FRACTIONS_PER_UNIT);
    for (name, amount) in &map.resources {
        if group::is_of_group(name) {
            let cause = format!("a resource cannot be named {name}: `_group_` marks the room of placement groups");
            return Err(invalid(operator, cause));
        }
        demand = demand.with(name, *amount).map_err(|error| invalid(operator, error.to_string()))?;
    }
    Ok(demand)
}

/// Where `columns` are in `schema`.
pub(crate) fn select_indices(schema: &Schema, columns: &[String], operator: &str) -> Result<Vec<usize>, DataError> {
    let mut seen = BTreeSet::new();
    columns
        .iter()
        .map(|column| {
            if !seen.insert(column) {
                return Err(named_twice(operator, column));
            }
            schema.index_of(column).map_err(|_| DataError::UnknownColumn {
                operator: operator.into(),
                column: column.clone(),
                available: schema.fields().iter().map(|f| f.name().clone()).collect(),
            })
        })
        .collect()
}

/// Where all columns but `columns` are.
pub(crate) fn drop_indices(schema: &Schema, columns: &[String], operator: &str) -> Result<Vec<usize>, DataError> {
    let dropped: BTreeSet<usize> = select_indices(schema, columns, operator)?.into_iter().collect();
    Ok((0..schema.fields().len()).filter(|index| !dropped.contains(index)).collect())
}

/// The columns under their new names.
pub(crate) fn renamed(schema: &Schema, names: &[(String, String)], operator: &str) -> Result<SchemaRef, DataError> {
    let old: Vec<String> = names.iter().map(|(from, _)| from.clone()).collect();
    let mut fields = schema.fields().to_vec();
    for (index, (_, to)) in select_indices(schema, &old, operator)?.into_iter().zip(names) {
        fields[index] = Arc::new(fields[index].as_ref().clone().with_name(to));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = fields.iter().find(|field| !seen.insert(field.name().clone())) {
        return Err(invalid(operator, format!("two columns would be called {}", twice.name())));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn project(schema: &Schema, indices: &[usize], operator: &str) -> Result<SchemaRef, DataError> {
    schema.project(indices).map(Arc::new).map_err(|error| invalid(operator, plain(&error)))
}

fn invalid(operator: &str, cause: String) -> DataError {
    DataError::InvalidPlan { operator: operator.into(), cause }
}

fn check_batch_rows(operator: &str, rows: usize) -> Result<(), DataError> {
    if (1..=MAX_BATCH_ROWS).contains(&rows) {
        return Ok(());
    }
    Err(invalid(operator, format!("a batch size of {rows} rows: it must be from 1 to {MAX_BATCH_ROWS}")))
}

/// The largest batch: more rows than this in one batch serve no one and cost memory.
pub const MAX_BATCH_ROWS: usize = 1 << 24;

#[cfg(test)]
mod tests;
