//! Expressions as trees, however deep.
//!
//! A fold over a thousand columns makes a tree of a thousand levels, in whatever thread its user
//! has. So it is cloned, compared, printed and dropped without a stack that is as deep. Whether it
//! can run is told when its plan is looked at ([`Expr::check_levels`]).

use std::fmt;

use super::{BinaryOp, Expr, LEVELS, Scalar, ValueType};
use crate::error::DataError;
use crate::stack::deep;

impl Expr {
    /// The expressions right below this one, from left to right.
    #[must_use]
    pub fn operands(&self) -> Vec<&Expr> {
        match self {
            Expr::Column(_) | Expr::Literal(_) => Vec::new(),
            Expr::Binary { left: a, right: b, .. }
            | Expr::MinutesSince { end: a, start: b }
            | Expr::Like { expr: a, pattern: b, .. } => vec![a, b],
            Expr::Not(e) | Expr::Negative(e) | Expr::IsNull(e) | Expr::IsNotNull(e) => vec![e],
            Expr::Cast(e, _) | Expr::TryCast(e, _) => vec![e],
            Expr::Function { args, .. } => args.iter().collect(),
            Expr::InList { expr, list, .. } => std::iter::once(expr.as_ref()).chain(list).collect(),
            Expr::Case { branches, otherwise } => {
                let branches = branches.iter().flat_map(|(condition, value)| [condition, value]);
                branches.chain(otherwise.as_deref()).collect()
            }
        }
    }

    fn operands_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            Expr::Column(_) | Expr::Literal(_) => Vec::new(),
            Expr::Binary { left: a, right: b, .. }
            | Expr::MinutesSince { end: a, start: b }
            | Expr::Like { expr: a, pattern: b, .. } => vec![a.as_mut(), b.as_mut()],
            Expr::Not(e) | Expr::Negative(e) | Expr::IsNull(e) | Expr::IsNotNull(e) => vec![e.as_mut()],
            Expr::Cast(e, _) | Expr::TryCast(e, _) => vec![e.as_mut()],
            Expr::Function { args, .. } => args.iter_mut().collect(),
            Expr::InList { expr, list, .. } => std::iter::once(expr.as_mut()).chain(list).collect(),
            Expr::Case { branches, otherwise } => {
                let branches = branches.iter_mut().flat_map(|(condition, value)| [condition, value]);
                branches.chain(otherwise.as_deref_mut()).collect()
            }
        }
    }

    /// How many levels the tree has. A chain of `and` or of `or` is one of them, however long.
    pub(crate) fn levels(&self) -> usize {
        let mut deepest = 0;
        let mut waiting = vec![(self, 1)];
        while let Some((expr, level)) = waiting.pop() {
            deepest = deepest.max(level);
            match expr {
                Expr::Binary { op: op @ (BinaryOp::And | BinaryOp::Or), .. } => {
                    waiting.extend(expr.chain(*op).into_iter().map(|operand| (operand, level + 1)));
                }
                other => waiting.extend(other.operands().into_iter().map(|operand| (operand, level + 1))),
            }
        }
        deepest
    }

    /// Refuses a tree that is too deep to be bound, in the name of `operator`.
    pub(crate) fn check_levels(&self, operator: impl FnOnce() -> String) -> Result<(), DataError> {
        match self.levels() {
            0..=LEVELS => Ok(()),
            levels => Err(DataError::Expression {
                operator: operator(),
                cause: format!("an expression of {levels} levels, where {LEVELS} can be used: make a column of a part"),
            }),
        }
    }

    /// The operands of a chain of `op`, from left to right: `a`, `b` and `c` of `a and b and c`.
    pub(crate) fn chain(&self, op: BinaryOp) -> Vec<&Expr> {
        let mut operands = Vec::new();
        let mut waiting = vec![self];
        while let Some(expr) = waiting.pop() {
            match expr {
                Expr::Binary { left, op: found, right } if *found == op => {
                    waiting.extend([right.as_ref(), left.as_ref()])
                }
                other => operands.push(other),
            }
        }
        operands
    }

    /// Makes every chain of `and` and of `or` a tree that is as deep as it need be: whoever sends one
    /// on, or asks it of statistics, calls himself for every level.
    pub(crate) fn balance(&mut self) {
        deep(|| {
            let Expr::Binary { op: op @ (BinaryOp::And | BinaryOp::Or), .. } = self else {
                return self.operands_mut().into_iter().for_each(Expr::balance);
            };
            let op = *op;
            let mut operands = self.take_chain(op);
            operands.iter_mut().for_each(Expr::balance);
            if let Some(tree) = balanced(operands, op) {
                *self = tree;
            }
        });
    }

    /// As [`chain`](Self::chain), leaving nothing of the tree.
    fn take_chain(&mut self, op: BinaryOp) -> Vec<Expr> {
        let mut operands = Vec::new();
        let mut waiting = vec![self.take()];
        while let Some(mut expr) = waiting.pop() {
            match &mut expr {
                Expr::Binary { left, op: found, right } if *found == op => {
                    let (left, right) = (left.take(), right.take());
                    waiting.extend([right, left]);
                }
                _ => operands.push(expr),
            }
        }
        operands
    }

    /// The expression, of which nothing is left in its place.
    fn take(&mut self) -> Expr {
        std::mem::replace(self, Expr::Literal(Scalar::Null))
    }

    /// The expression without its operands.
    fn head(&self) -> Head<'_> {
        match self {
            Expr::Column(name) => Head::Column(name),
            Expr::Literal(value) => Head::Literal(value),
            Expr::Binary { op, .. } => Head::Binary(*op),
            Expr::Not(_) => Head::Not,
            Expr::Negative(_) => Head::Negative,
            Expr::IsNull(_) => Head::IsNull,
            Expr::IsNotNull(_) => Head::IsNotNull,
            Expr::Cast(_, to) => Head::Cast(*to),
            Expr::MinutesSince { .. } => Head::MinutesSince,
            Expr::Function { name, .. } => Head::Function(name),
            Expr::Case { branches, otherwise } => {
                Head::Case { branches: branches.len(), otherwise: otherwise.is_some() }
            }
            Expr::InList { negated, .. } => Head::InList { negated: *negated },
            Expr::Like { negated, ignore_case, .. } => Head::Like { negated: *negated, ignore_case: *ignore_case },
            Expr::TryCast(_, to) => Head::TryCast(*to),
        }
    }
}

