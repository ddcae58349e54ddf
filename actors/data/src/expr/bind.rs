//! Binding an expression to a schema, and evaluating it: DataFusion's work.
//!
//! Entry type: [`BoundExpr`]. What is ours is the care about types before: [`super::agree`] says
//! what may be put together, DataFusion to which type both sides are cast, and here the casts are
//! made: of constants once, of columns for every batch. Whole numbers that grow too large are an
//! error, not a wrong number.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion_common::{DataFusionError, ScalarValue};
use datafusion_expr::Operator;
use datafusion_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions as physical;

use crate::error::DataError;
use crate::expr::agree::{self, Kind};
use crate::expr::{BinaryOp, Expr};
use crate::stack::deep;
use crate::words::plain;

mod calls;
mod coalesce;
mod index_of;
#[cfg(test)]
mod tests;
mod vector;
mod zero;

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
        expr.check_levels(|| operator.into())?;
        let expr = Binder { schema, operator }.bind(expr)?;
        let fail = |e: DataFusionError| expression_error(operator, &e);
        let data_type = expr.data_type(schema).map_err(fail)?;
        let nullable = expr.nullable(schema).map_err(fail)?;
        Ok(BoundExpr { expr, data_type, nullable })
    }

    /// Like [`bind`](Self::bind), for a condition: anything but a truth value is an error.
    pub fn bind_condition(expr: &Expr, schema: &Schema, operator: &str) -> Result<BoundExpr, DataError> {
        let bound = Self::bind(expr, schema, operator)?;
        match bound.data_type {
            DataType::Boolean => Ok(bound),
            ref other => {
                let no_value = || format!("{expr} is null where true or false is needed");
                let cause = agree::truth(expr, other).err().unwrap_or_else(no_value);
                Err(DataError::Expression { operator: operator.into(), cause })
            }
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
        self.expr.evaluate(batch).and_then(|value| value.into_array(batch.num_rows())).map_err(|e| plain(&e))
    }

    /// The rows of `batch` for which a condition is true; null counts as false.
    pub fn evaluate_mask(&self, batch: &RecordBatch) -> Result<BooleanArray, String> {
        let values = self.evaluate(batch)?;
        let mask = values.as_boolean_opt().ok_or("the condition gave no truth values")?;
        Ok(if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() })
    }
}

/// An expression of DataFusion's, and the type of its values.
struct Typed {
    expr: Arc<dyn PhysicalExpr>,
    data_type: DataType,
}

/// Translates our tree into DataFusion's, agreeing types on the way.
struct Binder<'a> {
    schema: &'a Schema,
    operator: &'a str,
}

