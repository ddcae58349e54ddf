//! Random plans give the same rows before and after they are made better: both are run by a small
//! interpreter, one operator after the other over all rows.

use super::*;
use crate::aggregate::{Aggregate, count, max, sum};
use crate::exchange::aggregate::{Final, Partial};
use crate::exchange::join::{JoinPlan, Joiner};
use crate::exchange::rows::Gathered;
use crate::expr::{BoundExpr, Expr, col, lit};
use crate::plan::SortKey;
use crate::planner::schema_after;
use arrow::array::{ArrayRef, Int64Array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;

/// What all sources hold: columns of few values, some of them null.
fn table() -> RecordBatch {
    let column = |name: &'static str, step: i64| {
        let values = (0..24).map(|row: i64| (row * step % 7 != 3).then_some(row * step % 5));
        (name, Arc::new(values.collect::<Int64Array>()) as ArrayRef, true)
    };
    RecordBatch::try_from_iter_with_nullable([column("a", 3), column("b", 1), column("c", 11)]).unwrap()
}

/// The table as files, which are read by column, and as batches, which are not.
fn sources() -> [LogicalPlan; 2] {
    let batch = table();
    let files = Source::Files(ReadFiles::of_columns(batch.schema()));
    let batches = Source::Batches { schema: batch.schema(), batches: Arc::new(vec![batch]) };
    [LogicalPlan::Source(files), LogicalPlan::Source(batches)]
}

fn with_rows(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let schema = crate::exchange::keys::nullable(schema);
    RecordBatch::try_new_with_options(schema, columns, &options).unwrap()
}

/// All rows of a plan.
fn rows_of(plan: &LogicalPlan) -> RecordBatch {
    let schema = plan_schema(plan).unwrap().unwrap();
    match plan {
        LogicalPlan::Source(_) => {
            let all = table();
            let columns = schema.fields().iter().map(|field| Arc::clone(&all[field.name().as_str()])).collect();
            with_rows(&schema, columns, all.num_rows())
        }
        LogicalPlan::Op { input, op } => operated(&rows_of(input), op),
        LogicalPlan::Exchange { input, exchange } => exchanged(&rows_of(input), exchange, &schema),
        LogicalPlan::Join { left, right, join } => joined(&rows_of(left), &rows_of(right), join),
        LogicalPlan::Union { inputs } => {
            let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
            let part =
                |input: &Arc<LogicalPlan>| operated(&rows_of(input), &Operator::Select { columns: names.clone() });
            let parts: Vec<RecordBatch> = inputs.iter().map(part).collect();
            if names.is_empty() {
                return with_rows(&schema, Vec::new(), parts.iter().map(RecordBatch::num_rows).sum());
            }
            concat_batches(&parts[0].schema(), &parts).unwrap()
        }
        LogicalPlan::Zip { .. } => panic!("no plan has one"),
    }
}

fn operated(rows: &RecordBatch, op: &Operator) -> RecordBatch {
    let schema = schema_after(op, &rows.schema()).unwrap().unwrap();
    let column = |name: &str| Arc::clone(&rows[name]);
    let columns = match op {
        Operator::Filter { condition } => {
            let mask = BoundExpr::bind_condition(condition, &rows.schema(), "filter").unwrap();
            return filter_record_batch(rows, &mask.evaluate_mask(rows).unwrap()).unwrap();
        }
        Operator::Limit { rows: most } => return rows.slice(0, rows.num_rows().min(*most as usize)),
        Operator::WithColumn { name, value } => {
            let value = BoundExpr::bind(value, &rows.schema(), "with_column").unwrap().evaluate(rows).unwrap();
            let of = |field: &String| if field == name { Arc::clone(&value) } else { column(field) };
            schema.fields().iter().map(|field| of(field.name())).collect()
        }
        Operator::Select { .. } | Operator::Drop { .. } => {
            schema.fields().iter().map(|field| column(field.name())).collect()
        }
        Operator::Rename { .. } => rows.columns().to_vec(),
        Operator::Project { columns } => {
            let value =
                |value: &Expr| BoundExpr::bind(value, &rows.schema(), "project").unwrap().evaluate(rows).unwrap();
            columns.iter().map(|(_, expr)| value(expr)).collect()
        }
        other => panic!("no plan has {other}"),
    };
    with_rows(&schema, columns, rows.num_rows())
}

