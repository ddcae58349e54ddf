//! Lazy datasets over Parquet: [`read_parquet`] and [`Dataset`].

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use indicatif::{ProgressBar, ProgressStyle};
use mobula_data::executor::{RunError, RunOptions, RunProgress, RunReport};
use mobula_data::function::Parameter;
use mobula_data::parquet_read::FileFooter;
use mobula_data::parquet_write::WriteOptions;
use mobula_data::plan::{LogicalPlan, MapBatches, Sink};
use mobula_data::schema::Matching;
use mobula_data::{DataError, Expr, executor, paths};
use parking_lot::Mutex;

use crate::batch_call::BatchCall;

type Listener<T> = Arc<Mutex<dyn FnMut(&T) + Send>>;

/// The rows of Parquet files, one file or many: each path is a file, a directory or a pattern
/// such as `trips/*.parquet`. Nothing is read yet.
///
/// Files whose columns differ are unified by name. A file that two paths name is read once.
///
/// ```
/// use mobula::read_parquet;
/// let month = read_parquet("trips/2023-01.parquet");
/// let year = read_parquet(["trips/2022-12.parquet", "trips/2023-*.parquet"]);
/// ```
pub fn read_parquet(paths: impl Paths) -> Dataset {
    let mut texts = Vec::new();
    let mut problem = None;
    for path in paths.into_paths() {
        match paths::text(&path) {
            Ok(text) => texts.push(text.to_owned()),
            // Building a plan fails nowhere; the sink says what was wrong with it.
            Err(error) => {
                problem.get_or_insert(RunError::Data(error));
            }
        }
    }
    Dataset { problem, ..Dataset::of(LogicalPlan::read_parquet(texts)) }
}

/// One path or several, for [`read_parquet`]: text, a path, or a list of either.
pub trait Paths {
    /// The paths, in order.
    fn into_paths(self) -> Vec<PathBuf>;
}

macro_rules! one_path {
    ($($type:ty),*) => {$(
        impl Paths for $type {
            fn into_paths(self) -> Vec<PathBuf> {
                vec![PathBuf::from(self)]
            }
        }
    )*};
}

one_path!(&str, String, &String, &Path, PathBuf, &PathBuf);

impl<P: AsRef<Path>, const N: usize> Paths for [P; N] {
    fn into_paths(self) -> Vec<PathBuf> {
        self.iter().map(|path| path.as_ref().to_path_buf()).collect()
    }
}

impl<P: AsRef<Path>> Paths for &[P] {
    fn into_paths(self) -> Vec<PathBuf> {
        self.iter().map(|path| path.as_ref().to_path_buf()).collect()
    }
}

impl<P: AsRef<Path>> Paths for Vec<P> {
    fn into_paths(self) -> Vec<PathBuf> {
        self.as_slice().into_paths()
    }
}

impl<P: AsRef<Path>> Paths for &Vec<P> {
    fn into_paths(self) -> Vec<PathBuf> {
        self.as_slice().into_paths()
    }
}

/// A lazy table: a plan that runs when a sink asks for its rows.
///
/// Stages without an exchange between them run fused, one task for each block of the input, on
/// whichever node is free; between reading and writing nothing touches the object store. The
/// result does not depend on how many workers there are. Printing a dataset shows its plan.
///
/// ```no_run
/// use mobula::{col, lit, read_parquet};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let session = mobula::init(mobula::Config::default())?;
/// let trips = read_parquet(["trips/"])
///     .filter(col("fare_amount").gt_eq(lit(2.5)))
///     .with_column("fare_per_mile", col("fare_amount") / col("trip_distance"));
/// println!("{trips}");
/// let report = trips.write_parquet("clean/")?;
/// println!("{} of {} rows", report.rows_out, report.rows_in);
/// # session.shutdown();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a dataset does nothing until a sink such as write_parquet asks for its rows"]
pub struct Dataset {
    plan: LogicalPlan,
    concurrency: Option<usize>,
    files: Option<Arc<Vec<FileFooter>>>,
    listener: Option<Listener<RunProgress>>,
    on_waiting: Option<Listener<str>>,
    cancel: Option<Arc<AtomicBool>>,
    problem: Option<RunError>,
}

