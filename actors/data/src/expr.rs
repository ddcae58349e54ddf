//! Expressions over the columns of a batch.
//!
//! Entry types: [`Expr`], made by [`col`], [`lit`], [`func`], [`when`] and the methods on it, and
//! [`BoundExpr`], an expression bound to a schema. An `Expr` is a small tree of plain data, so
//! that a plan can be printed and shipped to another process; evaluating it is DataFusion's work.
//! It knows nothing of rows outside the batch: aggregates and windows are not expressions.
//!
//! ```
//! use mobula_data::expr::{col, lit};
//! let keep = col("fare_amount").gt_eq(lit(2.5)).and(col("trip_distance").gt(lit(0.0)));
//! assert_eq!(keep.to_string(), "fare_amount >= 2.5 and trip_distance > 0");
//! ```

use std::collections::BTreeSet;
use std::ops;

use serde::{Deserialize, Serialize};

pub(crate) mod agree;
mod bind;
mod functions;
mod methods;
mod print;
#[cfg(test)]
pub(crate) mod random;
mod scalar;
mod tree;
mod types;

pub(crate) use agree::Kind;
pub use bind::BoundExpr;
pub(crate) use functions::{
    all as all_functions, find as find_function, named as function_named, unknown as unknown_function,
};
pub use scalar::Scalar;
pub(crate) use tree::balanced;
pub use types::{TimeUnit, ValueType, Zone};

/// The column `name`.
#[must_use]
pub fn col(name: impl Into<String>) -> Expr {
    Expr::Column(name.into())
}

/// A constant.
#[must_use]
pub fn lit(value: impl Into<Scalar>) -> Expr {
    Expr::Literal(value.into())
}

/// A call of the function `name`, in any case: one of DataFusion's scalar functions, or `clip`.
/// Whether there is such a function, and whether the arguments fit, is found out when the
/// expression is bound.
///
/// ```
/// use mobula_data::expr::{col, func};
/// assert_eq!(func("date_part", ["hour".into(), col("at")]).to_string(), "date_part(\"hour\", at)");
/// ```
#[must_use]
pub fn func(name: impl Into<String>, args: impl IntoIterator<Item = Expr>) -> Expr {
    Expr::Function { name: name.into(), args: args.into_iter().collect() }
}

/// Numbers side by side as one list, whose length is the same in every row: what models are
/// trained with. The numbers have 32 bits where none of the values has more, and 64 otherwise.
///
/// ```
/// use mobula_data::expr::{col, vector};
/// assert_eq!(vector([col("x"), col("y")]).to_string(), "vector(x, y)");
/// ```
#[must_use]
pub fn vector(values: impl IntoIterator<Item = Expr>) -> Expr {
    func("vector", values)
}

/// `value` where `condition` is true. More branches may follow; the first that is true counts.
///
/// ```
/// use mobula_data::expr::{col, lit, when};
/// let size = when(col("miles").gt(lit(10)), lit("long")).otherwise(lit("short"));
/// assert_eq!(size.to_string(), "case when miles > 10 then \"long\" else \"short\" end");
/// ```
#[must_use]
pub fn when(condition: Expr, value: Expr) -> Branches {
    Branches(vec![(condition, value)])
}

/// The beginning of a [`Expr::Case`], made by [`when`].
#[derive(Debug, Clone, PartialEq)]
pub struct Branches(Vec<(Expr, Expr)>);

impl Branches {
    /// `value` where `condition` is true and none before it is.
    #[must_use]
    pub fn when(mut self, condition: Expr, value: Expr) -> Self {
        self.0.push((condition, value));
        self
    }

    /// `value` where no condition is true.
    #[must_use]
    pub fn otherwise(self, value: Expr) -> Expr {
        Expr::Case { branches: self.0, otherwise: Some(Box::new(value)) }
    }

    /// Null where no condition is true.
    #[must_use]
    pub fn end(self) -> Expr {
        Expr::Case { branches: self.0, otherwise: None }
    }
}

