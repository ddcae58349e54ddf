//! What the names of a query mean, before DataFusion looks at them.
//!
//! Entry point: [`settle`]. DataFusion would make all names small that are not quoted, and then
//! not find `PULocationID`. Here they are spelt as the table spells them, whatever their case,
//! unless several columns differ in nothing else. Columns without a name get the text of their
//! expression, without the names of tables.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion_sql::sqlparser::ast::{
    Expr, Function, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, TableAlias, TableFactor, TableWithJoins, Visit, VisitMut, Visitor, VisitorMut,
    visit_expressions_mut,
};

use super::{aggregate, context, invalid, unsupported};
use crate::error::DataError;
use crate::expr;
use crate::plan::LogicalPlan;

/// Spells the names in `query` as `tables` and the query itself define them.
pub(super) fn settle(query: &mut Query, tables: &[(&str, LogicalPlan, SchemaRef)]) -> Result<(), DataError> {
    let mut known = Known::new(tables);
    let _: ControlFlow<()> = Visit::visit(query, &mut known);
    match VisitMut::visit(query, &mut Speller(known)) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Spellings by what they are in small letters.
#[derive(Debug, Default)]
struct Spellings(BTreeMap<String, BTreeSet<String>>);

impl Spellings {
    fn add(&mut self, name: &str) {
        self.0.entry(name.to_lowercase()).or_default().insert(name.to_owned());
    }

    /// Spells `ident` the way it is known; says whether it is.
    fn spell(&self, ident: &mut Ident) -> Result<bool, DataError> {
        let Some(spellings) = self.0.get(&ident.value.to_lowercase()) else { return Ok(false) };
        if ident.quote_style.is_some() || spellings.contains(&ident.value) {
            return Ok(spellings.contains(&ident.value));
        }
        let mut all = spellings.iter();
        match (all.next(), all.next()) {
            (Some(only), None) => ident.value.clone_from(only),
            _ => {
                let all: Vec<_> = spellings.iter().map(|name| format!("\"{name}\"")).collect();
                return Err(invalid(format!(
                    "{} may mean {}: quote the one that is meant",
                    ident.value,
                    all.join(" or ")
                )));
            }
        }
        Ok(true)
    }
}

/// The names that a query may use.
struct Known<'a> {
    tables: BTreeMap<&'a str, &'a Schema>,
    /// Tables, and what the query calls them.
    relations: Spellings,
    /// The columns of a table by what the query calls it.
    columns: BTreeMap<String, Spellings>,
    /// All columns, and what the query calls columns of its own.
    names: Spellings,
}

impl<'a> Known<'a> {
    fn new(tables: &'a [(&str, LogicalPlan, SchemaRef)]) -> Self {
        let mut relations = Spellings::default();
        tables.iter().for_each(|(name, ..)| relations.add(name));
        let tables = tables.iter().map(|(name, _, schema)| (*name, schema.as_ref())).collect();
        Self { tables, relations, columns: BTreeMap::new(), names: Spellings::default() }
    }

    fn add_alias(&mut self, alias: &TableAlias) {
        self.relations.add(&alias.name.value);
        alias.columns.iter().for_each(|column| self.names.add(&column.name.value));
    }

    /// The columns of the table called `name` in any case.
    fn table(&self, name: &ObjectName) -> Option<(&'a str, &'a Schema)> {
        let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else { return None };
        let mut found = ident.clone();
        self.relations.spell(&mut found).ok()?;
        self.tables.get_key_value(found.value.as_str()).map(|(name, schema)| (*name, *schema))
    }
}

impl Visitor for Known<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
        ctes.for_each(|cte| self.add_alias(&cte.alias));
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        for item in &select.projection {
            if let SelectItem::ExprWithAlias { alias, .. } = item {
                self.names.add(&alias.value);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let alias = match factor {
            TableFactor::Table { alias, .. }
            | TableFactor::Derived { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => alias.as_ref(),
            _ => None,
        };
        alias.into_iter().for_each(|alias| self.add_alias(alias));
        if let TableFactor::Table { name, .. } = factor
            && let Some((table, schema)) = self.table(name)
        {
            let called = alias.map_or(table, |alias| alias.name.value.as_str());
            let columns = self.columns.entry(called.to_owned()).or_default();
            for field in schema.fields() {
                columns.add(field.name());
                self.names.add(field.name());
            }
        }
        ControlFlow::Continue(())
    }
}

/// Changes the names of a query.
struct Speller<'a>(Known<'a>);

