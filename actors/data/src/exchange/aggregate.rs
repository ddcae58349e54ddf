//! Aggregates in two halves: every block on its own, then what the blocks gave together.
//!
//! Entry type: [`AggregatePlan`], which travels with a stage, and what it makes: [`Partial`],
//! which takes the rows of a block and gives one row of states for each group, and
//! [`Final`], which takes states and gives results. The work is that of DataFusion's hash
//! aggregation; this module brings the columns into the types it wants, and names the results.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, new_null_array};
use arrow::compute::kernels::cmp::neq;
use arrow::compute::{CastOptions, cast_with_options, nullif};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::AggregateUDF;
use datafusion_functions_aggregate as functions;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion_physical_expr::expressions::{Column, Literal};
use datafusion_physical_plan::ExecutionPlan;
use datafusion_physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use serde::{Deserialize, Serialize};

use crate::aggregate::{Aggregate, AggregateFunction};
use crate::error::DataError;
use crate::exchange::floats::{from_whole, to_whole, whole_type};
use crate::exchange::flow::{Feed, Flow, flow_error};
use crate::exchange::keys::{Keys, failed, find, normalised};
use crate::exchange::quantile::quantiles;
use crate::exchange::rows::Gathered;
use crate::exchange::sums::{from_wide, to_wide, wide_type};
use crate::expr::agree;
use crate::plan::SortKey;
use crate::schema;

/// What is computed, of which columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AggregatePlan {
    keys: Vec<String>,
    aggregates: Vec<Aggregate>,
    /// The operator, as the plan prints it.
    operator: String,
    /// The columns of the rows that are grouped.
    #[serde(with = "schema::wire")]
    input: SchemaRef,
}

impl AggregatePlan {
    /// Checks that columns and types fit.
    pub fn new(
        keys: &[String],
        aggregates: &[Aggregate],
        operator: &str,
        input: &SchemaRef,
    ) -> Result<Self, DataError> {
        Keys::grouped(keys, input, operator)?;
        let plan = Self {
            keys: keys.to_vec(),
            aggregates: aggregates.to_vec(),
            operator: operator.into(),
            input: Arc::clone(input),
        };
        let mut names: Vec<String> = keys.to_vec();
        for aggregate in aggregates {
            plan.argument(aggregate)?;
            let name = aggregate.output();
            if names.contains(&name) {
                return Err(plan.invalid(format!("two columns would be called {name}: give one another alias")));
            }
            names.push(name);
        }
        Ok(plan)
    }

    /// The columns of the result.
    pub fn schema(&self) -> Result<SchemaRef, DataError> {
        Ok(Final::new(self)?.schema())
    }

    /// The columns that are read, the keys first.
    #[must_use]
    pub fn columns(&self) -> Vec<String> {
        let mut columns = self.keys.clone();
        for column in self.aggregates.iter().filter_map(|aggregate| aggregate.column.as_ref()) {
            if !columns.contains(column) {
                columns.push(column.clone());
            }
        }
        columns
    }

    /// The names of the keys among the columns of states.
    #[must_use]
    pub fn state_keys(&self) -> Vec<SortKey> {
        (0..self.keys.len()).map(|key| SortKey::ascending(key_name(key))).collect()
    }

    /// The operator, as the plan prints it.
    #[must_use]
    pub fn operator(&self) -> &str {
        &self.operator
    }

    fn invalid(&self, cause: String) -> DataError {
        DataError::InvalidPlan { operator: self.operator.clone(), cause }
    }

    /// Where the column of an aggregate is, and the type it is computed in.
    fn argument(&self, aggregate: &Aggregate) -> Result<Option<(usize, DataType)>, DataError> {
        let Some(column) = &aggregate.column else {
            return match aggregate.function {
                AggregateFunction::Count => Ok(None),
                function => Err(self.invalid(format!("{} of which column?", function.name()))),
            };
        };
        let index = find(&self.input, column, &self.operator)?;
        let found = self.input.field(index).data_type();
        let no_number = || self.invalid(agree::no_number(aggregate, column, found));
        let wanted = match aggregate.function {
            AggregateFunction::Sum => match found {
                DataType::Boolean | DataType::Null => DataType::Int64,
                t if t.is_signed_integer() => DataType::Int64,
                t if t.is_unsigned_integer() => DataType::UInt64,
                t if t.is_floating() => DataType::Float64,
                DataType::Decimal128(..) | DataType::Decimal256(..) | DataType::Duration(_) => found.clone(),
                _ => return Err(no_number()),
            },
            AggregateFunction::Quantile(q) if !(0.0..=1.0).contains(&q) => {
                return Err(self.invalid(format!("{aggregate}: the fraction must be from 0 to 1")));
            }
            AggregateFunction::Mean
            | AggregateFunction::Std
            | AggregateFunction::Variance
            | AggregateFunction::Median
            | AggregateFunction::Quantile(_) => match found {
                t if t.is_numeric() || *t == DataType::Boolean || t.is_null() => DataType::Float64,
                _ => return Err(no_number()),
            },
            _ => found.clone(),
        };
        Ok(Some((index, wanted)))
    }