/// An expression over the columns of a batch.
#[derive(Serialize, Deserialize)]
#[non_exhaustive]
pub enum Expr {
    /// A column by name.
    Column(String),
    /// A constant.
    Literal(Scalar),
    /// Two expressions and what stands between them.
    Binary {
        /// Left operand.
        left: Box<Expr>,
        /// What is done with the two.
        op: BinaryOp,
        /// Right operand.
        right: Box<Expr>,
    },
    /// Logical negation; null stays null.
    Not(Box<Expr>),
    /// Arithmetic negation.
    Negative(Box<Expr>),
    /// True where the operand is null.
    IsNull(Box<Expr>),
    /// True where the operand is not null.
    IsNotNull(Box<Expr>),
    /// The operand as another type; a value that does not fit is an error.
    Cast(Box<Expr>, ValueType),
    /// Minutes from the second expression to the first, both timestamps, as a float.
    MinutesSince {
        /// The later time.
        end: Box<Expr>,
        /// The earlier time.
        start: Box<Expr>,
    },
    /// A call of a function by name.
    Function {
        /// The name, in any case.
        name: String,
        /// What it is called with.
        args: Vec<Expr>,
    },
    /// The value of the first branch whose condition is true.
    Case {
        /// Conditions and values.
        branches: Vec<(Expr, Expr)>,
        /// The value where no condition is true; null if there is none.
        otherwise: Option<Box<Expr>>,
    },
    /// Whether a value is one of some others.
    InList {
        /// The value.
        expr: Box<Expr>,
        /// The others.
        list: Vec<Expr>,
        /// Whether it is none of them.
        negated: bool,
    },
    /// Whether a text matches an SQL pattern.
    Like {
        /// The text.
        expr: Box<Expr>,
        /// The pattern: `%` stands for any characters and `_` for one.
        pattern: Box<Expr>,
        /// Whether it does not match.
        negated: bool,
        /// Capital and small letters are the same.
        ignore_case: bool,
    },
    /// The operand as another type; a value that does not fit is null.
    TryCast(Box<Expr>, ValueType),
}

/// What a binary expression does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum BinaryOp {
    /// `=`
    Eq,
    /// `!=`
    NotEq,
    /// `<`
    Lt,
    /// `<=`
    LtEq,
    /// `>`
    Gt,
    /// `>=`
    GtEq,
    /// Both.
    And,
    /// Either.
    Or,
    /// `+`
    Plus,
    /// `-`
    Minus,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Modulo,
    /// `||`: one text after the other.
    Concat,
    /// Not equal, where null equals null.
    IsDistinctFrom,
    /// Equal, where null equals null.
    IsNotDistinctFrom,
}

impl Expr {
    /// `self = other`
    #[must_use]
    pub fn eq(self, other: Expr) -> Expr {
        self.binary(BinaryOp::Eq, other)
    }

    /// `self != other`
    #[must_use]
    pub fn not_eq(self, other: Expr) -> Expr {
        self.binary(BinaryOp::NotEq, other)
    }

    /// `self < other`
    #[must_use]
    pub fn lt(self, other: Expr) -> Expr {
        self.binary(BinaryOp::Lt, other)
    }

    /// `self <= other`
    #[must_use]
    pub fn lt_eq(self, other: Expr) -> Expr {
        self.binary(BinaryOp::LtEq, other)
    }

    /// `self > other`
    #[must_use]
    pub fn gt(self, other: Expr) -> Expr {
        self.binary(BinaryOp::Gt, other)
    }

    /// `self >= other`
    #[must_use]
    pub fn gt_eq(self, other: Expr) -> Expr {
        self.binary(BinaryOp::GtEq, other)
    }

    /// True where both are; null where one is null and the other not false.
    #[must_use]
    pub fn and(self, other: Expr) -> Expr {
        self.binary(BinaryOp::And, other)
    }

    /// True where either is; null where one is null and the other not true.
    #[must_use]
    pub fn or(self, other: Expr) -> Expr {
        self.binary(BinaryOp::Or, other)
    }

    /// True where the value is null.
    #[must_use]
    pub fn is_null(self) -> Expr {
        Expr::IsNull(Box::new(self))
    }

