//! DataFusion's plans as ours.
//!
//! Entry types: [`Converter`] and what it makes, [`Relation`]: a plan of ours, and which of its
//! columns is which of DataFusion's. DataFusion tells columns apart by the table they come from;
//! our plans do not, so where two would have the same name, one gets `_1` behind it, and a select
//! at the end gives it back where nobody minds.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::DFSchema;
use datafusion_expr::logical_plan::{Distinct, FetchType, Filter, Limit, Projection, SkipType, Sort, TableScan, Union};
use datafusion_expr::type_coercion::binary::type_union_coercion;
use datafusion_expr::utils::split_conjunction_owned;
use datafusion_expr::{Expr as Theirs, LogicalPlan as TheirPlan};

use super::expr::Scope;
use super::{invalid, planning_error, unsupported};
use crate::error::DataError;
use crate::expr::{BinaryOp, Expr, Kind, ValueType, balanced, col};
use crate::plan::{Exchange, LogicalPlan, Operator, SortKey};
use crate::schema::plain_type;
use crate::source::Source;
use crate::stack::deep;

/// A plan of ours, and where in it DataFusion's columns are.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) plan: LogicalPlan,
    /// What our plan calls the columns of DataFusion's, in their order.
    pub(super) columns: Vec<String>,
    /// All columns of our plan: those, and some that were only made to sort or join by.
    pub(super) output: Vec<String>,
}

impl Relation {
    /// A plan that has these columns and no others.
    pub(super) fn exact(plan: LogicalPlan, columns: Vec<String>) -> Self {
        Self { plan, output: columns.clone(), columns }
    }

    /// One more operator that leaves the columns as they are.
    pub(super) fn then(self, op: Operator) -> Self {
        Self { plan: self.plan.then(op), ..self }
    }

    /// One more column, called `name` or something like it; gives the name.
    pub(super) fn with_column(&mut self, name: &str, value: Expr) -> String {
        let name = unique(name.to_owned(), &mut self.output.iter().cloned().collect());
        let plan = std::mem::replace(&mut self.plan, LogicalPlan::Union { inputs: Vec::new() });
        self.plan = plan.with_column(name.clone(), value);
        self.output.push(name.clone());
        name
    }

    /// The column that holds `value`: itself, if it is one, or a new one called `name`.
    pub(super) fn column_of(&mut self, name: &str, value: Expr) -> String {
        match &value {
            Expr::Column(column) => column.clone(),
            _ => self.with_column(name, value),
        }
    }

    /// These columns, under these names; does nothing where that is what there is.
    pub(super) fn project(self, items: Vec<(String, Expr)>) -> Self {
        let mut taken = BTreeSet::new();
        let items: Vec<(String, Expr)> =
            items.into_iter().map(|(name, value)| (unique(name, &mut taken), value)).collect();
        let columns: Vec<String> = items.iter().map(|(name, _)| name.clone()).collect();
        let unchanged = items.iter().all(|(name, value)| matches!(value, Expr::Column(column) if column == name));
        let plan = match unchanged {
            true if columns == self.output => self.plan,
            true => self.plan.select(columns.clone()),
            false => self.plan.then(Operator::Project { columns: items }),
        };
        Self::exact(plan, columns)
    }

    /// The columns that DataFusion knows, and no others.
    fn trimmed(self) -> Self {
        let items = self.columns.iter().map(|name| (name.clone(), col(name))).collect();
        self.project(items)
    }

    /// The rows for which all conditions are true.
    fn filtered(self, conditions: Vec<Expr>) -> Self {
        match balanced(conditions, BinaryOp::And) {
            Some(condition) => self.then(Operator::Filter { condition }),
            None => self,
        }
    }
}

/// Translates DataFusion's plans over some tables.
pub(super) struct Converter<'a> {
    tables: &'a [(&'a str, LogicalPlan, SchemaRef)],
}

