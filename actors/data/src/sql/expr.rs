//! DataFusion's expressions as ours.
//!
//! Entry type: [`Scope`], the columns that an expression may name, and its [`Scope::expr`]. Types
//! are not looked at: binding does that.

use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::expr::{Between, BinaryExpr, Case, InList, Like, ScalarFunction};
use datafusion_expr::{Expr as Theirs, Operator};

use super::{invalid, planning_error, unsupported};
use crate::error::DataError;
use crate::expr::{self, BinaryOp, Expr, LEVELS, Scalar, ValueType, balanced, func, lit};

/// The columns that an expression may name.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// What DataFusion calls them.
    pub(super) schema: &'a DFSchema,
    /// What our plan calls them, in the same order.
    pub(super) columns: &'a [String],
}

type Converted = Result<Expr, DataError>;

impl Scope<'_> {
    /// The column of our plan that DataFusion calls `column`.
    pub(super) fn column(&self, column: &datafusion_common::Column) -> Result<&str, DataError> {
        let index = self.schema.index_of_column(column).map_err(|e| planning_error(&e))?;
        let name = self.columns.get(index).ok_or_else(|| invalid(format!("column {column} is not in the plan")))?;
        Ok(name)
    }

    /// The same expression, as one of ours.
    pub(super) fn expr(&self, expr: &Theirs) -> Converted {
        let converted = self.converted(expr)?;
        match converted.levels() {
            0..=LEVELS => Ok(converted),
            levels => Err(invalid(format!(
                "an expression of {levels} levels, where {LEVELS} can be used: compute a part of it in a query in from"
            ))),
        }
    }

    fn converted(&self, expr: &Theirs) -> Converted {
        let truth = |e: &Theirs, op: BinaryOp, value: bool| Ok(self.converted(e)?.binary(op, lit(value)));
        match expr {
            Theirs::Column(column) => Ok(Expr::Column(self.column(column)?.to_owned())),
            Theirs::Alias(alias) => self.converted(&alias.expr),
            Theirs::Literal(value, _) => literal(value),
            Theirs::BinaryExpr(BinaryExpr { left, op, right }) => self.binary(left, *op, right),
            Theirs::Not(e) => Ok(!self.converted(e)?),
            Theirs::Negative(e) => Ok(match self.converted(e)? {
                Expr::Literal(Scalar::Int64(v)) => v.checked_neg().map_or_else(|| -lit(v), lit),
                Expr::Literal(Scalar::Float64(v)) => lit(-v),
                other => -other,
            }),
            Theirs::IsNull(e) | Theirs::IsUnknown(e) => Ok(self.converted(e)?.is_null()),
            Theirs::IsNotNull(e) | Theirs::IsNotUnknown(e) => Ok(self.converted(e)?.is_not_null()),
            Theirs::IsTrue(e) => truth(e, BinaryOp::IsNotDistinctFrom, true),
            Theirs::IsNotTrue(e) => truth(e, BinaryOp::IsDistinctFrom, true),
            Theirs::IsFalse(e) => truth(e, BinaryOp::IsNotDistinctFrom, false),
            Theirs::IsNotFalse(e) => truth(e, BinaryOp::IsDistinctFrom, false),
            Theirs::Between(between) => self.between(between),
            Theirs::Like(like) => self.like(like),
            Theirs::Case(case) => self.case(case),
            Theirs::Cast(cast) => self.cast(&cast.expr, cast.field.data_type(), false),
            Theirs::TryCast(cast) => self.cast(&cast.expr, cast.field.data_type(), true),
            Theirs::ScalarFunction(call) => self.call(call),
            Theirs::InList(InList { expr, list, negated }) => {
                Ok(self.converted(expr)?.member(self.exprs(list)?, *negated))
            }
            other => Err(refuse(other)),
        }
    }

    fn exprs(&self, exprs: &[Theirs]) -> Result<Vec<Expr>, DataError> {
        exprs.iter().map(|e| self.converted(e)).collect()
    }

    fn binary(&self, left: &Theirs, op: Operator, right: &Theirs) -> Converted {
        if let (Operator::And | Operator::Or | Operator::StringConcat, Some(ours)) = (op, binary_op(op)) {
            let mut operands = Vec::new();
            chain(left, op, &mut operands);
            chain(right, op, &mut operands);
            let operands = operands.into_iter().map(|e| self.converted(e)).collect::<Result<_, _>>()?;
            return Ok(balanced(operands, ours).unwrap_or(lit(true)));
        }
        let (one, other) = (self.converted(left)?, self.converted(right)?);
        if let Some(op) = binary_op(op) {
            return Ok(one.binary(op, other));
        }
        let matches = |flags: &str| func("regexp_like", [one.clone(), other.clone(), lit(flags)]);
        match op {
            Operator::RegexMatch => Ok(func("regexp_like", [one, other])),
            Operator::RegexNotMatch => Ok(!func("regexp_like", [one, other])),
            Operator::RegexIMatch => Ok(matches("i")),
            Operator::RegexNotIMatch => Ok(!matches("i")),
            Operator::LikeMatch => Ok(one.like(other)),
            Operator::ILikeMatch => Ok(one.ilike(other)),
            Operator::NotLikeMatch => Ok(!one.like(other)),
            Operator::NotILikeMatch => Ok(!one.ilike(other)),
            other => Err(unsupported(&format!("the operator {other}"), "")),
        }
    }

    fn between(&self, between: &Between) -> Converted {
        let (value, low, high) =
            (self.converted(&between.expr)?, self.converted(&between.low)?, self.converted(&between.high)?);
        Ok(if between.negated { value.clone().lt(low).or(value.gt(high)) } else { value.between(low, high) })
    }

    fn like(&self, like: &Like) -> Converted {
        if like.escape_char.is_some_and(|escape| escape != '\\') {
            return Err(unsupported("like with escape", "a backslash stands before % and _ that mean themselves"));
        }
        Ok(Expr::Like {
            expr: Box::new(self.converted(&like.expr)?),
            pattern: Box::new(self.converted(&like.pattern)?),
            negated: like.negated,
            ignore_case: like.case_insensitive,
        })
    }

    fn case(&self, case: &Case) -> Converted {
        let subject = case.expr.as_ref().map(|e| self.converted(e)).transpose()?;
        let mut branches = Vec::with_capacity(case.when_then_expr.len());
        for (when, then) in &case.when_then_expr {
            let when = self.converted(when)?;
            let condition = match &subject {
                Some(subject) => subject.clone().eq(when),
                None => when,
            };
            branches.push((condition, self.converted(then)?));
        }
        let otherwise = case.else_expr.as_ref().map(|e| self.converted(e).map(Box::new)).transpose()?;
        Ok(Expr::Case { branches, otherwise })
    }

    /// A constant is cast here where one of ours holds the result: filters then see a date, not a
    /// text that will be one.
    fn cast(&self, expr: &Theirs, to: &arrow::datatypes::DataType, may_fail: bool) -> Converted {
        let value_type = ValueType::from_arrow(to).ok_or_else(|| unsupported(&format!("a cast to {to}"), ""))?;
        let expr = self.converted(expr)?;
        if let Expr::Literal(value) = &expr
            && *value != Scalar::Null
        {
            match value.to_datafusion().cast_to(to) {
                Ok(cast) => {
                    let folded = Scalar::from_datafusion(&cast).filter(|folded| folded.to_datafusion() == cast);
                    if let Some(folded) = folded {
                        return Ok(Expr::Literal(folded));
                    }
                }
                Err(e) if !may_fail => return Err(planning_error(&e)),
                Err(_) => {}
            }
        }
        Ok(if may_fail { expr.try_cast(value_type) } else { expr.cast(value_type) })
    }

    fn call(&self, call: &ScalarFunction) -> Converted {
        expr::find_function(call.func.name()).map_err(invalid)?;
        Ok(func(call.func.name(), self.exprs(&call.args)?))
    }
}

