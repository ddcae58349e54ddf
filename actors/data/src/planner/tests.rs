use super::*;
use crate::aggregate::{count, sum};
use crate::expr::{col, lit};
use crate::plan::{Join, JoinKind, SortKey};

/// Files of the columns `a`, `b` and `c`, opened.
fn read() -> LogicalPlan {
    let fields = ["a", "b", "c"].map(|name| Field::new(name, DataType::Int64, true));
    LogicalPlan::Source(Source::Files(ReadFiles::of_columns(Arc::new(Schema::new(fields.to_vec())))))
}

fn map(batch_rows: Option<usize>) -> MapBatches {
    MapBatches {
        function: "f".into(),
        params: Vec::new(),
        batch_rows,
        name: "f".into(),
        compute: Compute::Tasks,
        resources: Vec::new(),
    }
}

/// The columns with their types, and a `?` where they may be null.
fn columns(plan: &LogicalPlan) -> String {
    let schema = plan_schema(plan).unwrap().unwrap();
    let column = |field: &Arc<Field>| {
        let nullable = if field.is_nullable() { "?" } else { "" };
        format!("{} {}{nullable}", field.name(), field.data_type())
    };
    schema.fields().iter().map(column).collect::<Vec<_>>().join(", ")
}

fn refused(plan: LogicalPlan) -> String {
    plan_schema(&plan).unwrap_err().to_string()
}

