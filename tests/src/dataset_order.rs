//! Rows in an order: sorts and shuffles.

use arrow::array::RecordBatch;
use mobula::{Dataset, SortKey, from_batches, range, read_parquet};

use crate::tables::{Folder, all, block_rows, cut, float_column, floats, in_blocks, int_column, ints, table, whole};
use crate::{Scenario, everywhere};

pub(crate) const SORT: &[Scenario] = &[
    everywhere("a sort, ascending and descending, over any number of blocks", sorted),
    everywhere("a hundred equal keys over a hundred blocks keep their order", equal_keys),
    everywhere("no rows sort to no rows", empty),
    everywhere("columns stay aligned", aligned),
    everywhere("nulls and NaNs have their places", special),
    everywhere("several keys with directions of their own", directions),
    everywhere("the first rows of an order are those of the whole order", first),
];

pub(crate) const SHUFFLE: &[Scenario] = &[
    everywhere("equal seeds shuffle equally and others otherwise", seeds),
    everywhere("a shuffle mixes the rows of all blocks", mixes),
    everywhere("blocks in an order by chance keep their rows together", blocks_shuffled),
    everywhere("a sample keeps equal rows for equal seeds, however it is asked", sampled),
];

/// 0..rows in an order that has no pattern.
fn mixed(rows: i64) -> impl Iterator<Item = i64> + Clone {
    // 7919 is a prime that divides none of the numbers of rows used here.
    (0..rows).map(move |x| (x * 7919 + 13) % rows)
}

fn sorted() {
    let rows = table([("x", ints(mixed(100)))]);
    let up: Vec<i64> = (0..100).collect();
    let down: Vec<i64> = (0..100).rev().collect();
    let check = |rows: Dataset| {
        assert_eq!(whole(&all(&rows.clone().sort("x")), "x"), up);
        assert_eq!(whole(&all(&rows.clone().sort(SortKey::descending("x"))), "x"), down);
        assert_eq!(rows.sort("x").count().expect("counted"), 100);
    };
    in_blocks(&rows, check);
    check(from_batches(cut(&rows, 4)));
    check(from_batches(cut(&rows, 4)).part_bytes(500));
    // Sources that are read twice: once for their keys alone.
    let ids = range(100).repartition(4).part_bytes(200);
    assert_eq!(whole(&all(&ids.sort(SortKey::descending("id"))), "id"), down);
}

fn equal_keys() {
    let rows = table([("x", ints((0..100).map(|_| 7))), ("place", ints(0..100))]);
    let sorted = from_batches(cut(&rows, 100)).sort("x");
    assert_eq!(block_rows(&sorted).into_iter().filter(|rows| *rows > 0).collect::<Vec<_>>(), [100]);
    in_blocks(&rows, |rows| {
        let sorted = all(&rows.sort(SortKey::descending("x")));
        assert!(whole(&sorted, "place").into_iter().eq(0..100), "equal keys keep their order");
    });
    // Into many parts, where rows of one key are cut as well.
    let parts = from_batches(cut(&rows, 100)).part_bytes(5_000).sort("x");
    assert!(whole(&all(&parts), "place").into_iter().eq(0..100));
    assert_eq!(block_rows(&parts).iter().sum::<u64>(), 100);
}

fn empty() {
    in_blocks(&table([("x", ints(mixed(100)))]).slice(0, 0), |rows| {
        let sorted = rows.sort("x");
        assert_eq!((sorted.count().expect("counted"), all(&sorted).num_rows()), (0, 0));
        assert_eq!(all(&sorted.limit(3)).num_rows(), 0);
    });
}

fn aligned() {
    let rows = table([
        ("x", ints(mixed(200))),
        ("twice", ints(mixed(200).map(|x| 2 * x))),
        ("half", floats(mixed(200).map(|x| x as f64 / 2.0))),
    ]);
    in_blocks(&rows, |rows| {
        for key in ["x", "half"] {
            let sorted = all(&rows.clone().sort(key));
            assert!(whole(&sorted, "twice").into_iter().eq((0..200).map(|x| 2 * x)));
            assert!(float_column(&sorted, "half").into_iter().eq((0..200).map(|x| Some(x as f64 / 2.0))));
        }
        let shuffled = all(&rows.random_shuffle(1));
        for (x, twice) in whole(&shuffled, "x").into_iter().zip(whole(&shuffled, "twice")) {
            assert_eq!(2 * x, twice);
        }
    });
}

fn special() {
    let values = (0..60).map(|x| match x % 3 {
        0 => Some(f64::from(x)),
        1 => None,
        _ => Some(f64::NAN),
    });
    in_blocks(&table([("x", floats(values))]), |rows| {
        let up = float_column(&all(&rows.clone().sort("x")), "x");
        assert!(up[..20].is_sorted() && up[..20].iter().flatten().count() == 20, "{up:?}");
        assert!(up[20..40].iter().all(|x| x.is_some_and(f64::is_nan)), "a NaN is greater than every number: {up:?}");
        assert!(up[40..].iter().all(Option::is_none), "nulls come last: {up:?}");
        let down = float_column(&all(&rows.clone().sort(SortKey::descending("x"))), "x");
        assert!(down[..20].iter().all(|x| x.is_some_and(f64::is_nan)) && down[40..].iter().all(Option::is_none));
        let first = float_column(&all(&rows.sort(SortKey::ascending("x").with_nulls_first())), "x");
        assert!(first[..20].iter().all(Option::is_none) && first[20] == Some(0.0), "{first:?}");
    });
}