impl<'a> Converter<'a> {
    pub(super) fn new(tables: &'a [(&'a str, LogicalPlan, SchemaRef)]) -> Self {
        Self { tables }
    }

    /// The plan for a whole query.
    pub(super) fn query(&self, plan: &TheirPlan) -> Result<LogicalPlan, DataError> {
        Ok(self.relation(plan)?.trimmed().plan)
    }

    pub(super) fn relation(&self, plan: &TheirPlan) -> Result<Relation, DataError> {
        match plan {
            TheirPlan::Projection(projection) => self.projection(projection),
            TheirPlan::Filter(_) | TheirPlan::Join(_) => self.where_all(plan, Vec::new()),
            TheirPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            TheirPlan::Sort(sort) => self.sort(sort),
            TheirPlan::Limit(limit) => self.limit(limit),
            TheirPlan::Union(union) => self.union(union),
            TheirPlan::Distinct(Distinct::All(input)) => self.distinct(input),
            TheirPlan::SubqueryAlias(alias) => self.relation(&alias.input),
            TheirPlan::Subquery(query) => self.relation(&query.subquery),
            TheirPlan::TableScan(scan) => self.scan(scan),
            TheirPlan::EmptyRelation(empty) if empty.produce_one_row => {
                let one = LogicalPlan::Source(Source::Range { rows: 1, blocks: Some(1) });
                Ok(Relation { plan: one, columns: Vec::new(), output: vec!["id".into()] })
            }
            other => Err(refuse(other)),
        }
    }

    /// The rows of `plan` for which all `conditions` are true. Those that only one side of a join
    /// is needed for are looked at before it; those that compare both sides become its keys.
    pub(super) fn where_all(&self, plan: &TheirPlan, conditions: Vec<Theirs>) -> Result<Relation, DataError> {
        match plan {
            TheirPlan::Filter(Filter { predicate, input, .. }) => {
                let mut all = split_conjunction_owned(predicate.clone());
                all.extend(conditions);
                self.where_all(input, all)
            }
            TheirPlan::Join(join) => self.join(join, conditions),
            other => self.kept(self.relation(other)?, other.schema(), conditions),
        }
    }

    /// The rows of `relation` for which all `conditions` are true.
    pub(super) fn kept(
        &self,
        relation: Relation,
        schema: &DFSchema,
        conditions: Vec<Theirs>,
    ) -> Result<Relation, DataError> {
        let scope = Scope { schema, columns: &relation.columns };
        let mut plain = Vec::new();
        let mut queries = Vec::new();
        for condition in &conditions {
            match condition {
                Theirs::InSubquery(query) if !query.negated => queries.push((scope.expr(&query.expr)?, query)),
                other => plain.push(scope.expr(other)?),
            }
        }
        let kept = relation.filtered(plain);
        queries.into_iter().try_fold(kept, |kept, (value, query)| self.in_query(kept, value, &query.subquery))
    }

    fn projection(&self, projection: &Projection) -> Result<Relation, DataError> {
        let input = self.relation(&projection.input)?;
        let scope = Scope { schema: projection.input.schema(), columns: &input.columns };
        let mut items = Vec::with_capacity(projection.expr.len());
        for (index, expr) in projection.expr.iter().enumerate() {
            let name = match expr {
                Theirs::Alias(alias) => alias.name.clone(),
                // What comes from no table is called as it was computed here.
                Theirs::Column(column) if column.relation.is_none() => scope.column(column)?.to_owned(),
                _ => projection.schema.field(index).name().clone(),
            };
            items.push((name, scope.expr(expr)?));
        }
        Ok(input.project(items))
    }

    fn sort(&self, sort: &Sort) -> Result<Relation, DataError> {
        let mut input = self.relation(&sort.input)?;
        let mut keys: Vec<SortKey> = Vec::with_capacity(sort.expr.len());
        for by in &sort.expr {
            let value = Scope { schema: sort.input.schema(), columns: &input.columns }.expr(&by.expr)?;
            if matches!(value, Expr::Literal(_)) {
                continue;
            }
            let column = input.column_of("sort_key", value);
            if keys.iter().all(|key| key.column != column) {
                keys.push(SortKey { column, descending: !by.asc, nulls_first: by.nulls_first });
            }
        }
        if !keys.is_empty() {
            input.plan = input.plan.exchange(Exchange::Sort { keys });
        }
        Ok(match sort.fetch {
            Some(rows) => Relation { plan: limited(&input.plan, rows as u64), ..input },
            None => input,
        })
    }

    fn limit(&self, limit: &Limit) -> Result<Relation, DataError> {
        let input = self.relation(&limit.input)?;
        match limit.get_skip_type().map_err(|e| planning_error(&e))? {
            SkipType::Literal(0) => {}
            _ => return Err(unsupported("offset", "filter by a value that the rows are sorted by")),
        }
        match limit.get_fetch_type().map_err(|e| planning_error(&e))? {
            FetchType::Literal(None) => Ok(input),
            FetchType::Literal(Some(rows)) => Ok(Relation { plan: limited(&input.plan, rows as u64), ..input }),
            FetchType::UnsupportedExpr => Err(unsupported("limit of an expression", "write a number")),
        }
    }

    fn distinct(&self, input: &TheirPlan) -> Result<Relation, DataError> {
        let input = self.relation(input)?;
        let keys: Vec<String> = input.columns.clone();
        let distinct = Exchange::Aggregate { keys: keys.clone(), aggregates: Vec::new() };
        Ok(Relation::exact(input.plan.exchange(distinct), keys))
    }

    fn union(&self, union: &Union) -> Result<Relation, DataError> {
        let Some((first, others)) = union.inputs.split_first() else { return Err(invalid("union of nothing")) };
        let first_input = self.relation(first)?;
        let names = first_input.columns.clone();
        let mut types: Vec<DataType> = types(first);
        for other in others {
            for ((common, found), name) in types.iter_mut().zip(self::types(other)).zip(&names) {
                *common = both(common, &found).ok_or_else(|| {
                    invalid(format!("union: column {name} is {common} here and {found} there; cast one of them"))
                })?;
            }
        }
        let mut inputs = Vec::with_capacity(union.inputs.len());
        let mut add = |plan: LogicalPlan| match &plan {
            LogicalPlan::Union { inputs: below } => inputs.extend(below.iter().cloned()),
            _ => inputs.push(Arc::new(plan)),
        };
        add(self.alike(first_input, first, &names, &types)?);
        for other in others {
            add(self.alike(self.relation(other)?, other, &names, &types)?);
        }
        Ok(Relation::exact(LogicalPlan::Union { inputs }, names))
    }

    /// An input of a union, with these names and types.
    fn alike(
        &self,
        relation: Relation,
        plan: &TheirPlan,
        names: &[String],
        wanted: &[DataType],
    ) -> Result<LogicalPlan, DataError> {
        let mut items = Vec::with_capacity(names.len());
        for (((name, column), found), wanted) in names.iter().zip(&relation.columns).zip(types(plan)).zip(wanted) {
            let value = col(column);
            let value = match found == *wanted {
                true => value,
                false => value.cast(
                    ValueType::from_arrow(wanted)
                        .ok_or_else(|| unsupported(&format!("a union of {found} and {wanted}"), "cast one of them"))?,
                ),
            };
            items.push((name.clone(), value));
        }
        Ok(relation.project(items).plan)
    }

    fn scan(&self, scan: &TableScan) -> Result<Relation, DataError> {
        let name = scan.table_name.to_string();
        let table = self.tables.iter().find(|(known, ..)| *known == name);
        let (_, plan, schema) = table.ok_or_else(|| invalid(format!("there is no table {name}")))?;
        let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
        Ok(Relation::exact(plan.clone(), columns))
    }
}

