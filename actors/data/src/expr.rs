//! Expressions over the columns of a batch.
//!
//! Entry types: [`Expr`], made by [`col`], [`lit`] and the methods on it, and [`BoundExpr`],
//! an expression bound to a schema. An `Expr` is a small tree of plain data, so that a plan
//! can be printed and shipped to another process; evaluating it is DataFusion's work. It knows
//! nothing of rows outside the batch: aggregates and windows are not expressions.
//!
//! ```
//! use mobula_data::expr::{col, lit};
//! let keep = col("fare_amount").gt_eq(lit(2.5)).and(col("trip_distance").gt(lit(0.0)));
//! assert_eq!(keep.to_string(), "fare_amount >= 2.5 and trip_distance > 0");
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::ops;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use serde::{Deserialize, Serialize};

mod bind;

pub use bind::BoundExpr;

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

/// An expression over the columns of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
}

/// A constant in an expression.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Scalar {
    /// No value.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int64(i64),
    /// A floating-point number.
    Float64(f64),
    /// A text.
    String(String),
    /// A point in time without a zone, in microseconds since 1970.
    TimestampUs(i64),
}

/// A type that a cast may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ValueType {
    /// Truth values.
    Bool,
    /// 32-bit whole numbers.
    Int32,
    /// 64-bit whole numbers.
    Int64,
    /// 32-bit floating-point numbers.
    Float32,
    /// 64-bit floating-point numbers.
    Float64,
    /// Text.
    String,
    /// Microseconds since 1970 without a zone.
    TimestampUs,
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

    /// The value as another type; what does not fit is an error when the plan runs.
    #[must_use]
    pub fn cast(self, to: ValueType) -> Expr {
        Expr::Cast(Box::new(self), to)
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
        self.collect_columns(&mut names);
        names
    }

    /// Whether evaluating it can never fail on a value, so that it may also be evaluated on
    /// rows which an earlier filter drops.
    #[must_use]
    pub fn is_infallible(&self) -> bool {
        match self {
            Expr::Column(_) | Expr::Literal(_) => true,
            Expr::Binary { left, op, right } => !op.is_arithmetic() && left.is_infallible() && right.is_infallible(),
            Expr::Not(e) | Expr::IsNull(e) | Expr::IsNotNull(e) => e.is_infallible(),
            Expr::Negative(_) | Expr::Cast(..) | Expr::MinutesSince { .. } => false,
        }
    }

    fn binary(self, op: BinaryOp, right: Expr) -> Expr {
        Expr::Binary { left: Box::new(self), op, right: Box::new(right) }
    }

    fn collect_columns<'a>(&'a self, names: &mut BTreeSet<&'a str>) {
        match self {
            Expr::Column(name) => {
                names.insert(name);
            }
            Expr::Literal(_) => {}
            Expr::Binary { left: a, right: b, .. } | Expr::MinutesSince { end: a, start: b } => {
                a.collect_columns(names);
                b.collect_columns(names);
            }
            Expr::Not(e) | Expr::Negative(e) | Expr::IsNull(e) | Expr::IsNotNull(e) | Expr::Cast(e, _) => {
                e.collect_columns(names);
            }
        }
    }

    /// How tightly the expression holds together when printed: an operand that holds less
    /// tightly than what surrounds it goes into parentheses.
    fn precedence(&self) -> u8 {
        match self {
            Expr::Binary { op, .. } => op.precedence(),
            Expr::Not(_) => 3,
            Expr::IsNull(_) | Expr::IsNotNull(_) => 4,
            Expr::Negative(_) => 7,
            _ => 8,
        }
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

macro_rules! scalar_from {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Scalar {
            fn from(value: $from) -> Scalar { Scalar::$variant(value.into()) }
        }
    )*};
}
scalar_from!(bool => Bool, i8 => Int64, i16 => Int64, i32 => Int64, i64 => Int64, u8 => Int64, u16 => Int64,
    u32 => Int64, f32 => Float64, f64 => Float64, &str => String, String => String);

