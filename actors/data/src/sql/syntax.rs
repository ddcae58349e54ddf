//! What has to be put right in a query as it was parsed.
//!
//! Entry point: [`tidy`]. Clauses that DataFusion passes over in silence are refused, since the
//! answer would be one to another question.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, LimitClause, OrderByKind, Query, Select, SelectItem, SetExpr, TableFactor,
    UnaryOperator, VisitMut, VisitorMut,
};

use super::unsupported;
use crate::error::DataError;

/// Refuses clauses that nobody would look at, and puts right what is parsed in a wrong order.
/// Columns must have been named before.
pub(super) fn tidy(query: &mut Query) -> Result<(), DataError> {
    match VisitMut::visit(query, &mut Tidy) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Tidy;

impl VisitorMut for Tidy {
    type Break = DataError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataError> {
        order_by_columns(query);
        let limit_by =
            matches!(&query.limit_clause, Some(LimitClause::LimitOffset { limit_by, .. }) if !limit_by.is_empty());
        refuse(&[
            ("for update and for share", !query.locks.is_empty()),
            ("for xml and for json", query.for_clause.is_some()),
            ("settings", query.settings.is_some()),
            ("format", query.format_clause.is_some()),
            ("|>", !query.pipe_operators.is_empty()),
            ("limit by", limit_by),
            ("fetch first", query.fetch.is_some()),
        ])
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<DataError> {
        refuse(&[
            ("select into", select.into.is_some()),
            ("top", select.top.is_some()),
            ("prewhere", select.prewhere.is_some()),
            ("connect by", !select.connect_by.is_empty()),
            ("distribute by", !select.distribute_by.is_empty()),
            ("cluster by", !select.cluster_by.is_empty()),
            ("sort by", !select.sort_by.is_empty()),
            ("lateral view", !select.lateral_views.is_empty()),
        ])
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<DataError> {
        let TableFactor::Table {
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
            ..
        } = factor
        else {
            return ControlFlow::Continue(());
        };
        refuse(&[
            ("a table function", args.is_some()),
            ("with (hints)", !with_hints.is_empty() || !index_hints.is_empty()),
            ("a version of a table", version.is_some()),
            ("with ordinality", *with_ordinality),
            ("partition", !partitions.is_empty()),
            ("a path behind a table", json_path.is_some()),
            ("tablesample", sample.is_some()),
        ])
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataError> {
        lift(expr);
        ControlFlow::Continue(())
    }
}

fn refuse(clauses: &[(&str, bool)]) -> ControlFlow<DataError> {
    match clauses.iter().find(|(_, used)| *used) {
        Some((clause, _)) => ControlFlow::Break(unsupported(clause, "")),
        None => ControlFlow::Continue(()),
    }
}

/// `a is distinct from b and c` is parsed as `a is distinct from (b and c)`, where everybody else
/// reads `(a is distinct from b) and c`. What was not in parentheses is put there: an `and` or
/// `or` at the end of what holds more tightly goes around it.
fn lift(expr: &mut Expr) {
    let Some((own, last)) = last_operand(expr) else { return };
    let Expr::BinaryOp { op, .. } = last.as_ref() else { return };
    if precedence(op).is_none_or(|below| below >= own) {
        return;
    }
    let below = std::mem::replace(last.as_mut(), Expr::Identifier(Ident::new("")));
    let Expr::BinaryOp { left: first, op, right } = below else { return };
    *last = first;
    let mut left = std::mem::replace(expr, Expr::Identifier(Ident::new("")));
    lift(&mut left);
    *expr = Expr::BinaryOp { left: Box::new(left), op, right };
}

/// How tightly an expression holds its last operand, and that operand.
fn last_operand(expr: &mut Expr) -> Option<(u8, &mut Box<Expr>)> {
    match expr {
        Expr::IsDistinctFrom(_, last) | Expr::IsNotDistinctFrom(_, last) => Some((4, last)),
        Expr::UnaryOp { op: UnaryOperator::Not, expr: last } => Some((3, last)),
        Expr::BinaryOp { op, right: last, .. } => Some((precedence(op)?, last)),
        _ => None,
    }
}

/// How tightly the operators hold that an operand may have taken in wrongly.
fn precedence(op: &BinaryOperator) -> Option<u8> {
    match op {
        BinaryOperator::Or => Some(1),
        BinaryOperator::And => Some(2),
        _ => None,
    }
}

/// `select distinct upper(x) .. order by upper(x)` is ordered by the column that was selected.
fn order_by_columns(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    let Some(OrderByKind::Expressions(keys)) = query.order_by.as_mut().map(|by| &mut by.kind) else { return };
    if select.distinct.is_none() {
        return;
    }
    for key in keys {
        let selected = select.projection.iter().find_map(|item| match item {
            SelectItem::ExprWithAlias { expr, alias } if *expr == key.expr => Some(alias.clone()),
            _ => None,
        });
        if let Some(alias) = selected {
            key.expr = Expr::Identifier(alias);
        }
    }
}
