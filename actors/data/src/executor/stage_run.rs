//! Running the tasks of one stage.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use mobula_core::client::{Arg, Client, ObjectHandle, TaskOptions};
use mobula_core::error::Error;
use mobula_core::messages::{PendingDemand, Strategy};
use mobula_core::resources::CPU;
use mobula_core::value::Value;

use super::crew::{Crew, UnderWay};
use super::live::Live;
use super::lower::{Lowered, Todo};
use super::needs::Needs;
use super::schedule::Schedule;
use super::task::{Answer, Order, decode, decode_batch, encode};
use super::{Executor, RunError, RunProgress, StageReport, TakeBlock};
use crate::block_writer::BlockFile;
use crate::error::DataError;
use crate::exchange::partition::KeySample;
use crate::execute::{BlockReport, OperatorReport, check_same_columns};
use crate::source::Block;
use crate::stage::{BlockTask, Combine, Input, Stage, StageSink, WireSchema};
use crate::storage::PendingUpload;

/// After a failure, how long to wait, in all, for the tasks that come before the one that failed:
/// the error of the first is told.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// How often a run looks up while no task ends.
const TICK: Duration = Duration::from_millis(100);

/// When nothing has moved for so long, the run says why.
const WAITING_SHOWN_AFTER: Duration = Duration::from_secs(3);

/// What a task gave.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) rows_out: u64,
    pub(super) schema: Option<SchemaRef>,
    pub(super) files: Vec<BlockFile>,
    /// The objects that it gave, in order.
    pub(super) objects: Vec<Block>,
    pub(super) sample: Option<KeySample>,
    node: String,
    branch: u32,
    is_source: bool,
    rows_in: u64,
    bytes_in: u64,
    seconds: f64,
    operators: Vec<OperatorReport>,
}

impl Ran {
    fn uploads(&self) -> impl Iterator<Item = PendingUpload> {
        self.files.iter().filter_map(|file| file.upload.clone())
    }
}

impl Executor<'_, '_> {
    /// Runs the tasks of a stage; those whose results count, in order. The objects that a task is
    /// given are let go of when it is done.
    pub(super) fn run_stage(
        &mut self,
        lowered: &mut Lowered,
        sink: StageSink,
        limit: Option<u64>,
    ) -> Result<Vec<Ran>, RunError> {
        self.run_stage_into(lowered, sink, limit, None)
    }

    /// As [`Self::run_stage`]; what it gives is given to `take` as soon as it is there, and is not in
    /// the results.
    pub(super) fn run_stage_into(
        &mut self,
        lowered: &mut Lowered,
        sink: StageSink,
        limit: Option<u64>,
        take: Option<&mut TakeBlock<'_>>,
    ) -> Result<Vec<Ran>, RunError> {
        let started = Instant::now();
        let spilled = spilled_bytes(self.client);
        let stage = Stage { branches: lowered.branches.clone(), sink, asks_columns: false };
        let mut run = StageRun::new(self, &stage, lowered)?;
        let ran = run.all(&mut lowered.tasks, limit, take)?;
        drop(run);
        self.note(&stage, &ran, started.elapsed().as_secs_f64())?;
        if let Some(report) = self.report.stages.last_mut() {
            report.spilled_bytes = spilled_bytes(self.client).saturating_sub(spilled);
        }
        Ok(ran)
    }

    /// Runs the stage over no rows, for its columns.
    pub(super) fn columns(&mut self, lowered: &Lowered, sink: StageSink) -> Result<Ran, RunError> {
        let stage = Stage { branches: lowered.branches.clone(), sink, asks_columns: true };
        let mut run = StageRun::new(self, &stage, lowered)?;
        let input = match lowered.tasks.first().map(|task| &task.input) {
            Some(Input::Range { .. }) => Input::Range { first: 0, rows: 0, sides: Vec::new() },
            Some(Input::Files { .. }) => Input::Files { pieces: Vec::new(), sides: Vec::new() },
            _ => Input::Objects(Vec::new()),
        };
        let todo = Todo { branch: 0, input, objects: Vec::new(), rows: Some(0), bytes: 0, is_source: false };
        Ok(run.all(&mut [todo], None, None)?.pop().unwrap_or_default())
    }

