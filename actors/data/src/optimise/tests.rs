use super::*;
use crate::aggregate::sum;
use crate::expr::{col, lit};
use crate::plan::{Compute, MapBatches, SortKey};
use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;

fn table(columns: &[&str]) -> LogicalPlan {
    let column = |name: &&str| (name.to_string(), Arc::new(Int64Array::from(vec![1])) as ArrayRef);
    let batch = RecordBatch::try_from_iter(columns.iter().map(column)).unwrap();
    LogicalPlan::Source(Source::Batches { schema: batch.schema(), batches: Arc::new(vec![batch]) })
}

fn text(plan: LogicalPlan) -> String {
    let lines = optimise(&plan, false).unwrap().to_string();
    lines.lines().map(str::trim).collect::<Vec<_>>().join(" < ")
}

fn sorted(plan: LogicalPlan) -> LogicalPlan {
    plan.exchange(Exchange::Sort { keys: vec![SortKey::ascending("a")] })
}

#[test]
fn filters_go_below_what_only_orders_rows() {
    let plan = sorted(table(&["a"])).filter(col("a").gt(lit(1)));
    assert_eq!(text(plan), "sort a < filter a > 1 < batches (1, 1 rows)");
}

#[test]
fn a_filter_of_the_left_side_goes_below_the_join_that_keeps_it() {
    let join = |kind| Join { kind, left_on: vec!["a".into()], right_on: vec!["a".into()], suffix: "_r".into() };
    let joined = |kind| table(&["a", "b"]).join(table(&["a", "c"]), join(kind));
    let filter = |plan: LogicalPlan, column: &str| text(plan.filter(col(column).gt(lit(1))));
    assert!(filter(joined(JoinKind::Inner), "b").starts_with("inner join on a = a < filter b > 1"));
    assert!(filter(joined(JoinKind::Inner), "c").starts_with("filter c > 1 < inner"));
    assert!(filter(joined(JoinKind::Full), "b").starts_with("filter b > 1 < full"));
}

#[test]
fn limits_merge_and_a_count_needs_no_order() {
    assert_eq!(text(table(&["a"]).limit(5).limit(3)), "limit 3 < batches (1, 1 rows)");
    let plan = sorted(table(&["a"])).filter(col("a").gt(lit(1)));
    assert_eq!(optimise(&plan, true).unwrap().to_string(), "filter a > 1\n  batches (1, 1 rows)");
}

#[test]
fn what_nobody_uses_is_not_computed() {
    let plan = table(&["a", "b"]).with_column("c", col("b") + lit(1)).select(["a"]);
    assert_eq!(text(plan), "select a < batches (1, 1 rows)");
    let plan = table(&["a", "b"])
        .with_column("c", col("b") + lit(1))
        .exchange(Exchange::Aggregate { keys: vec!["a".into()], aggregates: vec![sum("b"), sum("c")] })
        .select(["a", "sum(b)"]);
    assert_eq!(text(plan), "select a, sum(b) < group_by a: sum(b) < batches (1, 1 rows)");
}

/// Files of the columns `a`, `b` and `c`, opened.
fn read() -> LogicalPlan {
    let fields = ["a", "b", "c"].map(|name| Field::new(name, DataType::Int64, true));
    LogicalPlan::Source(Source::Files(ReadFiles::of_columns(Arc::new(Schema::new(fields.to_vec())))))
}

/// The columns that the sources of the optimised plan read.
fn read_columns(plan: &LogicalPlan, only_count: bool) -> Vec<String> {
    let better = optimise(plan, only_count).unwrap();
    let columns = |source: &Source| match source {
        Source::Files(read) => {
            files_schema(read).unwrap().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(" ")
        }
        other => panic!("{other}"),
    };
    better.sources().into_iter().map(columns).collect()
}

fn map() -> MapBatches {
    MapBatches {
        function: "f".into(),
        params: Vec::new(),
        batch_rows: None,
        name: "f".into(),
        compute: Compute::Tasks,
        resources: Vec::new(),
    }
}

#[test]
fn columns_that_no_one_uses_are_not_read() {
    let filtered = read().filter(col("b").gt(lit(1)));
    assert_eq!(read_columns(&filtered, true), ["b"]);
    assert_eq!(read_columns(&filtered, false), ["a b c"]);
    let unused = filtered.clone().with_column("d", col("a") + lit(1)).select(["c"]);
    assert_eq!(read_columns(&unused, false), ["b c"]);
    assert_eq!(text(unused), "select c < filter b > 1 < read_parquet x (b, c)");
    let used = read().with_column("a", col("c") * lit(2)).select(["a"]);
    assert_eq!(read_columns(&used, false), ["c"]);
    let mapped = filtered.map_batches(map()).select(["z"]);
    assert_eq!(read_columns(&mapped, true), ["a b c"]);
}