    /// The type that an aggregate gives, if it is computed of what stands for its values.
    fn stood_for(&self, aggregate: &Aggregate) -> Option<DataType> {
        let (_, data_type) = self.argument(aggregate).ok()??;
        stand_in(aggregate, &data_type).map(|_| data_type)
    }

    /// The result of an aggregate in its own type, where it was computed of what stands for values of
    /// this type.
    fn own_result(&self, aggregate: &Aggregate, result: &ArrayRef, own: &DataType) -> Result<ArrayRef, DataError> {
        if aggregate.function != AggregateFunction::Sum {
            return Ok(from_whole(result, own));
        }
        from_wide(result, own).ok_or_else(|| {
            let column = aggregate.column.as_deref().unwrap_or_default();
            let cause = format!("sum({column}) overflows 64 bits: cast {column} to float64 or a decimal first");
            DataError::Compute { operator: self.operator.clone(), path: String::new(), cause }
        })
    }

    /// The columns that DataFusion sees: the keys, then one for each aggregate.
    fn prepared_schema(&self) -> Result<SchemaRef, DataError> {
        let mut fields = Vec::new();
        for (place, key) in self.keys.iter().enumerate() {
            let index = find(&self.input, key, &self.operator)?;
            fields.push(Field::new(key_name(place), self.input.field(index).data_type().clone(), true));
        }
        for (place, aggregate) in self.aggregates.iter().enumerate() {
            let data_type = self.argument(aggregate)?.map_or(DataType::Boolean, |(_, data_type)| data_type);
            let data_type = stand_in(aggregate, &data_type).unwrap_or(data_type);
            fields.push(Field::new(format!("a{place}"), data_type, true));
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// The functions, over the columns of [`Self::prepared_schema`]: one for each aggregate, and
    /// then what tells whether one of its values was null, where that matters.
    fn functions(&self) -> Result<Vec<Arc<AggregateFunctionExpr>>, DataError> {
        let schema = self.prepared_schema()?;
        let fail = |e: DataFusionError| flow_error(&self.operator, &e);
        let build = |function: Arc<AggregateUDF>, args: Vec<Arc<dyn PhysicalExpr>>, name: String, change: Change| {
            let builder = AggregateExprBuilder::new(function, args).schema(Arc::clone(&schema)).alias(name);
            let builder = match change {
                Change::No => builder,
                Change::Distinct => builder.distinct(),
                Change::IgnoreNulls => builder.with_ignore_nulls(true),
            };
            builder.build().map(Arc::new).map_err(fail)
        };
        let one = || Arc::new(Literal::new(ScalarValue::from(1_i64))) as Arc<dyn PhysicalExpr>;
        let column = |place: usize| {
            let name = format!("a{place}");
            Arc::new(Column::new(&name, self.keys.len() + place)) as Arc<dyn PhysicalExpr>
        };
        let mut all = Vec::new();
        for (place, aggregate) in self.aggregates.iter().enumerate() {
            let (function, change) = udaf(aggregate);
            let args = if aggregate.column.is_some() { vec![column(place)] } else { vec![one()] };
            all.push(build(function, args, format!("r{place}"), change)?);
        }
        for place in self.strict() {
            all.push(build(functions::count::count_udaf(), vec![column(place)], format!("n{place}"), Change::No)?);
        }
        if !self.strict().is_empty() {
            all.push(build(functions::count::count_udaf(), vec![one()], "rows".into(), Change::No)?);
        }
        Ok(all)
    }

    /// The aggregates that one null makes null.
    fn strict(&self) -> Vec<usize> {
        let is_strict = |a: &Aggregate| !a.ignore_nulls && a.column.is_some() && !keeps_nulls(a.function);
        (0..self.aggregates.len()).filter(|place| is_strict(&self.aggregates[*place])).collect()
    }

    fn group_by(&self) -> PhysicalGroupBy {
        let key = |place| (Arc::new(Column::new(&key_name(place), place)) as Arc<dyn PhysicalExpr>, key_name(place));
        PhysicalGroupBy::new_single((0..self.keys.len()).map(key).collect())
    }

    fn exec(
        &self,
        mode: AggregateMode,
        group_by: PhysicalGroupBy,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataError> {
        let functions = self.functions()?;
        let filters = vec![None; functions.len()];
        let prepared = self.prepared_schema()?;
        let exec = AggregateExec::try_new(mode, group_by, functions, filters, input, prepared);
        Ok(Arc::new(exec.map_err(|e| flow_error(&self.operator, &e))?))
    }

    /// What takes rows and gives states, over `feed`.
    fn partial(&self, feed: &Feed) -> Result<Arc<dyn ExecutionPlan>, DataError> {
        let input = feed.plan().map_err(|e| flow_error(&self.operator, &e))?;
        self.exec(AggregateMode::Partial, self.group_by(), input)
    }
}

/// The type of the values that an aggregate is given in place of those of this type, if it is given
/// others: whole numbers for floats that are put in order, and wide ones for those that are added.
fn stand_in(aggregate: &Aggregate, data_type: &DataType) -> Option<DataType> {
    match aggregate.function {
        AggregateFunction::Min | AggregateFunction::Max => whole_type(data_type),
        AggregateFunction::Sum => wide_type(data_type),
        _ => None,
    }
}

/// How a function is changed.
#[derive(Clone, Copy)]
enum Change {
    No,
    Distinct,
    IgnoreNulls,
}

fn udaf(aggregate: &Aggregate) -> (Arc<AggregateUDF>, Change) {
    let ignore = if aggregate.ignore_nulls { Change::IgnoreNulls } else { Change::No };
    match aggregate.function {
        AggregateFunction::Count => (functions::count::count_udaf(), Change::No),
        AggregateFunction::Sum => (functions::sum::sum_udaf(), Change::No),
        AggregateFunction::Mean => (functions::average::avg_udaf(), Change::No),
        AggregateFunction::Min => (functions::min_max::min_udaf(), Change::No),
        AggregateFunction::Max => (functions::min_max::max_udaf(), Change::No),
        AggregateFunction::Std => (functions::stddev::stddev_udaf(), Change::No),
        AggregateFunction::Variance => (functions::variance::var_samp_udaf(), Change::No),
        AggregateFunction::Median => (functions::median::median_udaf(), Change::No),
        // All values; what stands between them is computed at the end.
        AggregateFunction::Quantile(_) => (functions::array_agg::array_agg_udaf(), Change::IgnoreNulls),
        AggregateFunction::CountDistinct => (functions::count::count_udaf(), Change::Distinct),
        AggregateFunction::First => (functions::first_last::first_value_udaf(), ignore),
        AggregateFunction::Last => (functions::first_last::last_value_udaf(), ignore),
        AggregateFunction::Collect => (functions::array_agg::array_agg_udaf(), ignore),
    }
}

/// Whether a function that does not leave nulls out gives them on instead of becoming null.
fn keeps_nulls(function: AggregateFunction) -> bool {
    matches!(
        function,
        AggregateFunction::First | AggregateFunction::Last | AggregateFunction::Collect | AggregateFunction::Count
    )
}

fn key_name(place: usize) -> String {
    format!("k{place}")
}

/// Groups the rows of a block.
pub struct Partial {
    plan: AggregatePlan,
    prepared: SchemaRef,
    feed: Feed,
    flow: Flow,
}

impl Partial {
    /// Ready for the first batch.
    pub fn new(plan: &AggregatePlan) -> Result<Self, DataError> {
        let prepared = plan.prepared_schema()?;
        let feed = Feed::new(Arc::clone(&prepared));
        let flow = Flow::start(&plan.partial(&feed)?, &plan.operator)?;
        Ok(Self { plan: plan.clone(), prepared, feed, flow })
    }

    /// Takes the rows of a batch; gives states early where keeping them does not pay.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<Vec<RecordBatch>, DataError> {
        self.feed.push(self.prepare(batch)?);
        self.flow.drain()
    }

    /// The next of the states that are left.
    pub fn rest(&mut self) -> Result<Option<RecordBatch>, DataError> {
        self.feed.end();
        self.flow.rest()
    }

    /// The most bytes that it has held at once.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.flow.memory_bytes()
    }

    fn prepare(&self, batch: &RecordBatch) -> Result<RecordBatch, DataError> {
        let plan = &self.plan;
        let fail = |e: arrow::error::ArrowError| failed(&plan.operator, &e);
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.prepared.fields().len());
        for key in &plan.keys {
            columns.push(Arc::clone(batch.column(find(batch.schema_ref(), key, &plan.operator)?)));
        }
        for aggregate in &plan.aggregates {
            columns.push(match (plan.argument(aggregate)?, &aggregate.column) {
                (Some((_, wanted)), Some(name)) => {
                    let column = batch.column(find(batch.schema_ref(), name, &plan.operator)?);
                    let column = cast_with_options(column, &wanted, &strict).map_err(fail)?;
                    match (stand_in(aggregate, &wanted), aggregate.function) {
                        (None, _) => column,
                        (Some(_), AggregateFunction::Sum) => to_wide(&column),
                        (Some(_), _) => to_whole(&column),
                    }
                }
                _ => new_null_array(&DataType::Boolean, batch.num_rows()),
            });
        }
        let prepared = RecordBatch::try_new(Arc::clone(&self.prepared), columns).map_err(fail)?;
        // What is one key is one value where different ones are counted.
        let keys = plan.keys.len();
        let is_distinct = |place: &usize| plan.aggregates[*place].function == AggregateFunction::CountDistinct;
        let distinct = (0..plan.aggregates.len()).filter(is_distinct).map(|place| keys + place);
        normalised(&prepared, &(0..keys).chain(distinct).collect::<Vec<_>>(), &plan.operator)
    }
}

