//! What bound expressions give.

use super::*;
use crate::expr::random;
use crate::expr::{LEVELS, Scalar, ValueType, col, func, lit, vector, when};
use arrow::array::{
    Date32Array, Float64Array, Int32Array, StringArray, TimestampMicrosecondArray, TimestampNanosecondArray,
};
use arrow::datatypes::{Float64Type, Int64Type};
use proptest::prelude::*;

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
    let error = BoundExpr::bind_condition(&col("fare"), &schema, "filter fare").unwrap_err();
    assert_eq!(error.to_string(), "filter fare: fare is a number where true or false is needed");
}

#[test]
fn dividing_whole_numbers_by_zero_fails_and_is_known_to() {
    let batch = batch();
    let expr = lit(1).eq(lit(6) / col("n"));
    assert!(!expr.is_infallible() && col("n").gt(lit(0)).is_infallible());
    let bound = BoundExpr::bind_condition(&expr, &batch.schema(), "filter").unwrap();
    assert!(bound.evaluate_mask(&batch).unwrap_err().to_lowercase().contains("divide by zero"));
}

fn evaluated(expr: &Expr, batch: &RecordBatch) -> Result<ArrayRef, String> {
    let bound = BoundExpr::bind(expr, &batch.schema(), "with_column").map_err(|e| e.to_string())?;
    let values = bound.evaluate(batch)?;
    assert_eq!(values.data_type(), bound.data_type(), "{expr}");
    Ok(values)
}

fn numbers(expr: Expr, batch: &RecordBatch) -> Vec<Option<f64>> {
    let values = arrow::compute::cast(&evaluated(&expr, batch).unwrap(), &DataType::Float64).unwrap();
    values.as_primitive::<Float64Type>().iter().collect()
}

fn texts(expr: Expr, batch: &RecordBatch) -> Vec<Option<String>> {
    evaluated(&expr, batch).unwrap().as_string::<i32>().iter().map(|v| v.map(String::from)).collect()
}

/// Monday, 26 February 2024, 23:59:58.5, and the Sunday after, at 01:00.
fn times() -> RecordBatch {
    let at = vec![1_708_991_998_500_000, 1_709_427_600_000_000];
    let zoned = TimestampMicrosecondArray::from(at.clone()).with_timezone("America/New_York");
    let (at, zoned) = (Arc::new(TimestampMicrosecondArray::from(at)) as ArrayRef, Arc::new(zoned) as ArrayRef);
    let date = Arc::new(Date32Array::from(vec![19_779, 19_785])) as ArrayRef;
    RecordBatch::try_from_iter([("at", at), ("zoned", zoned), ("date", date)]).unwrap()
}

#[test]
fn the_parts_of_a_time_are_those_of_the_clock_there() {
    let batch = times();
    for (expr, expected) in [
        (col("at").year(), [2024.0, 2024.0]),
        (col("at").month(), [2.0, 3.0]),
        (col("at").day(), [26.0, 3.0]),
        (col("at").day_of_week(), [0.0, 6.0]),
        (col("date").day_of_week(), [0.0, 6.0]),
        (col("at").day_of_year(), [57.0, 63.0]),
        (col("at").hour(), [23.0, 1.0]),
        (col("zoned").hour(), [18.0, 20.0]),
        (col("zoned").day_of_week(), [0.0, 5.0]),
        (col("at").minute(), [59.0, 0.0]),
        (col("at").second(), [58.0, 0.0]),
    ] {
        assert_eq!(numbers(expr.clone(), &batch), expected.map(Some), "{expr}");
    }
    let hours = texts(col("at").date_trunc("hour").cast(ValueType::String), &batch);
    assert_eq!(hours, [Some("2024-02-26T23:00:00".into()), Some("2024-03-03T01:00:00".into())]);
    let next = col("date") + lit(Scalar::Interval { months: 1, days: 0, nanoseconds: 0 });
    assert_eq!(texts(next.cast(ValueType::String), &batch)[0].as_deref(), Some("2024-03-26"));
}

