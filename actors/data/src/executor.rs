//! Running a plan on a cluster: stages of tasks, one after the other, results in source order.
//!
//! Entry type: [`run`]. What lies between two exchanges is one *stage*: its tasks run read,
//! operators and sink in one pass ([`crate::execute`]), submitted through `mobula-core`'s client.
//! `lower` turns a plan into the tasks of its last stage, running those below it on the
//! way, so that each is cut by what the one before it was measured to give; `stage_run` runs the
//! tasks of one. A bounded number is under way. A task lost with its worker or node runs again;
//! nothing of it is seen before the run commits, so nothing is written twice.
//!
//! ```text
//!   footers ─▶ [block] ─▶ task: read, map, cut into parts ─▶ objects in the store
//!                         task: one part of every block, put together, map, write ─▶ staged file
//!                         all done? move into place
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use mobula_core::client::Client;
use mobula_core::error::Error;
use serde::Serialize;

use crate::block_writer::BlockFile;
use crate::error::DataError;
use crate::execute::{OperatorReport, dropped_by_filter};
use crate::optimise::optimise;
use crate::output::Output;
use crate::output_dir::EarlierRun;
use crate::paths::{absolute, refuse_overlap};
use crate::plan::{LogicalPlan, Operator, Sink};
use crate::planner::plan_schema;
use crate::source::{Block, Blocks, ReadFiles, Source};
use crate::stage::{StageOperator, StageSink, WireSchema};
use crate::storage::{PendingUpload, is_remote};
use crate::write::WriteOptions;

mod crew;
mod exchanges;
mod leg;
mod live;
mod lower;
mod needs;
mod pool;
mod schedule;
mod stage_actor;
mod stage_run;
mod task;

use lower::{Lowered, blocks_of};
use stage_run::{cluster_cpus, decode_object};

/// What the node is called of a session without a cluster.
const ONLY_NODE: &str = "local";

/// Tasks under way for each CPU of the cluster: one that runs and one that is next.
const TASKS_PER_CPU: usize = 2;

/// Why a plan did not run to its end.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The plan, its files or its output are at fault.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A block failed on a node.
    #[error("{error}{}", OnNode(.node))]
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

/// Where a block failed, as a sentence ends. Where all is one process there is no other node.
struct OnNode<'a>(&'a str);

impl fmt::Display for OnNode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ONLY_NODE => Ok(()),
            node => write!(f, " (on node {node})"),
        }
    }
}

/// How a run goes: the stage that runs now. Where it is resumed, blocks that an earlier run has finished
/// are done from the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunProgress {
    /// Which stage it is, counted from 0.
    pub stage: usize,
    /// What its tasks do: `read_parquet>filter>write_parquet`.
    pub operators: Arc<str>,
    /// Rows read so far.
    pub rows_in: u64,
    /// Rows that reached the sink so far.
    pub rows_out: u64,
    /// Rows that will be read in all; 0 where that is not known before.
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
    /// What the rows that an exchange puts together in one task take at most, about.
    pub part_bytes: u64,
    /// A write goes on where an earlier one of the same plan over the same files was killed.
    pub resume: bool,
    /// Told at the start of a stage, whenever a task is done, and a few times a second besides.
    pub progress: &'a mut dyn FnMut(RunProgress),
    /// Told why the run waits, when it has not moved for some seconds.
    pub waiting: &'a mut dyn FnMut(&str),
    /// Asked a few times a second whether the run is to end.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Given the blocks of [`Sink::Blocks`] in source order, each as soon as those before it are there;
    /// the report has none then. As long as it keeps a block waiting only a few more are made. The
    /// run ends when it says that it wants no more.
    pub take_block: Option<&'a mut TakeBlock<'a>>,
}

/// Takes a block, and says whether it wants more.
pub type TakeBlock<'a> = dyn FnMut(Block) -> bool + 'a;

/// What an exchange puts together in one task unless told otherwise.
pub const DEFAULT_PART_BYTES: u64 = 128 << 20;

