//! A dataset's rows, a batch at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use mobula_data::exchange::partition::{Chance, generator};
use mobula_data::exchange::rows::Gathered;
use mobula_data::executor::RunError;
use mobula_data::plan::{LogicalPlan, Sink};
use mobula_data::source::{Block, Source};
use mobula_data::{DataError, executor};

use super::Dataset;

/// How [`Dataset::iter_batches`] gives rows.
#[derive(Debug, Clone, Copy)]
pub struct IterOptions {
    /// Rows of a batch; the last one may have fewer.
    pub batch_size: usize,
    /// A last batch with fewer rows is left out.
    pub drop_last: bool,
    /// So many blocks are fetched ahead; 1024 at most, whatever is asked for.
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
    /// The rows in batches, on this thread. The plan runs meanwhile, a few blocks ahead of what is
    /// asked for, and ends when the iterator is dropped; what fails on the way is the iterator's
    /// last item. [Materialize](Dataset::materialize) what is iterated more than once.
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
        self.check()?;
        if let LogicalPlan::Source(Source::Blocks(blocks)) = &self.plan {
            return BatchIter::over(blocks.blocks.iter().cloned().map(Ok).collect::<Vec<_>>(), options);
        }
        BatchIter::of_run(self.clone(), options)
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

    /// How many blocks wait at most: a channel allocates the places of all when it is made.
    fn ahead(&self) -> usize {
        self.prefetch_blocks.min(MAX_PREFETCH_BLOCKS)
    }
}

/// The most blocks that are fetched ahead.
const MAX_PREFETCH_BLOCKS: usize = 1024;

/// The rows of a dataset in batches; made by [`Dataset::iter_batches`]. It ends after an error.
#[derive(Debug)]
pub struct BatchIter {
    options: IterOptions,
    next: Option<Receiver<Result<Option<RecordBatch>, RunError>>>,
    /// Tells the run that nobody wants any more.
    dropped: Arc<AtomicBool>,
    /// What fetches blocks, and what makes them.
    threads: Vec<JoinHandle<()>>,
    held: VecDeque<RecordBatch>,
    held_rows: usize,
    chance: Chance,
}

impl BatchIter {
    /// The rows of blocks, which are asked for one by one.
    pub(super) fn over(
        blocks: impl IntoIterator<Item = Result<Block, RunError>, IntoIter: Send> + Send + 'static,
        options: IterOptions,
    ) -> Result<Self, RunError> {
        options.check()?;
        let (give, next) = sync_channel(options.ahead());
        let client = crate::object::current()?;
        let fetch = move || {
            for block in blocks {
                let fetched = block.and_then(|block| executor::block_batch(&client, &block));
                // Nobody wants any more.
                if give.send(fetched).is_err() {
                    break;
                }
            }
        };
        let threads = vec![thread("mobula-fetch", fetch)?];
        let chance = generator(options.local_shuffle_seed, 0);
        let (held, held_rows, dropped) = (VecDeque::new(), 0, Arc::default());
        Ok(Self { options, next: Some(next), dropped, threads, held, held_rows, chance })
    }

    /// The rows of a plan that runs meanwhile.
    fn of_run(dataset: Dataset, options: IterOptions) -> Result<Self, RunError> {
        let (give, blocks) = sync_channel(options.ahead());
        let mut iter = Self::over(blocks, options)?;
        let dropped = Arc::clone(&iter.dropped);
        let client = crate::object::current()?;
        let run = move || {
            let mut take = |block| give.send(Ok(block)).is_ok();
            let cancelled = || dropped.load(Ordering::Relaxed);
            if let Err(error) = dataset.run_on(&client, &dataset.plan, &Sink::Blocks, Some(&mut take), &cancelled) {
                // Nobody is there to be told when the iterator was dropped.
                let _ = give.send(Err(error));
            }
        };
        iter.threads.push(thread("mobula-run", run)?);
        Ok(iter)
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

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, RunError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|error| {
        let cause = format!("no thread {name}: {error}");
        RunError::Data(DataError::Read { path: "iter_batches".to_owned(), cause })
    })
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
        // The fetcher ends when nobody listens, and then the run, should it not look up before.
        self.dropped.store(true, Ordering::Relaxed);
        self.next = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