/// A chain of `op` that is as deep as a tree need be: a thousand conditions make ten levels.
pub(crate) fn balanced(mut operands: Vec<Expr>, op: BinaryOp) -> Option<Expr> {
    if operands.len() <= 1 {
        return operands.pop();
    }
    let right = operands.split_off(operands.len().div_ceil(2));
    match (balanced(operands, op), balanced(right, op)) {
        (Some(left), Some(right)) => Some(left.binary(op, right)),
        (one, other) => one.or(other),
    }
}

/// What an expression is, whatever it is of.
#[derive(Debug, PartialEq)]
enum Head<'a> {
    Column(&'a str),
    Literal(&'a Scalar),
    Binary(BinaryOp),
    Not,
    Negative,
    IsNull,
    IsNotNull,
    Cast(ValueType),
    MinutesSince,
    Function(&'a str),
    Case { branches: usize, otherwise: bool },
    InList { negated: bool },
    Like { negated: bool, ignore_case: bool },
    TryCast(ValueType),
}

impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        let mut waiting = vec![(self, other)];
        while let Some((one, other)) = waiting.pop() {
            let (operands, others) = (one.operands(), other.operands());
            if one.head() != other.head() || operands.len() != others.len() {
                return false;
            }
            waiting.extend(operands.into_iter().zip(others));
        }
        true
    }
}

/// `Binary(Gt)[Column("fare"), Literal(Int64(2))]`: unlike what is printed for people, it tells all
/// that decides the result.
impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        deep(|| {
            write!(f, "{:?}", self.head())?;
            match self.operands() {
                operands if operands.is_empty() => Ok(()),
                operands => f.debug_list().entries(operands).finish(),
            }
        })
    }
}

impl Clone for Expr {
    fn clone(&self) -> Self {
        deep(|| match self {
            Expr::Column(name) => Expr::Column(name.clone()),
            Expr::Literal(value) => Expr::Literal(value.clone()),
            Expr::Binary { left, op, right } => Expr::Binary { left: left.clone(), op: *op, right: right.clone() },
            Expr::Not(e) => Expr::Not(e.clone()),
            Expr::Negative(e) => Expr::Negative(e.clone()),
            Expr::IsNull(e) => Expr::IsNull(e.clone()),
            Expr::IsNotNull(e) => Expr::IsNotNull(e.clone()),
            Expr::Cast(e, to) => Expr::Cast(e.clone(), *to),
            Expr::MinutesSince { end, start } => Expr::MinutesSince { end: end.clone(), start: start.clone() },
            Expr::Function { name, args } => Expr::Function { name: name.clone(), args: args.clone() },
            Expr::Case { branches, otherwise } => {
                Expr::Case { branches: branches.clone(), otherwise: otherwise.clone() }
            }
            Expr::InList { expr, list, negated } => {
                Expr::InList { expr: expr.clone(), list: list.clone(), negated: *negated }
            }
            Expr::Like { expr, pattern, negated, ignore_case } => Expr::Like {
                expr: expr.clone(),
                pattern: pattern.clone(),
                negated: *negated,
                ignore_case: *ignore_case,
            },
            Expr::TryCast(e, to) => Expr::TryCast(e.clone(), *to),
        })
    }
}

