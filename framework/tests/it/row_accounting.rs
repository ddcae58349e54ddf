//! Which rows a plan gives, and in which order, against a plain list: limits, cuts, slices of
//! blocks, unions and zips on top of each other, however rows lie in blocks.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use mobula::{Dataset, col, from_batches, lit, range};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::data_support::{numbers, session};

/// What is done to rows.
#[derive(Debug, Clone)]
enum Step {
    Limit(u64),
    Even,
    Plus,
    Repartition(u64),
    RepartitionRows(u64),
    Materialize,
    /// The rows from one place to another.
    Slice(u64, u64),
    /// With the first so many of them once more.
    Again(u64),
    /// Beside themselves in other blocks.
    Zip(u64),
    SortDown,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u64..70).prop_map(Step::Limit),
        2 => Just(Step::Even),
        1 => Just(Step::Plus),
        2 => (1_u64..9).prop_map(Step::Repartition),
        1 => (1_u64..30).prop_map(Step::RepartitionRows),
        1 => Just(Step::Materialize),
        3 => (0_u64..60, 0_u64..60).prop_map(|(one, two)| Step::Slice(one.min(two), one.max(two))),
        2 => (0_u64..20).prop_map(Step::Again),
        1 => (1_u64..7).prop_map(Step::Zip),
        1 => Just(Step::SortDown),
    ];
    proptest::collection::vec(step, 0..6)
}

/// 0, 1, 2 and so on in blocks of these sizes.
fn counted(blocks: &[usize]) -> (Dataset, Vec<i64>) {
    let mut next = 0;
    let mut block = |rows: &usize| {
        let values = Int64Array::from_iter_values(next..next + *rows as i64);
        next += *rows as i64;
        RecordBatch::try_from_iter([("id", Arc::new(values) as ArrayRef)]).unwrap()
    };
    let batches: Vec<RecordBatch> = blocks.iter().map(&mut block).collect();
    (from_batches(batches), (0..next).collect())
}

fn done(rows: Dataset, mut list: Vec<i64>, step: &Step) -> (Dataset, Vec<i64>) {
    match *step {
        Step::Limit(most) => {
            list.truncate(most as usize);
            (rows.limit(most), list)
        }
        Step::Even => {
            list.retain(|id| id % 2 == 0);
            (rows.filter((col("id") % lit(2)).eq(lit(0))), list)
        }
        Step::Plus => {
            let more = list.into_iter().map(|id| id + 1).collect();
            (rows.with_column("id", col("id") + lit(1)), more)
        }
        Step::Repartition(blocks) => (rows.repartition(blocks), list),
        Step::RepartitionRows(most) => (rows.repartition_rows(most), list),
        Step::Materialize => (rows.materialize().unwrap(), list),
        Step::Slice(start, end) => {
            let parts = rows.split_at_indices(&[start, end]).unwrap();
            let at = |place: u64| (place as usize).min(list.len());
            (parts[1].clone(), list[at(start)..at(end)].to_vec())
        }
        Step::Again(most) => {
            let again = list[..list.len().min(most as usize)].to_vec();
            (rows.clone().union([rows.limit(most)]), [list, again].concat())
        }
        Step::Zip(blocks) => {
            let beside = rows.clone().repartition(blocks).rename([("id", "other")]);
            (rows.zip(beside).filter(col("id").eq(col("other"))).select("id"), list)
        }
        Step::SortDown => {
            list.sort_unstable_by(|one, two| two.cmp(one));
            (rows.sort(mobula::SortKey::descending("id")), list)
        }
    }
}

#[test]
fn rows_are_those_of_a_plain_list() {
    let session = session();
    let _entered = session.enter();
    let plans = (proptest::collection::vec(0_usize..25, 1..6), any::<bool>(), steps(), 0_u64..60, any::<bool>());
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let check = |(blocks, is_range, steps, most, small): (Vec<usize>, bool, Vec<Step>, u64, bool)| {
        let (mut rows, mut list) = counted(&blocks);
        if is_range {
            rows = range(list.len() as u64).repartition(blocks.len() as u64);
        }
        if small {
            rows = rows.part_bytes(500);
        }
        for step in &steps {
            (rows, list) = done(rows, list, step);
        }
        prop_assert_eq!(numbers(&rows, "id"), list.clone());
        prop_assert_eq!(rows.count().unwrap(), list.len() as u64);
        let first = rows.take(most).unwrap();
        prop_assert_eq!(first.iter().map(|batch| batch.num_rows() as u64).sum::<u64>(), most.min(list.len() as u64));
        list.truncate(most as usize);
        prop_assert_eq!(numbers(&rows.limit(most), "id"), list);
        Ok(())
    };
    TestRunner::new(config).run(&plans, check).unwrap_or_else(|error| panic!("{error}"));
}