#[test]
fn a_count_without_conditions_reads_no_column() {
    assert_eq!(read_columns(&read().with_column("d", lit(1)), true), [""]);
    assert_eq!(read_columns(&read().limit(25), true), [""]);
    assert_eq!(read_columns(&sorted(read()), true), [""]);
    // Which rows are the first ones is known when they are in order.
    assert_eq!(read_columns(&sorted(read()).limit(3), true), ["a"]);
}

#[test]
fn an_exchange_reads_what_it_and_those_above_need() {
    let join =
        Join { kind: JoinKind::Inner, left_on: vec!["a".into()], right_on: vec!["b".into()], suffix: "_r".into() };
    let joined = read().join(read(), join);
    assert_eq!(read_columns(&joined.clone().select(["b"]), false), ["a b", "b"]);
    // Without the left one the right one would not get its suffix.
    assert_eq!(read_columns(&joined.clone().select(["c_r"]), false), ["a c", "b c"]);
    assert_eq!(read_columns(&joined, true), ["a", "b"]);
    assert_eq!(read_columns(&sorted(read()).select(["c"]), false), ["a c"]);
    let grouped = read().exchange(Exchange::Aggregate { keys: vec!["a".into()], aggregates: vec![sum("b"), sum("c")] });
    assert_eq!(read_columns(&grouped.clone().select(["sum(c)"]), false), ["a c"]);
    assert_eq!(read_columns(&grouped, true), ["a"]);
    let all = read().exchange(Exchange::Aggregate { keys: Vec::new(), aggregates: vec![sum("b"), sum("c")] });
    assert_eq!(read_columns(&all, true), ["b"]);
}

#[test]
fn the_parts_of_a_union_give_the_same_columns() {
    let union = |inputs: Vec<LogicalPlan>| LogicalPlan::Union { inputs: inputs.into_iter().map(Arc::new).collect() };
    let both = union(vec![read(), table(&["c", "b", "a"]), sorted(read())]);
    assert_eq!(read_columns(&union(vec![read(), sorted(read())]).select(["c"]), false), ["c", "a c"]);
    for (plan, only_count) in [(both.clone().select(["b"]), false), (both.clone(), true), (both, false)] {
        let better = optimise(&plan, only_count).unwrap();
        assert!(plan_schema(&better).is_ok(), "{better}");
    }
}

#[test]
fn a_name_that_nobody_uses_is_in_the_way_of_no_other() {
    let rename = |columns: &[(&str, &str)]| {
        let columns = columns.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        table(&["a", "b", "c"]).then(Operator::Rename { columns })
    };
    let swap = rename(&[("a", "b"), ("b", "a")]).select(["a"]);
    assert_eq!(text(swap), "select a < rename b to a < select b < batches (1, 1 rows)");
    let two = rename(&[("a", "x")]).then(Operator::Rename { columns: vec![("b".into(), "a".into())] }).select(["a"]);
    assert_eq!(text(two), "select a < rename b to a < select b < select b < batches (1, 1 rows)");
    let unused = rename(&[("a", "x")]).select(["b"]);
    assert_eq!(text(unused), "select b < select b < batches (1, 1 rows)");
    let join =
        Join { kind: JoinKind::Inner, left_on: vec!["b".into()], right_on: vec!["b".into()], suffix: "_r".into() };
    let joined = rename(&[("a", "x")]).join(table(&["a", "b"]), join).select(["a"]);
    assert!(plan_schema(&optimise(&joined, false).unwrap()).is_ok());
}

#[test]
fn what_is_dropped_is_not_read() {
    let drop = |columns: &[&str]| Operator::Drop { columns: columns.iter().map(|c| (*c).to_owned()).collect() };
    assert_eq!(read_columns(&read().then(drop(&["b"])), false), ["a c"]);
    assert_eq!(read_columns(&read().then(drop(&["b"])).select(["c"]), false), ["c"]);
    assert_eq!(read_columns(&read().filter(col("b").gt(lit(1))).then(drop(&["b"])), false), ["a b c"]);
    // Nobody knows what else a function gives.
    let mapped = read().map_batches(map()).then(drop(&["b"]));
    assert!(text(mapped).starts_with("drop b < map_batches f"));
}

#[test]
fn a_sample_is_of_the_same_rows_whatever_is_read_of_them() {
    let sampled = read().then(Operator::Sample { fraction: 0.5, seed: 1 });
    assert_eq!(read_columns(&sampled, true), ["a b c"]);
    assert_eq!(read_columns(&sampled.select(["a"]), false), ["a b c"]);
}