/// Puts the states of all blocks together.
pub struct Final {
    plan: AggregatePlan,
    feed: Feed,
    flow: Flow,
}

impl Final {
    /// Ready for the first states.
    pub fn new(plan: &AggregatePlan) -> Result<Self, DataError> {
        let fail = |e: DataFusionError| flow_error(&plan.operator, &e);
        let states = plan.partial(&Feed::new(plan.prepared_schema()?))?.schema();
        let feed = Feed::new(states);
        let input = feed.plan().map_err(fail)?;
        let exec = plan.exec(AggregateMode::Final, plan.group_by().as_final(), input)?;
        Ok(Self { plan: plan.clone(), feed, flow: Flow::start(&exec, &plan.operator)? })
    }

    /// Takes the states of a block.
    pub fn push(&mut self, states: RecordBatch) -> Result<(), DataError> {
        let columns = states.columns().to_vec();
        let states = RecordBatch::try_new(self.feed.columns(), columns).map_err(|e| failed(&self.plan.operator, &e))?;
        self.feed.push(states);
        // Nothing comes out before the end; what went in is taken out of the queue.
        self.flow.drain().map(drop)
    }

    /// The columns of the states that it takes.
    #[must_use]
    pub fn states(&self) -> SchemaRef {
        self.feed.columns()
    }

