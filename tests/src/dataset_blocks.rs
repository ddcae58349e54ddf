//! Rows in other blocks and other datasets: repartitions and splits.

use std::collections::BTreeMap;

use mobula::{Dataset, RunError, range};

use crate::tables::{all, block_rows, error, in_blocks, ints, table, whole};
use crate::{Scenario, everywhere};

pub(crate) const REPARTITION: &[Scenario] = &[
    everywhere("into so many blocks of about as many rows each", into_blocks),
    everywhere("by key, all rows of one in one block", by_key),
    everywhere("into blocks of so many rows at most", by_rows),
    everywhere("no blocks, or blocks without room, are refused", refused),
];

pub(crate) const SPLIT: &[Scenario] = &[
    everywhere("into equal parts, without the rest", equal),
    everywhere("into parts of about equal size", about_equal),
    everywhere("at indices", at_indices),
    everywhere("by proportions", proportions),
    everywhere("to train and to test, every row once", train_and_test),
];

fn into_blocks() {
    let twenty = range(20).repartition(10);
    assert_eq!(block_rows(&twenty), [2; 10]);
    assert_eq!(block_rows(&twenty.clone().repartition(5)), [4; 5]);
    assert_eq!(block_rows(&twenty.clone().repartition(20)), [1; 20]);
    let mut forty = block_rows(&twenty.clone().repartition(40));
    forty.sort_unstable();
    assert_eq!(forty, [vec![0; 20], vec![1; 20]].concat());
    assert_eq!(block_rows(&range(22).repartition(10).repartition(4)), [5, 6, 5, 6]);
    assert_eq!(block_rows(&range(10_000).repartition(20)), [500; 20]);
    // The rows keep their order, whatever they went through.
    in_blocks(&table([("x", ints(0..97))]), |rows| {
        for blocks in [1, 7, 30, 150] {
            let other = rows.clone().repartition(blocks);
            assert_eq!(block_rows(&other).len() as u64, blocks);
            assert!(whole(&all(&other), "x").into_iter().eq(0..97));
        }
    });
    assert_eq!(block_rows(&range(0).repartition(3)), [0; 3]);
}

fn by_key() {
    in_blocks(&table([("x", ints((0..300).map(|x| x % 11))), ("y", ints(0..300))]), |rows| {
        let other = rows.repartition_by_key("x", 5);
        assert_eq!(block_rows(&other).len(), 5);
        let mut blocks_of: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
        let mut every = Vec::new();
        for (place, block) in other.to_batches().expect("the blocks").iter().enumerate() {
            every.extend(whole(block, "y"));
            for key in whole(block, "x") {
                let blocks = blocks_of.entry(key).or_default();
                if !blocks.contains(&place) {
                    blocks.push(place);
                }
            }
        }
        assert!(blocks_of.len() == 11 && blocks_of.values().all(|blocks| blocks.len() == 1), "{blocks_of:?}");
        every.sort_unstable();
        assert!(every.into_iter().eq(0..300));
    });
}

fn by_rows() {
    in_blocks(&table([("x", ints(0..128))]), |rows| {
        for most in [1, 2, 4, 8, 100, 128, 1000] {
            let other = rows.clone().repartition_rows(most);
            let blocks = block_rows(&other);
            assert!(blocks.iter().all(|rows| *rows <= most), "{blocks:?} for {most}");
            assert_eq!((blocks.len() as u64, blocks.iter().sum::<u64>()), (128_u64.div_ceil(most), 128));
            assert!(whole(&all(&other), "x").into_iter().eq(0..128));
        }
    });
}

fn refused() {
    in_blocks(&table([("x", ints(0..10))]), |rows| {
        assert!(error(rows.clone().repartition(0).count()).contains("one block or more"));
        assert!(error(rows.clone().repartition_rows(0).count()).contains("one row or more"));
        assert!(error(rows.clone().repartition_by_key("x", 0).count()).contains("one block or more"));
        assert!(error(rows.repartition_by_key("z", 3).to_batches()).contains("no column z; there are x"));
    });
}

