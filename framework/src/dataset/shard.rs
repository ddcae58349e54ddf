//! A dataset in shards: one for each worker that trains a model.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use mobula_core::error::Error;
use mobula_data::executor::RunError;
use mobula_data::plan::LogicalPlan;
use mobula_data::source::{Block, Blocks, Source};
use mobula_data::stage::WireSchema;
use serde::{Deserialize, Serialize};

use super::batches::{BatchIter, IterOptions};
use super::{Dataset, not_in_store};
use crate::object::ObjectRef;
use crate::value::Batch;

/// Some of the rows of a dataset; made by [`Dataset::streaming_split`].
///
/// It is a value: an argument of a task or an actor's call, where its rows are iterated, as often
/// as one likes. It holds references to blocks in the object store, not the rows themselves, which
/// stay there as long as some shard needs them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatasetShard {
    schema: WireSchema,
    blocks: Vec<ShardBlock>,
}

/// Some rows of an object.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ShardBlock {
    object: ObjectRef<Batch>,
    first_row: u64,
    rows: u64,
    bytes: u64,
}

impl Dataset {
    /// Cuts the rows into `n` shards, in order, for as many workers to iterate at the same time.
    /// The rows are [materialized](Dataset::materialize) now, and each worker fetches its own
    /// block by block. With `equal`, all shards have exactly as many rows, and up to `n` - 1
    /// rows at the end are left out; otherwise no row is, and some shards have one more than others.
    ///
    /// ```
    /// use mobula::{DatasetShard, IterOptions, remote};
    ///
    /// struct Trainer;
    ///
    /// #[remote]
    /// impl Trainer {
    ///     fn new() -> Self {
    ///         Self
    ///     }
    ///
    ///     fn epoch(&mut self, rows: DatasetShard) -> Result<u64, mobula::RunError> {
    ///         let mut seen = 0;
    ///         for batch in rows.iter_batches(IterOptions::default())? {
    ///             seen += batch?.num_rows() as u64;
    ///         }
    ///         Ok(seen)
    ///     }
    /// }
    ///
    /// #[mobula::main]
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let session = mobula::init(mobula::Config::default())?;
    ///     let shards = mobula::range(1_000).streaming_split(3, true)?;
    ///     let trainers: Vec<_> = shards.iter().map(|_| Trainer::remote()).collect();
    ///     let calls = trainers.iter().zip(shards).map(|(trainer, shard)| trainer.epoch().remote(shard));
    ///     let seen: Vec<_> = calls.collect();
    ///     assert_eq!(mobula::get(&seen)?, [333; 3]);
    ///     session.shutdown();
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`RunError`]; no shards at all is [`DataError::InvalidPlan`](crate::DataError::InvalidPlan).
    pub fn streaming_split(&self, n: u64, equal: bool) -> Result<Vec<DatasetShard>, RunError> {
        let parts = if equal { self.split_equal(n) } else { self.split(n) }?;
        parts.iter().map(DatasetShard::of).collect()
    }
}

impl DatasetShard {
    /// Of a dataset whose rows are in the store.
    fn of(dataset: &Dataset) -> Result<Self, RunError> {
        let LogicalPlan::Source(Source::Blocks(blocks)) = &dataset.plan else {
            return Err(not_in_store("streaming_split"));
        };
        let block = |block: &Block| {
            let object = ObjectRef::new(block.object.clone()?);
            Some(ShardBlock { object, first_row: block.first_row, rows: block.rows, bytes: block.bytes })
        };
        let schema = WireSchema(Arc::clone(&blocks.schema));
        Ok(Self { schema, blocks: blocks.blocks.iter().filter_map(block).collect() })
    }

    /// How many rows it has.
    pub fn rows(&self) -> u64 {
        self.blocks.iter().map(|block| block.rows).sum()
    }

    /// Its columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema.0)
    }

    /// The rows in batches, in order, on this thread; blocks that come next are fetched meanwhile.
    ///
    /// # Errors
    /// As [`Dataset::iter_batches`].
    pub fn iter_batches(&self, options: IterOptions) -> Result<BatchIter, RunError> {
        BatchIter::over(self.blocks()?.into_iter().map(Ok).collect::<Vec<_>>(), options)
    }

    /// The rows as a dataset of this process.
    ///
    /// # Errors
    /// [`RunError::Core`], for a reference that was lost on the way.
    pub fn to_dataset(&self) -> Result<Dataset, RunError> {
        let blocks = Blocks { schema: self.schema(), blocks: Arc::new(self.blocks()?) };
        Ok(Dataset::of(LogicalPlan::Source(Source::Blocks(blocks))))
    }

    /// All rows as one batch.
    ///
    /// # Errors
    /// [`RunError::Core`], if a block is lost.
    pub fn to_arrow(&self) -> Result<RecordBatch, RunError> {
        let size = usize::try_from(self.rows()).unwrap_or(usize::MAX).max(1);
        let whole = self.iter_batches(IterOptions { batch_size: size, ..IterOptions::default() })?.next();
        whole.unwrap_or_else(|| Ok(RecordBatch::new_empty(self.schema())))
    }

    fn blocks(&self) -> Result<Vec<Block>, RunError> {
        let block = |block: &ShardBlock| {
            let object = block.object.handle().map_err(|error| Error::clone(error))?.clone();
            Ok(Block { object: Some(object), first_row: block.first_row, rows: block.rows, bytes: block.bytes })
        };
        self.blocks.iter().map(block).collect()
    }
}
