//! Lazy datasets: [`Dataset`], and where one comes from.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::SchemaRef;
use mobula_core::client::Client;
use mobula_data::executor::{DEFAULT_PART_BYTES, RunError, RunOptions, RunProgress, RunReport, TakeBlock};
use mobula_data::explain::{PlanExplanation, explain};
use mobula_data::expr::ValueType;
use mobula_data::plan::{Exchange, Join, JoinKind, LogicalPlan, Operator, Repartition, Sink};
use mobula_data::schema::Matching;
use mobula_data::source::{ReadFiles, Source};
use mobula_data::storage::StorageOptions;
use mobula_data::write::WriteOptions;
use mobula_data::{DataError, Expr, executor};
use parking_lot::Mutex;

mod batches;
mod functions;
mod grouped;
mod keys;
mod paths;
mod progress;
mod rows;
mod shard;
mod sinks;
mod sources;
mod split;
mod stats;

pub use batches::{BatchIter, IterOptions};
pub use grouped::GroupedDataset;
pub use keys::{Columns, SortKeys};
pub use paths::Paths;
pub use rows::from_rows;
pub use shard::DatasetShard;
pub use sources::{from_batches, range, range_in_blocks, read_csv, read_files, read_json, read_parquet, sql};
pub use stats::{DatasetStats, StoreDisk};

type Listener<T> = Arc<Mutex<dyn FnMut(&T) + Send>>;

/// A lazy table: a plan that runs when a sink asks for its rows.
///
/// What lies between two exchanges (a sort, a shuffle, a group-by, a join of large sides) runs
/// fused, one task for each block, on whichever node is free; nothing of it touches the object
/// store. An exchange keeps blocks there, and on disk where there is no room for them. The result
/// does not depend on how many workers there are. Printing a dataset shows its plan.
///
/// ```no_run
/// use mobula::{aggregate, col, lit, read_parquet};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = mobula::init(mobula::Config::default())?;
/// let trips = read_parquet(["trips/"])
///     .filter(col("fare_amount").gt_eq(lit(2.5)))
///     .with_column("fare_per_mile", col("fare_amount") / col("trip_distance"));
/// println!("{trips}");
/// let report = trips.write_parquet("clean/")?;
/// println!("{} of {} rows", report.rows_out, report.rows_in);
/// trips.group_by("PULocationID").aggregate([aggregate::mean("fare_amount")]).show(5)?;
/// # session.shutdown();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a dataset does nothing until a sink such as write_parquet asks for its rows"]
pub struct Dataset {
    plan: LogicalPlan,
    concurrency: Option<usize>,
    part_bytes: u64,
    resume: bool,
    storage: Option<StorageOptions>,
    listener: Option<Listener<RunProgress>>,
    on_waiting: Option<Listener<str>>,
    cancel: Option<Arc<AtomicBool>>,
    problem: Option<RunError>,
}

impl Dataset {
    pub(crate) fn of(plan: LogicalPlan) -> Self {
        Self {
            plan,
            concurrency: None,
            part_bytes: DEFAULT_PART_BYTES,
            resume: false,
            storage: None,
            listener: None,
            on_waiting: None,
            cancel: None,
            problem: None,
        }
    }

    /// The plan as it stands, for those who want to see it.
    pub fn plan(&self) -> &LogicalPlan {
        &self.plan
    }

    fn with(mut self, change: impl FnOnce(LogicalPlan) -> LogicalPlan) -> Self {
        self.plan = change(self.plan);
        self
    }

    /// More operators on top.
    pub(crate) fn with_operators(self, operators: impl IntoIterator<Item = Operator>) -> Self {
        self.with(|plan| operators.into_iter().fold(plan, LogicalPlan::then))
    }

    fn exchange(self, exchange: Exchange) -> Self {
        self.with(|plan| plan.exchange(exchange))
    }

    // ---- row by row ------------------------------------------------------------------------------

    /// Keeps the rows for which `condition` is true; a row for which it is null is dropped.
    pub fn filter(self, condition: Expr) -> Self {
        self.with(|plan| plan.filter(condition))
    }

