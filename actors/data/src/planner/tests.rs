use super::*;
use crate::expr::{col, lit};
use crate::parquet_read::RowGroup;
use crate::plan::MapBatches;
use arrow::datatypes::{DataType, Field};
use proptest::prelude::*;

fn footer(path: &str, groups: &[u64]) -> FileFooter {
    let fields = ["a", "b", "c"].map(|name| Field::new(name, DataType::Int64, true));
    let group = |rows: &u64| RowGroup { rows: *rows, column_bytes: vec![rows * 8; 3] };
    FileFooter {
        path: path.into(),
        schema: Arc::new(Schema::new(fields.to_vec())),
        row_groups: groups.iter().map(group).collect(),
    }
}

fn read() -> LogicalPlan {
    LogicalPlan::read_parquet(["x"])
}

fn write() -> Sink {
    Sink::WriteParquet { dir: "out".into(), options: WriteOptions::default() }
}

fn planned(logical: &LogicalPlan, sink: &Sink) -> PhysicalPlan {
    plan(logical, sink, &[footer("x", &[10, 20]), footer("y", &[30])], "out/.mobula-run").unwrap()
}

fn columns(physical: &PhysicalPlan) -> Vec<&str> {
    physical.stage.schema.fields().iter().map(|f| f.name().as_str()).collect()
}

fn rows(physical: &PhysicalPlan) -> u64 {
    physical.tasks.iter().flat_map(|t| &t.pieces).map(|p| p.rows).sum()
}

fn map() -> MapBatches {
    MapBatches { function: "f".into(), params: Vec::new(), batch_rows: None, name: "f".into() }
}

#[test]
fn columns_that_no_one_uses_are_not_read() {
    let filtered = read().filter(col("b").gt(lit(1)));
    assert_eq!(columns(&planned(&filtered, &Sink::Count)), ["b"]);
    assert_eq!(columns(&planned(&filtered, &write())), ["a", "b", "c"]);
    let unused = filtered.clone().with_column("d", col("a") + lit(1)).select(["c"]);
    let physical = planned(&unused, &write());
    assert_eq!(columns(&physical), ["b", "c"]);
    assert_eq!(physical.stage.operators.len(), 2);
    let used = read().with_column("a", col("c") * lit(2)).select(["a"]);
    assert_eq!(columns(&planned(&used, &write())), ["c"]);
    let mapped = filtered.map_batches(map()).select(["z"]);
    assert_eq!(columns(&planned(&mapped, &Sink::Count)), ["a", "b", "c"]);
}

#[test]
fn a_count_without_conditions_reads_nothing() {
    let physical = planned(&read().with_column("d", lit(1)), &Sink::Count);
    assert_eq!((physical.tasks.len(), columns(&physical).len()), (1, 0));
    assert_eq!(rows(&planned(&read().limit(25), &Sink::Count)), 25);
}

#[test]
fn a_limit_ends_the_read_where_rows_can_be_counted() {
    let physical = planned(&read().with_column("d", lit(1)).limit(15), &write());
    assert_eq!((rows(&physical), physical.limit), (15, None));
    assert_eq!(rows(&planned(&read().limit(15).filter(col("a").gt(lit(1))).limit(3), &write())), 15);
    assert_eq!(rows(&planned(&read().limit(0), &Sink::Batches)), 0);
    let filtered = read().filter(col("a").gt(lit(1))).limit(5);
    let physical = planned(&filtered, &Sink::Batches);
    assert_eq!((rows(&physical), physical.limit), (60, Some(5)));
}

#[test]
fn a_limit_behind_a_filter_runs_in_one_task_when_rows_are_written() {
    let big = [footer("x", &[4 << 20, 4 << 20]), footer("y", &[4 << 20])];
    let filtered = read().filter(col("a").gt(lit(1))).limit(5);
    assert_eq!(plan(&filtered, &write(), &big, "s").unwrap().tasks.len(), 1);
    assert_eq!(plan(&filtered, &Sink::Batches, &big, "s").unwrap().tasks.len(), 3);
    let again = filtered.filter(col("b").gt(lit(1)));
    assert_eq!(plan(&again, &Sink::Batches, &big, "s").unwrap().tasks.len(), 1);
}

#[test]
fn blocks_are_as_large_as_the_plan_says() {
    let mut logical = read();
    logical.source_mut().block_bytes = 1;
    let physical = planned(&logical, &write());
    assert_eq!((physical.tasks.len(), rows(&physical)), (3, 60));
    logical.source_mut().block_bytes = 400;
    assert_eq!(planned(&logical, &write()).tasks.len(), 2);
}

#[test]
fn no_row_group_is_still_one_task() {
    let physical = plan(&read(), &write(), &[footer("x", &[])], "s").unwrap();
    assert_eq!(physical.tasks, [BlockTask { ordinal: 0, pieces: vec![], expected_bytes: 0 }]);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_runs() {
    let files = [footer("x", &[10])];
    let refused = |logical: LogicalPlan| plan(&logical, &write(), &files, "s").unwrap_err().to_string();
    assert!(refused(read().filter(col("z").gt(lit(1)))).contains("no column z; there are a, b, c"));
    assert!(refused(read().select(["a"]).filter(col("b").gt(lit(1)))).contains("no column b; there are a"));
    assert!(refused(read().select(["a", "a"])).contains("twice"));
    assert!(refused(read().filter(col("a"))).contains("true or false"));
    let mut zero = read();
    zero.source_mut().batch_rows = 0;
    assert!(refused(zero).contains("batch size of 0"));
    let zero = MapBatches { batch_rows: Some(0), ..map() };
    assert!(refused(read().map_batches(map()).map_batches(zero)).contains("batch size of 0"));
}

#[test]
fn a_stage_and_its_tasks_survive_the_wire() {
    let physical = planned(&read().filter(col("b").gt(lit(1))), &write());
    let bytes = rmp_serde::to_vec(&(&physical.stage, &physical.tasks)).unwrap();
    let (stage, tasks): (Stage, Vec<BlockTask>) = rmp_serde::from_slice(&bytes).unwrap();
    assert_eq!((stage, tasks), (physical.stage, physical.tasks));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_row_is_in_exactly_one_piece(
        files in proptest::collection::vec(proptest::collection::vec(0u64..3_000_000, 0..6), 1..5),
        limit in proptest::option::of(0u64..20_000_000),
    ) {
        let paths: Vec<String> = (0..files.len()).map(|i| format!("f{i}")).collect();
        let footers: Vec<_> = files.iter().zip(&paths).map(|(g, p)| footer(p, g)).collect();
        let logical = limit.map_or(read(), |rows| read().limit(rows));
        let physical = plan(&logical, &write(), &footers, "s").unwrap();
        let total: u64 = files.iter().flatten().sum();
        prop_assert_eq!(rows(&physical), total.min(limit.unwrap_or(u64::MAX)));
        let mut last = (0, 0);
        for (ordinal, task) in physical.tasks.iter().enumerate() {
            prop_assert_eq!(task.ordinal, ordinal as u64);
            for piece in &task.pieces {
                let groups = &files[piece.file as usize];
                let (from, to) = (piece.row_groups.start as usize, piece.row_groups.end as usize);
                prop_assert_eq!(piece.first_row, groups[..from].iter().sum::<u64>());
                prop_assert_eq!(piece.group_rows, groups[from..to].iter().sum::<u64>());
                prop_assert!(piece.rows <= piece.group_rows);
                prop_assert!((piece.file, piece.row_groups.start) >= last);
                last = (piece.file, piece.row_groups.end);
            }
        }
    }
}