impl Speller<'_> {
    /// The name of a table, or what stands for one before a `.`.
    fn relation(&self, name: &mut ObjectName) -> Result<(), DataError> {
        if let [ObjectNamePart::Identifier(ident)] = name.0.as_mut_slice() {
            self.0.relations.spell(ident)?;
        }
        Ok(())
    }

    fn expr(&self, expr: &mut Expr) -> Result<(), DataError> {
        match expr {
            Expr::Identifier(ident) => self.0.names.spell(ident).map(|_| ()),
            Expr::CompoundIdentifier(parts) => self.compound(parts),
            Expr::Function(function) => self.function(function),
            _ => Ok(()),
        }
    }

    /// `table.column`, or `column.field`.
    fn compound(&self, parts: &mut [Ident]) -> Result<(), DataError> {
        let [first, rest @ ..] = parts else { return Ok(()) };
        if !self.0.relations.spell(first)? {
            return self.0.names.spell(first).map(|_| ());
        }
        let Some(column) = rest.first_mut() else { return Ok(()) };
        if let Some(columns) = self.0.columns.get(&first.value)
            && columns.spell(column)?
        {
            return Ok(());
        }
        self.0.names.spell(column).map(|_| ())
    }

    fn function(&self, function: &mut Function) -> Result<(), DataError> {
        if function.over.is_some() {
            return Err(unsupported(
                &format!("{} with over (a window function)", function.name),
                "group the rows and join the result",
            ));
        }
        if let [ObjectNamePart::Identifier(ident)] = function.name.0.as_mut_slice()
            && ident.quote_style.is_none()
        {
            ident.value = ident.value.to_ascii_lowercase();
            if !context::is_function(&ident.value) {
                return Err(invalid(expr::unknown_function(&ident.value, &aggregate::NAMES)));
            }
        }
        Ok(())
    }

    /// The columns that `using` names.
    fn using(&self, tables: &mut [TableWithJoins]) -> Result<(), DataError> {
        for join in tables.iter_mut().flat_map(|table| &mut table.joins) {
            if let Some(JoinConstraint::Using(columns)) = constraint(&mut join.join_operator) {
                for part in columns.iter_mut().flat_map(|name| &mut name.0) {
                    if let ObjectNamePart::Identifier(ident) = part {
                        self.0.names.spell(ident)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn select(&self, select: &mut Select) -> Result<(), DataError> {
        self.using(&mut select.from)?;
        for item in &mut select.projection {
            if let SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) = item {
                self.relation(name)?;
            }
        }
        Ok(())
    }
}

fn constraint(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)
        | JoinOperator::LeftSemi(constraint)
        | JoinOperator::LeftAnti(constraint) => Some(constraint),
        _ => None,
    }
}

impl VisitorMut for Speller<'_> {
    type Break = DataError;

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<DataError> {
        flow(self.relation(relation))
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataError> {
        flow(self.expr(expr))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<DataError> {
        flow(self.select(select))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<DataError> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => {
                flow(self.using(std::slice::from_mut(table_with_joins)))
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<DataError> {
        name_columns(&mut select.projection);
        ControlFlow::Continue(())
    }
}

fn flow(result: Result<(), DataError>) -> ControlFlow<DataError> {
    result.map_or_else(ControlFlow::Break, ControlFlow::Continue)
}

/// Gives columns that are neither named nor columns of a table the text of their expression, and
/// a column that is selected twice another name.
fn name_columns(items: &mut [SelectItem]) {
    let mut taken: BTreeSet<String> = items.iter().filter_map(name_of).collect();
    let mut selected: Vec<Expr> = Vec::new();
    for item in items {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let name = match column_of(expr) {
            Some(column) if selected.contains(expr) => column,
            Some(_) => {
                selected.push(expr.clone());
                continue;
            }
            None => text(expr),
        };
        let alias = Ident::new(super::relation::unique(name, &mut taken));
        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
    }
}

fn name_of(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        SelectItem::UnnamedExpr(expr) => column_of(expr),
        _ => None,
    }
}

/// The column that an expression is, if it is no more than that.
fn column_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(ident.value.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().map(|ident| ident.value.clone()),
        Expr::Nested(expr) => column_of(expr),
        _ => None,
    }
}

/// The expression as it is written, without the names of tables.
fn text(expr: &Expr) -> String {
    let mut expr = expr.clone();
    let _: ControlFlow<()> = visit_expressions_mut(&mut expr, |expr| {
        if let Expr::CompoundIdentifier(parts) = expr
            && let Some(last) = parts.pop()
        {
            *expr = Expr::Identifier(last);
        }
        ControlFlow::Continue(())
    });
    expr.to_string()
}
