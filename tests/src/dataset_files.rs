//! Files that a run leaves, and those that it must not leave.

use std::path::Path;

use arrow::array::RecordBatch;
use mobula::{Dataset, WriteMode, WriteOptions, col, from_batches, lit, read_parquet, remote};

use crate::tables::{Folder, all, error, in_blocks, ints, names, table, whole};
use crate::{Scenario, everywhere};

pub(crate) const SCENARIOS: &[Scenario] = &[
    everywhere("a directory is appended to, overwritten, or refused", modes),
    everywhere("a write that fails half way leaves what was there before", half_way),
    everywhere("directories named after values are columns", partitioned_input),
    everywhere("a result without rows is one file with its columns", no_rows),
    everywhere("what is written in an order is read in that order", ordered),
];

fn with(mode: WriteMode) -> WriteOptions {
    WriteOptions { mode, ..WriteOptions::default() }
}

/// The names of what lies in a directory; nothing if there is none.
fn entries(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn numbers(dir: &Path) -> Vec<i64> {
    whole(&all(&read_parquet(dir)), "x")
}

fn modes() {
    in_blocks(&table([("x", ints(0..60))]), |rows| {
        let folder = Folder::new();
        let out = folder.path().join("out");
        let all_of = |count: usize| (0..60).collect::<Vec<i64>>().repeat(count);
        rows.write(&out, with(WriteMode::ErrorIfExists)).expect("a new directory");
        assert_eq!(numbers(&out), all_of(1));
        let message = error(rows.write(&out, with(WriteMode::ErrorIfExists)));
        assert!(message.contains("out"), "{message}");
        assert_eq!(numbers(&out), all_of(1), "what was refused changed nothing");
        rows.write(&out, with(WriteMode::Append)).expect("appended");
        assert_eq!(numbers(&out), all_of(2));
        let few = rows.filter(col("x").lt(lit(5)));
        few.write(&out, with(WriteMode::Overwrite)).expect("overwritten");
        assert_eq!(numbers(&out), [0, 1, 2, 3, 4]);
        few.write(folder.path().join("new/deep"), with(WriteMode::Append)).expect("a new directory");
        assert_eq!(numbers(&folder.path().join("new")), [0, 1, 2, 3, 4]);
    });
}

#[remote]
fn fails_at(batch: RecordBatch, number: i64) -> Result<RecordBatch, String> {
    if whole(&batch, "x").contains(&number) { Err(format!("{number} is too much")) } else { Ok(batch) }
}

fn half_way() {
    in_blocks(&table([("x", ints(0..60))]), |rows| {
        let folder = Folder::new();
        let out = folder.path().join("out");
        let failing = rows.clone().map_batches_of(1, fails_at.with(45));
        let message = error(failing.write_parquet(&out));
        assert!(message.contains("45 is too much"), "{message}");
        assert_eq!(entries(folder.path()), Vec::<String>::new());
        rows.write_parquet(&out).expect("written");
        let before = entries(&out);
        for mode in [WriteMode::Append, WriteMode::Overwrite] {
            assert!(error(failing.write(&out, with(mode))).contains("45 is too much"));
            assert_eq!(entries(&out), before);
            assert!(numbers(&out).into_iter().eq(0..60));
        }
    });
}

fn partitioned_input() {
    let folder = Folder::new();
    for part in 0..30 {
        let dir = folder.path().join(format!("year={}", 2020 + part / 10)).join(format!("zone=z{}", part % 10));
        let rows = from_batches([table([("x", ints(part * 10..part * 10 + 10))])]);
        rows.write_parquet(dir).expect("written");
    }
    for (blocks, trips) in [(1, read_parquet(folder.path())), (30, read_parquet(folder.path()).block_bytes(1))] {
        assert_eq!(trips.stats().expect("it ran").stages[0].tasks, blocks);
        let rows = all(&trips);
        assert_eq!(names(&rows), ["x", "year", "zone"]);
        assert!(whole(&rows, "x").into_iter().eq(0..300));
        let counts = all(&trips.clone().group_by("year").count());
        assert_eq!((whole(&counts, "year"), whole(&counts, "count()")), (vec![2020, 2021, 2022], vec![100; 3]));
        let few = trips.clone().filter(col("year").eq(lit(2021))).filter(col("zone").eq(lit("z3")));
        assert!(whole(&all(&few), "x").into_iter().eq(130..140));
        assert_eq!(few.stats().expect("it ran").rows_in, 10, "only one directory is read");
        assert_eq!(trips.select("year").count().expect("counted"), 300);
    }
}

fn no_rows() {
    in_blocks(&table([("x", ints(0..60))]), |rows| {
        let folder = Folder::new();
        let write = |dataset: &Dataset, name: &str| {
            let out = folder.path().join(name);
            let report = dataset.write_parquet(&out).expect("written");
            assert_eq!((report.rows_out, report.files.len()), (0, 1));
            let back = read_parquet(&out);
            assert_eq!(back.count().expect("counted"), 0);
            names(&all(&back))
        };
        let none = rows.filter(col("x").gt(lit(100))).with_column("y", lit(1.5));
        assert_eq!(write(&none, "filtered"), ["x", "y"]);
        assert_eq!(write(&none.clone().sort("x"), "sorted"), ["x", "y"]);
        assert_eq!(write(&none.clone().group_by("x").sum("y"), "grouped"), ["x", "sum(y)"]);
        assert_eq!(write(&none.random_shuffle(1).limit(0), "shuffled"), ["x", "y"]);
    });
}

fn ordered() {
    in_blocks(&table([("x", ints((0..200).map(|x| x * 7919 % 200)))]), |rows| {
        let folder = Folder::new();
        let out = folder.path().join("sorted");
        let report = rows.sort("x").repartition(30).write_parquet(&out).expect("written");
        assert_eq!((report.rows_out, report.files.len()), (200, 30));
        assert!(numbers(&out).into_iter().eq(0..200));
        assert!(entries(&out).iter().all(|name| name.starts_with("part-") && name.ends_with(".parquet")));
    });
}