fn numbers_of(parts: &[Dataset]) -> Vec<Vec<i64>> {
    parts.iter().map(|part| whole(&all(part), "x")).collect()
}

fn numbered(rows: i64, check: impl Fn(Dataset)) {
    in_blocks(&table([("x", ints(0..rows))]), check);
}

fn equal() {
    numbered(20, |rows| {
        let parts = numbers_of(&rows.split_equal(3).expect("cut"));
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [6, 6, 6]);
        assert!(parts.concat().into_iter().eq(0..18));
        assert_eq!(rows.split_equal(30).expect("cut").len(), 30);
        assert!(error(rows.split_equal(0)).contains("into how many"));
    });
}

fn about_equal() {
    numbered(20, |rows| {
        let parts = numbers_of(&rows.split(3).expect("cut"));
        assert!(parts.concat().into_iter().eq(0..20));
        assert!(parts.len() == 3 && parts.iter().all(|part| [6, 7].contains(&part.len())), "{parts:?}");
        let parts = rows.split(40).expect("cut");
        assert_eq!(parts.iter().map(|part| part.count().expect("counted")).sum::<u64>(), 20);
        assert!(error(rows.split(0)).contains("into how many"));
        // A part is a dataset like any other.
        let halves = rows.split(2).expect("cut");
        assert!(whole(&all(&halves[1].clone().union([halves[0].clone()]).sort("x")), "x").into_iter().eq(0..20));
        assert_eq!(whole(&all(&halves[1].clone().limit(3)), "x"), [10, 11, 12]);
    });
}

fn at_indices() {
    numbered(10, |rows| {
        let at = |indices: &[u64]| numbers_of(&rows.split_at_indices(indices).expect("cut"));
        assert_eq!(at(&[5]), [(0..5).collect::<Vec<_>>(), (5..10).collect()]);
        assert_eq!(at(&[0]), [vec![], (0..10).collect()]);
        assert_eq!(at(&[2, 2, 7]), [vec![0, 1], vec![], (2..7).collect(), (7..10).collect()]);
        assert_eq!(at(&[3, 100]), [vec![0, 1, 2], (3..10).collect(), vec![]]);
        assert_eq!(at(&[]), [(0..10).collect::<Vec<_>>()]);
        assert!(error(rows.split_at_indices(&[5, 3])).contains("must be sorted"));
    });
}

fn proportions() {
    numbered(10, |rows| {
        let parts = numbers_of(&rows.split_proportionately(&[0.2, 0.3, 0.3]).expect("cut"));
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [2, 3, 3, 2]);
        assert!(parts.concat().into_iter().eq(0..10));
        for wrong in [&[][..], &[0.5, 0.5], &[1.2], &[-0.1, 0.3], &[0.0], &[f64::NAN]] {
            assert!(error(rows.split_proportionately(wrong)).contains("greater than 0"), "{wrong:?}");
        }
    });
}

fn train_and_test() {
    numbered(20, |rows| {
        let halves = |cut: Result<(Dataset, Dataset), RunError>| {
            let (train, test) = cut.expect("cut");
            (whole(&all(&train), "x"), whole(&all(&test), "x"))
        };
        let (train, test) = halves(rows.train_test_split(0.25, None));
        assert!(train.into_iter().eq(0..15) && test.into_iter().eq(15..20));
        let (train, test) = halves(rows.train_test_split(0.25, Some(7)));
        assert_eq!((train.len(), test.len()), (15, 5));
        assert_eq!((train.clone(), test.clone()), halves(rows.train_test_split(0.25, Some(7))));
        let mut every = [train, test].concat();
        assert!(!every.is_sorted(), "the rows are shuffled before");
        every.sort_unstable();
        assert!(every.into_iter().eq(0..20), "every row once");
        for wrong in [0.0, 1.0, -1.0, f64::NAN] {
            assert!(error(rows.train_test_split(wrong, None)).contains("between 0 and 1"));
        }
    });
}