impl Dataset {
    fn of(plan: LogicalPlan) -> Self {
        Self { plan, concurrency: None, files: None, listener: None, on_waiting: None, cancel: None, problem: None }
    }

    /// The plan as it stands, for those who want to see or ship it.
    pub fn plan(&self) -> &LogicalPlan {
        &self.plan
    }

    fn with(mut self, change: impl FnOnce(LogicalPlan) -> LogicalPlan) -> Self {
        self.plan = change(self.plan);
        self
    }

    /// Keeps the rows for which `condition` is true; a row for which it is null is dropped.
    pub fn filter(self, condition: Expr) -> Self {
        self.with(|plan| plan.filter(condition))
    }

    /// Adds a column, or replaces the one of that name in its place.
    pub fn with_column(self, name: impl Into<String>, value: Expr) -> Self {
        self.with(|plan| plan.with_column(name, value))
    }

    /// Keeps these columns, in this order; the others are not read.
    pub fn select<S: Into<String>>(self, columns: impl IntoIterator<Item = S>) -> Self {
        self.with(|plan| plan.select(columns))
    }

    /// Keeps the first `rows` rows in source order; reading stops early where it can.
    pub fn limit(self, rows: u64) -> Self {
        self.with(|plan| plan.limit(rows))
    }

    /// Hands every batch to a remote function of a `RecordBatch`: `clean.with(Limits { .. })`, or
    /// just `clean` where it has no other parameters.
    pub fn map_batches(self, function: impl Into<BatchCall>) -> Self {
        self.map(function.into(), None)
    }

    /// As [`Dataset::map_batches`], with at most `batch_size` rows at a time. A size of 0 is an
    /// error of the sink.
    pub fn map_batches_of(self, batch_size: usize, function: impl Into<BatchCall>) -> Self {
        self.map(function.into(), Some(batch_size))
    }

    fn map(mut self, function: BatchCall, batch_rows: Option<usize>) -> Self {
        let params = function.parameters().map(|values| values.iter().map(Parameter::from).collect());
        match params {
            Ok(params) => {
                let full = function.function();
                let map = MapBatches {
                    function: full.to_owned(),
                    params,
                    batch_rows,
                    name: full.rsplit("::").next().unwrap_or(full).to_owned(),
                };
                self.with(|plan| plan.map_batches(map))
            }
            // Building a plan fails nowhere; the sink says what was wrong with it.
            Err(error) => {
                self.problem.get_or_insert(error.into());
                self
            }
        }
    }

    /// How columns of different files are matched, and which of them must be there.
    pub fn matching(mut self, matching: Matching) -> Self {
        self.plan.source_mut().matching = matching;
        self
    }

    /// Rows per batch while reading. A size of 0 is an error of the sink.
    pub fn batch_size(mut self, rows: usize) -> Self {
        self.plan.source_mut().batch_rows = rows;
        self
    }

    /// About so many bytes, before compression, to a block: a task each, and a file each where
    /// they are written. Row groups are never split. 16 MiB unless given.
    pub fn block_bytes(mut self, bytes: u64) -> Self {
        self.plan.source_mut().block_bytes = bytes;
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
        self.files = Some(self.footers()?);
        Ok(self)
    }

    fn footers(&self) -> Result<Arc<Vec<FileFooter>>, RunError> {
        match &self.files {
            Some(files) => Ok(Arc::clone(files)),
            None => Ok(Arc::new(executor::footers(&self.plan)?)),
        }
    }

