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
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use datafusion_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions as physical;
use serde::{Deserialize, Serialize};

use crate::error::DataError;

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
        Expr::MinutesSince {
            end: Box::new(self),
            start: Box::new(start),
        }
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
            Expr::Binary { left, op, right } => {
                !op.is_arithmetic() && left.is_infallible() && right.is_infallible()
            }
            Expr::Not(e) | Expr::IsNull(e) | Expr::IsNotNull(e) => e.is_infallible(),
            Expr::Negative(_) | Expr::Cast(..) | Expr::MinutesSince { .. } => false,
        }
    }

    fn binary(self, op: BinaryOp, right: Expr) -> Expr {
        Expr::Binary {
            left: Box::new(self),
            op,
            right: Box::new(right),
        }
    }

    fn collect_columns<'a>(&'a self, names: &mut BTreeSet<&'a str>) {
        match self {
            Expr::Column(name) => {
                names.insert(name);
            }
            Expr::Literal(_) => {}
            Expr::Binary {
                left: a, right: b, ..
            }
            | Expr::MinutesSince { end: a, start: b } => {
                a.collect_columns(names);
                b.collect_columns(names);
            }
            Expr::Not(e)
            | Expr::Negative(e)
            | Expr::IsNull(e)
            | Expr::IsNotNull(e)
            | Expr::Cast(e, _) => {
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
            if e.precedence() < at_least {
                write!(f, "({e})")
            } else {
                write!(f, "{e}")
            }
        };
        match self {
            Expr::Column(name) => f.write_str(name),
            Expr::Literal(value) => write!(f, "{value}"),
            Expr::Binary { left, op, right } => {
                operand(f, left, op.precedence())?;
                write!(f, " {} ", op.symbol())?;
                // One more on the right: a - (b - c) keeps its parentheses.
                operand(
                    f,
                    right,
                    op.precedence() + u8::from(!matches!(op, BinaryOp::And | BinaryOp::Or)),
                )
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

/// An expression bound to a schema: columns found, types agreed, ready to run.
#[derive(Debug, Clone)]
pub struct BoundExpr {
    expr: Arc<dyn PhysicalExpr>,
    data_type: DataType,
    nullable: bool,
}

impl BoundExpr {
    /// Binds `expr` to the columns of `schema`. `operator` is named in errors.
    pub fn bind(expr: &Expr, schema: &Schema, operator: &str) -> Result<BoundExpr, DataError> {
        let expr = Binder { schema, operator }.bind(expr)?;
        let fail = |e: datafusion_common::DataFusionError| expression_error(operator, &e);
        let data_type = expr.data_type(schema).map_err(fail)?;
        let nullable = expr.nullable(schema).map_err(fail)?;
        Ok(BoundExpr {
            expr,
            data_type,
            nullable,
        })
    }

    /// Like [`bind`](Self::bind), for a condition: anything but a truth value is an error.
    pub fn bind_condition(
        expr: &Expr,
        schema: &Schema,
        operator: &str,
    ) -> Result<BoundExpr, DataError> {
        let bound = Self::bind(expr, schema, operator)?;
        match bound.data_type {
            DataType::Boolean => Ok(bound),
            ref other => Err(DataError::Expression {
                operator: operator.into(),
                cause: format!("a condition must be true or false, this is {other}"),
            }),
        }
    }

    /// The type of the values it gives.
    #[must_use]
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// The field that holds its values under `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Field {
        Field::new(name, self.data_type.clone(), self.nullable)
    }

    /// The value for every row of `batch`. The cause of a failure is returned as text: the
    /// caller knows operator and file.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, String> {
        self.expr
            .evaluate(batch)
            .and_then(|value| value.into_array(batch.num_rows()))
            .map_err(|e| e.strip_backtrace())
    }

    /// The rows of `batch` for which a condition is true; null counts as false.
    pub fn evaluate_mask(&self, batch: &RecordBatch) -> Result<BooleanArray, String> {
        let values = self.evaluate(batch)?;
        let mask = values
            .as_boolean_opt()
            .ok_or("the condition gave no truth values")?;
        Ok(if mask.null_count() > 0 {
            prep_null_mask_filter(mask)
        } else {
            mask.clone()
        })
    }
}

/// Translates our tree into DataFusion's, agreeing types on the way.
struct Binder<'a> {
    schema: &'a Schema,
    operator: &'a str,
}

