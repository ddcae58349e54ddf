//! Datasets cut into several, and into shards that travel to actors.

use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use mobula::{
    Config, Dataset, DatasetShard, DatasetStats, IterOptions, RunError, Session, col, lit, range, range_in_blocks,
    remote,
};

fn session() -> Session {
    Session::start(Config::default().num_cpus(2)).unwrap()
}

fn ids(batch: &RecordBatch) -> Vec<i64> {
    batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec()
}

fn all(dataset: &Dataset) -> Vec<i64> {
    ids(&dataset.to_arrow().unwrap())
}

fn of_shard(shard: &DatasetShard, options: IterOptions) -> Vec<Vec<i64>> {
    shard.iter_batches(options).unwrap().map(|batch| ids(&batch.unwrap())).collect()
}

/// Ten rows in blocks of three at most.
fn ten() -> Dataset {
    range(10).repartition_rows(3)
}

#[test]
fn a_dataset_is_cut_in_order() {
    let session = session();
    let _entered = session.enter();
    let rows = |parts: Vec<Dataset>| parts.iter().map(all).collect::<Vec<_>>();
    assert_eq!(rows(ten().split(3).unwrap()), [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7, 8, 9]]);
    assert_eq!(rows(ten().split_equal(4).unwrap()), [[0, 1], [2, 3], [4, 5], [6, 7]]);
    assert_eq!(
        rows(ten().split_at_indices(&[4, 4, 20]).unwrap()),
        [vec![0, 1, 2, 3], vec![], (4..10).collect(), vec![]]
    );
    assert_eq!(rows(ten().split_proportionately(&[0.2, 0.5]).unwrap()), [vec![0, 1], (2..7).collect(), vec![7, 8, 9]]);
    let (train, test) = ten().train_test_split(0.3, None).unwrap();
    assert_eq!((all(&train), all(&test)), ((0..7).collect(), vec![7, 8, 9]));
    let (train, test) = ten().train_test_split(0.3, Some(1)).unwrap();
    let mut both = [all(&train), all(&test)].concat();
    assert_ne!(both, (0..10).collect::<Vec<_>>());
    both.sort_unstable();
    assert_eq!(both, (0..10).collect::<Vec<_>>());
}

static CALLED: AtomicU64 = AtomicU64::new(0);

#[remote]
fn counted(batch: RecordBatch) -> RecordBatch {
    CALLED.fetch_add(1, Ordering::Relaxed);
    batch
}

#[test]
fn a_plan_runs_no_further_than_its_batches_are_wanted() {
    let session = session();
    let _entered = session.enter();
    let rows = range_in_blocks(100_000, 1000).map_batches(counted);
    let mut batches = rows.iter_batches(IterOptions { batch_size: 150, ..IterOptions::default() }).unwrap();
    let first = batches.next().unwrap().unwrap();
    assert_eq!(ids(&first), (0..150).collect::<Vec<_>>());
    drop(batches);
    let called = CALLED.load(Ordering::Relaxed);
    assert!((2..100).contains(&called), "{called} of 1000 blocks were made");
    // All of them, in order, if they are wanted.
    let batches = rows.iter_batches(IterOptions { batch_size: 30_000, ..IterOptions::default() }).unwrap();
    let all: Vec<Vec<i64>> = batches.map(|batch| ids(&batch.unwrap())).collect();
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [30_000, 30_000, 30_000, 10_000]);
    assert!(all.concat().into_iter().eq(0..100_000));
    let limited = rows.limit(250).iter_batches(IterOptions { batch_size: 1000, ..IterOptions::default() }).unwrap();
    let limited: Vec<Vec<i64>> = limited.map(|batch| ids(&batch.unwrap())).collect();
    assert_eq!(limited, [(0..250).collect::<Vec<_>>()]);
}

#[test]
fn what_fails_on_the_way_ends_the_batches() {
    let session = session();
    let _entered = session.enter();
    let one = IterOptions { batch_size: 1, ..IterOptions::default() };
    let missing = mobula::read_parquet("/nowhere/at-all.parquet");
    let mut batches = missing.iter_batches(one).unwrap();
    assert!(batches.next().unwrap().unwrap_err().to_string().contains("/nowhere/at-all.parquet"));
    assert!(batches.next().is_none());
    // The block of row 7 fails; those before it are given.
    let rows = range_in_blocks(10, 10).with_column("inverse", lit(100_i64) / (col("id") - lit(7_i64)));
    let got: Vec<Result<RecordBatch, RunError>> = rows.iter_batches(one).unwrap().collect();
    let (last, before) = got.split_last().unwrap();
    let error = last.as_ref().unwrap_err().to_string();
    assert!(error.contains("with_column inverse"), "{error}");
    assert!(before.len() <= 7 && before.iter().all(Result::is_ok));
}