    /// Adds up what the tasks did. All must give the same columns.
    fn note(&mut self, stage: &Stage, ran: &[Ran], seconds: f64) -> Result<(), DataError> {
        let sink = stage.sink.name();
        let mut schema: Option<&SchemaRef> = None;
        let mut report =
            StageReport { name: stage_name(stage), tasks: ran.len() as u64, seconds, ..Default::default() };
        let mut of_branch: Vec<Vec<OperatorReport>> = vec![Vec::new(); stage.branches.len()];
        let is_sample = matches!(stage.sink, StageSink::KeySample { .. });
        for ran in ran {
            if let Some(found) = &ran.schema {
                check_same_columns(sink, schema.get_or_insert(found), found)?;
            }
            report.rows_in += ran.rows_in;
            report.rows_out += ran.rows_out;
            report.bytes_in += ran.bytes_in;
            report.task_seconds += ran.seconds;
            report.bytes_out += ran.objects.iter().map(|block| block.bytes).sum::<u64>();
            report.bytes_out += ran.files.iter().map(|file| file.bytes).sum::<u64>();
            if !ran.node.is_empty() {
                *self.report.tasks_by_node.entry(ran.node.clone()).or_default() += 1;
            }
            if ran.is_source && !is_sample {
                self.report.rows_in += ran.rows_in;
            }
            let Some(operators) = of_branch.get_mut(ran.branch as usize) else { continue };
            if operators.is_empty() {
                operators.clone_from(&ran.operators);
                continue;
            }
            for (sum, one) in operators.iter_mut().zip(&ran.operators) {
                sum.rows_in += one.rows_in;
                sum.rows_out += one.rows_out;
                sum.bytes_out += one.bytes_out;
                sum.seconds += one.seconds;
            }
        }
        report.operators = of_branch.into_iter().flatten().collect();
        self.report.bytes_in += report.bytes_in;
        if !is_sample {
            self.report.operators.extend(report.operators.iter().cloned());
        }
        self.report.stages.push(report);
        Ok(())
    }
}

/// The tasks of one stage while they run.
struct StageRun<'r, 'a, 'o> {
    executor: &'r mut Executor<'a, 'o>,
    crew: Crew,
    objects: u32,
    window: usize,
    live: Live,
    done: RunProgress,
    /// The files of blocks that an earlier run has finished.
    finished: BTreeMap<u64, Vec<BlockFile>>,
}

/// What has happened while the run waited.
enum Event {
    /// The block at this position has ended.
    Ended(usize),
    /// The actor at this position was made, or cannot be.
    Made(usize),
    /// Nothing.
    Tick,
}

impl<'r, 'a, 'o> StageRun<'r, 'a, 'o> {
    fn new(executor: &'r mut Executor<'a, 'o>, stage: &Stage, lowered: &Lowered) -> Result<Self, RunError> {
        let needs = Needs::of(&stage.branches)?;
        let mut submit = TaskOptions::default();
        let reads = |task: &Todo| !matches!(task.input, Input::Objects(_));
        // Blocks that are read from disk are independent: every node takes its share. Rows that
        // lie in the store are taken where they are.
        if lowered.tasks.iter().any(reads) {
            submit.strategy = Strategy::Spread;
        }
        let name = stage_name(stage);
        let objects = stage.sink.objects();
        submit.name = Some(name.clone());
        submit.returns = 1 + objects;
        submit.demand = needs.demand.clone();
        let live = Live::begin();
        let done = RunProgress {
            stage: executor.report.stages.len(),
            operators: name.into(),
            tasks_total: lowered.tasks.len() as u64,
            rows_total: lowered.tasks.iter().map(|task| task.rows).sum::<Option<u64>>().unwrap_or_default(),
            ..RunProgress::default()
        };
        let order = encode(&Order { run: live.id, stage: stage.clone() })?;
        let mut finished: BTreeMap<u64, Vec<BlockFile>> = BTreeMap::new();
        if matches!(stage.sink, StageSink::Write { .. }) {
            for file in std::mem::take(&mut executor.finished) {
                finished.entry(file.ordinal).or_default().push(file);
            }
        }
        let crew = Crew::new(executor.client, order, submit, &needs, lowered.tasks.len());
        let window = needs.window(executor.window, executor.options.concurrency);
        Ok(Self { executor, crew, objects, window, live, done, finished })
    }