impl Binder<'_> {
    fn bind(&self, expr: &Expr) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        deep(|| {
            Ok(match expr {
                Expr::Column(name) => self.column(name)?,
                Expr::Literal(value) => literal(value.to_datafusion()),
                Expr::Binary { left, op, right } => self.binary(expr, left, *op, right)?,
                Expr::Not(e) => physical::not(self.condition(e)?).map_err(|e| self.error(&e))?,
                Expr::Negative(e) => self.negative(expr, e)?,
                Expr::IsNull(e) => physical::is_null(self.bind(e)?).map_err(|e| self.error(&e))?,
                Expr::IsNotNull(e) => physical::is_not_null(self.bind(e)?).map_err(|e| self.error(&e))?,
                Expr::Cast(e, to) => self.cast(self.bind(e)?, &to.to_arrow())?,
                Expr::TryCast(e, to) => self.try_cast(self.bind(e)?, &to.to_arrow())?,
                Expr::MinutesSince { end, start } => self.minutes(end, start)?,
                Expr::Function { name, args } => self.function(expr, name, args)?,
                Expr::Case { branches, otherwise } => self.case(expr, branches, otherwise.as_deref())?,
                Expr::InList { expr: member, list, negated } => self.in_list(expr, member, list, *negated)?,
                Expr::Like { .. } => self.like(expr)?,
            })
        })
    }

    fn column(&self, name: &str) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        match self.schema.index_of(name) {
            Ok(index) => Ok(Arc::new(physical::Column::new(name, index))),
            Err(_) => Err(DataError::UnknownColumn {
                operator: self.operator.into(),
                column: name.into(),
                available: self.schema.fields().iter().map(|f| f.name().clone()).collect(),
            }),
        }
    }

    fn typed(&self, expr: &Expr) -> Result<Typed, DataError> {
        let expr = self.bind(expr)?;
        let data_type = self.type_of(&expr)?;
        Ok(Typed { expr, data_type })
    }

    fn type_of(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<DataType, DataError> {
        expr.data_type(self.schema).map_err(|e| self.error(&e))
    }

    /// An expression that must be true or false.
    fn condition(&self, expr: &Expr) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        let bound = self.typed(expr)?;
        agree::truth(expr, &bound.data_type).map_err(|cause| self.refuse(cause))?;
        self.cast(bound.expr, &DataType::Boolean)
    }

    fn binary(
        &self,
        whole: &Expr,
        left: &Expr,
        op: BinaryOp,
        right: &Expr,
    ) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        if matches!(op, BinaryOp::And | BinaryOp::Or) {
            return self.chain(whole.chain(op), op);
        }
        let (mut one, mut other) = (self.typed(left)?, self.typed(right)?);
        agree::put_together(whole, op, (left, &one.data_type), (right, &other.data_type))
            .map_err(|cause| self.refuse(cause))?;
        if !op.is_arithmetic() && op != BinaryOp::Concat {
            self.read_text(&mut one, &other.data_type)?;
            self.read_text(&mut other, &one.data_type)?;
        }
        agree::meet(whole, op, (left, &one.data_type), (right, &other.data_type))
            .map_err(|cause| self.refuse(cause))?;
        self.operate(one.expr, op.to_datafusion(), other.expr)
    }

    fn negative(&self, whole: &Expr, operand: &Expr) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        let bound = self.typed(operand)?;
        agree::negate(whole, (operand, &bound.data_type)).map_err(|cause| self.refuse(cause))?;
        physical::negative(bound.expr, self.schema).map_err(|e| self.error(&e))
    }

    /// `and` or `or` between all conditions, as a tree that is no deeper than it need be.
    fn chain(&self, conditions: Vec<&Expr>, op: BinaryOp) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        let mut bound: Vec<_> = conditions.into_iter().map(|e| self.condition(e)).collect::<Result<_, _>>()?;
        while bound.len() > 1 {
            let mut pairs = Vec::with_capacity(bound.len().div_ceil(2));
            let mut operands = bound.into_iter();
            while let Some(left) = operands.next() {
                pairs.push(match operands.next() {
                    Some(right) => self.operate(left, op.to_datafusion(), right)?,
                    None => left,
                });
            }
            bound = pairs;
        }
        bound.pop().ok_or_else(|| self.refuse(format!("{} of nothing", op.symbol())))
    }

    /// Puts `op` between two expressions, cast to what it needs.
    fn operate(
        &self,
        left: Arc<dyn PhysicalExpr>,
        op: Operator,
        right: Arc<dyn PhysicalExpr>,
    ) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        let (left_type, right_type) = (self.type_of(&left)?, self.type_of(&right)?);
        let (to_left, to_right) =
            BinaryTypeCoercer::new(&left_type, &op, &right_type).get_input_types().map_err(|e| self.error(&e))?;
        let (mut left, mut right) = (self.cast(left, &to_left)?, self.cast(right, &to_right)?);
        if zero::counts(op) && to_left.is_floating() {
            (left, right) = zero::comparable(left, op, right, &to_left).map_err(|e| self.error(&e))?;
        }
        Ok(Arc::new(physical::BinaryExpr::new(left, op, right).with_fail_on_overflow(true)))
    }

    /// Reads a constant text as the value it stands for beside one of type `beside`.
    fn read_text(&self, text: &mut Typed, beside: &DataType) -> Result<(), DataError> {
        if Kind::of(&text.data_type) != Kind::Text || !Kind::of(beside).is_read_from_text() {
            return Ok(());
        }
        let Some(constant) = text.expr.downcast_ref::<physical::Literal>() else { return Ok(()) };
        let to = |data_type: &DataType| constant.value().cast_to(data_type);
        let nanoseconds = |zone: &Option<Arc<str>>| DataType::Timestamp(TimeUnit::Nanosecond, zone.clone());
        let finest = match beside {
            DataType::Timestamp(_, zone) => nanoseconds(zone),
            // A text with a time in it is later than the day it names.
            DataType::Date32 | DataType::Date64 => nanoseconds(&None),
            other => other.clone(),
        };
        let coarse = to(beside).map_err(|e| self.error(&e))?;
        let value = match to(&finest) {
            // The coarser type is kept where it says the same: the column then needs no cast.
            Ok(fine) if coarse.cast_to(&finest).is_ok_and(|again| again != fine) => fine,
            _ => coarse,
        };
        text.data_type = value.data_type();
        text.expr = literal(value);
        Ok(())
    }

    fn minutes(&self, end: &Expr, start: &Expr) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
        let end = self.cast(self.bind(end)?, &timestamp)?;
        let start = self.cast(self.bind(start)?, &timestamp)?;
        let microseconds = self.cast(self.operate(end, Operator::Minus, start)?, &DataType::Int64)?;
        let microseconds = self.cast(microseconds, &DataType::Float64)?;
        self.operate(microseconds, Operator::Divide, literal(ScalarValue::from(MINUTE_US)))
    }

    /// A constant is cast once, here; anything else when the plan runs.
    fn cast(&self, expr: Arc<dyn PhysicalExpr>, to: &DataType) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        if self.type_of(&expr)? == *to {
            return Ok(expr);
        }
        if let Some(constant) = expr.downcast_ref::<physical::Literal>() {
            return Ok(literal(constant.value().cast_to(to).map_err(|e| self.error(&e))?));
        }
        physical::cast(expr, self.schema, to.clone()).map_err(|e| self.error(&e))
    }

    fn try_cast(&self, expr: Arc<dyn PhysicalExpr>, to: &DataType) -> Result<Arc<dyn PhysicalExpr>, DataError> {
        physical::try_cast(expr, self.schema, to.clone()).map_err(|e| self.error(&e))
    }

    fn error(&self, error: &DataFusionError) -> DataError {
        expression_error(self.operator, error)
    }

    fn refuse(&self, cause: String) -> DataError {
        DataError::Expression { operator: self.operator.into(), cause }
    }
}

impl BinaryOp {
    pub(crate) fn to_datafusion(self) -> Operator {
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
            Self::Concat => Operator::StringConcat,
            Self::IsDistinctFrom => Operator::IsDistinctFrom,
            Self::IsNotDistinctFrom => Operator::IsNotDistinctFrom,
        }
    }
}

fn literal(value: ScalarValue) -> Arc<dyn PhysicalExpr> {
    Arc::new(physical::Literal::new(value))
}

fn expression_error(operator: &str, error: &DataFusionError) -> DataError {
    DataError::Expression { operator: operator.into(), cause: plain(error) }
}

/// Microseconds in a minute.
const MINUTE_US: f64 = 60e6;
