//! Joins: keys, and what else must hold.
//!
//! Our joins compare columns of one side with columns of the other, give the columns of the left
//! side and those of the right side that are no keys, and where rows of the right side stand alone
//! the left side's keys are filled from them. SQL keeps all columns as they are; so keys that a
//! query could look at afterwards are copies of their columns.

use datafusion_common::{JoinType, NullEquality};
use datafusion_expr::logical_plan::{Join as TheirJoin, JoinConstraint, Subquery};
use datafusion_expr::utils::split_conjunction_owned;
use datafusion_expr::{BinaryExpr, Expr as Theirs, LogicalPlan as TheirPlan, Operator as TheirOperator};

use super::expr::Scope;
use super::relation::{Converter, Relation, unique};
use super::{invalid, unsupported};
use crate::error::DataError;
use crate::expr::{Expr, lit};
use crate::plan::{Join, JoinKind, Operator};
use crate::schema::plain_type;

impl Converter<'_> {
    /// A join, and `above`, the conditions on its rows.
    pub(super) fn join(&self, join: &TheirJoin, above: Vec<Theirs>) -> Result<Relation, DataError> {
        let (kind, swapped) = kind_of(join)?;
        let (left, right) = if swapped { (&join.right, &join.left) } else { (&join.left, &join.right) };
        let mut conditions: Vec<Theirs> = join.filter.iter().cloned().flat_map(split_conjunction_owned).collect();
        let mut after = above;
        if kind == JoinKind::Inner {
            conditions.append(&mut after);
        }
        let mut sides = Sides::new(left, right);
        for (one, other) in &join.on {
            sides.keys.push(if swapped { (other.clone(), one.clone()) } else { (one.clone(), other.clone()) });
        }
        conditions.into_iter().try_for_each(|condition| sides.place(condition, kind))?;
        let (left_relation, right_relation) =
            (self.where_all(left, sides.on_left)?, self.where_all(right, sides.on_right)?);
        let (left, right) =
            (Side { relation: left_relation, plan: left }, Side { relation: right_relation, plan: right });
        let joined = put_together(left, right, kind, sides.keys)?;
        after.extend(sides.after);
        self.kept(joined, &join.schema, after)
    }

    /// The rows of `relation` for which `value` is in the only column of `query`.
    pub(super) fn in_query(
        &self,
        mut relation: Relation,
        value: Expr,
        query: &Subquery,
    ) -> Result<Relation, DataError> {
        if let Some(outer) = query.outer_ref_columns.first() {
            return Scope { schema: query.subquery.schema(), columns: &[] }.expr(outer).map(|_| relation);
        }
        let right = self.relation(&query.subquery)?;
        let [column] = right.columns.as_slice() else {
            return Err(invalid(format!("in (select ..) of {} columns: select one", right.columns.len())));
        };
        let key = relation.column_of("in_key", value);
        let join = on(JoinKind::Semi, vec![key], vec![column.clone()]);
        relation.plan = relation.plan.join(right.plan, join);
        Ok(relation)
    }
}

/// One side of a join, as DataFusion has it and as it is here.
struct Side<'a> {
    relation: Relation,
    plan: &'a TheirPlan,
}

impl Side<'_> {
    fn scope(&self) -> Scope<'_> {
        Scope { schema: self.plan.schema(), columns: &self.relation.columns }
    }
}

/// Conditions by the side that they are about.
struct Sides<'a> {
    left: &'a TheirPlan,
    right: &'a TheirPlan,
    keys: Vec<(Theirs, Theirs)>,
    on_left: Vec<Theirs>,
    on_right: Vec<Theirs>,
    after: Vec<Theirs>,
}

impl<'a> Sides<'a> {
    fn new(left: &'a TheirPlan, right: &'a TheirPlan) -> Self {
        Self { left, right, keys: Vec::new(), on_left: Vec::new(), on_right: Vec::new(), after: Vec::new() }
    }

    /// Puts a condition of the join where it is looked at.
    fn place(&mut self, condition: Theirs, kind: JoinKind) -> Result<(), DataError> {
        if let Theirs::BinaryExpr(BinaryExpr { left, op: TheirOperator::Eq, right }) = &condition {
            let pair = match (self.side(left), self.side(right)) {
                (Some(true), Some(false)) => Some((left, right)),
                (Some(false), Some(true)) => Some((right, left)),
                _ => None,
            };
            if let Some((left, right)) = pair {
                self.keys.push((left.as_ref().clone(), right.as_ref().clone()));
                return Ok(());
            }
        }
        // A row that does not meet a condition stays, alone, where its side is kept whole.
        let (drops_left, drops_right) = match kind {
            JoinKind::Inner | JoinKind::Semi => (true, true),
            JoinKind::Left | JoinKind::Anti => (false, true),
            JoinKind::Right => (true, false),
            JoinKind::Full => (false, false),
        };
        match self.side(&condition) {
            Some(true) if drops_left => self.on_left.push(condition),
            Some(false) if drops_right => self.on_right.push(condition),
            _ if kind == JoinKind::Inner => self.after.push(condition),
            _ => {
                return Err(unsupported(
                    &format!("the condition {condition} of this join"),
                    "only an inner join takes conditions that are not of the form left.column = right.column",
                ));
            }
        }
        Ok(())
    }

    /// Whether an expression is only about the left side; nothing if it is about both or neither.
    fn side(&self, expr: &Theirs) -> Option<bool> {
        let columns = expr.column_refs();
        let all = |plan: &TheirPlan| columns.iter().all(|column| plan.schema().has_column(column));
        match (columns.is_empty(), all(self.left), all(self.right)) {
            (false, true, false) => Some(true),
            (false, false, true) => Some(false),
            _ => None,
        }
    }
}