#[test]
fn a_constant_text_stands_for_a_time() {
    let batch = times();
    let mask = |expr: Expr| {
        let bound = BoundExpr::bind_condition(&expr, &batch.schema(), "filter").unwrap();
        bound.evaluate_mask(&batch).unwrap().iter().map(|v| v.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(mask(col("at").gt_eq(lit("2024-03-01"))), [false, true]);
    assert_eq!(mask(col("at").eq(lit("2024-02-26 23:59:58.5"))), [true, false]);
    // Finer than the column: not the same time.
    assert_eq!(mask(col("at").eq(lit("2024-02-26 23:59:58.500000001"))), [false, false]);
    assert_eq!(mask(col("date").lt(lit("2024-02-26 00:00:01"))), [true, false]);
    assert_eq!(mask(col("date").is_in(["2024-03-03"])), [false, true]);
    assert_eq!(mask(col("zoned").lt(lit("2024-02-26T23:59:58.6Z"))), [true, false]);
    let error = evaluated(&col("at").gt(lit("yesterday")), &batch).unwrap_err();
    assert!(error.contains("with_column") && error.contains("yesterday"), "{error}");
}

#[test]
fn numbers_are_computed_with() {
    let batch = batch();
    for (expr, expected) in [
        (col("fare").abs(), [Some(2.5), Some(1.0), None, Some(9.0)]),
        (col("fare").round(0), [Some(3.0), Some(-1.0), None, Some(9.0)]),
        ((col("fare") / lit(3)).round(2), [Some(0.83), Some(-0.33), None, Some(3.0)]),
        (col("fare").floor(), [Some(2.0), Some(-1.0), None, Some(9.0)]),
        (col("fare").ceil(), [Some(3.0), Some(-1.0), None, Some(9.0)]),
        (col("n").power(2), [Some(1.0), Some(4.0), Some(9.0), Some(0.0)]),
        ((col("n") * col("n")).sqrt(), [Some(1.0), Some(2.0), Some(3.0), Some(0.0)]),
        (col("n").exp().ln().round(9), [Some(1.0), Some(2.0), Some(3.0), Some(0.0)]),
        (col("fare").clip(0, 5), [Some(2.5), Some(0.0), None, Some(5.0)]),
        (col("fare").fill_null(col("n")), [Some(2.5), Some(-1.0), Some(3.0), Some(9.0)]),
        (col("fare").least([lit(1)]), [Some(1.0), Some(-1.0), Some(1.0), Some(1.0)]),
        (func("nvl2", [col("fare"), col("n"), lit(-1)]), [Some(1.0), Some(2.0), Some(-1.0), Some(0.0)]),
        (func("nullif", [col("n"), lit(0)]), [Some(1.0), Some(2.0), Some(3.0), None]),
        // Branches are only computed where they count.
        (when(col("n").gt(lit(0)), lit(6) / col("n")).end(), [Some(6.0), Some(3.0), Some(2.0), None]),
        (
            func("nullif", [col("n"), lit(3)]).coalesce([lit(6) / col("n")]),
            [Some(1.0), Some(2.0), Some(2.0), Some(0.0)],
        ),
    ] {
        assert_eq!(numbers(expr.clone(), &batch), expected, "{expr}");
    }
    let nan = evaluated(&(lit(0.0) / lit(0.0)).clip(0, 1).is_nan(), &batch).unwrap();
    assert!(nan.as_boolean().value(0));
}

#[test]
fn texts_are_computed_with() {
    let column = StringArray::from(vec![Some(" Äb "), None]);
    let batch = RecordBatch::try_from_iter([("s", Arc::new(column) as ArrayRef)]).unwrap();
    for (expr, expected) in [
        (col("s").trim().lower(), "äb"),
        (col("s").upper(), " ÄB "),
        (col("s").substr(2, 2), "Äb"),
        (col("s").trim().concat([lit("-"), lit("x")]), "Äb-x"),
        (col("s").length().cast(ValueType::String), "4"),
        (func("regexp_replace", [col("s"), lit("[^a-z]"), lit("")]), "Äb "),
    ] {
        assert_eq!(texts(expr.clone(), &batch), [Some(expected.to_owned()), None], "{expr}");
    }
    for (expr, expected) in [
        (col("s").contains("b"), true),
        (col("s").starts_with("b"), false),
        (col("s").ends_with(" "), true),
        (col("s").like("%b_"), true),
        (col("s").ilike("%B%"), true),
        (!col("s").like("%B%"), true),
    ] {
        let found = evaluated(&expr, &batch).unwrap();
        assert_eq!(found.as_boolean().iter().collect::<Vec<_>>(), [Some(expected), None], "{expr}");
    }
}

#[test]
fn a_cast_that_does_not_fit_fails_or_gives_null() {
    let column = Arc::new(StringArray::from(vec!["12.345", "x", "300"])) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("s", column)]).unwrap();
    let error = evaluated(&col("s").cast(ValueType::Float64), &batch).unwrap_err();
    assert!(error.contains('x'), "{error}");
    assert_eq!(numbers(col("s").try_cast(ValueType::Float64), &batch), [Some(12.345), None, Some(300.0)]);
    assert_eq!(numbers(col("s").try_cast(ValueType::UInt8), &batch), [None, None, None]);
    let decimal = col("s").try_cast(ValueType::Decimal(5, 2));
    assert_eq!(evaluated(&decimal, &batch).unwrap().data_type(), &DataType::Decimal128(5, 2));
    assert_eq!(numbers(lit("x").try_cast(ValueType::Int64), &batch), [None, None, None]);
}