impl Binder<'_> {
    fn bind(&self, expr: &Expr) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        Ok(match expr {
            Expr::Column(name) => match self.schema.index_of(name) {
                Ok(index) => Arc::new(physical::Column::new(name, index)),
                Err(_) => {
                    return Err(DataError::UnknownColumn {
                        operator: self.operator.into(),
                        column: name.clone(),
                        available: self
                            .schema
                            .fields()
                            .iter()
                            .map(|f| f.name().clone())
                            .collect(),
                    });
                }
            },
            Expr::Literal(value) => Arc::new(physical::Literal::new(value.to_datafusion())),
            Expr::Binary { left, op, right } => {
                self.binary(self.bind(left)?, op.to_datafusion(), self.bind(right)?)?
            }
            Expr::Not(e) => {
                let e = self.cast(self.bind(e)?, &DataType::Boolean)?;
                physical::not(e).map_err(|e| self.error(&e))?
            }
            Expr::Negative(e) => {
                physical::negative(self.bind(e)?, self.schema).map_err(|e| self.error(&e))?
            }
            Expr::IsNull(e) => physical::is_null(self.bind(e)?).map_err(|e| self.error(&e))?,
            Expr::IsNotNull(e) => {
                physical::is_not_null(self.bind(e)?).map_err(|e| self.error(&e))?
            }
            Expr::Cast(e, to) => self.cast(self.bind(e)?, &to.to_arrow())?,
            Expr::MinutesSince { end, start } => {
                let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
                let end = self.cast(self.bind(end)?, &timestamp)?;
                let start = self.cast(self.bind(start)?, &timestamp)?;
                let microseconds =
                    self.cast(self.binary(end, Operator::Minus, start)?, &DataType::Int64)?;
                let microseconds = self.cast(microseconds, &DataType::Float64)?;
                let minute = Arc::new(physical::Literal::new(ScalarValue::from(MINUTE_US)));
                self.binary(microseconds, Operator::Divide, minute)?
            }
        })
    }

    fn binary(
        &self,
        left: Arc<dyn PhysicalExpr>,
        op: Operator,
        right: Arc<dyn PhysicalExpr>,
    ) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        let left_type = left.data_type(self.schema).map_err(|e| self.error(&e))?;
        let right_type = right.data_type(self.schema).map_err(|e| self.error(&e))?;
        let (to_left, to_right) = BinaryTypeCoercer::new(&left_type, &op, &right_type)
            .get_input_types()
            .map_err(|e| self.error(&e))?;
        let left = self.cast(left, &to_left)?;
        let right = self.cast(right, &to_right)?;
        physical::binary(left, op, right, self.schema).map_err(|e| self.error(&e))
    }

    /// A constant is cast once, here; anything else when the plan runs.
    fn cast(
        &self,
        expr: Arc<dyn PhysicalExpr>,
        to: &DataType,
    ) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        if expr.data_type(self.schema).map_err(|e| self.error(&e))? == *to {
            return Ok(expr);
        }
        if let Some(literal) = expr.downcast_ref::<physical::Literal>() {
            let value = literal.value().cast_to(to).map_err(|e| self.error(&e))?;
            return Ok(Arc::new(physical::Literal::new(value)));
        }
        physical::cast(expr, self.schema, to.clone()).map_err(|e| self.error(&e))
    }

    fn error(&self, error: &datafusion_common::DataFusionError) -> DataError {
        expression_error(self.operator, error)
    }
}

fn expression_error(operator: &str, error: &datafusion_common::DataFusionError) -> DataError {
    DataError::Expression {
        operator: operator.into(),
        cause: error.strip_backtrace(),
    }
}