/// The first rows of `plan`, taken before their columns are changed: a limit right behind a sort
/// need not sort everything.
fn limited(plan: &LogicalPlan, rows: u64) -> LogicalPlan {
    deep(|| match plan {
        LogicalPlan::Op { input, op: op @ (Operator::Select { .. } | Operator::Project { .. }) } => {
            limited(input, rows).then(op.clone())
        }
        other => other.clone().limit(rows),
    })
}

/// `name`, or `name_1` and so on where it is taken.
pub(super) fn unique(name: String, taken: &mut BTreeSet<String>) -> String {
    let mut found = name.clone();
    let mut count = 0;
    while !taken.insert(found.clone()) {
        count += 1;
        found = format!("{name}_{count}");
    }
    found
}

/// The types of a plan's columns, as far as DataFusion knows them before it casts.
fn types(plan: &TheirPlan) -> Vec<DataType> {
    plan.schema().fields().iter().map(|field| plain_type(field.data_type())).collect()
}

/// The type of a column that holds values of both.
fn both(one: &DataType, other: &DataType) -> Option<DataType> {
    let (left, right) = (Kind::of(one), Kind::of(other));
    let alike = left == right || left == Kind::Null || right == Kind::Null;
    alike.then(|| type_union_coercion(one, other)).flatten()
}

/// Says what a plan is that has no counterpart here.
fn refuse(plan: &TheirPlan) -> DataError {
    match plan {
        TheirPlan::Window(_) => unsupported("a window function", "group the rows and join the result"),
        TheirPlan::Distinct(Distinct::On(_)) => unsupported("distinct on", "group by the columns"),
        TheirPlan::Unnest(_) => unsupported("unnest", ""),
        TheirPlan::Values(_) => unsupported("values (..)", "pass the rows as a table"),
        TheirPlan::RecursiveQuery(_) => unsupported("with recursive", ""),
        other => {
            let text = other.display().to_string();
            unsupported(text.split([':', ' ']).next().unwrap_or(&text), "")
        }
    }
}