#[test]
fn whole_numbers_do_not_wrap_around() {
    let column = Arc::new(Int32Array::from(vec![i32::MAX])) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
    assert!(evaluated(&(col("n") + col("n")), &batch).unwrap_err().to_lowercase().contains("overflow"));
    assert_eq!(numbers(col("n") + lit(1), &batch), [Some(2_147_483_648.0)]);
}

#[test]
fn values_that_do_not_go_together_are_refused_by_name() {
    let batch = batch();
    for (expr, expected) in [
        (col("flag") / lit(2), "flag / 2: flag is a text, and only numbers and times can be computed with"),
        (lit(true) + col("n"), "true + n: true is true or false"),
        (col("flag").gt(lit(5)), "flag > 5: flag is a text and 5 is a number; cast one of them"),
        (col("n").eq(lit("5")), "n = \"5\": n is a number and \"5\" is a text"),
        (col("from").gt(lit(5)), "from` > 5: `from` is a point in time and 5 is a number"),
        (col("from").eq(col("flag")), "`from` = flag: `from` is a point in time and flag is a text"),
        (col("n").is_in(["a"]), "n in (\"a\"): n is a number and \"a\" is a text"),
        (col("n").fill_null("none"), "coalesce(n, \"none\"): n is a number and \"none\" is a text"),
        (col("n").clip("a", "b"), "n is a number and \"a\" is a text"),
        (when(col("n").gt(lit(1)), lit(1)).otherwise(lit("x")), "1 is a number and \"x\" is a text"),
        (when(col("n"), lit(1)).end(), "n is a number where true or false is needed"),
        (!col("flag"), "flag is a text where true or false is needed"),
        (col("n").like("1%"), "n like \"1%\": n is a number, not a text"),
        (-col("flag"), "-flag: flag is a text, and only numbers and times can be computed with"),
        (-col("from"), "-`from`: `from` is a point in time, of which there is no negative"),
        (
            -col("n").cast(ValueType::UInt8),
            "-cast(n as uint8): cast(n as uint8) is UInt8, which has no negative numbers; cast it to int64",
        ),
        (col("from") + lit(1), "`from` + 1: `from` is a point in time and 1 is a number, between which there is no +"),
        (col("from") * col("n"), "`from` is a point in time and n is a number, between which there is no *"),
        (func("sqrt", [col("flag")]), "sqrt(flag): flag is a text, which sqrt does not take; cast what is wrong"),
        (func("sqrt", [col("fare"), col("n")]), "sqrt(fare, n): fare is a number and n is a number, which sqrt does"),
        (func("sqrt", []), "sqrt(): sqrt needs an argument"),
        (func("coalesce", []), "coalesce(): coalesce needs an argument"),
        (func("clip", [col("n")]), "clip needs 3 arguments, not 1"),
        (func("uper", [col("flag")]), "there is no function uper; did you mean upper?"),
        (func("random", []), "random is not decided by its arguments"),
    ] {
        let error = evaluated(&expr, &batch).unwrap_err();
        assert!(error.starts_with("with_column: ") && error.contains(expected), "{error}\n{expected}");
    }
}

/// None of these ends the process.
#[test]
fn long_and_deep_expressions_are_bound_or_refused() {
    let batch = batch();
    let chain = |n: usize, part: fn(i32) -> Expr, op: BinaryOp| {
        let parts = (0..n as i32).map(part);
        parts.reduce(|all, part| all.binary(op, part)).unwrap()
    };
    let any = evaluated(&chain(1000, |i| col("n").eq(lit(i)), BinaryOp::Or), &batch).unwrap();
    assert_eq!(any.as_boolean().true_count(), 4);
    let none = evaluated(&chain(1000, |i| col("n").gt(lit(i)), BinaryOp::And), &batch).unwrap();
    assert_eq!(none.as_boolean().true_count(), 0);
    assert_eq!(numbers(chain(LEVELS, lit, BinaryOp::Plus), &batch)[0], Some(4950.0));
    let error = evaluated(&chain(LEVELS + 1, lit, BinaryOp::Plus), &batch).unwrap_err();
    assert!(error.contains("an expression of 101 levels, where 100 can be used"), "{error}");
}