    /// Adds a column, or replaces the one of that name in its place.
    pub fn with_column(self, name: impl Into<String>, value: Expr) -> Self {
        self.with(|plan| plan.with_column(name, value))
    }

    /// Adds columns, or replaces those of these names in their places. All are computed of the rows
    /// as they were.
    ///
    /// ```
    /// use mobula::{col, range};
    /// let swapped = range(3).with_columns([("a", col("b")), ("b", col("a"))]);
    /// ```
    pub fn with_columns<N: Into<String>>(self, columns: impl IntoIterator<Item = (N, Expr)>) -> Self {
        let columns = columns.into_iter().map(|(name, value)| (name.into(), value)).collect();
        self.with(|plan| plan.then(Operator::WithColumns { columns }))
    }

    /// Keeps these columns, in this order; the others are not read.
    pub fn select(self, columns: impl Columns) -> Self {
        self.with(|plan| plan.select(columns.into_columns()))
    }

    /// Leaves these columns out.
    pub fn drop_columns(self, columns: impl Columns) -> Self {
        self.with(|plan| plan.then(Operator::Drop { columns: columns.into_columns() }))
    }

    /// Gives columns other names: `[("VendorID", "vendor")]`.
    pub fn rename<A: Into<String>, B: Into<String>>(self, names: impl IntoIterator<Item = (A, B)>) -> Self {
        let columns = names.into_iter().map(|(from, to)| (from.into(), to.into())).collect();
        self.with(|plan| plan.then(Operator::Rename { columns }))
    }

    /// The column as another type, in its place; a value that does not fit is an error of the run.
    pub fn cast(self, column: impl Into<String>, to: ValueType) -> Self {
        let column = column.into();
        let value = Expr::Column(column.clone()).cast(to);
        self.with_column(column, value)
    }

    /// Keeps the first `rows` rows; reading stops early where it can.
    pub fn limit(self, rows: u64) -> Self {
        self.with(|plan| plan.limit(rows))
    }

    /// Keeps about this fraction of the rows, each with the same chance. Equal seeds keep equal
    /// rows.
    pub fn random_sample(self, fraction: f64, seed: u64) -> Self {
        self.with(|plan| plan.then(Operator::Sample { fraction, seed }))
    }

    // ---- all rows together -----------------------------------------------------------------------

    /// The rows in the order of columns: a name, several, or [`SortKey`](crate::SortKey)s with directions of their
    /// own. Rows whose keys are equal keep their order; nulls come last unless told otherwise.
    ///
    /// ```
    /// use mobula::{SortKey, range};
    /// let ds = range(10).sort(SortKey::descending("id"));
    /// assert_eq!(ds.plan().to_string(), "sort id descending\n  range 10");
    /// ```
    pub fn sort(self, keys: impl SortKeys) -> Self {
        self.exchange(Exchange::Sort { keys: keys.into_sort_keys() })
    }

    /// The rows in an order by chance. Equal seeds give equal orders of the same rows; without a
    /// seed every run has one of its own.
    pub fn random_shuffle(self, seed: impl Into<Option<u64>>) -> Self {
        let seed = seed.into().unwrap_or_else(rand::random);
        self.exchange(Exchange::Shuffle { seed })
    }

    /// The blocks in an order by chance; the rows of each stay together. Costs nothing.
    pub fn randomize_block_order(self, seed: impl Into<Option<u64>>) -> Self {
        let seed = seed.into().unwrap_or_else(rand::random);
        self.exchange(Exchange::ShuffleBlocks { seed })
    }

    /// The same rows in `blocks` blocks of about as many rows each: so many tasks, and files.
    pub fn repartition(self, blocks: u64) -> Self {
        self.exchange(Exchange::Repartition(Repartition::Blocks(blocks)))
    }

    /// The same rows in blocks of `rows` rows at most.
    pub fn repartition_rows(self, rows: u64) -> Self {
        self.exchange(Exchange::Repartition(Repartition::Rows(rows)))
    }

