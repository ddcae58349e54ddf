//! A dataset's rows, a batch at a time.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use mobula_data::DataError;
use mobula_data::exchange::partition::{Chance, generator};
use mobula_data::exchange::rows::Gathered;
use mobula_data::executor::RunError;
use mobula_data::plan::LogicalPlan;
use mobula_data::source::{Block, Source};

use super::{Dataset, not_in_store};

/// How [`Dataset::iter_batches`] gives rows.
#[derive(Debug, Clone, Copy)]
pub struct IterOptions {
    /// Rows of a batch; the last one may have fewer.
    pub batch_size: usize,
    /// A last batch with fewer rows is left out.
    pub drop_last: bool,
    /// So many blocks are fetched ahead.
    pub prefetch_blocks: usize,
    /// Rows are mixed with so many that come after them, before they are cut into batches.
    pub local_shuffle_rows: Option<usize>,
    /// Equal seeds mix equal rows equally.
    pub local_shuffle_seed: u64,
}

impl Default for IterOptions {
    fn default() -> Self {
        Self { batch_size: 256, drop_last: false, prefetch_blocks: 1, local_shuffle_rows: None, local_shuffle_seed: 0 }
    }
}

impl Dataset {
    /// The rows in batches, on this thread; blocks that come next are fetched meanwhile.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mobula::RunError> {
    /// for batch in mobula::read_parquet("trips/").iter_batches(mobula::IterOptions::default())? {
    ///     println!("{} rows", batch?.num_rows());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RunError`], and a batch size of 0 is [`DataError::InvalidPlan`].
    pub fn iter_batches(&self, options: IterOptions) -> Result<BatchIter, RunError> {
        // Checked before anything runs.
        options.check()?;
        let whole = self.materialize()?;
        let LogicalPlan::Source(Source::Blocks(blocks)) = &whole.plan else {
            return Err(not_in_store("iter_batches"));
        };
        BatchIter::over(blocks.blocks.iter().filter(|block| block.object.is_some()).cloned().collect(), options)
    }
}

impl IterOptions {
    fn check(&self) -> Result<(), RunError> {
        if self.batch_size == 0 || self.local_shuffle_rows == Some(0) {
            let cause = "a batch, and what is shuffled, must have one row or more".to_owned();
            return Err(DataError::InvalidPlan { operator: "iter_batches".to_owned(), cause }.into());
        }
        Ok(())
    }
}

/// The rows of a dataset in batches; made by [`Dataset::iter_batches`]. It ends after an error.
#[derive(Debug)]
pub struct BatchIter {
    options: IterOptions,
    next: Option<Receiver<Result<Option<RecordBatch>, RunError>>>,
    fetcher: Option<JoinHandle<()>>,
    held: VecDeque<RecordBatch>,
    held_rows: usize,
    chance: Chance,
}

impl BatchIter {
    /// The rows of blocks that lie in the store.
    pub(super) fn over(blocks: Vec<Block>, options: IterOptions) -> Result<Self, RunError> {
        options.check()?;
        let (give, next) = sync_channel(options.prefetch_blocks);
        let client = crate::object::current()?;
        let fetch = move || {
            for block in blocks {
                let fetched = mobula_data::executor::block_batch(&client, &block);
                // Nobody wants any more.
                if give.send(fetched).is_err() {
                    break;
                }
            }
        };
        let fetcher = std::thread::Builder::new().name("mobula-fetch".to_owned()).spawn(fetch).map_err(|error| {
            DataError::Read { path: "iter_batches".to_owned(), cause: format!("no thread to fetch with: {error}") }
        })?;
        let chance = generator(options.local_shuffle_seed, 0);
        Ok(Self { options, next: Some(next), fetcher: Some(fetcher), held: VecDeque::new(), held_rows: 0, chance })
    }

    /// Fetches until there are `rows` rows, or no more.
    fn fill(&mut self, rows: usize) -> Result<(), RunError> {
        while self.held_rows < rows {
            let Some(next) = &self.next else { break };
            match next.recv() {
                Ok(fetched) => {
                    if let Some(batch) = fetched? {
                        self.held_rows += batch.num_rows();
                        self.held.push_back(batch);
                    }
                }
                Err(_) => self.next = None,
            }
        }
        Ok(())
    }

    fn batch(&mut self) -> Result<Option<RecordBatch>, RunError> {
        let size = self.options.batch_size;
        match self.options.local_shuffle_rows {
            None => self.fill(size)?,
            Some(rows) if self.held_rows < size.saturating_add(rows) => {
                let before = self.held_rows;
                // Twice as many as are asked for: mixing copies all that is held, so it is not done
                // for every batch.
                self.fill(size.saturating_add(rows.saturating_mul(2)))?;
                if self.held_rows > before {
                    self.mix()?;
                }
            }
            Some(_) => {}
        }
        if self.held_rows == 0 || (self.options.drop_last && self.held_rows < size) {
            return Ok(None);
        }
        let mut parts = Vec::new();
        let mut left = size.min(self.held_rows);
        while left > 0 {
            let Some(first) = self.held.pop_front() else { break };
            let rows = left.min(first.num_rows());
            parts.push(first.slice(0, rows));
            if rows < first.num_rows() {
                self.held.push_front(first.slice(rows, first.num_rows() - rows));
            }
            left -= rows;
            self.held_rows -= rows;
        }
        let batch = match parts.as_slice() {
            [one] => one.clone(),
            _ => concat_batches(parts[0].schema_ref(), &parts).map_err(failed)?,
        };
        Ok(Some(batch))
    }

    /// Puts what is held into an order by chance.
    fn mix(&mut self) -> Result<(), RunError> {
        let batches: Vec<RecordBatch> = self.held.drain(..).collect();
        if batches.is_empty() {
            return Ok(());
        }
        let mut rows = Gathered::new(batches, "local_shuffle");
        rows.shuffle_with(&mut self.chance);
        self.held.push_back(rows.batch(0, rows.len())?);
        Ok(())
    }
}

fn failed(error: arrow::error::ArrowError) -> RunError {
    let (operator, cause) = ("iter_batches".to_owned(), error.to_string());
    RunError::Data(DataError::Compute { operator, path: String::new(), cause })
}

impl Iterator for BatchIter {
    type Item = Result<RecordBatch, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.batch().transpose();
        if let Some(Err(_)) = next {
            // What comes after rows that were lost must not be taken for what comes next.
            self.next = None;
            self.held.clear();
            self.held_rows = 0;
        }
        next
    }
}

impl Drop for BatchIter {
    fn drop(&mut self) {
        // The fetcher ends when nobody listens.
        self.next = None;
        if let Some(fetcher) = self.fetcher.take() {
            let _ = fetcher.join();
        }
    }
}