/// Every function can be bound or says why not, and what can be bound can be evaluated: none is
/// left to the optimiser that is not here.
#[test]
fn no_function_needs_what_is_not_here() {
    let batch = batch();
    for (name, _) in crate::expr::all_functions() {
        for args in [vec![], vec![col("n")], vec![col("flag")], vec![col("fare"), lit(2)], vec![col("flag"), lit("x")]]
        {
            if let Err(error) = evaluated(&func(name, args), &batch) {
                assert!(!error.contains("should have been simplified"), "{name}: {error}");
            }
        }
    }
}

/// What the model of [`random`] has, read from an array.
pub(crate) fn values(array: &ArrayRef) -> Vec<random::Value> {
    let floats = || arrow::compute::cast(array, &DataType::Float64).unwrap();
    (0..array.len())
        .map(|i| match array.data_type() {
            _ if array.is_null(i) => random::Value::Null,
            DataType::Boolean => random::Value::Bool(array.as_boolean().value(i)),
            DataType::Utf8 => random::Value::Text(array.as_string::<i32>().value(i).into()),
            _ => random::Value::Float(floats().as_primitive::<Float64Type>().value(i)),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn a_bound_expression_gives_what_the_model_gives(expr in random::condition(), rows in random::rows()) {
        let batch = random::batch(&rows);
        let sent = rmp_serde::from_slice::<Expr>(&rmp_serde::to_vec(&expr).unwrap()).unwrap();
        prop_assert_eq!(&sent, &expr);
        let bound = BoundExpr::bind_condition(&sent, &batch.schema(), "filter").unwrap();
        let found = values(&bound.evaluate(&batch).unwrap());
        for (row, found) in rows.iter().zip(found) {
            prop_assert!(row.value(&expr).same(&found), "{expr} of {row:?} is {found:?}");
        }
    }
}

fn value(expr: &Expr) -> Result<ArrayRef, String> {
    let batch = batch();
    BoundExpr::bind(expr, &batch.schema(), "with_column").map_err(|error| error.to_string())?.evaluate(&batch)
}

#[test]
fn a_value_has_its_place_in_a_list() {
    let places = |expr: &Expr| value(expr).unwrap().as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
    assert_eq!(places(&col("flag").index_of(["N", "N", "Y"])), [Some(2), Some(0), Some(0), Some(2)]);
    assert_eq!(places(&col("fare").index_of([lit(-1), lit(9), lit(None::<i64>)])), [None, Some(0), None, Some(1)]);
    assert_eq!(places(&col("n").index_of(Vec::<Expr>::new())), [None; 4]);
    assert_eq!(places(&col("fare").index_of_known([-1.0, 2.5, 9.0])), [Some(1), Some(0), None, Some(2)]);
    let error = value(&col("flag").index_of_known(["N"])).unwrap_err();
    assert!(error.contains("\"Y\" is none of the values that are known"), "{error}");
    let error = value(&col("flag").index_of([1])).unwrap_err();
    assert!(error.contains("flag is a text and 1 is a number"), "{error}");
    let error = value(&col("n").index_of([col("fare")])).unwrap_err();
    assert!(error.contains("constants"), "{error}");
}

#[test]
fn numbers_become_one_vector() {
    let vectors = value(&vector([col("fare"), col("n")])).unwrap();
    let vectors = vectors.as_fixed_size_list();
    let numbers = vectors.values().as_primitive::<Float64Type>();
    let expected = [Some(2.5), Some(1.0), Some(-1.0), Some(2.0), None, Some(3.0), Some(9.0), Some(0.0)];
    assert_eq!((vectors.value_length(), vectors.len()), (2, 4));
    assert_eq!(numbers.iter().collect::<Vec<_>>(), expected);
    let narrow = value(&vector([col("n").cast(ValueType::Float32)])).unwrap();
    assert_eq!(narrow.as_fixed_size_list().value_type(), DataType::Float32);
    let error = value(&vector([col("n"), col("flag")])).unwrap_err();
    assert!(error.contains("flag is a text, not a number"), "{error}");
}
