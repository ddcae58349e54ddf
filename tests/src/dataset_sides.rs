//! Rows of more than one dataset: joins, unions, zips; and blocks on more than one node.

use arrow::array::RecordBatch;
use mobula::{Dataset, JoinKind, col, from_batches, lit, range, read_parquet, remote};

use crate::gate::{Tally, count as tell, tally_of, wait_until};
use crate::tables::{Folder, all, cut, error, in_blocks, int_column, ints, names, table, whole};
use crate::{Scenario, everywhere, on_cluster};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("every kind of join keeps its rows", joins),
    everywhere("keys of other names and columns of the same name", names_of_both),
    everywhere("the rows of one dataset, then those of the others", unions),
    everywhere("of a union of different sources only some columns", unions_pruned),
    everywhere("columns of two datasets side by side", zips),
    everywhere("a long plan, over blocks that go through many exchanges", long_plan),
    on_cluster("blocks run on three nodes at once", three_nodes),
];

/// x and its double, for x in 0..60; every third x is null.
fn left() -> RecordBatch {
    table([("id", ints((0..60).map(|x| (x % 3 > 0).then_some(x / 2)))), ("l", ints(0..60))])
}

fn right() -> RecordBatch {
    table([("id", ints((0..40).map(|x| (x % 5 > 0).then_some(x + 10)))), ("r", ints(0..40))])
}

/// What a join of the two must give, as sorted rows.
fn expected(kind: JoinKind) -> Vec<[Option<i64>; 3]> {
    let rows = |table: &RecordBatch, value: &str| -> Vec<(Option<i64>, i64)> {
        int_column(table, "id").into_iter().zip(whole(table, value)).collect()
    };
    let (left, right) = (rows(&left(), "l"), rows(&right(), "r"));
    let meet = |one: &(Option<i64>, i64), other: &(Option<i64>, i64)| one.0.is_some() && one.0 == other.0;
    let mut joined = Vec::new();
    for one in &left {
        let partners: Vec<_> = right.iter().filter(|other| meet(one, other)).collect();
        let alone = partners.is_empty();
        match kind {
            JoinKind::Semi if !alone => joined.push([one.0, Some(one.1), None]),
            JoinKind::Anti if alone => joined.push([one.0, Some(one.1), None]),
            JoinKind::Semi | JoinKind::Anti => {}
            JoinKind::Left | JoinKind::Full if alone => joined.push([one.0, Some(one.1), None]),
            _ => joined.extend(partners.iter().map(|other| [one.0, Some(one.1), Some(other.1)])),
        }
    }
    if matches!(kind, JoinKind::Right | JoinKind::Full) {
        let alone = right.iter().filter(|other| !left.iter().any(|one| meet(one, other)));
        joined.extend(alone.map(|other| [other.0, None, Some(other.1)]));
    }
    joined.sort_unstable();
    joined
}

fn joins() {
    let kinds = [JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full, JoinKind::Semi, JoinKind::Anti];
    in_blocks(&left(), |left| {
        for blocks in [1, 30] {
            for kind in kinds {
                let right = from_batches(cut(&right(), blocks));
                let joined = left.clone().join(right, kind, "id", "id");
                let rows = all(&joined);
                let (ids, ls) = (int_column(&rows, "id"), int_column(&rows, "l"));
                let rs = match kind {
                    JoinKind::Semi | JoinKind::Anti => vec![None; rows.num_rows()],
                    _ => int_column(&rows, "r"),
                };
                let mut found: Vec<_> = ids.into_iter().zip(ls).zip(rs).map(|((id, l), r)| [id, l, r]).collect();
                found.sort_unstable();
                assert_eq!(found, expected(kind), "{kind:?}");
                assert_eq!(joined.count().expect("counted"), found.len() as u64, "{kind:?}");
            }
        }
    });
}

fn names_of_both() {
    in_blocks(&left(), |left| {
        let other = from_batches(cut(&right(), 3)).rename([("id", "key"), ("r", "l")]);
        let joined = left.clone().join(other.clone(), JoinKind::Inner, "id", "key");
        assert_eq!(names(&all(&joined)), ["id", "l", "l_right"]);
        assert_eq!(names(&all(&joined.clone().select("l_right"))), ["l_right"]);
        let of_right = whole(&all(&joined.select("l_right").sort("l_right")), "l_right");
        let mut wanted: Vec<i64> = expected(JoinKind::Inner).into_iter().filter_map(|row| row[2]).collect();
        wanted.sort_unstable();
        assert_eq!(of_right, wanted);
        let message = error(left.join(other, JoinKind::Inner, "id", "id").count());
        assert!(message.contains("no column id; there are key, l"), "{message}");
    });
}

