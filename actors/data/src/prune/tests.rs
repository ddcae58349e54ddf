use super::*;
use crate::expr::{Scalar, ValueType, col, lit};
use crate::files::ColumnStatistics;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, StringArray,
    TimestampMicrosecondArray, UInt64Array, new_null_array,
};
use arrow::compute::{max, max_boolean, max_string, min, min_boolean, min_string};
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use std::sync::Arc;

/// What the footer of a file with these values would say, NaN left out.
fn statistics(array: &ArrayRef) -> ColumnStatistics {
    fn floats<T: arrow::datatypes::ArrowPrimitiveType>(
        values: Vec<T::Native>,
        less: fn(&T::Native, &T::Native) -> Ordering,
    ) -> [ArrayRef; 2]
    where
        arrow::array::PrimitiveArray<T>: From<Vec<Option<T::Native>>>,
    {
        let least = values.iter().copied().min_by(less);
        let greatest = values.iter().copied().max_by(less);
        [least, greatest].map(|v| Arc::new(arrow::array::PrimitiveArray::<T>::from(vec![v])) as ArrayRef)
    }
    let [mins, maxes]: [ArrayRef; 2] = match array.data_type() {
        DataType::Int64 => {
            let values = array.as_primitive::<Int64Type>();
            [min(values), max(values)].map(|v| Arc::new(Int64Array::from(vec![v])) as ArrayRef)
        }
        DataType::Int32 => {
            let values = array.as_primitive::<Int32Type>();
            [min(values), max(values)].map(|v| Arc::new(Int32Array::from(vec![v])) as ArrayRef)
        }
        DataType::Timestamp(..) => {
            let values = array.as_primitive::<TimestampMicrosecondType>();
            [min(values), max(values)].map(|v| Arc::new(TimestampMicrosecondArray::from(vec![v])) as ArrayRef)
        }
        DataType::Boolean => {
            let values = array.as_boolean();
            [min_boolean(values), max_boolean(values)].map(|v| Arc::new(BooleanArray::from(vec![v])) as ArrayRef)
        }
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            [min_string(values), max_string(values)].map(|v| Arc::new(StringArray::from(vec![v])) as ArrayRef)
        }
        DataType::Float64 => floats::<Float64Type>(
            array.as_primitive::<Float64Type>().iter().flatten().filter(|v| !v.is_nan()).collect(),
            f64::total_cmp,
        ),
        DataType::Float32 => floats::<Float32Type>(
            array.as_primitive::<Float32Type>().iter().flatten().filter(|v| !v.is_nan()).collect(),
            f32::total_cmp,
        ),
        other => [(); 2].map(|()| new_null_array(other, 1)),
    };
    ColumnStatistics { mins, maxes, nulls: UInt64Array::from(vec![array.null_count() as u64]) }
}

fn may_keep(condition: &Expr, batch: &RecordBatch) -> bool {
    let bounds = |column: usize| {
        let array = batch.column(column);
        statistics(array).bounds(0, batch.num_rows() as u64, array.data_type())
    };
    Pruner::new(condition, &batch.schema()).may_keep(&bounds)
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

#[test]
fn what_cannot_be_is_known() {
    let rows = batch(vec![
        ("n", Arc::new(Int64Array::from(vec![Some(10), Some(20), None])) as ArrayRef),
        ("s", Arc::new(StringArray::from(vec!["b", "d", "c"])) as ArrayRef),
        ("f", Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0])) as ArrayRef),
        ("none", Arc::new(Int64Array::from(vec![None, None, None])) as ArrayRef),
        ("all", Arc::new(BooleanArray::from(vec![true, true, true])) as ArrayRef),
    ]);
    let n = || col("n");
    for never in [
        n().gt(lit(20)),
        lit(20).lt(n()),
        n().gt(lit(20.5)),
        n().lt(lit(10)),
        n().eq(lit(9)),
        !n().gt_eq(lit(10)),
        n().gt(lit(20)).or(n().lt(lit(10))),
        n().gt(lit(5)).and(col("s").eq(lit("e"))),
        col("s").lt(lit("b")),
        col("f").eq(lit(4.0)),
        col("none").is_not_null(),
        col("none").gt(n()),
        col("s").is_null(),
        !col("all"),
        col("all").eq(lit(false)),
        n().eq(lit(Option::<i64>::None)),
        n().cast(ValueType::Float64).gt(lit(20.0)),
        n().gt(lit(4) * lit(5)),
        lit(false),
    ] {
        assert!(!may_keep(&never, &rows), "{never}");
    }
    for maybe in [
        n().gt(lit(19)),
        n().eq(lit(15)),
        n().is_null(),
        n().not_eq(lit(10)),
        // A NaN would be greater.
        col("f").gt(lit(3.0)),
        col("f").eq(lit(3.0)),
        col("all"),
        col("s").gt(lit("c")),
        (n() + lit(1)).gt(lit(100)),
        col("unknown").eq(lit(1)),
        col("s").eq(lit(1)),
    ] {
        assert!(may_keep(&maybe, &rows), "{maybe}");
    }
}