impl<T: Into<Scalar>> From<Option<T>> for Scalar {
    fn from(value: Option<T>) -> Scalar {
        value.map_or(Scalar::Null, Into::into)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operand = |f: &mut fmt::Formatter<'_>, e: &Expr, at_least: u8| {
            if e.precedence() < at_least { write!(f, "({e})") } else { write!(f, "{e}") }
        };
        match self {
            Expr::Column(name) => f.write_str(name),
            Expr::Literal(value) => write!(f, "{value}"),
            Expr::Binary { left, op, right } => {
                operand(f, left, op.precedence())?;
                write!(f, " {} ", op.symbol())?;
                // One more on the right: a - (b - c) keeps its parentheses.
                operand(f, right, op.precedence() + u8::from(!matches!(op, BinaryOp::And | BinaryOp::Or)))
            }
            Expr::Not(e) => {
                f.write_str("not ")?;
                operand(f, e, 4)
            }
            Expr::Negative(e) => {
                f.write_str("-")?;
                operand(f, e, 8)
            }
            Expr::IsNull(e) => {
                operand(f, e, 5)?;
                f.write_str(" is null")
            }
            Expr::IsNotNull(e) => {
                operand(f, e, 5)?;
                f.write_str(" is not null")
            }
            Expr::Cast(e, to) => write!(f, "cast({e} as {})", to.name()),
            Expr::MinutesSince { end, start } => write!(f, "minutes({start} to {end})"),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Null => f.write_str("null"),
            Scalar::Bool(v) => write!(f, "{v}"),
            Scalar::Int64(v) => write!(f, "{v}"),
            Scalar::Float64(v) => write!(f, "{v}"),
            Scalar::String(v) => write!(f, "{v:?}"),
            Scalar::TimestampUs(v) => write!(f, "timestamp_us({v})"),
        }
    }
}

impl BinaryOp {
    fn is_arithmetic(self) -> bool {
        matches!(self, Self::Plus | Self::Minus | Self::Multiply | Self::Divide | Self::Modulo)
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::NotEq => "!=",
            Self::Lt => "<",
            Self::LtEq => "<=",
            Self::Gt => ">",
            Self::GtEq => ">=",
            Self::And => "and",
            Self::Or => "or",
            Self::Plus => "+",
            Self::Minus => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
        }
    }

    fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Eq | Self::NotEq | Self::Lt | Self::LtEq | Self::Gt | Self::GtEq => 4,
            Self::Plus | Self::Minus => 5,
            Self::Multiply | Self::Divide | Self::Modulo => 6,
        }
    }

    fn to_datafusion(self) -> Operator {
        match self {
            Self::Eq => Operator::Eq,
            Self::NotEq => Operator::NotEq,
            Self::Lt => Operator::Lt,
            Self::LtEq => Operator::LtEq,
            Self::Gt => Operator::Gt,
            Self::GtEq => Operator::GtEq,
            Self::And => Operator::And,
            Self::Or => Operator::Or,
            Self::Plus => Operator::Plus,
            Self::Minus => Operator::Minus,
            Self::Multiply => Operator::Multiply,
            Self::Divide => Operator::Divide,
            Self::Modulo => Operator::Modulo,
        }
    }
}

impl Scalar {
    fn to_datafusion(&self) -> ScalarValue {
        match self {
            Scalar::Null => ScalarValue::Null,
            Scalar::Bool(v) => ScalarValue::from(*v),
            Scalar::Int64(v) => ScalarValue::from(*v),
            Scalar::Float64(v) => ScalarValue::from(*v),
            Scalar::String(v) => ScalarValue::from(v.as_str()),
            Scalar::TimestampUs(v) => ScalarValue::TimestampMicrosecond(Some(*v), None),
        }
    }
}

impl ValueType {
    fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::String => "string",
            Self::TimestampUs => "timestamp_us",
        }
    }

    pub(crate) fn to_arrow(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::String => DataType::Utf8,
            Self::TimestampUs => DataType::Timestamp(TimeUnit::Microsecond, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_keeps_the_meaning() {
        let expr = (col("a") - (col("b") - lit(1))) * lit(2.5);
        assert_eq!(expr.to_string(), "(a - (b - 1)) * 2.5");
        let expr = !(col("a").gt(lit(1)).or(col("s").eq(lit("x")))).and(col("b").is_null());
        assert_eq!(expr.to_string(), "not ((a > 1 or s = \"x\") and b is null)");
        assert_eq!((-(col("a") + col("b"))).to_string(), "-(a + b)");
    }

    #[test]
    fn an_expression_survives_the_wire() {
        let expr = col("to").minutes_since(col("from")).gt(lit(1)).and(!col("flag").eq(lit("N")));
        let bytes = rmp_serde::to_vec(&expr).unwrap();
        assert_eq!(rmp_serde::from_slice::<Expr>(&bytes).unwrap(), expr);
        assert_eq!(expr.columns().into_iter().collect::<Vec<_>>(), ["flag", "from", "to"]);
    }
}