/// The operands of a chain of `op`, from left to right.
fn chain<'a>(expr: &'a Theirs, op: Operator, operands: &mut Vec<&'a Theirs>) {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        match expr {
            Theirs::BinaryExpr(BinaryExpr { left, op: found, right }) if *found == op => {
                waiting.extend([&**right, &**left])
            }
            other => operands.push(other),
        }
    }
}

fn literal(value: &ScalarValue) -> Converted {
    let scalar = Scalar::from_datafusion(value);
    scalar.map(Expr::Literal).ok_or_else(|| unsupported(&format!("a constant of type {}", value.data_type()), ""))
}

fn binary_op(op: Operator) -> Option<BinaryOp> {
    Some(match op {
        Operator::Eq => BinaryOp::Eq,
        Operator::NotEq => BinaryOp::NotEq,
        Operator::Lt => BinaryOp::Lt,
        Operator::LtEq => BinaryOp::LtEq,
        Operator::Gt => BinaryOp::Gt,
        Operator::GtEq => BinaryOp::GtEq,
        Operator::Plus => BinaryOp::Plus,
        Operator::Minus => BinaryOp::Minus,
        Operator::Multiply => BinaryOp::Multiply,
        Operator::Divide => BinaryOp::Divide,
        Operator::Modulo => BinaryOp::Modulo,
        Operator::And => BinaryOp::And,
        Operator::Or => BinaryOp::Or,
        Operator::IsDistinctFrom => BinaryOp::IsDistinctFrom,
        Operator::IsNotDistinctFrom => BinaryOp::IsNotDistinctFrom,
        Operator::StringConcat => BinaryOp::Concat,
        _ => return None,
    })
}

/// Says what an expression is that has no counterpart here.
fn refuse(expr: &Theirs) -> DataError {
    let join = "join with the query instead";
    match expr {
        Theirs::ScalarSubquery(_) => unsupported("a query as a value", join),
        Theirs::Exists(_) => unsupported("exists (select ..)", "use left semi join or left anti join"),
        Theirs::InSubquery(_) => unsupported(
            "in (select ..) anywhere but as a condition of where, or not in (select ..)",
            "use left semi join or left anti join",
        ),
        Theirs::SetComparison(_) => unsupported("a comparison with all or any rows of a query", join),
        Theirs::OuterReferenceColumn(_, column) => {
            unsupported(&format!("{column} of the outer query inside a query (a correlated query)"), join)
        }
        Theirs::AggregateFunction(_) => unsupported(&format!("{expr} at this place"), ""),
        Theirs::WindowFunction(_) => unsupported("a window function", "group the rows and join the result"),
        Theirs::GroupingSet(_) => unsupported("grouping sets, rollup and cube", "union the groupings"),
        Theirs::Placeholder(placeholder) => {
            unsupported(&format!("the placeholder {}", placeholder.id), "write the value into the query")
        }
        Theirs::SimilarTo(_) => unsupported("similar to", "use regexp_like(text, pattern)"),
        Theirs::Unnest(_) => unsupported("unnest", ""),
        other => unsupported(&format!("the expression {other}"), ""),
    }
}