#[test]
fn a_condition_splits_where_it_is_joined_by_and() {
    let rows = batch(vec![
        ("a", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("b", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
    ]);
    let condition = col("a").gt(lit(1)).and(col("b").lt(lit(2)).and(col("a").eq(col("b"))));
    let parts = Pruner::new(&condition, &rows.schema()).split();
    assert_eq!(parts.iter().map(Pruner::columns).collect::<Vec<_>>(), [vec![0], vec![1], vec![0, 1]]);
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (-4i8..4).prop_map(f64::from),
        1 => proptest::sample::select(vec![f64::NAN, -f64::NAN, 0.0, -0.0, f64::INFINITY, 1e300, 2.5]),
    ]
}

fn rows() -> impl Strategy<Value = RecordBatch> {
    let row = (
        proptest::option::weighted(0.8, prop_oneof![9 => -4i64..4, 1 => Just(i64::MAX), 1 => Just((1 << 53) + 1)]),
        proptest::option::weighted(0.8, float()),
        proptest::option::weighted(0.8, "[a-c]{0,2}"),
        proptest::option::weighted(0.8, any::<bool>()),
        proptest::option::weighted(0.8, -3i64..3),
        proptest::option::weighted(0.8, -4i32..4),
        proptest::option::weighted(0.8, float().prop_map(|f| f as f32)),
    );
    proptest::collection::vec(row, 0..4).prop_map(|rows| {
        batch(vec![
            ("n", Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.0))) as ArrayRef),
            ("f", Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.1))) as ArrayRef),
            ("s", Arc::new(StringArray::from_iter(rows.iter().map(|r| r.2.clone()))) as ArrayRef),
            ("b", Arc::new(BooleanArray::from_iter(rows.iter().map(|r| r.3))) as ArrayRef),
            ("t", Arc::new(TimestampMicrosecondArray::from_iter(rows.iter().map(|r| r.4))) as ArrayRef),
            ("i", Arc::new(Int32Array::from_iter(rows.iter().map(|r| r.5))) as ArrayRef),
            ("g", Arc::new(Float32Array::from_iter(rows.iter().map(|r| r.6))) as ArrayRef),
        ])
    })
}

fn operand() -> impl Strategy<Value = Expr> {
    let literal = prop_oneof![
        (-5i64..5).prop_map(Scalar::Int64),
        Just(Scalar::Int64(1 << 53)),
        float().prop_map(Scalar::Float64),
        "[a-c]{0,2}".prop_map(Scalar::String),
        any::<bool>().prop_map(Scalar::Bool),
        (-3i64..3).prop_map(Scalar::TimestampUs),
        Just(Scalar::Null),
    ];
    let column = proptest::sample::select(vec!["n", "f", "s", "b", "t", "i", "g"]).prop_map(col);
    let to = proptest::sample::select(vec![
        ValueType::Int32,
        ValueType::Int64,
        ValueType::Float32,
        ValueType::Float64,
        ValueType::String,
        ValueType::TimestampUs,
        ValueType::Bool,
    ]);
    let plain = prop_oneof![2 => column, 1 => literal.prop_map(Expr::Literal)];
    prop_oneof![
        6 => plain.clone(),
        2 => (plain.clone(), to).prop_map(|(e, to)| e.cast(to)),
        1 => plain.prop_map(|e| -e),
    ]
}

fn condition() -> impl Strategy<Value = Expr> {
    let compare = proptest::sample::select(vec![
        BinaryOp::Eq,
        BinaryOp::NotEq,
        BinaryOp::Lt,
        BinaryOp::LtEq,
        BinaryOp::Gt,
        BinaryOp::GtEq,
    ]);
    let leaf = prop_oneof![
        8 => (operand(), compare, operand()).prop_map(|(l, op, r)| Expr::Binary { left: Box::new(l), op, right: Box::new(r) }),
        1 => operand().prop_map(Expr::is_null),
        1 => operand().prop_map(Expr::is_not_null),
        1 => Just(col("b")),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(l, r)| l.and(r)),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| l.or(r)),
            inner.prop_map(|e| !e),
        ]
    })
}

/// How often an answer was *no*: a pruner that never says so would pass, too.
static PRUNED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8000))]
    fn no_row_that_matches_is_dropped_in(rows in rows(), condition in condition()) {
        let Ok(bound) = BoundExpr::bind_condition(&condition, &rows.schema(), "filter") else {
            return Ok(());
        };
        let keeps = may_keep(&condition, &rows);
        if !keeps {
            PRUNED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        // Row by row: one that fails says nothing of the others.
        for row in 0..rows.num_rows() {
            let row = rows.slice(row, 1);
            if let Ok(mask) = bound.evaluate_mask(&row) {
                prop_assert!(keeps || mask.true_count() == 0, "{} drops {:?}", condition, row);
            }
        }
    }
}

#[test]
fn no_row_that_matches_is_dropped() {
    no_row_that_matches_is_dropped_in();
    let pruned = PRUNED.load(std::sync::atomic::Ordering::Relaxed);
    assert!(pruned > 500, "only {pruned} cases were pruned");
}
