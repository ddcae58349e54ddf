//! Running a plan on a cluster: one task for each block, results in source order.
//!
//! Entry type: [`run`]. The driver reads the footers, plans, and submits one task per block
//! through `mobula-core`'s client; each task runs read, operators and sink in one pass
//! ([`crate::execute`]). A bounded number of tasks is under way, so what results lie in the store
//! does not grow with the input. A task lost with its worker or node runs again; nothing of it is
//! seen before the run commits, so nothing is written twice.
//!
//! ```text
//!   footers ─▶ plan ─▶ [block] ─▶ task on any node ─▶ staged file ─▶ all done? rename
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use mobula_core::client::{Arg, Client, ObjectHandle, TaskOptions};
use mobula_core::error::Error;
use mobula_core::messages::Strategy;
use mobula_core::registry::{CallError, CallResult, Code, RemoteFunction};
use mobula_core::resources::CPU;
use mobula_core::value::{Encoding, Value};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::execute::{BlockContext, BlockReport, OperatorReport, dropped_by_filter, run_block};
use crate::function::RegisteredFunctions;
use crate::ipc;
use crate::output_dir::OutputDir;
use crate::parquet_read::FileFooter;
use crate::paths::{absolute, expand, refuse_overlap};
use crate::plan::{LogicalPlan, Sink};
use crate::planner::{self, BlockTask, PhysicalPlan, Stage, StageSink, WireSchema};

/// Tasks under way for each CPU of the cluster: one that runs and one that is next.
const TASKS_PER_CPU: usize = 2;