/// What a run did.
#[derive(Debug, Clone, Default)]
pub struct RunReport {
    /// Rows read from the sources.
    pub rows_in: u64,
    /// Rows that reached the sink.
    pub rows_out: u64,
    /// Bytes read, as they lie on disk.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// What every operator of the plan did, over all tasks, stage by stage. How rows were read, put together
    /// and written is in the stages.
    pub operators: Vec<OperatorReport>,
    /// What every stage did, in the order in which they ran.
    pub stages: Vec<StageReport>,
    /// The files written, in source order.
    pub files: Vec<String>,
    /// The rows, if the sink returns them, in source order.
    pub batches: Vec<RecordBatch>,
    /// The rows, if the sink keeps them in the object store.
    pub blocks: Option<Blocks>,
    /// The columns of the result, where they are known.
    pub schema: Option<SchemaRef>,
    /// Timestamps that lost their zone, since files differ in it or some have none: they are the
    /// times on the wall of each file.
    pub zones_dropped: Vec<String>,
    /// Blocks that an earlier run had finished, and this one did not run again.
    pub blocks_resumed: u64,
    /// Their rows, which are among [`rows_out`](Self::rows_out) and were not read again.
    pub rows_resumed: u64,
    /// Blocks that an earlier run had finished whose files are gone since, from a store that ends uploads which
    /// are not complete after some time: this one ran them again.
    pub blocks_gone: u64,
    /// What a run that can be resumed found of earlier ones, where that is known.
    pub earlier: Option<EarlierRun>,
    /// Tasks that ran on each node.
    pub tasks_by_node: BTreeMap<String, u64>,
    /// How long it took, from the first footer read to the last file in place.
    pub seconds: f64,
}

/// What the tasks of a stage did together.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StageReport {
    /// What they did: `read_parquet>filter>write_parquet`.
    pub name: String,
    /// How many there were.
    pub tasks: u64,
    /// Rows that they were given.
    pub rows_in: u64,
    /// Rows that reached their sink.
    pub rows_out: u64,
    /// Bytes read from files, as they lie on disk.
    pub bytes_in: u64,
    /// Bytes put into the object store or into files.
    pub bytes_out: u64,
    /// Bytes that the object stores of the cluster wrote to disk meanwhile, for whoever it was.
    pub spilled_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// How long its tasks ran, added up.
    pub task_seconds: f64,
    /// What its tasks did, step by step: how rows were read or put together, every operator, and the sink.
    /// Their seconds are about those of the tasks.
    pub operators: Vec<OperatorReport>,
}

impl RunReport {
    /// The filters and how many rows each dropped, in the order of the plan.
    #[must_use]
    pub fn dropped_by_filter(&self) -> Vec<(String, u64)> {
        dropped_by_filter(&self.operators)
    }
}

/// The columns of the result of `plan` where they are known. Opens its files.
///
/// # Errors
/// [`RunError`], naming file, column or operator.
pub fn schema(plan: &LogicalPlan) -> Result<Option<SchemaRef>, RunError> {
    Ok(plan_schema(&opened(plan)?)?)
}

/// The plan with all its files opened: what they say of themselves is read once, and a file that
/// changes after this is an error of the run.
///
/// # Errors
/// [`RunError`], naming the file, or saying how deep the plan may be.
pub fn opened(plan: &LogicalPlan) -> Result<LogicalPlan, RunError> {
    // Everything that looks into a plan comes by here first.
    plan.check_levels()?;
    let mut plan = plan.clone();
    let mut opened = Ok(());
    plan.each_files_mut(&mut |read| {
        if opened.is_ok() {
            opened = read.open().map(drop);
        }
    });
    opened?;
    Ok(plan)
}