    /// The rows in `blocks` blocks, where rows with equal keys are in the same one.
    pub fn repartition_by_key(self, keys: impl Columns, blocks: u64) -> Self {
        self.exchange(Exchange::Repartition(Repartition::ByKey { keys: keys.into_columns(), blocks }))
    }

    /// Groups of the rows with equal keys, to be aggregated or handed to a function.
    pub fn group_by(self, keys: impl Columns) -> GroupedDataset {
        GroupedDataset::new(self, keys.into_columns())
    }

    /// The different rows of these columns, in order.
    pub fn unique(self, columns: impl Columns) -> Self {
        self.exchange(Exchange::Aggregate { keys: columns.into_columns(), aggregates: Vec::new() })
    }

    /// The rows of both sides whose keys are equal, or as `kind` says. The columns are those of
    /// this side, then those of `other` that are no keys; one that both have gets `_right`
    /// behind it there. A null equals nothing.
    pub fn join(self, other: Dataset, kind: JoinKind, left_on: impl Columns, right_on: impl Columns) -> Self {
        let join = Join {
            kind,
            left_on: left_on.into_columns(),
            right_on: right_on.into_columns(),
            suffix: "_right".to_owned(),
        };
        self.join_with(other, join)
    }

    /// As [`Dataset::join`], with everything told.
    pub fn join_with(mut self, other: Dataset, join: Join) -> Self {
        self.take_problem(&other);
        self.with(|plan| plan.join(other.plan, join))
    }

    /// The rows of this dataset, then those of the others, which must have the same columns.
    pub fn union(mut self, others: impl IntoIterator<Item = Dataset>) -> Self {
        let mut inputs = vec![Arc::new(self.plan.clone())];
        for other in others {
            self.take_problem(&other);
            inputs.push(Arc::new(other.plan));
        }
        self.with(|_| LogicalPlan::Union { inputs })
    }

    /// The columns of both, side by side; they must have as many rows. A name that both have gets
    /// `_1` behind it in `other`.
    pub fn zip(mut self, other: Dataset) -> Self {
        self.take_problem(&other);
        self.with(|plan| LogicalPlan::Zip { left: Arc::new(plan), right: Arc::new(other.plan) })
    }

    fn take_problem(&mut self, other: &Dataset) {
        if let Some(problem) = &other.problem {
            self.problem.get_or_insert_with(|| problem.clone());
        }
    }

    /// The rows of a query over this dataset, which it calls `ds`; [`sql`] takes several.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), mobula::RunError> {
    /// let fares = mobula::read_parquet("trips/").sql("select avg(fare_amount) from ds where trip_distance > 1")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`sql`] gives.
    pub fn sql(&self, query: &str) -> Result<Self, RunError> {
        sql(query, &[("ds", self)])
    }

    // ---- how it runs -----------------------------------------------------------------------------

    /// Changes how the files of all sources are read.
    fn reading(mut self, mut change: impl FnMut(&mut ReadFiles)) -> Self {
        self.plan.each_files_mut(&mut change);
        self
    }

    /// How stores are reached: for `s3://…` and `https://…` among the paths that are read so far,
    /// and for what is written, unless its [`WriteOptions`](crate::WriteOptions) say otherwise.
    /// Without this, credentials and the region are looked for where AWS's own tools look.
    ///
    /// ```
    /// use mobula::{StorageOptions, read_parquet};
    /// let public = StorageOptions { anonymous: true, region: Some("us-east-1".into()), ..Default::default() };
    /// let trips = read_parquet("s3://bucket/trips/year=2023/").storage(public);
    /// ```
    pub fn storage(mut self, options: StorageOptions) -> Self {
        self.storage = Some(options.clone());
        self.reading(|read| {
            read.storage = options.clone();
            read.opened = None;
        })
    }

    /// How columns of different files are matched, and which of them must be there: for all sources
    /// that are read so far. What is meant for one side of a join is told before they are joined;
    /// so it is with the other ways to read.
    pub fn matching(self, matching: Matching) -> Self {
        self.reading(|read| {
            read.matching = matching.clone();
            read.opened = None;
        })
    }