    /// The results of all tasks that count, in source order.
    fn all(
        &mut self,
        tasks: &mut [Todo],
        limit: Option<u64>,
        mut take: Option<&mut TakeBlock<'_>>,
    ) -> Result<Vec<Ran>, RunError> {
        let mut schedule = Schedule::new(tasks.len(), self.window, limit);
        if take.is_some() {
            schedule = schedule.ahead(self.window);
        }
        let mut wanted_rows = limit.unwrap_or(u64::MAX);
        let mut under_way: Vec<UnderWay> = Vec::new();
        let mut patience = Patience::new();
        let mut drain_until = None;
        self.tell();
        while !schedule.is_decided() {
            while let Some(index) = schedule.submit() {
                match self.finished.remove(&(index as u64)) {
                    Some(files) => schedule.settle(index, Ok(self.done_before(files))),
                    None => self.crew.want(index),
                }
            }
            let again = self.crew.runs_again();
            let client = self.executor.client;
            while let Some(block) = self.crew.hand_out(client, &mut |index| args(index, &mut tasks[index], again))? {
                under_way.push(block);
            }
            let ended = match self.wait(&under_way, &mut patience)? {
                Event::Ended(position) => under_way.remove(position),
                Event::Made(position) => {
                    self.crew.made(position)?;
                    continue;
                }
                Event::Tick if drain_until.is_some_and(|until| Instant::now() >= until) => break,
                Event::Tick => continue,
            };
            let todo = &mut tasks[ended.index];
            let result = self.result(&ended, todo);
            if self.crew.ended(&ended, result.as_ref().err()) {
                continue;
            }
            todo.objects.clear();
            if let Ok(ran) = &result {
                self.executor.uploads.extend(ran.uploads());
                self.done.rows_in += ran.rows_in;
                self.done.rows_out += ran.rows_out;
                self.done.bytes_in += ran.bytes_in;
                self.done.tasks_done += 1;
                self.tell();
            }
            schedule.settle(ended.index, result.map(|ran| (ran.rows_out, ran)));
            if let Some(take) = &mut take {
                while let Some(ran) = schedule.give() {
                    for block in std::mem::take(&mut ran.objects) {
                        let block = block.slice(0, wanted_rows);
                        wanted_rows -= block.rows;
                        if !take(block) {
                            return Err(DataError::Cancelled.into());
                        }
                    }
                }
            }
            if schedule.has_failed() {
                drain_until.get_or_insert_with(|| Instant::now() + DRAIN_WITHIN);
            }
        }
        schedule.finish()
    }

    /// What a block gave that an earlier run has finished.
    fn done_before(&mut self, files: Vec<BlockFile>) -> (u64, Ran) {
        self.done.tasks_done += 1;
        self.executor.report.blocks_resumed += 1;
        let rows_out = files.iter().map(|file| file.rows).sum();
        (rows_out, Ran { rows_out, files, ..Ran::default() })
    }

    /// What happens before the next tick.
    fn wait(&mut self, under_way: &[UnderWay], patience: &mut Patience) -> Result<Event, RunError> {
        if (self.executor.options.cancelled)() {
            return Err(DataError::Cancelled.into());
        }
        let client = self.executor.client;
        let mut handles: Vec<_> = under_way.iter().map(|block| block.report.clone()).collect();
        handles.extend(self.crew.making());
        let (ready, _) = client.wait(&handles, 1, Some(TICK))?;
        if ready.is_empty() {
            self.tell();
        }
        if patience.is_over(self.progress().rows_in, !ready.is_empty()) {
            // With a block in a worker's hands the run is slow, and does not wait.
            let works = self.crew.works(client, under_way);
            let why = if works { String::new() } else { why_it_waits(client, self.crew.name()) };
            (self.executor.options.waiting)(&why);
        }
        Ok(match ready.first() {
            Some(position) if *position < under_way.len() => Event::Ended(*position),
            Some(position) => Event::Made(position - under_way.len()),
            None => Event::Tick,
        })
    }

