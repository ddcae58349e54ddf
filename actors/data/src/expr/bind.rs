//! Binding an expression to a schema, and evaluating it: DataFusion's work.

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

use crate::error::DataError;
use crate::expr::Expr;

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
        Ok(BoundExpr { expr, data_type, nullable })
    }

    /// Like [`bind`](Self::bind), for a condition: anything but a truth value is an error.
    pub fn bind_condition(expr: &Expr, schema: &Schema, operator: &str) -> Result<BoundExpr, DataError> {
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
        self.expr.evaluate(batch).and_then(|value| value.into_array(batch.num_rows())).map_err(|e| e.strip_backtrace())
    }

    /// The rows of `batch` for which a condition is true; null counts as false.
    pub fn evaluate_mask(&self, batch: &RecordBatch) -> Result<BooleanArray, String> {
        let values = self.evaluate(batch)?;
        let mask = values.as_boolean_opt().ok_or("the condition gave no truth values")?;
        Ok(if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() })
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
                        available: self.schema.fields().iter().map(|f| f.name().clone()).collect(),
                    });
                }
            },
            Expr::Literal(value) => Arc::new(physical::Literal::new(value.to_datafusion())),
            Expr::Binary { left, op, right } => self.binary(self.bind(left)?, op.to_datafusion(), self.bind(right)?)?,
            Expr::Not(e) => {
                let e = self.cast(self.bind(e)?, &DataType::Boolean)?;
                physical::not(e).map_err(|e| self.error(&e))?
            }
            Expr::Negative(e) => physical::negative(self.bind(e)?, self.schema).map_err(|e| self.error(&e))?,
            Expr::IsNull(e) => physical::is_null(self.bind(e)?).map_err(|e| self.error(&e))?,
            Expr::IsNotNull(e) => physical::is_not_null(self.bind(e)?).map_err(|e| self.error(&e))?,
            Expr::Cast(e, to) => self.cast(self.bind(e)?, &to.to_arrow())?,
            Expr::MinutesSince { end, start } => {
                let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
                let end = self.cast(self.bind(end)?, &timestamp)?;
                let start = self.cast(self.bind(start)?, &timestamp)?;
                let microseconds = self.cast(self.binary(end, Operator::Minus, start)?, &DataType::Int64)?;
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
        let (to_left, to_right) =
            BinaryTypeCoercer::new(&left_type, &op, &right_type).get_input_types().map_err(|e| self.error(&e))?;
        let left = self.cast(left, &to_left)?;
        let right = self.cast(right, &to_right)?;
        physical::binary(left, op, right, self.schema).map_err(|e| self.error(&e))
    }

    /// A constant is cast once, here; anything else when the plan runs.
    fn cast(&self, expr: Arc<dyn PhysicalExpr>, to: &DataType) -> Result<Arc<dyn PhysicalExpr>, DataError> {
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
    DataError::Expression { operator: operator.into(), cause: error.strip_backtrace() }
}

/// Microseconds in a minute.
const MINUTE_US: f64 = 60e6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{col, lit};
    use arrow::array::{Float64Array, Int32Array, StringArray, TimestampMicrosecondArray, TimestampNanosecondArray};
    use arrow::datatypes::{Float64Type, Int64Type};

    fn batch() -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            ("fare", Arc::new(Float64Array::from(vec![Some(2.5), Some(-1.0), None, Some(9.0)])) as ArrayRef, true),
            ("n", Arc::new(Int32Array::from(vec![1, 2, 3, 0])) as ArrayRef, true),
            ("flag", Arc::new(StringArray::from(vec!["Y", "N", "N", "Y"])) as ArrayRef, true),
            ("from", Arc::new(TimestampNanosecondArray::from(vec![0, 0, 60_000_000_000, 0])) as ArrayRef, true),
            (
                "to",
                Arc::new(TimestampNanosecondArray::from(vec![90_000_000_000, 0, 0, 3_600_000_000_000])) as ArrayRef,
                true,
            ),
        ])
        .unwrap()
    }

    fn mask(expr: Expr) -> Vec<bool> {
        let batch = batch();
        let bound = BoundExpr::bind_condition(&expr, &batch.schema(), "filter").unwrap();
        bound.evaluate_mask(&batch).unwrap().iter().map(|v| v.unwrap()).collect()
    }

    #[test]
    fn a_null_does_not_pass_a_condition() {
        assert_eq!(mask(col("fare").gt_eq(lit(2.5))), [true, false, false, true]);
        assert_eq!(mask(!col("fare").gt_eq(lit(2.5))), [false, true, false, false]);
        assert_eq!(mask(col("fare").is_null()), [false, false, true, false]);
    }

    #[test]
    fn types_are_agreed_on() {
        assert_eq!(mask(col("n").gt(lit(1.5))), [false, true, true, false]);
        assert_eq!(mask(col("fare").gt(col("n"))), [true, false, false, true]);
        assert_eq!(mask(col("flag").eq(lit("Y")).or(col("n").eq(lit(2)))), [true, true, false, true]);
    }

    #[test]
    fn minutes_are_exact_and_may_be_negative() {
        let batch = batch();
        let expr = col("to").minutes_since(col("from"));
        let bound = BoundExpr::bind(&expr, &batch.schema(), "with_column").unwrap();
        let values = bound.evaluate(&batch).unwrap();
        assert_eq!(values.as_primitive::<Float64Type>().values()[..], [1.5, 0.0, -1.0, 60.0]);
    }

    #[test]
    fn minutes_of_zoned_times_are_those_of_instants() {
        // From 01:30 to 03:30 on the wall, on the night New York sets its clocks forward.
        let zoned = |us: i64| TimestampMicrosecondArray::from(vec![us]).with_timezone("America/New_York");
        let from = Arc::new(zoned(1_678_602_600_000_000)) as ArrayRef;
        let to = Arc::new(zoned(1_678_606_200_000_000)) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("from", from), ("to", to)]).unwrap();
        let bound = BoundExpr::bind(&col("to").minutes_since(col("from")), &batch.schema(), "with_column").unwrap();
        assert_eq!(bound.evaluate(&batch).unwrap().as_primitive::<Float64Type>().values()[..], [60.0]);
    }

    #[test]
    fn a_constant_fills_the_batch() {
        let batch = batch();
        let bound = BoundExpr::bind(&lit(7), &batch.schema(), "with_column").unwrap();
        assert_eq!(bound.evaluate(&batch).unwrap().as_primitive::<Int64Type>().values()[..], [7, 7, 7, 7]);
    }

    #[test]
    fn an_unknown_column_is_named_with_those_that_exist() {
        let error = BoundExpr::bind(&col("fair"), &batch().schema(), "filter(fair > 1)").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("fair") && text.contains("fare, n, flag, from, to"), "{text}");
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        let schema = batch().schema();
        for expr in [col("fare"), col("fare") + lit(1), col("flag").and(col("fare"))] {
            assert!(matches!(BoundExpr::bind_condition(&expr, &schema, "filter"), Err(DataError::Expression { .. })));
        }
    }

    #[test]
    fn dividing_whole_numbers_by_zero_fails_and_is_known_to() {
        let batch = batch();
        let expr = lit(1).eq(lit(6) / col("n"));
        assert!(!expr.is_infallible() && col("n").gt(lit(0)).is_infallible());
        let bound = BoundExpr::bind_condition(&expr, &batch.schema(), "filter").unwrap();
        assert!(bound.evaluate_mask(&batch).unwrap_err().to_lowercase().contains("divide by zero"));
    }
}