    /// At most so many tasks at once; by the cluster's CPUs unless given.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.concurrency = Some(tasks);
        self
    }

    /// Tells `listener` how the run goes instead of showing a bar on a terminal.
    pub fn on_progress(mut self, mut listener: impl FnMut(RunProgress) + Send + 'static) -> Self {
        self.listener = Some(Arc::new(Mutex::new(move |progress: &RunProgress| listener(*progress))));
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

    // ---- sinks -----------------------------------------------------------------------------------

    /// Writes the rows into a directory, one file for each block, in source order. A directory
    /// that does not exist yet appears in one step, whole. In one that does, nothing appears before
    /// every block is written; the files are then moved in one by one, and all of them back if
    /// one cannot be. What a run that was killed left half done, the next one into the same
    /// directory takes back.
    ///
    /// The directory may not lie in the input, nor hold some of it.
    ///
    /// # Errors
    /// [`RunError`], naming file, column or operator.
    pub fn write_parquet(&self, dir: impl AsRef<Path>) -> Result<RunReport, RunError> {
        self.write_parquet_with(dir, WriteOptions::default())
    }

    /// As [`Dataset::write_parquet`], with the compression and the mode given.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn write_parquet_with(&self, dir: impl AsRef<Path>, options: WriteOptions) -> Result<RunReport, RunError> {
        let dir = paths::text(dir.as_ref())?.to_owned();
        self.run(&self.plan, &Sink::WriteParquet { dir, options })
    }

    /// How many rows there are. Where the files' footers tell, nothing else is read.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn count(&self) -> Result<u64, RunError> {
        Ok(self.run(&self.plan, &Sink::Count)?.rows_out)
    }

    /// The first `rows` rows, in source order. Where there are none, one batch without rows tells
    /// the columns.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn take(&self, rows: u64) -> Result<Vec<RecordBatch>, RunError> {
        let plan = self.plan.clone().limit(rows);
        let mut report = self.run(&plan, &Sink::Batches)?;
        if let (true, Some(schema)) = (report.batches.is_empty(), report.schema) {
            report.batches.push(RecordBatch::new_empty(schema));
        }
        Ok(report.batches)
    }

    /// Prints the first `rows` rows as a table, or only the columns where there are none. A reader
    /// that has gone away (`| head`) is no failure.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn show(&self, rows: u64) -> Result<(), RunError> {
        let table = crate::table::of_batches(&self.take(rows)?);
        match writeln!(std::io::stdout().lock(), "{table}") {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(DataError::write(Path::new("/dev/stdout"), &error).into())
            }
            _ => Ok(()),
        }
    }

    /// The columns of the result. Reads the files' footers; where a function makes the columns,
    /// runs it on the first rows.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn schema(&self) -> Result<SchemaRef, RunError> {
        self.check()?;
        if let (_, Some(schema)) = executor::schemas(&self.plan, &self.footers()?)? {
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

    /// The columns of the files, unified, before any operator.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn source_schema(&self) -> Result<SchemaRef, RunError> {
        self.check()?;
        Ok(executor::schemas(&self.plan, &self.footers()?)?.0)
    }

    fn check(&self) -> Result<(), RunError> {
        self.problem.clone().map_or(Ok(()), Err)
    }

    fn run(&self, plan: &LogicalPlan, sink: &Sink) -> Result<RunReport, RunError> {
        self.check()?;
        let client = crate::object::current()?;
        let bar = self.listener.is_none().then(|| progress_bar(sink));
        let mut tell = |progress: RunProgress| match (&self.listener, &bar) {
            (Some(listener), _) => (listener.lock())(&progress),
            (None, Some(bar)) => {
                bar.set_length(progress.rows_total);
                bar.set_position(progress.rows_in);
            }
            (None, None) => {}
        };
        let mut waiting = |reason: &str| match (&self.on_waiting, &bar) {
            (Some(listener), _) => (listener.lock())(reason),
            (None, Some(bar)) => bar.set_message(waits(sink, reason)),
            (None, None) => {}
        };
        let options = RunOptions {
            concurrency: self.concurrency,
            files: self.files.as_ref().map(|files| files.as_slice()),
            progress: &mut tell,
            waiting: &mut waiting,
            cancelled: &|| self.cancel.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)),
        };
        let result = executor::run(&client, plan, sink, options);
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        result
    }
}

/// The plan and the columns of the result; reads the files' footers, and runs nothing.
impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.plan)?;
        let columns = match self.footers().and_then(|files| executor::schemas(&self.plan, &files)) {
            Ok((_, Some(schema))) => schema
                .fields()
                .iter()
                .map(|field| format!("{} {}", field.name(), field.data_type()))
                .collect::<Vec<_>>()
                .join(", "),
            Ok((_, None)) => "known when a function has made them".to_owned(),
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

/// What the bar says of a run that does not move.
fn waits(sink: &Sink, reason: &str) -> String {
    if reason.is_empty() { sink.to_string() } else { format!("{sink} waits: {reason}") }
}

/// A bar on a terminal; indicatif stays quiet elsewhere.
fn progress_bar(sink: &Sink) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = "{msg} {wide_bar} {human_pos}/{human_len} rows, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(sink.to_string());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