/// Which rows are kept, and whether the sides change places for it.
fn kind_of(join: &TheirJoin) -> Result<(JoinKind, bool), DataError> {
    if join.null_equality == NullEquality::NullEqualsNull {
        return Err(unsupported("intersect and except", "use left semi join or left anti join"));
    }
    if join.null_aware {
        return Err(unsupported("not in (select ..)", "use left anti join"));
    }
    match join.join_type {
        JoinType::Inner => Ok((JoinKind::Inner, false)),
        JoinType::Left => Ok((JoinKind::Left, false)),
        JoinType::Right | JoinType::Full if join.join_constraint == JoinConstraint::Using => {
            Err(unsupported("a right or full join with using", "use on, and coalesce for the keys"))
        }
        JoinType::Right => Ok((JoinKind::Right, false)),
        JoinType::Full => Ok((JoinKind::Full, false)),
        JoinType::LeftSemi => Ok((JoinKind::Semi, false)),
        JoinType::LeftAnti => Ok((JoinKind::Anti, false)),
        JoinType::RightSemi => Ok((JoinKind::Semi, true)),
        JoinType::RightAnti => Ok((JoinKind::Anti, true)),
        other => Err(unsupported(&format!("a {other} join"), "")),
    }
}

fn put_together(
    mut left: Side<'_>,
    mut right: Side<'_>,
    kind: JoinKind,
    keys: Vec<(Theirs, Theirs)>,
) -> Result<Relation, DataError> {
    let keeps_right_columns = !matches!(kind, JoinKind::Semi | JoinKind::Anti);
    if keeps_right_columns {
        rename_apart(&left.relation, &mut right.relation);
    }
    if keys.is_empty() && kind != JoinKind::Inner {
        let what = "a join without a condition of the form left.column = right.column";
        return Err(unsupported(what, "only an inner join does without"));
    }
    let mut names = Names::new(&left.relation, &right.relation);
    let (mut left_on, mut right_on) = (Vec::new(), Vec::new());
    // Columns of the right side that the left side has, too, since rows only meet where they are equal.
    let mut same: Vec<(String, String)> = Vec::new();
    for (one, other) in &keys {
        let (value, other_value) = (left.scope().expr(one)?, right.scope().expr(other)?);
        let left_key = match &value {
            Expr::Column(name) if !matches!(kind, JoinKind::Right | JoinKind::Full) => name.clone(),
            _ => names.with_key(&mut left.relation, value),
        };
        let equal = kind == JoinKind::Inner && type_of(&left, one) == type_of(&right, other);
        let right_key = match &other_value {
            Expr::Column(name) if !keeps_right_columns => name.clone(),
            Expr::Column(name) if equal && !right_on.contains(name) => {
                same.push((name.clone(), left_key.clone()));
                name.clone()
            }
            _ => names.with_key(&mut right.relation, other_value),
        };
        left_on.push(left_key);
        right_on.push(right_key);
    }
    if keys.is_empty() {
        // All rows meet in one place.
        left_on.push(names.with_key(&mut left.relation, lit(1)));
        right_on.push(names.with_key(&mut right.relation, lit(1)));
    }
    let (left, right) = (left.relation, right.relation);
    let (mut columns, mut output) = (left.columns, left.output);
    if keeps_right_columns {
        let moved = |name: &String| same.iter().find(|(from, _)| from == name).map_or(name, |(_, to)| to).clone();
        columns.extend(right.columns.iter().map(moved));
        output.extend(right.output.into_iter().filter(|name| !right_on.contains(name)));
    }
    Ok(Relation { plan: left.plan.join(right.plan, on(kind, left_on, right_on)), columns, output })
}

/// A join whose sides have no name in common.
fn on(kind: JoinKind, left_on: Vec<String>, right_on: Vec<String>) -> Join {
    Join { kind, left_on, right_on, suffix: "_right".into() }
}

/// Gives columns of the right side other names where the left side has the same ones.
fn rename_apart(left: &Relation, right: &mut Relation) {
    let mut taken = left.output.iter().chain(&right.output).cloned().collect();
    let clashes: Vec<(String, String)> = right
        .output
        .iter()
        .filter(|name| left.output.contains(name))
        .map(|name| (name.clone(), unique(name.clone(), &mut taken)))
        .collect();
    if clashes.is_empty() {
        return;
    }
    for name in right.columns.iter_mut().chain(&mut right.output) {
        if let Some((_, to)) = clashes.iter().find(|(from, _)| from == name) {
            name.clone_from(to);
        }
    }
    right.plan = right.plan.clone().then(Operator::Rename { columns: clashes });
}

/// The names that neither side may use again.
struct Names(std::collections::BTreeSet<String>);

impl Names {
    fn new(left: &Relation, right: &Relation) -> Self {
        Self(left.output.iter().chain(&right.output).cloned().collect())
    }

    /// A new column of one side to join by.
    fn with_key(&mut self, relation: &mut Relation, value: Expr) -> String {
        let name = match &value {
            Expr::Column(name) => format!("{name}_key"),
            _ => "join_key".into(),
        };
        let name = unique(name, &mut self.0);
        relation.with_column(&name, value)
    }
}

fn type_of(side: &Side<'_>, expr: &Theirs) -> Option<arrow::datatypes::DataType> {
    match expr {
        Theirs::Column(column) => {
            let index = side.plan.schema().maybe_index_of_column(column)?;
            Some(plain_type(side.plan.schema().field(index).data_type()))
        }
        _ => None,
    }
}