    /// What is done, or under way in this process.
    fn progress(&self) -> RunProgress {
        let live = self.live.counters.sum();
        let mut rows_in = self.done.rows_in.max(live.rows_in);
        if self.done.rows_total > 0 {
            rows_in = rows_in.min(self.done.rows_total);
        }
        let rows_out = self.done.rows_out.max(live.rows_out);
        RunProgress { rows_in, rows_out, ..self.done.clone() }
    }

    fn tell(&mut self) {
        let progress = self.progress();
        (self.executor.options.progress)(progress);
    }

    fn result(&self, task: &UnderWay, todo: &Todo) -> Result<Ran, RunError> {
        let Answer { node, result } = decode(&get(self.executor.client, &task.report)?)?;
        let report: BlockReport = match result {
            Ok(report) => report,
            Err(error) => return Err(RunError::Block { node, error: Box::new(error) }),
        };
        if report.objects.len() != self.objects as usize {
            let what = format!("a task gave {} objects, {} were expected", report.objects.len(), self.objects);
            return Err(Error::Invalid { what }.into());
        }
        let block = |(object, held): (&ObjectHandle, &crate::execute::ObjectReport)| Block {
            object: (held.rows > 0).then(|| object.clone()),
            first_row: 0,
            rows: held.rows,
            bytes: held.bytes,
        };
        Ok(Ran {
            objects: task.objects.iter().zip(&report.objects).map(block).collect(),
            node,
            branch: todo.branch,
            is_source: todo.is_source,
            rows_in: report.rows_in,
            rows_out: report.rows_out,
            bytes_in: report.bytes_in,
            seconds: report.seconds,
            operators: report.operators,
            schema: report.schema.map(|WireSchema(schema)| schema),
            files: report.files,
            sample: report.sample,
        })
    }
}

/// What a block is called with. Its objects are let go of when it is done; where it may run again,
/// they are kept until then.
fn args(index: usize, todo: &mut Todo, again: bool) -> Result<Vec<Arg>, RunError> {
    let task = BlockTask { ordinal: index as u64, branch: todo.branch, input: todo.input.clone() };
    let objects = if again { todo.objects.clone() } else { std::mem::take(&mut todo.objects) };
    Ok(std::iter::once(Arg::Value(encode(&task)?)).chain(objects.into_iter().map(Arg::Object)).collect())
}

/// The rows of an object; none if it has none.
pub(super) fn decode_object(client: &Client, object: &ObjectHandle) -> Result<Option<RecordBatch>, RunError> {
    decode_batch(get(client, object)?)
}

fn get(client: &Client, handle: &ObjectHandle) -> Result<Value, RunError> {
    let mut values = client.get(std::slice::from_ref(handle), None)?;
    Ok(values.pop().ok_or_else(|| Error::Invalid { what: "get returned nothing".to_owned() })?)
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

/// What all object stores have written to disk so far. It is only told: a cluster that does not
/// answer fails the run elsewhere.
fn spilled_bytes(client: &Client) -> u64 {
    client.store_stats().unwrap_or_default().iter().map(|store| store.spilled_bytes).sum()
}

/// The CPUs of all nodes that are alive.
pub(super) fn cluster_cpus(client: &Client) -> Result<usize, RunError> {
    let status = client.status()?;
    let alive = status.view.nodes.iter().filter(|node| node.alive);
    let cpus: f64 = alive.map(|node| node.total.units(CPU)).sum();
    Ok((cpus.ceil() as usize).max(1))
}

/// What people see: `read_parquet>filter>with_column>write_parquet`.
fn stage_name(stage: &Stage) -> String {
    let first_word = |text: String| text.split(' ').next().unwrap_or_default().to_owned();
    let mut names: Vec<String> = Vec::new();
    if let Some(branch) = stage.branches.first() {
        names.push(match &branch.combine {
            Combine::Stream => "read".to_owned(),
            combine => combine.title().map(first_word).unwrap_or_default(),
        });
        names.extend(branch.operators.iter().map(|operator| first_word(operator.title())));
    }
    if !matches!(stage.sink, StageSink::Blocks) {
        names.push(stage.sink.name().to_owned());
    }
    names.join(">")
}
