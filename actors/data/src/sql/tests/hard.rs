//! Queries that are made by chance, or too long for anyone to write.

use datafusion_sql::sqlparser::dialect::MySqlDialect;
use proptest::prelude::*;

use super::*;
use crate::expr::{BoundExpr, random};

/// None of these ends the process, whatever the stack of the thread that asks.
#[test]
fn long_and_deep_queries_are_planned_or_refused() {
    let nested = |n: usize| format!("select {}fare{} as c from trips", "(".repeat(n), ")".repeat(n));
    check(&nested(90), &["project c = fare", "  read_parquet trips"]);
    check_error(&nested(500), "nested more than 100 deep");
    let queries = |n: usize| (0..n).fold("trips".into(), |below, i| format!("(select fare from {below}) q{i}"));
    check(&format!("select * from {}", queries(20)), &["select fare", "  read_parquet trips"]);
    check_error(&format!("select * from {}", queries(500)), "nested more than 100 deep");

    let chain = |part: &str, by: &str, n: usize| vec![part; n].join(by);
    let or = planned(&format!("select * from trips where {}", chain("tip = fare", " or ", 2000))).unwrap();
    assert_eq!(or.to_string().matches(" or ").count(), 1999);
    check_error(&format!("select * from trips where {}", chain("tip = fare", " or ", 9000)), "write in (..)");
    // What is planned can be bound by a thread with the usual stack.
    let sum = planned(&format!("select {} as c from trips", chain("fare", " + ", 100))).unwrap();
    let LogicalPlan::Op { op: Operator::Project { columns }, .. } = &sum else { panic!("{sum}") };
    assert!(BoundExpr::bind(&columns[0].1, &tables()[0].2, "project").is_ok());
    check_error(&format!("select {} as c from trips", chain("fare", " + ", 1900)), "1900 levels");
    let union = planned(&chain("select fare from trips", " union all ", 500)).unwrap();
    assert_eq!(union.inputs().len(), 500);
    let values = (0..20_000).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    assert!(planned(&format!("select * from trips where pulocationid in ({values})")).is_ok());
}

#[test]
fn what_there_is_not_is_named() {
    for (query, expected) in [
        ("select row_number() over (order by fare) from trips", "row_number with over (a window function)"),
        ("select fare from trips limit 5 offset 2", "offset cannot be used"),
        ("select fare from trips where fare > (select avg(fare) from trips)", "a query as a value"),
        ("select fare from trips t where exists (select 1 from zones z where z.fare = t.fare)", "exists (select ..)"),
        ("select fare from trips where fare not in (select fare from zones)", "use left semi join or left anti join"),
        (
            "select fare from trips t where tip in (select fare from zones z where z.zone = t.flag)",
            "t.flag of the outer query inside a query (a correlated query)",
        ),
        ("select sum(distinct fare) from trips", "sum of distinct values"),
        ("select corr(fare, tip) from trips", "the aggregate corr cannot be used: there are any_value,"),
        ("select array_agg(fare order by tip) from trips", "array_agg with order by"),
        ("select percentile_cont(fare, 1.5) from trips", "the fraction 1.5, which is not from 0 to 1"),
        ("select fare from trips intersect select fare from zones", "intersect and except"),
        ("select flag from trips group by rollup(flag)", "grouping sets, rollup and cube"),
        ("select t.fare from trips t left join zones z on t.fare > z.fare", "only an inner join takes conditions"),
        ("select * from zones a full join zones b using (zone)", "a right or full join with using"),
        ("select distinct on (flag) fare from trips", "distinct on"),
        ("select * from (values (1)) t", "values (..)"),
        ("select fare from trips where fare = $1", "the placeholder $1"),
        ("select flag from trips where flag like 'a!%' escape '!'", "like with escape"),
        // DataFusion would answer these as if nothing was said.
        ("select * from trips tablesample (10)", "tablesample"),
        ("select * from trips for update", "for update"),
    ] {
        check_error(query, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    /// What an expression prints means the same when it is read again, in the dialect that writes
    /// texts in double quotes.
    #[test]
    fn an_expression_that_is_printed_and_read_means_the_same(expr in random::condition(), rows in random::rows()) {
        let batch = random::batch(&rows);
        let text = expr.to_string();
        // SQL has no clip.
        prop_assume!(!text.contains("clip("));
        let query = format!("select {text} as c from t");
        let tables = [("t", LogicalPlan::read_parquet(["t"]), batch.schema())];
        let read = plan(&query, &tables, &MySqlDialect {}).map_err(|e| TestCaseError::fail(format!("{query}: {e}")))?;
        let LogicalPlan::Op { op: Operator::Project { columns }, .. } = &read else { panic!("{read}") };
        let value = |expr: &Expr| BoundExpr::bind(expr, &batch.schema(), "project").unwrap().evaluate(&batch).unwrap();
        prop_assert_eq!(&value(&columns[0].1), &value(&expr), "{} read as {}", text, columns[0].1);
    }
}