    /// Rows per batch while reading, for all sources that are read so far. A size of 0 is an error of
    /// the sink.
    pub fn batch_size(self, rows: usize) -> Self {
        self.reading(|read| read.batch_rows = rows)
    }

    /// About so many bytes, before compression, to a block: a task each, and a file each where
    /// they are written. Row groups are never split. For all sources that are read so far; 16 MiB
    /// unless given.
    pub fn block_bytes(self, bytes: u64) -> Self {
        self.reading(|read| {
            read.block_bytes = bytes;
            read.opened = None;
        })
    }

    /// Whether what statistics and filters rule out is left out by the reader (it is, unless told
    /// otherwise), for all sources that are read so far. Without it, filters see and count every row.
    pub fn pushdown(self, on: bool) -> Self {
        self.reading(|read| read.pushdown = on)
    }

    /// About so many bytes are put together in one task of an exchange: what a sort, a shuffle or
    /// a join needs in memory for each CPU is a small multiple of it. 128 MiB unless given.
    pub fn part_bytes(mut self, bytes: u64) -> Self {
        self.part_bytes = bytes;
        self
    }

    /// A write goes on where one of the same plan, over the same files into the same directory, was
    /// killed: its finished blocks stay. They wait in a hidden directory, which the next write there
    /// without this clears. In S3 they wait as uploads that nobody sees, which take room until the same
    /// write is made again, with this or without, or another one there a day later.
    pub fn resume(mut self, on: bool) -> Self {
        self.resume = on;
        self
    }

    /// Reads what the files say of themselves now, once, for every schema and sink that follows;
    /// each would read it for itself otherwise. A file that changes after this is an error of
    /// the sink.
    ///
    /// # Errors
    /// [`RunError`], naming the file.
    pub fn opened(mut self) -> Result<Self, RunError> {
        self.check()?;
        self.plan = executor::opened(&self.plan)?;
        Ok(self)
    }

