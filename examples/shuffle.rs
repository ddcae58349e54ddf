//! Rows in an order by chance: all over the dataset, or cheaply, near each other.
//!
//! ```text
//! cargo run --example shuffle
//! ```

use std::error::Error;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use mobula::{Config, IterOptions, range};

/// With the same seed, the order is the same each time, on any cluster.
const SEED: u64 = 42;

fn ids(batch: &RecordBatch) -> &[i64] {
    batch.column(0).as_primitive::<Int64Type>().values()
}

#[mobula::main]
fn main() -> Result<(), Box<dyn Error>> {
    let session = mobula::init(Config::from_env()?)?;
    let rows = range(100_000).repartition(8);

    // Every row may go anywhere.
    let shuffled = rows.clone().random_shuffle(SEED).materialize()?;
    println!("shuffled:        {:?}", ids(&shuffled.take_batch(8)?));
    assert_eq!(shuffled.take_batch(8)?, rows.clone().random_shuffle(SEED).take_batch(8)?);

    // Blocks change places, and their rows stay together: this moves nothing.
    let blocks = rows.clone().randomize_block_order(SEED);
    println!("blocks shuffled: {:?}", ids(&blocks.take_batch(8)?));

    // Only while they are iterated: each row with some thousand that come after it.
    let options = IterOptions {
        batch_size: 8,
        local_shuffle_rows: Some(4_000),
        local_shuffle_seed: SEED,
        ..IterOptions::default()
    };
    if let Some(batch) = rows.iter_batches(options)?.next() {
        println!("mixed locally:   {:?}", ids(&batch?));
    }

    // A fifth of the rows, by chance, is kept for testing.
    let (train, test) = shuffled.train_test_split(0.2, None)?;
    println!("{} rows to train with, {} to test with", train.count()?, test.count()?);

    println!("\nwhat a shuffle does:\n{}", rows.random_shuffle(SEED).stats()?);
    session.shutdown();
    Ok(())
}