    /// True where the value is not null.
    #[must_use]
    pub fn is_not_null(self) -> Expr {
        Expr::IsNotNull(Box::new(self))
    }

    /// `self != other`, where null equals null: never null.
    #[must_use]
    pub fn is_distinct_from(self, other: Expr) -> Expr {
        self.binary(BinaryOp::IsDistinctFrom, other)
    }

    /// `self = other`, where null equals null: never null.
    #[must_use]
    pub fn is_not_distinct_from(self, other: Expr) -> Expr {
        self.binary(BinaryOp::IsNotDistinctFrom, other)
    }

    /// The value as another type; what does not fit is an error when the plan runs.
    #[must_use]
    pub fn cast(self, to: ValueType) -> Expr {
        Expr::Cast(Box::new(self), to)
    }

    /// The value as another type; what does not fit is null.
    #[must_use]
    pub fn try_cast(self, to: ValueType) -> Expr {
        Expr::TryCast(Box::new(self), to)
    }

    /// Minutes from `start` to `self`, as a float: both are timestamps.
    #[must_use]
    pub fn minutes_since(self, start: Expr) -> Expr {
        Expr::MinutesSince { end: Box::new(self), start: Box::new(start) }
    }

    /// The columns the expression reads, sorted.
    #[must_use]
    pub fn columns(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        let mut waiting = vec![self];
        while let Some(expr) = waiting.pop() {
            if let Expr::Column(name) = expr {
                names.insert(name.as_str());
            }
            waiting.extend(expr.operands());
        }
        names
    }

    /// Whether evaluating it can never fail on a value, so that it may also be evaluated on
    /// rows which an earlier filter drops.
    #[must_use]
    pub fn is_infallible(&self) -> bool {
        let mut waiting = vec![self];
        while let Some(expr) = waiting.pop() {
            let may_fail = match expr {
                Expr::Binary { op, .. } => op.is_arithmetic(),
                // A pattern that is no constant may turn out not to be one.
                Expr::Like { pattern, .. } => !matches!(**pattern, Expr::Literal(_)),
                Expr::Negative(_) | Expr::Cast(..) | Expr::MinutesSince { .. } | Expr::Function { .. } => true,
                _ => false,
            };
            if may_fail {
                return false;
            }
            waiting.extend(expr.operands());
        }
        true
    }

    pub(crate) fn binary(self, op: BinaryOp, right: Expr) -> Expr {
        Expr::Binary { left: Box::new(self), op, right: Box::new(right) }
    }
}

/// A constant is an expression, too.
impl<T: Into<Scalar>> From<T> for Expr {
    fn from(value: T) -> Expr {
        lit(value)
    }
}

macro_rules! operator {
    ($($trait:ident $method:ident $op:ident),*) => {$(
        impl ops::$trait for Expr {
            type Output = Expr;
            fn $method(self, other: Expr) -> Expr { self.binary(BinaryOp::$op, other) }
        }
    )*};
}
operator!(Add add Plus, Sub sub Minus, Mul mul Multiply, Div div Divide, Rem rem Modulo);

impl ops::Not for Expr {
    type Output = Expr;
    fn not(self) -> Expr {
        Expr::Not(Box::new(self))
    }
}

impl ops::Neg for Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        Expr::Negative(Box::new(self))
    }
}

impl BinaryOp {
    fn is_arithmetic(self) -> bool {
        matches!(self, Self::Plus | Self::Minus | Self::Multiply | Self::Divide | Self::Modulo)
    }
}

/// How many levels an expression may have: what binds and evaluates it calls itself for each.
pub(crate) const LEVELS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_survives_the_wire() {
        let expr = col("to").minutes_since(col("from")).gt(lit(1)).and(!col("flag").eq(lit("N")));
        let bytes = rmp_serde::to_vec(&expr).unwrap();
        assert_eq!(rmp_serde::from_slice::<Expr>(&bytes).unwrap(), expr);
        assert_eq!(expr.columns().into_iter().collect::<Vec<_>>(), ["flag", "from", "to"]);
    }
}