fn exchanged(rows: &RecordBatch, exchange: &Exchange, schema: &SchemaRef) -> RecordBatch {
    match exchange {
        Exchange::Sort { keys } => {
            let mut sorted = Gathered::new(vec![rows.clone()], "sort");
            if rows.num_rows() == 0 {
                return rows.clone();
            }
            sorted.sort(keys).unwrap();
            sorted.batch(0, sorted.len()).unwrap()
        }
        Exchange::Repartition(_) => rows.clone(),
        Exchange::Aggregate { keys, aggregates } => {
            let plan = AggregatePlan::new(keys, aggregates, "group_by", &rows.schema()).unwrap();
            let (mut partial, mut end) = (Partial::new(&plan).unwrap(), Final::new(&plan).unwrap());
            let mut states = partial.push(rows).unwrap();
            while let Some(batch) = partial.rest().unwrap() {
                states.push(batch);
            }
            states.into_iter().for_each(|batch| end.push(batch).unwrap());
            let groups = end.finish().unwrap().unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema)));
            with_rows(schema, groups.columns().to_vec(), groups.num_rows())
        }
        other => panic!("no plan has {other}"),
    }
}

fn joined(left: &RecordBatch, right: &RecordBatch, join: &Join) -> RecordBatch {
    let plan = JoinPlan::new(join, &left.schema(), &right.schema()).unwrap();
    let schema = crate::exchange::keys::nullable(&plan.schema().unwrap());
    let mut joiner = Joiner::new(&plan).unwrap();
    joiner.push_right(right).unwrap();
    joiner.end_right();
    let mut given = joiner.push_left(left).unwrap();
    while let Some(batch) = joiner.rest().unwrap() {
        given.push(batch);
    }
    let given = given.into_iter().map(|batch| with_rows(&schema, batch.columns().to_vec(), batch.num_rows()));
    concat_batches(&schema, &given.collect::<Vec<_>>()).unwrap()
}

/// The rows as text; sorted where a join may have mixed them.
fn shown(rows: &RecordBatch, sorted: bool) -> Vec<String> {
    let text = |row: usize| {
        let cells = rows.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
        cells.collect::<Vec<_>>().join(" ")
    };
    let mut texts: Vec<String> = (0..rows.num_rows()).map(text).collect();
    if sorted {
        texts.sort();
    }
    texts
}

fn names(schema: &SchemaRef) -> Vec<String> {
    schema.fields().iter().map(|field| field.name().clone()).collect()
}

fn has_join(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Join { .. }) || plan.inputs().into_iter().any(has_join)
}

/// One more node on `plan`, told by numbers; nothing where it would not fit.
fn grown(plan: LogicalPlan, what: u8, numbers: [usize; 3]) -> LogicalPlan {
    let schema = plan_schema(&plan).unwrap().unwrap();
    let available = names(&schema);
    let name = |number: usize| available[number % available.len()].clone();
    let (one, two) = (name(numbers[0]), name(numbers[1]));
    let value = lit(numbers[2] as i64 % 5);
    let columns = |count: usize| -> Vec<String> {
        let mut picked: Vec<String> = (0..count).map(|i| name(numbers[i % 3] + i)).collect();
        let mut seen = BTreeSet::new();
        picked.retain(|column| seen.insert(column.clone()));
        picked
    };
    let next = match what % 13 {
        0 | 1 => plan.clone().filter(col(&one).gt(value)),
        2 => plan.clone().filter(col(&one).is_null().or(col(&two).lt(value))),
        3 => plan.clone().with_column(two, col(&one) + value),
        4 => plan.clone().with_column(format!("n{}", numbers[2] % 3), col(&one) * value),
        5 => plan.clone().select(columns(1 + numbers[2] % 3)),
        6 => plan.clone().then(Operator::Drop { columns: vec![one] }),
        7 => plan.clone().then(Operator::Rename { columns: vec![(one.clone(), two.clone()), (two, one)] }),
        8 => plan.clone().then(Operator::Rename { columns: vec![(one, ["a", "b", "z"][numbers[2] % 3].into())] }),
        9 => plan.clone().exchange(Exchange::Sort { keys: vec![SortKey::descending(one)] }),
        // Which rows come first after a join is not told.
        10 if !has_join(&plan) => plan.clone().limit(numbers[0] as u64 % 20),
        11 => {
            let computed: [Aggregate; 3] = [count(), sum(&two).alias("s"), max(&one).alias("m")];
            let aggregates = computed[..1 + numbers[2] % 3].to_vec();
            plan.clone().exchange(Exchange::Aggregate { keys: vec![one], aggregates })
        }
        12 => plan.clone().then(Operator::Project { columns: vec![(two, col(&one) + value), ("p".into(), col(&one))] }),
        _ => plan.clone().exchange(Exchange::Repartition(Repartition::Blocks(3))),
    };
    match plan_schema(&next) {
        Ok(Some(schema)) if !schema.fields().is_empty() => next,
        _ => plan,
    }
}