fn exchanged(exchange: Exchange) -> LogicalPlan {
    read().exchange(exchange)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_runs() {
    assert!(refused(read().filter(col("z").gt(lit(1)))).contains("no column z; there are a, b, c"));
    assert!(refused(read().select(["a"]).filter(col("b").gt(lit(1)))).contains("no column b; there are a"));
    assert!(refused(read().select(["a", "a"])).contains("twice"));
    assert!(refused(read().filter(col("a"))).contains("true or false"));
    let mut zero = read();
    zero.each_files_mut(&mut |read| read.batch_rows = 0);
    assert!(refused(zero).contains("batch size of 0"));
    assert!(refused(read().map_batches(map(None)).map_batches(map(Some(0)))).contains("batch size of 0"));
    assert!(refused(LogicalPlan::read_parquet(["x"])).contains("not been opened"));
}

#[test]
fn the_columns_of_a_part_are_those_of_a_plan_and_are_looked_for_once() {
    let join = Join { kind: JoinKind::Inner, left_on: names(&["x"]), right_on: names(&["a"]), suffix: "_right".into() };
    let renamed = read().then(Operator::Rename { columns: vec![("a".into(), "x".into())] });
    let mapped = read().map_batches(map(None)).then(Operator::Drop { columns: names(&["z"]) });
    let joined = renamed.then(Operator::Drop { columns: names(&["c"]) }).join(read(), join);
    let plan = LogicalPlan::Union { inputs: vec![Arc::new(joined.limit(3)), Arc::new(mapped)] };
    let wrong = read().select(["z"]);
    let mut schemas = Schemas::default();
    let (mut parts, mut waiting) = (0, vec![&plan]);
    while let Some(part) = waiting.pop() {
        assert_eq!(schemas.of(part), plan_schema(part), "{part}");
        parts += 1;
        waiting.extend(part.inputs());
    }
    assert_eq!(schemas.known.len(), parts);
    assert!(schemas.of(&wrong).is_err());
}

#[test]
fn operators_on_columns_name_those_that_are_not_there() {
    let unknown = "no column z; there are a, b, c";
    assert!(refused(read().select(["z"])).contains(unknown));
    assert!(refused(read().with_column("d", col("z") + lit(1))).contains(unknown));
    assert!(refused(read().then(Operator::Drop { columns: names(&["z"]) })).contains(unknown));
    let rename = |from: &str, to: &str| read().then(Operator::Rename { columns: vec![(from.into(), to.into())] });
    assert!(refused(rename("z", "y")).contains(unknown));
    assert!(refused(rename("a", "b")).contains("two columns would be called b"));
    assert_eq!(columns(&rename("a", "y")), "y Int64?, b Int64?, c Int64?");
    let swap = vec![("a".to_owned(), "b".to_owned()), ("b".to_owned(), "a".to_owned())];
    assert_eq!(columns(&read().then(Operator::Rename { columns: swap })), "b Int64?, a Int64?, c Int64?");
    let twice = vec![("d".to_owned(), col("a")), ("d".to_owned(), col("b"))];
    assert!(refused(read().then(Operator::Project { columns: twice })).contains("twice"));
}

#[test]
fn a_fraction_and_a_number_of_blocks_must_make_sense() {
    for fraction in [-0.1, 1.1, f64::NAN] {
        assert!(refused(read().then(Operator::Sample { fraction, seed: 1 })).contains("from 0 to 1"));
    }
    let blocks = |by| refused(exchanged(Exchange::Repartition(by)));
    assert!(blocks(Repartition::Blocks(0)).contains("one block or more"));
    assert!(blocks(Repartition::Rows(0)).contains("one row or more"));
    assert!(blocks(Repartition::ByKey { keys: names(&["a"]), blocks: 0 }).contains("one block or more"));
    assert!(blocks(Repartition::ByKey { keys: names(&["z"]), blocks: 1 }).contains("there are a, b, c"));
    assert!(blocks(Repartition::ByKey { keys: Vec::new(), blocks: 1 }).contains("name the columns"));
}

#[test]
fn an_exchange_names_the_keys_that_are_not_there() {
    let unknown = "no column z; there are a, b, c";
    assert!(refused(exchanged(Exchange::Sort { keys: vec![SortKey::ascending("z")] })).contains(unknown));
    assert!(refused(exchanged(Exchange::Sort { keys: Vec::new() })).contains("name a column to sort by"));
    let group = |keys: &[&str], aggregates| exchanged(Exchange::Aggregate { keys: names(keys), aggregates });
    assert!(refused(group(&["z"], vec![count()])).contains(unknown));
    assert!(refused(group(&["a"], vec![sum("z")])).contains(unknown));
    assert!(refused(group(&[], vec![])).contains("name the columns of a key"));
    assert_eq!(columns(&group(&["a"], vec![count(), sum("b")])), "a Int64?, count() Int64, sum(b) Int64?");
    let groups = |keys: &[&str], batch_rows| exchanged(Exchange::MapGroups { keys: names(keys), map: map(batch_rows) });
    assert!(refused(groups(&["z"], None)).contains(unknown));
    assert!(refused(groups(&[], None)).contains("name the columns"));
    assert!(refused(groups(&["a"], Some(0))).contains("batch size of 0"));
    assert_eq!(plan_schema(&groups(&["a"], None)), Ok(None));
}

#[test]
fn what_comes_after_a_function_is_not_known() {
    assert_eq!(plan_schema(&read().map_batches(map(None)).select(["z"])), Ok(None));
    let join = Join { kind: JoinKind::Inner, left_on: names(&["z"]), right_on: names(&["z"]), suffix: "_r".into() };
    assert_eq!(plan_schema(&read().map_batches(map(None)).join(read(), join)), Ok(None));
}

#[test]
fn a_union_has_the_columns_of_its_first_part_in_any_order() {
    let union = |inputs: Vec<LogicalPlan>| LogicalPlan::Union { inputs: inputs.into_iter().map(Arc::new).collect() };
    let turned = read().select(["c", "a", "b"]);
    assert_eq!(columns(&union(vec![read(), turned])), "a Int64?, b Int64?, c Int64?");
    assert!(refused(union(vec![read(), read().select(["a", "b"])])).contains("no column c"));
    assert!(refused(union(vec![read().select(["a", "b"]), read()])).contains("column c is not in the first"));
    let other = read().with_column("a", col("a") * lit(0.5));
    assert!(refused(union(vec![read(), other])).contains("column a is Int64 in one dataset and Float64 in another"));
}

#[test]
fn a_zip_has_the_columns_of_both_under_names_of_their_own() {
    let (left, right) = (Arc::new(read().select(["a", "b"])), Arc::new(read().select(["b", "c"])));
    let zip = LogicalPlan::Zip { left, right: Arc::clone(&right) };
    assert_eq!(columns(&zip), "a Int64?, b Int64?, b_1 Int64?, c Int64?");
    let again = LogicalPlan::Zip { left: Arc::new(zip), right };
    assert_eq!(columns(&again), "a Int64?, b Int64?, b_1 Int64?, c Int64?, b_1_1 Int64?, c_1 Int64?");
}