    /// The columns of the result.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        let plan = &self.plan;
        let given = self.flow.schema();
        let original = |key: &String| plan.input.index_of(key).ok();
        let key = |(place, key): (usize, &String)| {
            let nullable = original(key).is_none_or(|index| plan.input.field(index).is_nullable());
            Field::new(key, given.field(place).data_type().clone(), nullable)
        };
        let counts = |a: &Aggregate| matches!(a.function, AggregateFunction::Count | AggregateFunction::CountDistinct);
        let result = |(place, aggregate): (usize, &Aggregate)| {
            let given = given.field(plan.keys.len() + place).data_type().clone();
            let data_type = match aggregate.function {
                AggregateFunction::Quantile(_) => DataType::Float64,
                _ => plan.stood_for(aggregate).unwrap_or(given),
            };
            let sure = counts(aggregate) && !plan.strict().contains(&place);
            Field::new(aggregate.output(), data_type, !sure)
        };
        let keys = plan.keys.iter().enumerate().map(key);
        Arc::new(Schema::new(keys.chain(plan.aggregates.iter().enumerate().map(result)).collect::<Vec<_>>()))
    }

    /// The most bytes that it has held at once.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.flow.memory_bytes()
    }

    /// The groups, in the order of their keys.
    pub fn finish(&mut self) -> Result<Option<RecordBatch>, DataError> {
        self.feed.end();
        let mut given = Vec::new();
        while let Some(batch) = self.flow.rest()? {
            given.push(batch);
        }
        let mut groups = Gathered::new(given, &self.plan.operator);
        if groups.is_empty() {
            return Ok(None);
        }
        groups.sort(&self.plan.state_keys())?;
        let all = groups.batch(0, groups.len())?;
        let schema = self.schema();
        let fail = |e: arrow::error::ArrowError| failed(&self.plan.operator, &e);
        let keys = self.plan.keys.len();
        let mut columns = all.columns()[..keys + self.plan.aggregates.len()].to_vec();
        let strict = self.plan.strict();
        for (which, place) in strict.iter().enumerate() {
            let first = keys + self.plan.aggregates.len();
            let values = all.column(first + which).as_primitive::<Int64Type>();
            let rows = all.column(first + strict.len()).as_primitive::<Int64Type>();
            let some_null: BooleanArray = neq(values, rows).map_err(fail)?;
            let column = &mut columns[keys + place];
            *column = nullif(column, &some_null).map_err(fail)?;
        }
        for (column, aggregate) in columns[keys..].iter_mut().zip(&self.plan.aggregates) {
            if let AggregateFunction::Quantile(q) = aggregate.function {
                *column = quantiles(column, q);
            } else if let Some(own) = self.plan.stood_for(aggregate) {
                *column = self.plan.own_result(aggregate, column, &own)?;
            }
        }
        RecordBatch::try_new(schema, columns).map(Some).map_err(fail)
    }
}

#[cfg(test)]
mod tests;
