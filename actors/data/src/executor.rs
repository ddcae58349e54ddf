//! Running a plan on a cluster: one task for each block, results in source order.
//!
//! Entry type: [`run`]. The driver reads the footers, plans, and submits one task per block
//! through `mobula-core`'s client; each task runs read, operators and sink in one pass
//! ([`crate::execute`]). A bounded number of tasks is under way, so what results lie in the store
//! does not grow with the input. A task lost with its worker or node runs again; nothing of it is
//! seen before the run commits, so nothing is written twice.
//!
//! ```text
//!   footers ─▶ plan ─▶ [block] ─▶ task on any node ─▶ staged file ─▶ all done? move into place
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use mobula_core::client::{Arg, Client, ObjectHandle, TaskOptions};
use mobula_core::error::Error;
use mobula_core::messages::{PendingDemand, Strategy};
use mobula_core::resources::CPU;
use mobula_core::value::Value;

use crate::error::DataError;
use crate::execute::{BlockReport, OperatorReport, check_same_columns, dropped_by_filter};
use crate::output_dir::OutputDir;
use crate::parquet_read::FileFooter;
use crate::parquet_write::BlockFile;
use crate::paths::{absolute, expand, refuse_overlap};
use crate::plan::{LogicalPlan, Sink};
use crate::planner::{self, BlockTask, PhysicalPlan, Stage, StageSink, WireSchema};

mod live;
mod schedule;
mod task;

use live::Live;
use schedule::Schedule;
use task::{Answer, Order, RUN_BLOCK, decode, decode_batches, encode};

/// Tasks under way for each CPU of the cluster: one that runs and one that is next.
const TASKS_PER_CPU: usize = 2;

/// After a failure, how long to wait, in all, for the tasks that come before the one that failed:
/// the error of the first is told.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// How often a run looks up while no task ends.
const TICK: Duration = Duration::from_millis(100);

/// When nothing has moved for so long, the run says why.
const WAITING_SHOWN_AFTER: Duration = Duration::from_secs(3);

/// Why a plan did not run to its end.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The plan, its files or its output are at fault.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A block failed on a node.
    #[error("{error} (on node {node})")]
    Block {
        /// The node's name.
        node: String,
        /// What failed there.
        error: Box<DataError>,
    },
    /// A task or the cluster is.
    #[error(transparent)]
    Core(#[from] Error),
}

/// How a run goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunProgress {
    /// Rows read so far.
    pub rows_in: u64,
    /// Rows that reached the sink so far.
    pub rows_out: u64,
    /// Rows that will be read in all.
    pub rows_total: u64,
    /// Bytes read so far, as they lie on disk.
    pub bytes_in: u64,
    /// Tasks that are done.
    pub tasks_done: u64,
    /// Tasks in all.
    pub tasks_total: u64,
}

/// How to run.
pub struct RunOptions<'a> {
    /// At most so many tasks at once; by the cluster's CPUs if none is given.
    pub concurrency: Option<usize>,
    /// The footers of the plan's files, if they have been read already.
    pub files: Option<&'a [FileFooter]>,
    /// Told at the start, whenever a task is done, and a few times a second besides.
    pub progress: &'a mut dyn FnMut(RunProgress),
    /// Told why the run waits, when it has not moved for some seconds.
    pub waiting: &'a mut dyn FnMut(&str),
    /// Asked a few times a second whether the run is to end.
    pub cancelled: &'a dyn Fn() -> bool,
}

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct RunReport {
    /// Rows read.
    pub rows_in: u64,
    /// Rows that reached the sink.
    pub rows_out: u64,
    /// Bytes read, as they lie on disk.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// What every operator did, over all tasks, in the order of the plan.
    pub operators: Vec<OperatorReport>,
    /// The files written, in source order.
    pub files: Vec<String>,
    /// The rows, if the sink returns them, in source order.
    pub batches: Vec<RecordBatch>,
    /// The columns of the result, where they are known.
    pub schema: Option<SchemaRef>,
    /// Timestamps that lost their zone, since files differ in it or some have none: they are the
    /// times on the wall of each file.
    pub zones_dropped: Vec<String>,
    /// Tasks that ran on each node.
    pub tasks_by_node: BTreeMap<String, u64>,
    /// How long it took, from the first footer read to the last file in place.
    pub seconds: f64,
}