fn unions() {
    in_blocks(&table([("x", ints(0..60)), ("y", ints(60..120))]), |rows| {
        let turned = rows.clone().select(["y", "x"]);
        let both = rows.clone().union([turned, rows.clone().filter(col("x").gt(lit(100)))]);
        let found = all(&both);
        assert_eq!(names(&found), ["x", "y"]);
        assert!(whole(&found, "x").into_iter().eq((0..60).chain(0..60)));
        assert!(whole(&found, "y").into_iter().eq((60..120).chain(60..120)));
        assert_eq!(both.count().expect("counted"), 120);
        assert!(whole(&all(&both.clone().limit(70)), "x").into_iter().eq((0..60).chain(0..10)));
        let sums = all(&both.group_by("x").sum("y"));
        assert!(whole(&sums, "sum(y)").into_iter().eq((60..120).map(|y| 2 * y)));
        let message = error(rows.clone().union([rows.drop_columns("y")]).count());
        assert!(message.contains("no column y"), "{message}");
    });
}

/// The parts of a union need not read, nor carry, what only one of them needs.
fn unions_pruned() {
    let folder = Folder::new();
    let rows = table([("x", ints(0..60)), ("y", ints(60..120)), ("z", ints(0..60))]);
    from_batches(cut(&rows, 3)).write_parquet(folder.path().join("in")).expect("written");
    let file = || read_parquet(folder.path().join("in")).block_bytes(1);
    in_blocks(&rows, |rows| {
        let parts: [(&str, Dataset); 4] = [
            ("batches", rows.clone()),
            ("filtered", file().filter(col("z").lt(lit(1000)))),
            ("sorted", file().sort("y")),
            ("dropped", rows.with_column("w", lit(1)).drop_columns("w")),
        ];
        for (name, other) in parts {
            for both in [file().union([other.clone()]), other.union([file()])] {
                assert_eq!(both.count().expect(name), 120, "{name}");
                assert_eq!(both.clone().repartition(3).limit(70).count().expect(name), 70, "{name}");
                let found = all(&both.clone().select("x"));
                assert_eq!(names(&found), ["x"], "{name}");
                assert!(whole(&found, "x").into_iter().eq((0..60).chain(0..60)), "{name}");
                assert!(whole(&all(&both.group_by("y").count()), "y").into_iter().eq(60..120), "{name}");
            }
        }
    });
}

fn zips() {
    in_blocks(&table([("x", ints(0..60))]), |rows| {
        for blocks in [1, 7, 30, 100] {
            let other = from_batches(cut(&table([("x", ints(100..160)), ("y", ints(0..60))]), blocks));
            let both = rows.clone().zip(other);
            let found = all(&both);
            assert_eq!(names(&found), ["x", "x_1", "y"]);
            assert!(whole(&found, "x").into_iter().eq(0..60));
            assert!(whole(&found, "x_1").into_iter().eq(100..160));
            assert_eq!(both.count().expect("counted"), 60);
            assert_eq!(whole(&all(&both.filter(col("y").eq(lit(31))).select(["x_1"])), "x_1"), [131]);
        }
        let message = error(rows.zip(range(61)).to_batches());
        assert!(message.contains("60 rows") && message.contains("61"), "{message}");
    });
}

fn long_plan() {
    in_blocks(&table([("x", ints(0..300)), ("k", ints((0..300).map(|x| x % 10)))]), |rows| {
        let counted = rows.clone().random_shuffle(9).repartition(7).group_by("k").count();
        let long = rows
            .random_shuffle(1)
            .filter(col("x").gt_eq(lit(100)))
            .join(counted, JoinKind::Inner, "k", "k")
            .with_column("share", col("count()") + col("k"))
            .sort(["k", "x"])
            .repartition(4)
            .limit(150)
            .group_by("share")
            .sum("x");
        let found = all(&long);
        // k 0 to 6 with 20 rows each, and half of those of k 7.
        assert!(whole(&found, "share").into_iter().eq(30..38));
        let sum = |k: i64, rows: i64| (0..rows).map(|n| 100 + k + 10 * n).sum::<i64>();
        let expected: Vec<i64> = (0..7).map(|k| sum(k, 20)).chain([sum(7, 10)]).collect();
        assert_eq!(whole(&found, "sum(x)"), expected);
    });
}

/// Waits until more tasks have begun than two nodes have CPUs for.
#[remote]
fn together(batch: RecordBatch, tally: &str, tasks: u64) -> RecordBatch {
    tell(tally);
    wait_until("tasks on three nodes", || tally_of(tally) >= tasks);
    batch
}

fn three_nodes() {
    const CPUS_OF_TWO_NODES: u64 = 4;
    let tally = Tally::new();
    let rows = range(60).repartition(30).map_batches(together.with(tally.path(), CPUS_OF_TWO_NODES + 1));
    let report = rows.stats().expect("it ran");
    assert_eq!((report.rows_out, report.tasks_by_node.len()), (60, 3), "{:?}", report.tasks_by_node);
}
