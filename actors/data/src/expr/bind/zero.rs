//! Zero is zero, whatever its sign.
//!
//! Entry points: [`comparable`] and [`unsigned`]. Arrow compares floating-point numbers bit by
//! bit, in an order where -0.0 comes before 0.0. Rounding -0.3 gives -0.0, so `round(x) = 0`
//! would miss it.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::Operator;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions as physical;

use super::literal;

type Pair = (Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>);

/// Whether the sign of a zero would count for `op`.
pub(super) fn counts(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// The two sides of a comparison of floating-point numbers, changed so that the signs of zeros
/// do not count. Comparing with a constant costs nothing unless it asks for a zero itself.
pub(super) fn comparable(
    left: Arc<dyn PhysicalExpr>,
    op: Operator,
    right: Arc<dyn PhysicalExpr>,
    data_type: &DataType,
) -> Result<Pair> {
    let constant = |e: &Arc<dyn PhysicalExpr>| e.downcast_ref::<physical::Literal>().map(|e| e.value().clone());
    let (left_constant, right_constant) = (constant(&left), constant(&right));
    if [&left_constant, &right_constant].into_iter().flatten().any(|value| zero_of(value).is_none()) {
        return Ok((left, right));
    }
    let below = zero(data_type, true)?;
    let above = zero(data_type, false)?;
    // Whether the zero on the right must come before both zeros for the comparison to be right.
    match (op, left_constant.is_some(), right_constant.is_some()) {
        (Operator::GtEq | Operator::Lt, false, true) => Ok((left, below)),
        (Operator::Gt | Operator::LtEq, false, true) => Ok((left, above)),
        (Operator::LtEq | Operator::Gt, true, false) => Ok((below, right)),
        (Operator::Lt | Operator::GtEq, true, false) => Ok((above, right)),
        _ => Ok((unsigned(left, data_type)?, unsigned(right, data_type)?)),
    }
}

/// The same values with 0.0 for -0.0.
pub(super) fn unsigned(values: Arc<dyn PhysicalExpr>, data_type: &DataType) -> Result<Arc<dyn PhysicalExpr>> {
    if !data_type.is_floating() {
        return Ok(values);
    }
    let above = zero(data_type, false)?;
    if let Some(constant) = values.downcast_ref::<physical::Literal>() {
        return Ok(if zero_of(constant.value()).is_some() { above } else { values });
    }
    Ok(Arc::new(physical::BinaryExpr::new(values, Operator::Plus, above)))
}

/// The value, if it is a zero.
fn zero_of(value: &ScalarValue) -> Option<&ScalarValue> {
    let is_zero = match value {
        ScalarValue::Float16(Some(v)) => v.to_f32() == 0.0,
        ScalarValue::Float32(Some(v)) => *v == 0.0,
        ScalarValue::Float64(Some(v)) => *v == 0.0,
        _ => false,
    };
    is_zero.then_some(value)
}

fn zero(data_type: &DataType, negative: bool) -> Result<Arc<dyn PhysicalExpr>> {
    let zero = ScalarValue::Float64(Some(if negative { -0.0 } else { 0.0 }));
    Ok(literal(zero.cast_to(data_type)?))
}

#[cfg(test)]
mod tests {
    use crate::expr::{BinaryOp, BoundExpr, Expr, ValueType, col, lit};
    use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
    use std::sync::Arc;

    #[test]
    fn both_zeros_compare_like_one() {
        let values = [-1.0, -0.0, 0.0, 1.0, f64::NAN];
        let column = || Arc::new(Float64Array::from(values.to_vec())) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("x", column()), ("y", column())]).unwrap();
        let mask = |expr: &Expr| {
            let values = BoundExpr::bind_condition(expr, &batch.schema(), "filter").unwrap().evaluate(&batch).unwrap();
            values.as_boolean().values().iter().collect::<Vec<_>>()
        };
        use BinaryOp::*;
        for op in [Eq, NotEq, Lt, LtEq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom] {
            for (one, sign) in [(0.0, 0.0), (-0.0, 0.0), (1.0, 1.0)] {
                // The model: whole numbers have one zero, and NaN is the greatest.
                let order = |x: f64| if x.is_nan() { 2 } else { x as i64 };
                let expected = |x: f64, flipped: bool| {
                    let (a, b) = if flipped { (order(sign), order(x)) } else { (order(x), order(sign)) };
                    match op {
                        Eq | IsNotDistinctFrom => a == b,
                        Lt => a < b,
                        LtEq => a <= b,
                        Gt => a > b,
                        GtEq => a >= b,
                        _ => a != b,
                    }
                };
                for to in [ValueType::Float64, ValueType::Float32, ValueType::Float16] {
                    let right = col("x").cast(to).binary(op, lit(one).cast(to));
                    assert_eq!(mask(&right), values.map(|x| expected(x, false)), "{right}");
                    let left = lit(one).cast(to).binary(op, col("x").cast(to));
                    assert_eq!(mask(&left), values.map(|x| expected(x, true)), "{left}");
                }
            }
        }
        assert_eq!(mask(&col("x").eq(-col("y") * lit(0))), [false, true, true, false, false]);
        assert_eq!(mask(&col("x").is_in([lit(0.0), lit(7)])), [false, true, true, false, false]);
        assert_eq!(mask(&(col("x") * lit(0.0)).eq(lit(0)))[..4], [true; 4]);
    }
}