#[test]
fn what_is_materialized_is_not_copied_again() {
    let session = session();
    let _entered = session.enter();
    let once = ten().materialize().unwrap();
    let plan = |dataset: &Dataset| dataset.plan().clone();
    assert_eq!(plan(&once), plan(&once.materialize().unwrap()));
    assert_ne!(plan(&once), plan(&ten().materialize().unwrap()));
    assert_eq!(plan(&once.split(1).unwrap()[0]).to_string(), plan(&once).to_string());
}

#[test]
fn shards_have_equal_rows_or_all_of_them() {
    let session = session();
    let _entered = session.enter();
    for n in 1..=12 {
        let shards = ten().streaming_split(n, true).unwrap();
        assert_eq!(shards.iter().map(DatasetShard::rows).collect::<Vec<_>>(), vec![10 / n; n as usize]);
        let shards = ten().streaming_split(n, false).unwrap();
        assert!(shards.iter().all(|shard| shard.rows() == 10 / n || shard.rows() == 10_u64.div_ceil(n)));
        let rows: Vec<i64> = shards.iter().flat_map(|shard| ids(&shard.to_arrow().unwrap())).collect();
        assert_eq!(rows, (0..10).collect::<Vec<_>>());
    }
    let error = ten().streaming_split(0, true).unwrap_err().to_string();
    assert_eq!(error, "split: into how many?");
}

#[test]
fn a_shard_is_iterated_as_a_dataset_is_and_more_than_once() {
    let session = session();
    let _entered = session.enter();
    let shard = ten().streaming_split(2, true).unwrap().remove(1);
    let options = IterOptions { batch_size: 2, ..IterOptions::default() };
    for _ in 0..2 {
        assert_eq!(of_shard(&shard, options), [vec![5, 6], vec![7, 8], vec![9]]);
    }
    assert_eq!(of_shard(&shard, IterOptions { drop_last: true, ..options }), [[5, 6], [7, 8]]);
    let all_ahead = IterOptions { prefetch_blocks: usize::MAX, ..options };
    assert_eq!(of_shard(&shard, all_ahead), [vec![5, 6], vec![7, 8], vec![9]]);
    let of_run: Vec<_> = ten().iter_batches(all_ahead).unwrap().map(|batch| ids(&batch.unwrap())).collect();
    assert_eq!(of_run.concat(), (0..10).collect::<Vec<_>>());
    let mixed = IterOptions { batch_size: 5, local_shuffle_rows: Some(10), local_shuffle_seed: 3, ..options };
    let mut rows = of_shard(&shard, mixed).concat();
    assert_eq!(of_shard(&shard, mixed).concat(), rows);
    rows.sort_unstable();
    assert_eq!(rows, [5, 6, 7, 8, 9]);
    let long = range(5_000).repartition_rows(300).streaming_split(1, true).unwrap().remove(0);
    let mixed = IterOptions { batch_size: 64, local_shuffle_rows: Some(500), ..options };
    let batches = of_shard(&long, mixed);
    assert!(batches.iter().all(|batch| !batch.is_sorted()));
    assert!(batches[0].iter().all(|id| *id < 64 + 2 * 500 + 300));
    let mut rows = batches.concat();
    rows.sort_unstable();
    assert_eq!(rows, (0..5_000).collect::<Vec<_>>());
    assert!(shard.iter_batches(IterOptions { batch_size: 0, ..options }).is_err());
    assert_eq!(shard.to_dataset().unwrap().with_column("one", lit(1)).count().unwrap(), 5);
    let none = range(0).streaming_split(2, true).unwrap();
    assert_eq!(none[0].to_arrow().unwrap().schema().field(0).name(), "id");
}

struct Trainer {
    rows: DatasetShard,
}

#[remote]
impl Trainer {
    fn new(rows: DatasetShard) -> Self {
        Self { rows }
    }

    fn epoch(&mut self) -> Result<Vec<i64>, RunError> {
        let mut seen = Vec::new();
        for batch in self.rows.iter_batches(IterOptions { batch_size: 7, ..IterOptions::default() })? {
            seen.extend(ids(&batch?));
        }
        Ok(seen)
    }
}

#[test]
fn shards_travel_to_actors() {
    let session = session();
    let _entered = session.enter();
    let shards = range(1_000).repartition_rows(77).streaming_split(3, false).unwrap();
    let trainers: Vec<_> = shards.into_iter().map(Trainer::remote).collect();
    for _ in 0..2 {
        let epoch: Vec<_> = trainers.iter().map(|trainer| trainer.epoch().remote()).collect();
        assert_eq!(mobula::get(&epoch).unwrap().concat(), (0..1_000).collect::<Vec<_>>());
    }
}

#[test]
fn what_a_run_did_prints_as_a_table() {
    let session = session();
    let _entered = session.enter();
    let stats = range(1_000).filter(mobula::col("id").lt(lit(10))).sort("id").stats().unwrap();
    assert_eq!(stats.rows_out, 10);
    let text = stats.to_string();
    assert!(text.contains("filter id < 10") && text.contains("sort"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("10 rows of 1,000 in"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let report = ten().write_parquet(dir.path().join("ten")).unwrap();
    assert!(DatasetStats::from(report).to_string().contains("write_parquet"));
}