/// After a failure, how long to wait for tasks under way before their files are taken away.
const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// Why a plan did not run to its end.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RunError {
    /// The plan, its files or its output are at fault.
    #[error(transparent)]
    Data(#[from] DataError),
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
    /// Told whenever a task is done.
    pub progress: &'a mut dyn FnMut(RunProgress),
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

/// The columns of the files of `plan`, unified, and those of its result where they are known.
/// Reads footers only.
pub fn schemas(plan: &LogicalPlan) -> Result<(SchemaRef, Option<SchemaRef>), RunError> {
    Ok(planner::schemas(plan, &footers(plan)?)?)
}

/// Runs `plan` into `sink` and returns when everything is in place; nothing is if it fails.
///
/// # Errors
/// [`RunError`], the first one in source order of those that are seen.
pub fn run(client: &Client, plan: &LogicalPlan, sink: &Sink, options: RunOptions<'_>) -> Result<RunReport, RunError> {
    let start = Instant::now();
    let files = footers(plan)?;
    // Planned once without an output, so that a plan that cannot run leaves no directory.
    planner::plan(plan, sink, &files, "")?;
    let output = match sink {
        Sink::WriteParquet { dir, options } => {
            let dir = absolute(Path::new(dir))?;
            let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
            refuse_overlap(&plan.source().paths, &paths, &dir)?;
            Some(OutputDir::prepare(&dir, options.mode, &uuid_text())?)
        }
        _ => None,
    };
    let staging = output.as_ref().map(OutputDir::staging).unwrap_or_default();
    let physical = planner::plan(plan, sink, &files, &staging)?;
    let mut run = Run::new(client, &physical, options)?;
    let results = run.all()?;
    let mut report = gather(&physical, results);
    if let Some(output) = output {
        let blocks: Vec<_> = report.1.iter().flatten().cloned().collect();
        report.0.bytes_out = blocks.iter().map(|block| block.bytes).sum();
        report.0.files = output.commit(&blocks)?;
    }
    report.0.seconds = start.elapsed().as_secs_f64();
    Ok(report.0)
}

fn footers(plan: &LogicalPlan) -> Result<Vec<FileFooter>, RunError> {
    let mut footers = Vec::new();
    for path in expand(&plan.source().paths)? {
        footers.push(FileFooter::read(&path)?);
    }
    Ok(footers)
}

/// What a task sends back.
#[derive(Debug, Serialize, Deserialize)]
struct Ran {
    report: BlockReport,
    node: String,
}

type Answer = Result<Ran, DataError>;

/// The tasks of one run.
struct Run<'a, 'p> {
    client: &'a Client,
    tasks: &'a [BlockTask],
    stage: Value,
    returns_batches: bool,
    limit: Option<u64>,
    submit: Arc<TaskOptions>,
    window: usize,
    progress: RunProgress,
    tell: &'p mut dyn FnMut(RunProgress),
}

/// A task under way: its report, and its rows if the sink returns them.
struct UnderWay {
    index: usize,
    report: ObjectHandle,
    batches: Option<ObjectHandle>,
}

impl<'a, 'p> Run<'a, 'p> {
    fn new(client: &'a Client, physical: &'a PhysicalPlan, options: RunOptions<'p>) -> Result<Self, RunError> {
        let returns_batches = matches!(physical.stage.sink, StageSink::Batches);
        let concurrency = match options.concurrency {
            Some(tasks) => tasks.max(1),
            None => cluster_cpus(client)? * TASKS_PER_CPU,
        };
        let mut submit = TaskOptions::default();
        // Blocks are independent and read from disk: every node takes its share.
        submit.strategy = Strategy::Spread;
        submit.name = Some(stage_name(&physical.stage));
        submit.returns = 1 + u32::from(returns_batches);
        let pieces = physical.tasks.iter().flat_map(|task| &task.pieces);
        let rows_total = pieces.map(|piece| piece.rows).sum();
        Ok(Self {
            client,
            tasks: &physical.tasks,
            stage: encode(&physical.stage)?,
            returns_batches,
            limit: physical.limit,
            submit: Arc::new(submit),
            window: concurrency,
            progress: RunProgress { tasks_total: physical.tasks.len() as u64, rows_total, ..RunProgress::default() },
            tell: options.progress,
        })
    }

    /// The results of all tasks, in source order.
    fn all(&mut self) -> Result<Vec<(Ran, Vec<RecordBatch>)>, RunError> {
        let mut results: Vec<Option<(Ran, Vec<RecordBatch>)>> = self.tasks.iter().map(|_| None).collect();
        let mut under_way: Vec<UnderWay> = Vec::new();
        let mut next = 0;
        let mut failed: Option<(usize, RunError)> = None;
        loop {
            while failed.is_none()
                && next < self.tasks.len()
                && under_way.len() < self.window
                && !self.has_enough(&results)
            {
                under_way.push(self.submit(next)?);
                next += 1;
            }
            if under_way.is_empty() {
                break;
            }
            let handles: Vec<_> = under_way.iter().map(|task| task.report.clone()).collect();
            let patience = failed.is_some().then_some(DRAIN_WITHIN);
            let (ready, _) = self.client.wait(&handles, 1, patience)?;
            let Some(first) = ready.first() else { break };
            let task = under_way.remove(*first);
            match self.result(&task) {
                Ok(result) => {
                    let report = &result.0.report;
                    self.progress.rows_in += report.rows_in;
                    self.progress.rows_out += report.rows_out;
                    self.progress.bytes_in += report.bytes_in;
                    self.progress.tasks_done += 1;
                    (self.tell)(self.progress);
                    results[task.index] = Some(result);
                }
                // The first in source order is reported, whichever came first.
                Err(error) => {
                    if failed.as_ref().is_none_or(|(index, _)| task.index < *index) {
                        failed = Some((task.index, error));
                    }
                }
            }
        }
        match failed {
            Some((_, error)) => Err(error),
            None => Ok(results.into_iter().flatten().collect()),
        }
    }

    /// Whether the tasks at the front have all the rows that are wanted.
    fn has_enough(&self, results: &[Option<(Ran, Vec<RecordBatch>)>]) -> bool {
        let Some(limit) = self.limit else {
            return false;
        };
        let front = results.iter().map_while(Option::as_ref);
        front.map(|(ran, _)| ran.report.rows_out).sum::<u64>() >= limit
    }

    fn submit(&self, index: usize) -> Result<UnderWay, RunError> {
        let args = [Arg::Value(self.stage.clone()), Arg::Value(encode(&self.tasks[index])?)];
        let mut handles = self.client.submit(&RUN_BLOCK, args.into_iter().collect(), &self.submit);
        let batches = self.returns_batches.then(|| handles.pop()).flatten();
        let report =
            handles.pop().ok_or_else(|| Error::Invalid { what: "a task was submitted without a result".to_owned() })?;
        Ok(UnderWay { index, report, batches })
    }

    fn result(&self, task: &UnderWay) -> Result<(Ran, Vec<RecordBatch>), RunError> {
        let value = self.get(&task.report)?;
        let ran = decode::<Answer>(&value)??;
        let mut batches = Vec::new();
        if let Some(handle) = &task.batches {
            let value = self.get(handle)?;
            if !value.is_empty() {
                batches.push(ipc::decode(value.data).map_err(|error| codec("decoded", &error))?);
            }
        }
        Ok((ran, batches))
    }

    fn get(&self, handle: &ObjectHandle) -> Result<Value, RunError> {
        let mut values = self.client.get(std::slice::from_ref(handle), None)?;
        Ok(values.pop().ok_or_else(|| Error::Invalid { what: "get returned nothing".to_owned() })?)
    }
}

type Blocks = Vec<Option<crate::parquet_write::BlockFile>>;

/// Adds up what the tasks did.
fn gather(physical: &PhysicalPlan, results: Vec<(Ran, Vec<RecordBatch>)>) -> (RunReport, Blocks) {
    let mut total = RunReport { schema: physical.output_schema.clone(), ..RunReport::default() };
    let mut blocks = Vec::new();
    let mut left = physical.limit;
    for (Ran { report, node }, batches) in results {
        total.rows_in += report.rows_in;
        total.bytes_in += report.bytes_in;
        let rows = left.map_or(report.rows_out, |left| left.min(report.rows_out));
        total.rows_out += rows;
        *total.tasks_by_node.entry(node).or_default() += 1;
        if total.operators.is_empty() {
            total.operators = report.operators;
        } else {
            for (sum, one) in total.operators.iter_mut().zip(report.operators) {
                sum.rows_in += one.rows_in;
                sum.rows_out += one.rows_out;
            }
        }
        if total.schema.is_none() {
            total.schema = report.schema.map(|WireSchema(schema)| schema);
        }
        for batch in batches {
            let keep =
                left.map_or(batch.num_rows(), |left| batch.num_rows().min(usize::try_from(left).unwrap_or(usize::MAX)));
            if let Some(left) = &mut left {
                *left -= keep as u64;
            }
            total.batches.push(batch.slice(0, keep));
        }
        if total.batches.is_empty()
            && let Some(left) = &mut left
        {
            *left -= rows;
        }
        blocks.push(report.file);
    }
    (total, blocks)
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

// ---- in the task -------------------------------------------------------------------------------

const RUN_BLOCK_NAME: &str = concat!("mobula-data@", env!("CARGO_PKG_VERSION"), "::run_block");

static RUN_BLOCK: RemoteFunction = RemoteFunction {
    name: RUN_BLOCK_NAME,
    signature: "(Stage, BlockTask) -> (Result<Ran, DataError>, RecordBatch?)",
    code: Code::Task(run_block_task),
};

inventory::submit! {
    RemoteFunction {
        name: RUN_BLOCK_NAME,
        signature: "(Stage, BlockTask) -> (Result<Ran, DataError>, RecordBatch?)",
        code: Code::Task(run_block_task),
    }
}

fn run_block_task(args: Vec<Value>) -> CallResult {
    let [stage, task] = args.as_slice() else {
        let what = "run_block takes a stage and a block".to_owned();
        return Err(CallError::System(Error::Invalid { what }));
    };
    let stage: Stage = decode(stage).map_err(system)?;
    let task: BlockTask = decode(task).map_err(system)?;
    let started = Instant::now();
    let attempt = uuid_text();
    let context = BlockContext {
        functions: &RegisteredFunctions,
        progress: &|_| std::ops::ControlFlow::Continue(()),
        clock: &|| started.elapsed(),
        attempt: &attempt,
    };
    let (answer, batches) = match run_block(&task, &stage, &context) {
        Ok(output) => {
            let node = mobula_core::worker::node_name().unwrap_or_default();
            let ran = Ran { report: output.report, node };
            (Ok(ran), output.batches)
        }
        Err(error) => (Err(error), Vec::new()),
    };
    let mut values = vec![encode::<Answer>(&answer).map_err(system)?];
    if matches!(stage.sink, StageSink::Batches) {
        values.push(encode_batches(&batches).map_err(system)?);
    }
    Ok(values)
}

/// All rows of a block as one batch; no bytes if there are none.
fn encode_batches(batches: &[RecordBatch]) -> Result<Value, RunError> {
    let Some(first) = batches.first() else {
        return Ok(Value::new(Encoding::ARROW, Vec::new()));
    };
    let whole = arrow::compute::concat_batches(&first.schema(), batches).map_err(|error| codec("encoded", &error))?;
    let pieces = ipc::encode(&whole).map_err(|error| codec("encoded", &error))?;
    Ok(Value::new(Encoding::ARROW, pieces.concat()))
}

fn encode<T: Serialize>(value: &T) -> Result<Value, RunError> {
    let data = rmp_serde::to_vec_named(value).map_err(|error| codec("encoded", &error))?;
    Ok(Value::new(Encoding::MSGPACK, data))
}

fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, RunError> {
    rmp_serde::from_slice(&value.data).map_err(|error| codec("decoded", &error))
}

fn codec(doing: &str, error: &dyn std::fmt::Display) -> RunError {
    RunError::Core(Error::Codec { what: "a block".to_owned(), doing: doing.to_owned(), why: error.to_string() })
}

fn system(error: RunError) -> CallError {
    CallError::System(match error {
        RunError::Core(error) => error,
        RunError::Data(error) => Error::Invalid { what: error.to_string() },
    })
}
