//! Plans and expressions that are deeper than the stack of a thread, as loops make them.

use mobula::{DataError, Expr, RunError, col, lit, range};

use crate::data_support::{names, numbers, session};

#[test]
fn a_plan_of_five_thousand_operators_runs() {
    let session = session();
    let _entered = session.enter();
    let rows = (0..5_000).fold(range(1_000), |rows, level| match level {
        0..3_000 if level % 2 == 0 => rows.with_column("a", col("id") + lit(level)),
        0..3_000 => rows.limit(900),
        _ => rows.filter(col("id").gt_eq(lit(level - 4_900))),
    });
    assert_eq!(names(&rows.schema().unwrap()), ["id", "a"]);
    assert!(rows.explain().unwrap().contains("limit 900"));
    assert_eq!(rows.to_string().matches("filter").count(), 2_000);
    let again = rows.clone();
    drop(rows);
    assert_eq!(again.count().unwrap(), 801);
    let a = numbers(&again, "a");
    assert_eq!((a.len(), a[0]), (801, 99 + 2_998));
}

#[test]
fn a_loop_adds_two_thousand_columns() {
    let session = session();
    let _entered = session.enter();
    let rows = (0..2_000).fold(range(3), |rows, n| rows.with_column(format!("c{n}"), col("id") + lit(n)));
    assert_eq!(rows.schema().unwrap().fields().len(), 2_001);
    assert_eq!(rows.count().unwrap(), 3);
    assert_eq!(numbers(&rows.select(["c0", "c1999"]), "c1999"), [1_999, 2_000, 2_001]);
}

#[test]
fn a_chain_of_five_thousand_conditions_runs() {
    let session = session();
    let _entered = session.enter();
    let none_of = |chained: fn(Expr, Expr) -> Expr| {
        let conditions = (50..5_050).map(|n| col("id").not_eq(lit(n)));
        conditions.reduce(chained).unwrap()
    };
    for condition in [none_of(Expr::and), none_of(|chain, condition| condition.and(chain))] {
        let rows = range(100).filter(condition);
        assert_eq!(rows.clone().count().unwrap(), 50);
        assert_eq!(numbers(&rows, "id"), (0..50).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_too_deep_is_refused_before_anything_runs() {
    let session = session();
    let _entered = session.enter();
    let deep = (0..10_001).fold(range(3), |rows, _| rows.limit(2));
    for error in [deep.count().unwrap_err(), deep.schema().unwrap_err(), deep.explain().unwrap_err()] {
        let RunError::Data(DataError::InvalidPlan { cause, .. }) = &error else { panic!("{error}") };
        assert!(cause.contains("10001 operators") && cause.contains("with_columns"), "{error}");
    }
    let sum = (0..5_000).fold(col("id"), |sum, n| sum + lit(n));
    let rows = range(3).with_column("sum", sum);
    for error in [rows.count().unwrap_err(), rows.schema().unwrap_err(), rows.explain().unwrap_err()] {
        assert!(error.to_string().contains("an expression of 5001 levels, where 100 can be used"), "{error}");
    }
    assert!(rows.clone().to_string().contains("columns: unknown"));
}