/// Two plans as one, where they fit.
fn together(left: LogicalPlan, right: LogicalPlan, how: u8) -> LogicalPlan {
    let names_of = |plan: &LogicalPlan| names(&plan_schema(plan).unwrap().unwrap());
    let next = if how.is_multiple_of(2) {
        let kinds = [JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full, JoinKind::Semi, JoinKind::Anti];
        let join = Join {
            kind: kinds[how as usize / 2 % 6],
            left_on: names_of(&left)[..1].to_vec(),
            right_on: names_of(&right)[..1].to_vec(),
            suffix: "_r".into(),
        };
        left.clone().join(right, join)
    } else {
        LogicalPlan::Union { inputs: vec![Arc::new(left.clone()), Arc::new(right)] }
    };
    if matches!(plan_schema(&next), Ok(Some(_))) { next } else { left }
}

fn plans() -> impl Strategy<Value = LogicalPlan> {
    let steps = || proptest::collection::vec((any::<u8>(), any::<[u8; 3]>()), 0..5);
    let grow = |plan: LogicalPlan, steps: Vec<(u8, [u8; 3])>| {
        steps.into_iter().fold(plan, |plan, (what, numbers)| grown(plan, what, numbers.map(usize::from)))
    };
    (any::<[bool; 2]>(), steps(), steps(), any::<Option<u8>>(), steps()).prop_map(
        move |(from, left, right, how, above)| {
            let source = |which: bool| sources()[usize::from(which)].clone();
            let left = grow(source(from[0]), left);
            let both = match how {
                Some(how) => together(left, grow(source(from[1]), right), how),
                None => left,
            };
            grow(both, above)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn a_better_plan_gives_the_same_rows(plan in plans()) {
        let sorted = has_join(&plan);
        let rows = rows_of(&plan);
        let better = optimise(&plan, false).unwrap();
        let same = rows_of(&better);
        prop_assert_eq!(names(&same.schema()), names(&rows.schema()), "{}\n\n{}", plan, better);
        prop_assert_eq!(shown(&same, sorted), shown(&rows, sorted), "{}\n\n{}", plan, better);
        let counted = optimise(&plan, true).unwrap();
        prop_assert_eq!(rows_of(&counted).num_rows(), rows.num_rows(), "{}\n\n{}", plan, counted);
    }

    #[test]
    fn a_selection_of_columns_is_that_of_all(plan in plans(), which: u8) {
        let sorted = has_join(&plan);
        let rows = rows_of(&plan);
        let all = names(&rows.schema());
        let column = all[usize::from(which) % all.len()].clone();
        let better = optimise(&plan.clone().select([column.clone()]), false).unwrap();
        let selected = operated(&rows, &Operator::Select { columns: vec![column] });
        prop_assert_eq!(shown(&rows_of(&better), sorted), shown(&selected, sorted), "{}\n\n{}", plan, better);
    }
}