/// Runs `plan` into `sink` and returns when everything is in place; nothing is if it fails.
///
/// # Errors
/// [`RunError`], the first one in source order of those that are seen.
pub fn run(client: &Client, plan: &LogicalPlan, sink: &Sink, options: RunOptions<'_>) -> Result<RunReport, RunError> {
    let start = Instant::now();
    let plan = opened(plan)?;
    // Checked before there is an output, so that a plan that cannot run leaves no directory.
    let schema = plan_schema(&plan)?;
    let better = optimise(&plan, matches!(sink, Sink::Count))?;
    let output = match sink {
        Sink::Write { dir, options: write } => {
            write.check_alone()?;
            schema.as_ref().map_or(Ok(()), |schema| write.check(schema))?;
            Some(output_for(&plan, dir, write, options.part_bytes, options.resume)?)
        }
        _ => None,
    };
    let resume = options.resume;
    let mut executor = Executor::new(client, options)?;
    if let (true, Some(output)) = (resume, &output) {
        executor.finished = output.finished()?;
        executor.report.earlier = output.earlier();
        executor.report.blocks_gone = output.finished_and_gone();
    }
    let done = executor.sink(&better, sink, schema, output.as_ref());
    let (mut report, files) = match done {
        Ok(done) => done,
        Err(error) => {
            let Some(output) = output else { return Err(error) };
            let error = in_output(error, &output);
            output.abandon(&executor.uploads);
            return Err(error);
        }
    };
    if let Some(output) = output {
        report.bytes_out = files.iter().map(|file| file.bytes).sum();
        report.files = output.commit(&files)?;
    }
    let opened = plan.sources().into_iter().filter_map(|source| match source {
        Source::Files(read) => read.opened.as_ref().map(|opened| (read, opened)),
        _ => None,
    });
    for (read, opened) in opened {
        let is_read = |name: &&String| read.columns.as_ref().is_none_or(|columns| columns.contains(name));
        report.zones_dropped.extend(opened.unified.zones_dropped.iter().filter(is_read).cloned());
    }
    report.seconds = start.elapsed().as_secs_f64();
    Ok(report)
}

fn output_for(
    plan: &LogicalPlan,
    dir: &str,
    options: &WriteOptions,
    part_bytes: u64,
    resume: bool,
) -> Result<Output, RunError> {
    let dir = absolute(Path::new(dir))?;
    let endpoint = options.storage.as_ref().and_then(|storage| storage.endpoint_url.as_ref());
    for source in plan.sources() {
        // Stores in different places have nothing in common.
        let is_near = |read: &ReadFiles| !is_remote(&dir) || read.storage.endpoint_url.as_ref() == endpoint;
        if let Source::Files(read) = source
            && is_near(read)
        {
            let files = read.opened.iter().flat_map(|opened| &opened.files);
            let paths: Vec<String> = files.map(|file| file.path.clone()).collect();
            refuse_overlap(&read.paths, &paths, &dir)?;
        }
    }
    Ok(Output::prepare(&dir, options, &run_key(plan, options, part_bytes), resume)?)
}

/// What a run writes, as a name: of equal ones, one can go on where the other has ended. Whatever
/// decides which rows are in which file is part of it; of rows in the object store, which end
/// with their session, that is the names of the objects.
fn run_key(plan: &LogicalPlan, options: &WriteOptions, part_bytes: u64) -> String {
    let mut text = format!("{plan:?}\n{options:?}\n{part_bytes}\n");
    for source in plan.sources() {
        if let Source::Batches { batches, .. } = source {
            for batch in batches.iter() {
                // What cannot be put into the store fails there.
                for piece in crate::ipc::encode(batch).unwrap_or_default() {
                    text.push_str(&format!("{:016x} ", xxhash_rust::xxh3::xxh3_64(&piece)));
                }
            }
        }
        if let Source::Files(read) = source {
            for file in read.opened.iter().flat_map(|opened| &opened.files) {
                let rows: Vec<u64> = file.row_groups.iter().map(|group| group.rows).collect();
                text.push_str(&format!("{} {rows:?} {:?} {:?}\n", file.path, file.remote, modified(&file.path)));
            }
        }
    }
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}