impl BinaryOp {
    fn is_arithmetic(self) -> bool {
        matches!(
            self,
            Self::Plus | Self::Minus | Self::Multiply | Self::Divide | Self::Modulo
        )
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

/// Microseconds in a minute.
const MINUTE_US: f64 = 60e6;

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int32Array, StringArray, TimestampNanosecondArray};
    use arrow::datatypes::{Float64Type, Int64Type};

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            (
                "fare",
                Arc::new(Float64Array::from(vec![
                    Some(2.5),
                    Some(-1.0),
                    None,
                    Some(9.0),
                ])) as ArrayRef,
                true,
            ),
            (
                "n",
                Arc::new(Int32Array::from(vec![1, 2, 3, 0])) as ArrayRef,
                true,
            ),
            (
                "flag",
                Arc::new(StringArray::from(vec!["Y", "N", "N", "Y"])) as ArrayRef,
                true,
            ),
            (
                "from",
                Arc::new(TimestampNanosecondArray::from(vec![
                    0,
                    0,
                    60_000_000_000,
                    0,
                ])) as ArrayRef,
                true,
            ),
            (
                "to",
                Arc::new(TimestampNanosecondArray::from(vec![
                    90_000_000_000,
                    0,
                    0,
                    3_600_000_000_000,
                ])) as ArrayRef,
                true,
            ),
        ])
        .unwrap()
    }

    fn mask(expr: Expr) -> Vec<bool> {
        let batch = batch();
        let bound = BoundExpr::bind_condition(&expr, &batch.schema(), "filter").unwrap();
        bound
            .evaluate_mask(&batch)
            .unwrap()
            .iter()
            .map(|v| v.unwrap())
            .collect()
    }

    #[test]
    fn a_null_does_not_pass_a_condition() {
        assert_eq!(
            mask(col("fare").gt_eq(lit(2.5))),
            [true, false, false, true]
        );
        assert_eq!(
            mask(!col("fare").gt_eq(lit(2.5))),
            [false, true, false, false]
        );
        assert_eq!(mask(col("fare").is_null()), [false, false, true, false]);
    }

    #[test]
    fn types_are_agreed_on() {
        assert_eq!(mask(col("n").gt(lit(1.5))), [false, true, true, false]);
        assert_eq!(mask(col("fare").gt(col("n"))), [true, false, false, true]);
        assert_eq!(
            mask(col("flag").eq(lit("Y")).or(col("n").eq(lit(2)))),
            [true, true, false, true]
        );
    }

    #[test]
    fn minutes_are_exact_and_may_be_negative() {
        let batch = batch();
        let expr = col("to").minutes_since(col("from"));
        let bound = BoundExpr::bind(&expr, &batch.schema(), "with_column").unwrap();
        let values = bound.evaluate(&batch).unwrap();
        assert_eq!(
            values.as_primitive::<Float64Type>().values()[..],
            [1.5, 0.0, -1.0, 60.0]
        );
    }

    #[test]
    fn a_constant_fills_the_batch() {
        let batch = batch();
        let bound = BoundExpr::bind(&lit(7), &batch.schema(), "with_column").unwrap();
        assert_eq!(
            bound
                .evaluate(&batch)
                .unwrap()
                .as_primitive::<Int64Type>()
                .values()[..],
            [7, 7, 7, 7]
        );
    }

    #[test]
    fn an_unknown_column_is_named_with_those_that_exist() {
        let error =
            BoundExpr::bind(&col("fair"), &batch().schema(), "filter(fair > 1)").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("fair") && text.contains("fare, n, flag, from, to"),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        let schema = batch().schema();
        for expr in [
            col("fare"),
            col("fare") + lit(1),
            col("flag").and(col("fare")),
        ] {
            assert!(matches!(
                BoundExpr::bind_condition(&expr, &schema, "filter"),
                Err(DataError::Expression { .. })
            ));
        }
    }

    #[test]
    fn dividing_whole_numbers_by_zero_fails_and_is_known_to() {
        let batch = batch();
        let expr = lit(1).eq(lit(6) / col("n"));
        assert!(!expr.is_infallible() && col("n").gt(lit(0)).is_infallible());
        let bound = BoundExpr::bind_condition(&expr, &batch.schema(), "filter").unwrap();
        assert!(
            bound
                .evaluate_mask(&batch)
                .unwrap_err()
                .to_lowercase()
                .contains("divide by zero")
        );
    }

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
        let expr = col("to")
            .minutes_since(col("from"))
            .gt(lit(1))
            .and(!col("flag").eq(lit("N")));
        let bytes = rmp_serde::to_vec(&expr).unwrap();
        assert_eq!(rmp_serde::from_slice::<Expr>(&bytes).unwrap(), expr);
        assert_eq!(
            expr.columns().into_iter().collect::<Vec<_>>(),
            ["flag", "from", "to"]
        );
    }
}