    /// At most so many tasks at once; by the cluster's CPUs unless given.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.concurrency = Some(tasks);
        self
    }

    /// Tells `listener` how the run goes instead of showing a bar on a terminal.
    pub fn on_progress(mut self, mut listener: impl FnMut(RunProgress) + Send + 'static) -> Self {
        self.listener = Some(Arc::new(Mutex::new(move |progress: &RunProgress| listener(progress.clone()))));
        self
    }

    /// Tells `listener` why the run waits, when it has not moved for some seconds: the cluster's
    /// reasons, or nothing where it has none.
    pub fn on_waiting(mut self, listener: impl FnMut(&str) + Send + 'static) -> Self {
        self.on_waiting = Some(Arc::new(Mutex::new(listener)));
        self
    }

    /// Ends a sink with [`DataError::Cancelled`], and nothing left behind, soon after `flag`
    /// becomes true.
    pub fn cancel_when(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancel = Some(flag);
        self
    }

    // ---- what is known before it runs ------------------------------------------------------------

    /// The columns of the result. Reads the files' footers; where a function makes the columns,
    /// runs it on the first rows.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn schema(&self) -> Result<SchemaRef, RunError> {
        self.check()?;
        if let Some(schema) = executor::schema(&self.plan)? {
            return Ok(schema);
        }
        let plan = self.plan.clone().limit(1);
        let report = self.run(&plan, &Sink::Batches)?;
        report.schema.ok_or_else(|| {
            RunError::Data(DataError::InvalidPlan {
                operator: "schema".to_owned(),
                cause: "a function makes the columns, there is no row to give it, and it fails without any".to_owned(),
            })
        })
    }

    /// The columns of the result, where they are known without running anything.
    pub(crate) fn known_schema(&self) -> Result<Option<SchemaRef>, RunError> {
        self.check()?;
        executor::schema(&self.plan)
    }

    /// The columns of the files, unified, before any operator: those of the first source.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn source_schema(&self) -> Result<SchemaRef, RunError> {
        self.check()?;
        let first = self.plan.sources().first().map(|source| (*source).clone());
        let source = first.unwrap_or(Source::Range { rows: 0, blocks: None });
        let schema = executor::schema(&LogicalPlan::Source(source))?;
        schema.ok_or_else(|| {
            let (operator, cause) = ("source_schema".to_owned(), "the source does not know its columns".to_owned());
            RunError::Data(DataError::InvalidPlan { operator, cause })
        })
    }

    /// The plan as it will run, with what its sources read, and as it is written where that is different.
    /// Reads the files' footers, and runs nothing.
    ///
    /// # Errors
    /// [`RunError`], for a plan that cannot run.
    pub fn explain(&self) -> Result<String, RunError> {
        self.check()?;
        Ok(explain(&self.plan, None)?.to_string())
    }

    /// What [`Dataset::write`] with the same arguments would run. Reads the files' footers, and runs nothing.
    ///
    /// # Errors
    /// [`RunError`], for a plan that cannot run or be written so.
    pub fn explain_write(&self, dir: impl AsRef<Path>, options: WriteOptions) -> Result<PlanExplanation, RunError> {
        self.check()?;
        let dir = text_of(dir.as_ref())?;
        explain(&self.plan, Some(&Sink::Write { dir, options }))
    }

    fn check(&self) -> Result<(), RunError> {
        self.problem.clone().map_or(Ok(()), Err)
    }

    fn run(&self, plan: &LogicalPlan, sink: &Sink) -> Result<RunReport, RunError> {
        self.check()?;
        self.run_on(&crate::object::current()?, plan, sink, None, &|| false)
    }

    /// As [`Self::run`], on any thread; `take_block` is given the blocks of the result as soon as they are there, and
    /// the run ends early when `dropped` says so.
    fn run_on(
        &self,
        client: &Client,
        plan: &LogicalPlan,
        sink: &Sink,
        take_block: Option<&mut TakeBlock<'_>>,
        dropped: &dyn Fn() -> bool,
    ) -> Result<RunReport, RunError> {
        let mut bars = self.listener.is_none().then(|| progress::Bars::new(sink));
        let shown = Mutex::new(&mut bars);
        let mut tell = |progress: RunProgress| match (&self.listener, shown.lock().as_mut()) {
            (Some(listener), _) => (listener.lock())(&progress),
            (None, Some(bars)) => bars.tell(&progress),
            (None, None) => {}
        };
        let mut waiting = |reason: &str| match (&self.on_waiting, shown.lock().as_mut()) {
            (Some(listener), _) => (listener.lock())(reason),
            (None, Some(bars)) => bars.waits(reason),
            (None, None) => {}
        };
        let options = RunOptions {
            concurrency: self.concurrency,
            part_bytes: self.part_bytes,
            resume: self.resume,
            progress: &mut tell,
            waiting: &mut waiting,
            cancelled: &|| dropped() || self.cancel.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)),
            take_block: take_block.map(|take| take as &mut TakeBlock<'_>),
        };
        executor::run(client, plan, sink, options)
    }
}

/// The plan and the columns of the result; reads the files' footers, and runs nothing.
impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.plan)?;
        let columns = match executor::schema(&self.plan) {
            Ok(Some(schema)) => schema
                .fields()
                .iter()
                .map(|field| format!("{} {}", field.name(), field.data_type()))
                .collect::<Vec<_>>()
                .join(", "),
            Ok(None) => "known when a function has made them".to_owned(),
            Err(error) => format!("unknown ({error})"),
        };
        write!(f, "columns: {columns}")
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the plan: a log line must not read files.
        write!(f, "Dataset({})", self.plan)
    }
}

/// Rows were materialized, and are not blocks: a mistake of ours.
fn not_in_store(operator: &str) -> RunError {
    let cause = "its rows are not in the store".to_owned();
    DataError::InvalidPlan { operator: operator.to_owned(), cause }.into()
}

/// A path as a plan carries it.
fn text_of(path: &Path) -> Result<String, RunError> {
    Ok(mobula_data::paths::text(path)?.to_owned())
}