fn directions() {
    let rows =
        table([("a", ints(mixed(120).map(|x| x % 4))), ("b", ints(mixed(120).map(|x| (x % 5 > 0).then_some(x))))]);
    in_blocks(&rows, |rows| {
        let keys = [SortKey::descending("a"), SortKey::ascending("b").with_nulls_first()];
        let sorted = all(&rows.sort(keys));
        let found: Vec<_> = whole(&sorted, "a").into_iter().zip(int_column(&sorted, "b")).collect();
        // None is less than every number, as nulls are where they come first.
        assert!(found.is_sorted_by(|one, other| (-one.0, one.1) <= (-other.0, other.1)), "{found:?}");
        assert_eq!(found.len(), 120);
    });
}

fn first() {
    let rows = table([("x", ints(mixed(300).map(|x| x / 3))), ("place", ints(0..300))]);
    in_blocks(&rows, |rows| {
        let sorted = rows.sort("x");
        let whole_order = all(&sorted);
        for count in [0, 1, 7, 100, 1000] {
            let first = all(&sorted.clone().limit(count));
            let expected = whole_order.slice(0, 300.min(count as usize));
            assert_eq!(whole(&first, "place"), whole(&expected, "place"), "the first {count}");
        }
    });
}

fn seeds() {
    let rows = table([("x", ints(0..200))]);
    in_blocks(&rows, |rows| {
        let order = |seed: Option<u64>| whole(&all(&rows.clone().random_shuffle(seed)), "x");
        let input: Vec<i64> = (0..200).collect();
        let (zero, other) = (order(Some(0)), order(Some(12_345)));
        assert_eq!(zero, order(Some(0)));
        assert_eq!(other, order(Some(12_345)));
        assert!(zero != other && zero != input && other != input);
        let (one, two) = (order(None), order(None));
        assert_ne!(one, two, "without a seed every run has an order of its own");
        for mut order in [zero, other, one, two] {
            order.sort_unstable();
            assert_eq!(order, input, "every row once");
        }
    });
}

fn mixes() {
    let rows = table([("x", ints((0..1000).map(|place| place / 100)))]);
    for dataset in [from_batches(cut(&rows, 10)), from_batches(cut(&rows, 10)).part_bytes(3_000)] {
        let shuffled = whole(&all(&dataset.random_shuffle(42)), "x");
        for (run, hundred) in shuffled.chunks(100).enumerate() {
            let mut values = hundred.to_vec();
            values.sort_unstable();
            values.dedup();
            assert_eq!(values.len(), 10, "run {run} has {hundred:?}");
        }
        assert!(shuffled.windows(10).all(|ten| ten.iter().any(|x| *x != ten[0])), "ten equal ones in a row");
    }
}

fn blocks_shuffled() {
    let rows: Vec<RecordBatch> = cut(&table([("x", ints(0..300))]), 30);
    let order = |seed: u64| whole(&all(&from_batches(rows.clone()).randomize_block_order(seed)), "x");
    let one = order(3);
    assert!(one == order(3) && one != order(4));
    assert!(one.chunks(10).all(|block| block[0] % 10 == 0 && block.is_sorted()), "rows of a block stay together");
    let mut every = one;
    every.sort_unstable();
    assert!(every.into_iter().eq(0..300));
}

fn sampled() {
    let rows = table([("x", ints(0..2000)), ("y", ints(0..2000))]);
    in_blocks(&rows, |rows| {
        let sample = |seed| rows.clone().random_sample(0.25, seed);
        let kept = whole(&all(&sample(5)), "x");
        assert!((300..700).contains(&kept.len()), "{} of 2000", kept.len());
        assert!(kept.is_sorted() && kept == whole(&all(&sample(5)), "x") && kept != whole(&all(&sample(6)), "x"));
        assert_eq!(sample(5).count().expect("counted"), kept.len() as u64);
        assert_eq!(whole(&all(&sample(5).select(["y"])), "y"), kept);
        assert_eq!(rows.clone().random_sample(0.0, 1).count().expect("counted"), 0);
        assert_eq!(rows.clone().random_sample(1.0, 1).count().expect("counted"), 2000);
    });
    // The same of files, whose blocks are cut by what is read of them.
    let folder = Folder::new();
    from_batches(cut(&rows, 30)).write_parquet(folder.path().join("in")).expect("written");
    for block_bytes in [1, 2_000, 16 << 20] {
        let sample = read_parquet(folder.path().join("in")).block_bytes(block_bytes).random_sample(0.25, 5);
        let kept = whole(&all(&sample), "x");
        assert_eq!(sample.count().expect("counted"), kept.len() as u64);
        assert_eq!(whole(&all(&sample.select(["y"])), "y"), kept);
    }
}