impl RunReport {
    /// The filters and how many rows each dropped, in the order of the plan.
    #[must_use]
    pub fn dropped_by_filter(&self) -> Vec<(String, u64)> {
        dropped_by_filter(&self.operators)
    }
}

/// The columns of `files`, unified as `plan` says, and those of its result where they are known.
pub fn schemas(plan: &LogicalPlan, files: &[FileFooter]) -> Result<(SchemaRef, Option<SchemaRef>), RunError> {
    Ok(planner::schemas(plan, files)?)
}

/// Reads the footers of the files of `plan`.
pub fn footers(plan: &LogicalPlan) -> Result<Vec<FileFooter>, RunError> {
    let paths = expand(&plan.source().paths)?;
    Ok(paths.iter().map(|path| FileFooter::read(path)).collect::<Result<_, _>>()?)
}

/// Runs `plan` into `sink` and returns when everything is in place; nothing is if it fails.
///
/// # Errors
/// [`RunError`], the first one in source order of those that are seen.
pub fn run(client: &Client, plan: &LogicalPlan, sink: &Sink, options: RunOptions<'_>) -> Result<RunReport, RunError> {
    let start = Instant::now();
    let read;
    let files = match options.files {
        Some(files) => files,
        None => {
            read = footers(plan)?;
            &read
        }
    };
    // Planned before there is an output, so that a plan that cannot run leaves no directory.
    let mut physical = planner::plan(plan, sink, files, "")?;
    let output = match sink {
        Sink::WriteParquet { dir, options } => {
            let dir = absolute(Path::new(dir))?;
            let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
            refuse_overlap(&plan.source().paths, &paths, &dir)?;
            let output = OutputDir::prepare(&dir, options.mode, &uuid_text())?;
            physical.stage.stage_in(output.staging());
            Some(output)
        }
        _ => None,
    };
    let zones_dropped = std::mem::take(&mut physical.zones_dropped);
    let mut run = Run::new(client, &physical, options)?;
    let mut results = run.all().map_err(|error| match &output {
        Some(output) => in_output(error, output),
        None => error,
    })?;
    let mut report = gather(physical.stage.sink.name(), physical.limit, &mut results)?;
    report.schema = physical.output_schema.clone().or(report.schema);
    if report.schema.is_none() && !matches!(sink, Sink::Count) {
        // No row tells the columns that a function makes: it is asked without any.
        match run.columns() {
            Ok(columns) => {
                report.schema.clone_from(&columns.schema);
                results.push(columns);
            }
            // A caller who gets no rows can do without columns; a file cannot.
            Err(RunError::Block { error, .. }) if output.is_none() && matches!(*error, DataError::NoColumns { .. }) => {
            }
            Err(error) => return Err(error),
        }
    }
    drop(run);
    if let Some(output) = output {
        let blocks: Vec<BlockFile> = results.into_iter().filter_map(|ran| ran.file).collect();
        report.bytes_out = blocks.iter().map(|block| block.bytes).sum();
        report.files = output.commit(&blocks)?;
    }
    report.zones_dropped = zones_dropped;
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

/// People know the directory of the output, not the hidden files in which a run keeps its own until
/// it is done.
fn in_output(error: RunError, output: &OutputDir) -> RunError {
    match error {
        RunError::Data(error) => RunError::Data(output.shown(error)),
        RunError::Block { error, node } => RunError::Block { error: Box::new(output.shown(*error)), node },
        other => other,
    }
}

/// What a block gave.
#[derive(Debug, Default)]
struct Ran {
    node: String,
    rows_in: u64,
    rows_out: u64,
    bytes_in: u64,
    operators: Vec<OperatorReport>,
    schema: Option<SchemaRef>,
    file: Option<BlockFile>,
    batch: Option<RecordBatch>,
}

/// The tasks of one run.
struct Run<'a, 'o> {
    client: &'a Client,
    tasks: &'a [BlockTask],
    order: Value,
    returns_batches: bool,
    limit: Option<u64>,
    submit: Arc<TaskOptions>,
    window: usize,
    live: Live,
    done: RunProgress,
    options: RunOptions<'o>,
}

/// A task under way: its report, and its rows if the sink returns them.
struct UnderWay {
    index: usize,
    report: ObjectHandle,
    batches: Option<ObjectHandle>,
}

impl<'a, 'o> Run<'a, 'o> {
    fn new(client: &'a Client, physical: &'a PhysicalPlan, options: RunOptions<'o>) -> Result<Self, RunError> {
        let returns_batches = matches!(physical.stage.sink, StageSink::Batches);
        let window = match options.concurrency {
            Some(tasks) => tasks,
            None => cluster_cpus(client)? * TASKS_PER_CPU,
        };
        let mut submit = TaskOptions::default();
        // Blocks are independent and read from disk: every node takes its share.
        submit.strategy = Strategy::Spread;
        submit.name = Some(stage_name(&physical.stage));
        submit.returns = 1 + u32::from(returns_batches);
        let pieces = physical.tasks.iter().flat_map(|task| &task.pieces);
        let rows_total = pieces.map(|piece| piece.rows).sum();
        let live = Live::begin();
        Ok(Self {
            client,
            tasks: &physical.tasks,
            order: encode(&Order { run: live.id, stage: physical.stage.clone() })?,
            returns_batches,
            limit: physical.limit,
            submit: Arc::new(submit),
            window,
            live,
            done: RunProgress { tasks_total: physical.tasks.len() as u64, rows_total, ..RunProgress::default() },
            options,
        })
    }

    /// The results of all tasks that count, in source order.
    fn all(&mut self) -> Result<Vec<Ran>, RunError> {
        let mut schedule = Schedule::new(self.tasks.len(), self.window, self.limit);
        let mut under_way: Vec<UnderWay> = Vec::new();
        let mut patience = Patience::new();
        let mut drain_until = None;
        self.tell();
        while !schedule.is_decided() {
            while let Some(index) = schedule.submit() {
                under_way.push(self.submit(index, &self.tasks[index])?);
            }
            let Some(first) = self.wait(&under_way, &mut patience)? else {
                if drain_until.is_some_and(|until| Instant::now() >= until) {
                    break;
                }
                continue;
            };
            let task = under_way.remove(first);
            let result = self.result(&task);
            if let Ok(ran) = &result {
                self.done.rows_in += ran.rows_in;
                self.done.rows_out += ran.rows_out;
                self.done.bytes_in += ran.bytes_in;
                self.done.tasks_done += 1;
                self.tell();
            }
            schedule.settle(task.index, result.map(|ran| (ran.rows_out, ran)));
            if schedule.has_failed() {
                drain_until.get_or_insert_with(|| Instant::now() + DRAIN_WITHIN);
            }
        }
        schedule.finish()
    }

    /// Runs the stage over no rows, for its columns.
    fn columns(&mut self) -> Result<Ran, RunError> {
        let task = self.submit(0, &BlockTask { ordinal: 0, pieces: Vec::new(), expected_bytes: 0 })?;
        let under_way = [task];
        let mut patience = Patience::new();
        while self.wait(&under_way, &mut patience)?.is_none() {}
        self.result(&under_way[0])
    }

    /// The position of a task that has ended, if one does before the next tick.
    fn wait(&mut self, under_way: &[UnderWay], patience: &mut Patience) -> Result<Option<usize>, RunError> {
        if (self.options.cancelled)() {
            return Err(DataError::Cancelled.into());
        }
        let handles: Vec<_> = under_way.iter().map(|task| task.report.clone()).collect();
        let (ready, _) = self.client.wait(&handles, 1, Some(TICK))?;
        if ready.is_empty() {
            self.tell();
        }
        if patience.is_over(self.progress().rows_in, !ready.is_empty()) {
            // With a block in a worker's hands the run is slow, and does not wait.
            let waits = !under_way.iter().any(|task| self.client.is_handed_out(&task.report));
            let name = self.submit.name.as_deref().unwrap_or_default();
            (self.options.waiting)(&if waits { why_it_waits(self.client, name) } else { String::new() });
        }
        Ok(ready.first().copied())
    }

    /// What is done, or under way in this process.
    fn progress(&self) -> RunProgress {
        let live = self.live.counters.sum();
        let rows_in = self.done.rows_in.max(live.rows_in).min(self.done.rows_total);
        RunProgress { rows_in, rows_out: self.done.rows_out.max(live.rows_out).min(rows_in), ..self.done }
    }

    fn tell(&mut self) {
        let progress = self.progress();
        (self.options.progress)(progress);
    }

    fn submit(&self, index: usize, task: &BlockTask) -> Result<UnderWay, RunError> {
        let args = [Arg::Value(self.order.clone()), Arg::Value(encode(task)?)];
        let mut handles = self.client.submit(&RUN_BLOCK, args.into_iter().collect(), &self.submit);
        let batches = self.returns_batches.then(|| handles.pop()).flatten();
        let report =
            handles.pop().ok_or_else(|| Error::Invalid { what: "a task was submitted without a result".to_owned() })?;
        Ok(UnderWay { index, report, batches })
    }

    fn result(&self, task: &UnderWay) -> Result<Ran, RunError> {
        let Answer { node, result } = decode(&self.get(&task.report)?)?;
        let report: BlockReport = match result {
            Ok(report) => report,
            Err(error) => return Err(RunError::Block { node, error: Box::new(error) }),
        };
        let batch = match &task.batches {
            Some(handle) => decode_batches(self.get(handle)?)?,
            None => None,
        };
        Ok(Ran {
            node,
            rows_in: report.rows_in,
            rows_out: report.rows_out,
            bytes_in: report.bytes_in,
            operators: report.operators,
            schema: report.schema.map(|WireSchema(schema)| schema),
            file: report.file,
            batch,
        })
    }

    fn get(&self, handle: &ObjectHandle) -> Result<Value, RunError> {
        let mut values = self.client.get(std::slice::from_ref(handle), None)?;
        Ok(values.pop().ok_or_else(|| Error::Invalid { what: "get returned nothing".to_owned() })?)
    }
}

/// Adds up what the blocks did, cut to the limit; their batches are taken out. All must have the
/// same columns.
fn gather(sink: &str, limit: Option<u64>, results: &mut [Ran]) -> Result<RunReport, DataError> {
    let mut total = RunReport::default();
    let mut left = limit.unwrap_or(u64::MAX);
    for ran in results {
        if let Some(schema) = &ran.schema {
            let first = total.schema.get_or_insert_with(|| Arc::clone(schema));
            check_same_columns(sink, first, schema)?;
        }
        let rows = ran.rows_out.min(left);
        left -= rows;
        total.rows_in += ran.rows_in;
        total.bytes_in += ran.bytes_in;
        total.rows_out += rows;
        *total.tasks_by_node.entry(std::mem::take(&mut ran.node)).or_default() += 1;
        if total.operators.is_empty() {
            total.operators = std::mem::take(&mut ran.operators);
        } else {
            for (sum, one) in total.operators.iter_mut().zip(&ran.operators) {
                sum.rows_in += one.rows_in;
                sum.rows_out += one.rows_out;
            }
        }
        // A block's batch has all its rows.
        total.batches.extend(ran.batch.take().map(|batch| batch.slice(0, batch.num_rows().min(rows as usize))));
    }
    Ok(total)
}

/// How long a run has not moved.
struct Patience {
    rows: u64,
    since: Instant,
}

impl Patience {
    fn new() -> Self {
        Self { rows: 0, since: Instant::now() }
    }

    /// Whether it has lasted too long; it then starts again.
    fn is_over(&mut self, rows: u64, moved: bool) -> bool {
        let now = Instant::now();
        if moved || rows != self.rows {
            *self = Self { rows, since: now };
        }
        if now.duration_since(self.since) < WAITING_SHOWN_AFTER {
            return false;
        }
        self.since = now;
        true
    }
}

/// Why demands of the task `name` wait in the cluster; nothing if none does, and its blocks are
/// only slow.
fn why_it_waits(client: &Client, name: &str) -> String {
    let pending = client.status().map(|status| status.pending).unwrap_or_default();
    // A demand has the name of the first task of its shape: that of another run, perhaps.
    let is_ours = |demand: &&PendingDemand| demand.what == name;
    let ours = pending.iter().any(|demand| is_ours(&demand));
    let shown = pending.iter().filter(|demand| !ours || is_ours(demand));
    let reasons: BTreeSet<&str> = shown.map(|demand| demand.reason.as_str()).collect();
    reasons.into_iter().collect::<Vec<_>>().join("; ")
}

fn cluster_cpus(client: &Client) -> Result<usize, RunError> {
    let status = client.status()?;
    let alive = status.view.nodes.iter().filter(|node| node.alive);
    let cpus: f64 = alive.map(|node| node.total.units(CPU)).sum();
    Ok((cpus.ceil() as usize).max(1))
}

/// What people see: `read>filter>with_column>write`.
fn stage_name(stage: &Stage) -> String {
    let mut name = String::from("read_parquet");
    for operator in &stage.operators {
        name.push('>');
        let text = operator.to_string();
        name.push_str(text.split(' ').next().unwrap_or_default());
    }
    name.push_str(match stage.sink {
        StageSink::WriteParquet { .. } => ">write_parquet",
        StageSink::Count => ">count",
        StageSink::Batches => "",
    });
    name
}

fn uuid_text() -> String {
    format!("{:016x}", rand::random::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    fn ran(node: &str, column: &str, values: std::ops::Range<i64>) -> Ran {
        let rows = values.end.abs_diff(values.start);
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        let batch = RecordBatch::try_from_iter([(column, values)]).unwrap();
        let operators = vec![OperatorReport { name: "filter n > 0".into(), rows_in: 2 * rows, rows_out: rows }];
        let schema = Some(batch.schema());
        Ran {
            node: node.into(),
            rows_in: 2 * rows,
            rows_out: rows,
            bytes_in: 1,
            operators,
            schema,
            file: None,
            batch: Some(batch),
        }
    }

    #[test]
    fn blocks_are_added_up_in_order_and_cut_to_the_limit() {
        let blocks = || [ran("a", "n", 0..4), ran("b", "n", 4..4), ran("a", "n", 4..9)];
        for (limit, rows) in [(None, 9), (Some(20), 9), (Some(6), 6), (Some(4), 4), (Some(0), 0)] {
            let report = gather("batches", limit, &mut blocks()).unwrap();
            let values = |b: &RecordBatch| b.column(0).as_primitive::<Int64Type>().values().to_vec();
            assert_eq!(report.batches.iter().flat_map(values).collect::<Vec<_>>(), (0..rows).collect::<Vec<_>>());
            assert_eq!((report.rows_in, report.rows_out, report.bytes_in), (18, rows as u64, 3));
            assert_eq!(report.tasks_by_node, BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)]));
            assert_eq!(report.dropped_by_filter(), [("n > 0".to_owned(), 9)]);
        }
        let error = gather("batches", None, &mut [ran("a", "n", 0..1), ran("b", "m", 1..2)]).unwrap_err();
        assert!(matches!(error, DataError::SchemaChanged { .. }), "{error}");
    }
}