/// One after the other, not each in the drop of the one above it.
impl Drop for Expr {
    fn drop(&mut self) {
        let mut waiting: Vec<Expr> = Vec::new();
        self.take_trees(&mut waiting);
        while let Some(mut expr) = waiting.pop() {
            expr.take_trees(&mut waiting);
        }
    }
}

impl Expr {
    /// Takes the operands that have some themselves.
    fn take_trees(&mut self, taken: &mut Vec<Expr>) {
        let is_leaf = |expr: &Expr| matches!(expr, Expr::Column(_) | Expr::Literal(_));
        taken.extend(self.operands_mut().into_iter().filter(|operand| !is_leaf(operand)).map(Expr::take));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{col, func, lit, when};

    /// More levels than a thread of a test has stack for.
    const DEEP: usize = 50_000;

    fn fold(step: impl Fn(Expr, i64) -> Expr) -> Expr {
        (0..DEEP as i64).fold(col("n"), step)
    }

    #[test]
    fn a_deep_expression_can_be_held_and_is_refused() {
        let sums = fold(|sum, n| sum + lit(n));
        let calls = fold(|call, _| func("abs", [call]));
        let cases = fold(|case, n| when(col("n").eq(lit(n)), lit(n)).otherwise(case));
        for expr in [sums, calls, cases] {
            let again = expr.clone();
            assert_eq!(again, expr);
            assert_ne!(again, expr.clone() + lit(1));
            assert!(expr.to_string().len() > DEEP);
            assert!(format!("{expr:?}").len() > DEEP);
            assert_eq!(expr.columns().into_iter().collect::<Vec<_>>(), ["n"]);
            let error = expr.check_levels(|| "filter".into()).unwrap_err().to_string();
            assert!(error.starts_with("filter: an expression of 5000"), "{error}");
        }
    }

    #[test]
    fn a_long_chain_is_one_level_and_can_be_sent() {
        for op in [BinaryOp::And, BinaryOp::Or] {
            let mut chain = fold(|chain, n| chain.binary(op, col("n").gt(lit(n))));
            let text = chain.to_string();
            assert_eq!(chain.levels(), 3);
            assert!(chain.is_infallible());
            chain.balance();
            assert_eq!(chain.to_string(), text);
            let bytes = rmp_serde::to_vec(&chain).unwrap();
            assert_eq!(rmp_serde::from_slice::<Expr>(&bytes).unwrap(), chain);
        }
    }

    #[test]
    fn balancing_goes_below_what_is_no_chain() {
        let chain = || (0..9).map(|n| col("n").eq(lit(n))).reduce(Expr::or).unwrap();
        let mut expr = (!chain()).and(when(chain(), chain()).end().is_null());
        let text = expr.to_string();
        expr.balance();
        assert_eq!(expr.to_string(), text);
        assert!(!format!("{expr:?}").contains("Null)"), "{expr:?}");
    }

    #[test]
    fn what_differs_is_not_equal() {
        let all = [
            col("a"),
            lit("a"),
            lit(2),
            lit(2.0),
            col("a") + col("b"),
            col("b") + col("a"),
            col("a") - col("b"),
            !col("a"),
            -col("a"),
            col("a").is_null(),
            col("a").is_not_null(),
            col("a").cast(ValueType::Int64),
            col("a").cast(ValueType::Int32),
            col("a").try_cast(ValueType::Int64),
            col("a").minutes_since(col("b")),
            func("f", [col("a")]),
            func("g", [col("a")]),
            func("f", [col("a"), col("a")]),
            when(col("a"), col("b")).end(),
            when(col("a"), col("b")).otherwise(col("c")),
            when(col("a"), col("b")).when(col("c"), col("d")).end(),
            col("a").is_in(["x"]),
            col("a").not_in(["x"]),
            col("a").like("x"),
            col("a").ilike("x"),
        ];
        for (i, one) in all.iter().enumerate() {
            for (j, other) in all.iter().enumerate() {
                assert_eq!(one == other, i == j, "{one:?} and {other:?}");
                assert_eq!(format!("{one:?}") == format!("{other:?}"), i == j, "{one:?} and {other:?}");
            }
            assert_eq!(one.clone(), *one);
        }
    }
}