/// When a file was changed last, and its size: where that is known.
fn modified(path: &str) -> Option<(std::time::SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// People know the directory of the output, not the hidden files in which a run keeps its own until
/// it is done.
fn in_output(error: RunError, output: &Output) -> RunError {
    match error {
        RunError::Data(error) => RunError::Data(output.shown(error)),
        RunError::Block { error, node } => RunError::Block { error: Box::new(output.shown(*error)), node },
        other => other,
    }
}

/// A run on its way through the plan.
struct Executor<'a, 'o> {
    client: &'a Client,
    options: RunOptions<'o>,
    window: usize,
    report: RunReport,
    /// The files of blocks that an earlier run of the same plan has finished.
    finished: Vec<BlockFile>,
    /// The uploads of blocks that are done.
    uploads: Vec<PendingUpload>,
}

impl<'a, 'o> Executor<'a, 'o> {
    fn new(client: &'a Client, options: RunOptions<'o>) -> Result<Self, RunError> {
        let window = match options.concurrency {
            Some(tasks) => tasks,
            None => cluster_cpus(client)? * TASKS_PER_CPU,
        };
        Ok(Self { client, options, window, report: RunReport::default(), finished: Vec::new(), uploads: Vec::new() })
    }

    /// Runs the plan into the sink; the files of a write wait for being moved into place.
    fn sink(
        &mut self,
        plan: &LogicalPlan,
        sink: &Sink,
        schema: Option<SchemaRef>,
        output: Option<&Output>,
    ) -> Result<(RunReport, Vec<BlockFile>), RunError> {
        // A limit on top of what is handed over ends the run as soon as there are enough rows.
        let (mut lowered, limit) = match plan {
            LogicalPlan::Op { input, op: Operator::Limit { rows } } if !matches!(sink, Sink::Write { .. }) => {
                let lowered = self.lower_limit(input, *rows)?;
                (lowered, Some(*rows))
            }
            plan => (self.lower(plan)?, None),
        };
        if let (Sink::Count, Some(rows)) = (sink, lowered.sure_rows()) {
            let mut report = std::mem::take(&mut self.report);
            report.rows_in += lowered.source_rows();
            report.rows_out = rows.min(limit.unwrap_or(u64::MAX));
            return Ok((report, Vec::new()));
        }
        let stage_sink = match sink {
            Sink::Write { options, .. } => StageSink::Write {
                staging: output.map(Output::staging).unwrap_or_default(),
                first_ordinal: output.map(Output::first_ordinal).unwrap_or_default(),
                options: options.clone(),
                schema: schema.clone().map(WireSchema),
            },
            Sink::Count => StageSink::Count,
            Sink::Batches | Sink::Blocks => StageSink::Blocks,
        };
        let known = schema.or_else(|| lowered.schema.clone());
        let asks = !matches!(sink, Sink::Count);
        let take = self.options.take_block.take();
        let gives = take.is_some();
        let mut ran = self.run_stage_into(&mut lowered, stage_sink.clone(), limit, take)?;
        let mut found = known.or_else(|| ran.iter().find_map(|ran| ran.schema.clone()));
        // Where there are files, there are columns in them.
        let has_files = ran.iter().any(|ran| !ran.files.is_empty());
        if found.is_none() && asks && !has_files {
            // No row tells the columns that a function makes: it is asked without any.
            match self.columns(&lowered, stage_sink) {
                Ok(columns) => {
                    found.clone_from(&columns.schema);
                    ran.push(columns);
                }
                // A caller who gets no rows can do without columns; a file cannot.
                Err(RunError::Block { error, .. })
                    if output.is_none() && matches!(*error, DataError::NoColumns { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut report = std::mem::take(&mut self.report);
        report.schema = found;
        report.rows_out = ran.iter().map(|ran| ran.rows_out).sum::<u64>().min(limit.unwrap_or(u64::MAX));
        let files = ran.iter_mut().flat_map(|ran| std::mem::take(&mut ran.files)).collect();
        if let (Sink::Blocks | Sink::Batches, Some(schema)) = (sink, &report.schema) {
            let blocks = blocks_of(ran, limit);
            if matches!(sink, Sink::Batches) {
                report.batches = self.batches(&blocks)?;
            } else if !gives {
                report.blocks = Some(Blocks { schema: Arc::clone(schema), blocks: Arc::new(blocks) });
            }
        }
        Ok((report, files))
    }

    /// The rows of blocks, as they lie in the store.
    fn batches(&self, blocks: &[Block]) -> Result<Vec<RecordBatch>, RunError> {
        blocks.iter().filter_map(|block| block_batch(self.client, block).transpose()).collect()
    }

    /// What is below a limit, with the limit's effect on every task.
    fn lower_limit(&mut self, input: &LogicalPlan, rows: u64) -> Result<Lowered, RunError> {
        let mut lowered = self.lower_top(input, rows)?;
        if !lowered.cut(rows) {
            lowered.push(&StageOperator::Row(Operator::Limit { rows }));
        }
        Ok(lowered)
    }
}

/// The rows of a block, as they lie in the store; none if it has none.
///
/// # Errors
/// [`RunError::Core`], if its object is lost.
pub fn block_batch(client: &Client, block: &Block) -> Result<Option<RecordBatch>, RunError> {
    let Some(object) = &block.object else {
        return Ok(None);
    };
    let batch = decode_object(client, object)?;
    Ok(batch.map(|batch| batch.slice(block.first_row as usize, block.rows as usize)))
}

fn uuid_text() -> String {
    format!("{:016x}", rand::random::<u64>())
}
