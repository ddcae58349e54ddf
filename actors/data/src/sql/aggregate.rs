//! Groups: which columns are keys, and what is computed for each group.
//!
//! Our aggregates take columns; what is an expression in the query becomes a column first, in one
//! projection that also leaves out what nobody needs.

use std::collections::BTreeSet;

use datafusion_common::ScalarValue;
use datafusion_expr::Expr as Theirs;
use datafusion_expr::expr::{AggregateFunction as TheirCall, NullTreatment};
use datafusion_expr::logical_plan::Aggregate as TheirAggregate;

use super::expr::Scope;
use super::relation::{Converter, Relation, unique};
use super::{invalid, unsupported};
use crate::aggregate::{self, Aggregate};
use crate::error::DataError;
use crate::expr::{Expr, Scalar, when};
use crate::plan::Exchange;

impl Converter<'_> {
    pub(super) fn aggregate(&self, plan: &TheirAggregate) -> Result<Relation, DataError> {
        let input = self.relation(&plan.input)?;
        let scope = Scope { schema: plan.input.schema(), columns: &input.columns };
        let mut needed = Needed::default();
        let mut keys = Vec::with_capacity(plan.group_expr.len());
        for key in &plan.group_expr {
            keys.push(needed.column(scope.expr(key)?));
        }
        let mut columns = keys.clone();
        let mut taken: BTreeSet<String> = keys.iter().cloned().collect();
        let mut aggregates = Vec::with_capacity(plan.aggr_expr.len());
        for call in &plan.aggr_expr {
            let (aggregate, name) = call_of(call, scope, &mut needed)?;
            let name = unique(name, &mut taken);
            columns.push(name.clone());
            aggregates.push(if aggregate.output() == name { aggregate } else { aggregate.alias(name) });
        }
        // Where all are columns already, the plan's optimiser sees what is not needed.
        let prepared = if needed.computes { input.project(needed.items) } else { input };
        Ok(Relation::exact(prepared.plan.exchange(Exchange::Aggregate { keys, aggregates }), columns))
    }
}

/// The columns that keys and aggregates need.
#[derive(Default)]
struct Needed {
    items: Vec<(String, Expr)>,
    /// Whether one of them is more than a column of the input.
    computes: bool,
}

impl Needed {
    /// The column that will hold `value`.
    fn column(&mut self, value: Expr) -> String {
        if let Some((name, _)) = self.items.iter().find(|(_, known)| *known == value) {
            return name.clone();
        }
        let name = match &value {
            Expr::Column(name) => name.clone(),
            other => other.to_string(),
        };
        let mut taken = self.items.iter().map(|(name, _)| name.clone()).collect();
        // Another expression may read like the name of a column.
        let unique = unique(name, &mut taken);
        self.computes |= !matches!(&value, Expr::Column(name) if *name == unique);
        self.items.push((unique.clone(), value));
        unique
    }
}

/// One call of an aggregate function, and what its result is called.
fn call_of(expr: &Theirs, scope: Scope<'_>, needed: &mut Needed) -> Result<(Aggregate, String), DataError> {
    let call = match expr {
        Theirs::Alias(alias) => return call_of(&alias.expr, scope, needed),
        Theirs::AggregateFunction(call) => call,
        other => return Err(unsupported(&format!("{other} as an aggregate"), "")),
    };
    let name = call.func.name();
    if !NAMES.contains(&name) {
        return Err(unknown(name));
    }
    let argument = argument(call, scope)?;
    let text = argument.as_ref().map_or("*".to_owned(), ToString::to_string);
    let distinct = if call.params.distinct { "distinct " } else { "" };
    let output = match quantile(call)? {
        Some(q) => format!("{name}({distinct}{text}, {q})"),
        None => format!("{name}({distinct}{text})"),
    };
    let column = argument.map(|argument| needed.column(argument));
    Ok((function(call, column)?, output))
}

/// What a call is computed of; nothing for a count of rows.
fn argument(call: &TheirCall, scope: Scope<'_>) -> Result<Option<Expr>, DataError> {
    let name = call.func.name();
    let value = match (name, call.params.args.as_slice()) {
        ("percentile_cont" | "approx_percentile_cont", [value, _, ..]) => scope.expr(value)?,
        (_, [value]) => scope.expr(value)?,
        (_, args) => return Err(unsupported(&format!("{name} of {} values", args.len()), "give it one")),
    };
    let rows = name == "count" && !call.params.distinct && matches!(&value, Expr::Literal(v) if *v != Scalar::Null);
    match &call.params.filter {
        // What is null does not count.
        Some(filter) => {
            if matches!(name, "first_value" | "last_value" | "array_agg") && !ignores_nulls(call) {
                return Err(unsupported(&format!("{name} with filter"), "filter the rows before"));
            }
            Ok(Some(when(scope.expr(filter)?, value).end()))
        }
        None if rows => Ok(None),
        None => Ok(Some(value)),
    }
}

fn function(call: &TheirCall, column: Option<String>) -> Result<Aggregate, DataError> {
    let name = call.func.name();
    let Some(column) = column else { return Ok(aggregate::count()) };
    let ordered = !call.params.order_by.is_empty();
    if ordered && !matches!(name, "percentile_cont" | "approx_percentile_cont") {
        return Err(unsupported(&format!("{name} with order by"), "sort the rows before, or use min or max"));
    }
    if call.params.distinct {
        return match name {
            "count" => Ok(aggregate::count_distinct(column)),
            "min" => Ok(aggregate::min(column)),
            "max" => Ok(aggregate::max(column)),
            other => Err(unsupported(&format!("{other} of distinct values"), "select distinct before")),
        };
    }
    Ok(match name {
        "count" => aggregate::count_of(column),
        "sum" => aggregate::sum(column),
        "avg" => aggregate::mean(column),
        "min" => aggregate::min(column),
        "max" => aggregate::max(column),
        "stddev" => aggregate::std(column),
        "var" => aggregate::variance(column),
        "median" | "approx_median" => aggregate::median(column),
        "percentile_cont" | "approx_percentile_cont" => {
            aggregate::quantile(column, quantile(call)?.unwrap_or_default())
        }
        "approx_distinct" => aggregate::count_distinct(column),
        "any_value" => aggregate::first(column),
        "first_value" => aggregate::first(column).ignore_nulls(ignores_nulls(call)),
        "last_value" => aggregate::last(column).ignore_nulls(ignores_nulls(call)),
        "array_agg" => aggregate::collect(column).ignore_nulls(ignores_nulls(call)),
        other => return Err(unknown(other)),
    })
}

fn unknown(name: &str) -> DataError {
    unsupported(&format!("the aggregate {name}"), &format!("there are {}", NAMES.join(", ")))
}

fn ignores_nulls(call: &TheirCall) -> bool {
    call.params.null_treatment == Some(NullTreatment::IgnoreNulls)
}

/// The fraction that a percentile asks for.
fn quantile(call: &TheirCall) -> Result<Option<f64>, DataError> {
    let name = call.func.name();
    if !matches!(name, "percentile_cont" | "approx_percentile_cont") {
        return Ok(None);
    }
    let q = match call.params.args.get(1) {
        Some(Theirs::Literal(ScalarValue::Float64(Some(q)), _)) => *q,
        Some(Theirs::Literal(ScalarValue::Int64(Some(q)), _)) => *q as f64,
        _ => return Err(unsupported(&format!("{name} without a constant fraction"), "give it one from 0 to 1")),
    };
    if !(0.0..=1.0).contains(&q) {
        return Err(invalid(format!("{name} of the fraction {q}, which is not from 0 to 1")));
    }
    let descending = call.params.order_by.first().is_some_and(|sort| !sort.asc);
    Ok(Some(if descending { 1.0 - q } else { q }))
}

/// The aggregates there are, as DataFusion calls them, without their other names.
pub(super) const NAMES: [&str; 16] = [
    "any_value",
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "array_agg",
    "avg",
    "count",
    "first_value",
    "last_value",
    "max",
    "median",
    "min",
    "percentile_cont",
    "stddev",
    "sum",
    "var",
];
