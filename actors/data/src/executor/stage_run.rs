//! Running the tasks of one stage.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use mobula_core::client::{Arg, Client, ObjectHandle};
use mobula_core::error::Error;
use mobula_core::messages::PendingDemand;
use mobula_core::resources::{CPU, Resources};
use mobula_core::value::Value;

use super::crew::UnderWay;
use super::leg::Leg;
use super::lower::{Lowered, Todo};
use super::needs::{Needs, side_by_side};
use super::schedule::Schedule;
use super::task::{Answer, decode, decode_batch, encode};
use super::{Executor, RunError, RunProgress, StageReport, TakeBlock};
use crate::block_writer::BlockFile;
use crate::error::DataError;
use crate::exchange::partition::KeySample;
use crate::execute::{BlockReport, OperatorReport, Progress, check_same_columns};
use crate::source::Block;
use crate::stage::{BlockTask, LEFT, Stage, StageSink, WireSchema};
use crate::storage::PendingUpload;

/// After a failure, how long to wait, in all, for the tasks that come before the one that failed:
/// the error of the first is told.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// How often a run looks up while no task ends.
const TICK: Duration = Duration::from_millis(100);

/// When nothing has moved for so long, the run says why.
const WAITING_SHOWN_AFTER: Duration = Duration::from_secs(3);

/// When it has said why so often in a row, actors that have nothing to do make room, whether or not there
/// should be enough.
const ROOM_MADE_AFTER: u32 = 10;

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
        let tasks = std::mem::take(&mut lowered.tasks);
        let stages = lowered.legs(sink);
        let mut run = StageRun::new(self, stages.clone(), tasks)?;
        let ran = run.all(limit, take)?;
        let (passed_on, seconds) = (run.passed_on(ran.len()), started.elapsed().as_secs_f64());
        for (stage, ran) in stages.iter().zip(passed_on.iter().chain([&ran])) {
            self.note(stage, ran, seconds)?;
        }
        if let Some(report) = self.report.stages.last_mut() {
            report.spilled_bytes = spilled_bytes(self.client).saturating_sub(spilled);
        }
        Ok(ran)
    }

    /// Runs the stage over no rows, for its columns: leg by leg, since each needs those of the one before.
    pub(super) fn columns(&mut self, lowered: &Lowered, sink: StageSink) -> Result<Ran, RunError> {
        let mut ran = Ran::default();
        for mut leg in lowered.legs(sink) {
            leg.asks_columns = true;
            if let (Some(schema), [branch]) = (ran.schema.take(), leg.branches.as_mut_slice()) {
                branch.schema = schema;
            }
            ran = StageRun::new(self, vec![leg], vec![Todo::of(LEFT, [])])?.all(None, None)?.pop().unwrap_or_default();
        }
        Ok(ran)
    }

    /// Adds up what the tasks did. All must give the same columns.
    fn note(&mut self, stage: &Stage, ran: &[Ran], seconds: f64) -> Result<(), DataError> {
        let sink = stage.sink.name();
        let mut schema: Option<&SchemaRef> = None;
        let mut report = StageReport { name: stage.title(), tasks: ran.len() as u64, seconds, ..Default::default() };
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
            operators.iter_mut().zip(&ran.operators).for_each(|(sum, one)| sum.add(one));
        }
        // The branches of a stage share its sink.
        let mut of_sink: Option<OperatorReport> = None;
        for mut operators in of_branch {
            let Some(one) = operators.pop() else { continue };
            match &mut of_sink {
                Some(sum) => sum.add(&one),
                None => of_sink = Some(one),
            }
            if !is_sample {
                // The first says where the rows came from.
                self.report.operators.extend(operators.iter().skip(1).cloned());
            }
            report.operators.extend(operators);
        }
        report.operators.extend(of_sink);
        self.report.bytes_in += report.bytes_in;
        self.report.stages.push(report);
        Ok(())
    }
}

/// The tasks of one stage while they run.
struct StageRun<'r, 'a, 'o> {
    executor: &'r mut Executor<'a, 'o>,
    /// What every block goes through; there is at least one.
    legs: Vec<Leg>,
    done: RunProgress,
    /// The rows of blocks that an earlier run has finished, which are not among those of `done`.
    before: Progress,
    /// The files of blocks that an earlier run has finished.
    finished: BTreeMap<u64, Vec<BlockFile>>,
}

/// What has happened while the run waited.
enum Event {
    /// The block at this position of a leg has ended.
    Ended(usize, usize),
    /// The actor at this position of a leg was made, or cannot be.
    Made(usize, usize),
    /// Nothing.
    Tick,
}

impl<'r, 'a, 'o> StageRun<'r, 'a, 'o> {
    fn new(executor: &'r mut Executor<'a, 'o>, stages: Vec<Stage>, tasks: Vec<Todo>) -> Result<Self, RunError> {
        let mut finished: BTreeMap<u64, Vec<BlockFile>> = BTreeMap::new();
        if stages.iter().any(|stage| matches!(stage.sink, StageSink::Write { .. })) {
            for file in std::mem::take(&mut executor.finished) {
                finished.entry(file.ordinal).or_default().push(file);
            }
        }
        let rows_total = tasks.iter().map(|task| task.rows).sum::<Option<u64>>().unwrap_or_default();
        let titles: Vec<String> = stages.iter().map(Stage::title).collect();
        let mut needs = stages.iter().map(|stage| Needs::of(&stage.branches)).collect::<Result<Vec<_>, _>>()?;
        // One leg alone may ask for more than there is, and waits for it.
        if needs.len() > 1 {
            needs = side_by_side(needs.clone(), node_totals(executor.client)?).unwrap_or(needs);
        }
        let blocks = tasks.len();
        let before = Progress {
            rows_in: finished.keys().filter_map(|block| tasks.get(*block as usize)?.rows).sum(),
            rows_out: finished.values().flatten().map(|file| file.rows).sum(),
        };
        let mut tasks: Vec<Option<Todo>> = tasks.into_iter().map(Some).collect();
        let mut legs = Vec::with_capacity(stages.len());
        for (stage, needs) in stages.into_iter().zip(&needs) {
            let window = needs.window(executor.window, executor.options.concurrency);
            let tasks = std::mem::replace(&mut tasks, vec![None; blocks]);
            legs.push(Leg::new(executor.client, stage, tasks, needs.clone(), window)?);
        }
        let done = RunProgress {
            stage: executor.report.stages.len(),
            operators: titles.join(">").into(),
            tasks_done: finished.len() as u64,
            tasks_total: blocks as u64,
            rows_total,
            ..RunProgress::default()
        };
        Ok(Self { executor, legs, done, before, finished })
    }

    /// What the legs before the last one gave it, of the first `blocks` blocks, in source order.
    fn passed_on(mut self, blocks: usize) -> Vec<Vec<Ran>> {
        self.legs.pop();
        let in_order = |mut leg: Leg| {
            leg.ran.sort_by_key(|(index, _)| *index);
            leg.ran.into_iter().filter(|(index, _)| *index < blocks).map(|(_, ran)| ran).collect()
        };
        self.legs.into_iter().map(in_order).collect()
    }

    /// The results of all tasks that count, in source order.
    fn all(&mut self, limit: Option<u64>, mut take: Option<&mut TakeBlock<'_>>) -> Result<Vec<Ran>, RunError> {
        let windows = self.legs.iter().map(|leg| leg.window).fold(0, usize::saturating_add);
        let window = windows.min(self.executor.options.concurrency.unwrap_or(usize::MAX));
        let mut schedule = Schedule::new(self.done.tasks_total as usize, window, limit);
        if take.is_some() {
            schedule = schedule.ahead(window);
        }
        let mut wanted_rows = limit.unwrap_or(u64::MAX);
        let mut patience = Patience::new();
        let mut drain_until = None;
        self.tell();
        while !schedule.is_decided() {
            while let Some(index) = schedule.submit() {
                match self.finished.remove(&(index as u64)) {
                    Some(files) => {
                        self.legs.iter_mut().for_each(|leg| leg.pass_by(index));
                        schedule.settle(index, Ok(self.done_before(files)));
                    }
                    None => self.legs[0].comes(index, None),
                }
            }
            if schedule.is_decided() {
                // An earlier run has done all that is left.
                break;
            }
            self.hand_out()?;
            let (place, ended) = match self.wait(&mut patience)? {
                Event::Ended(place, position) => (place, self.legs[place].under_way.remove(position)),
                Event::Made(place, position) => {
                    self.legs[place].crew.made(position)?;
                    continue;
                }
                Event::Tick if drain_until.is_some_and(|until| Instant::now() >= until) => break,
                Event::Tick => continue,
            };
            let result = self.result(place, &ended);
            if self.legs[place].crew.ended(&ended, result.as_ref().err()) {
                continue;
            }
            self.legs[place].tasks[ended.index] = None;
            if let Some(settled) = self.pass_on(place, ended.index, result) {
                if let Ok(ran) = &settled {
                    self.executor.uploads.extend(ran.uploads());
                    self.done.tasks_done += 1;
                    self.tell();
                }
                schedule.settle(ended.index, settled.map(|ran| (ran.rows_out, ran)));
            }
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

    /// Hands out blocks: those that have come furthest first.
    fn hand_out(&mut self) -> Result<(), RunError> {
        let client = self.executor.client;
        for leg in self.legs.iter_mut().rev() {
            let again = leg.crew.runs_again();
            while leg.has_room() {
                let tasks = &mut leg.tasks;
                match leg.crew.hand_out(client, &mut |index| args(index, tasks[index].as_mut(), again))? {
                    Some(block) => leg.under_way.push(block),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// A block has ended in a leg: where another one follows, it takes what came out. What is left to
    /// settle.
    fn pass_on(&mut self, place: usize, index: usize, result: Result<Ran, RunError>) -> Option<Result<Ran, RunError>> {
        let mut ran = match result {
            Ok(ran) => ran,
            Err(error) => return Some(Err(error)),
        };
        if place == 0 {
            self.done.rows_in += ran.rows_in;
            self.done.bytes_in += ran.bytes_in;
        }
        let Some(next) = self.legs.get_mut(place + 1) else {
            self.done.rows_out += ran.rows_out;
            return Some(Ok(ran));
        };
        let rows = Todo::of(LEFT, &ran.objects);
        // They are the next leg's, which frees them.
        ran.objects.iter_mut().for_each(|block| block.object = None);
        next.comes(index, Some(rows));
        self.legs[place].ran.push((index, ran));
        None
    }

    /// What a block gave that an earlier run has finished. That it is done is known from the start.
    fn done_before(&mut self, files: Vec<BlockFile>) -> (u64, Ran) {
        let rows_out = files.iter().map(|file| file.rows).sum();
        self.executor.report.blocks_resumed += 1;
        self.executor.report.rows_resumed += rows_out;
        (rows_out, Ran { rows_out, files, ..Ran::default() })
    }

    /// What happens before the next tick.
    fn wait(&mut self, patience: &mut Patience) -> Result<Event, RunError> {
        if (self.executor.options.cancelled)() {
            return Err(DataError::Cancelled.into());
        }
        let client = self.executor.client;
        let (mut handles, mut events) = (Vec::new(), Vec::new());
        for (place, leg) in self.legs.iter().enumerate() {
            handles.extend(leg.under_way.iter().map(|block| block.report.clone()));
            events.extend((0..leg.under_way.len()).map(|position| (place, position, false)));
            let making = leg.crew.making();
            events.extend((0..making.len()).map(|position| (place, position, true)));
            handles.extend(making);
        }
        let (ready, _) = client.wait(&handles, 1, Some(TICK))?;
        if ready.is_empty() {
            self.tell();
        }
        if patience.is_over(self.progress().rows_in, !ready.is_empty()) {
            self.say_why_it_waits(patience.times);
        }
        Ok(match ready.first().and_then(|position| events.get(*position)) {
            Some((place, position, false)) => Event::Ended(*place, *position),
            Some((place, position, true)) => Event::Made(*place, *position),
            None => Event::Tick,
        })
    }

    /// Says it, for the n-th time in a row.
    fn say_why_it_waits(&mut self, times: u32) {
        let client = self.executor.client;
        // With a block in a worker's hands the run is slow, and does not wait.
        let why = if self.legs.iter().any(|leg| leg.works(client)) {
            String::new()
        } else {
            if times >= ROOM_MADE_AFTER || !self.has_room() {
                // Actors of one leg that have nothing to do may hold what another one waits for: where
                // there is room for all of them they need not be where that leaves it.
                self.legs.iter_mut().for_each(|leg| leg.crew.make_room());
            }
            why_it_waits(client, &self.legs.iter().map(|leg| leg.crew.name()).collect::<Vec<_>>())
        };
        (self.executor.options.waiting)(&why);
    }

    /// Whether the cluster has room for all legs at once, as it had when they began, or nodes were lost
    /// since. A cluster that does not answer fails the run elsewhere.
    fn has_room(&self) -> bool {
        let needs = self.legs.iter().map(|leg| leg.needs.clone()).collect();
        node_totals(self.executor.client).map_or(true, |nodes| side_by_side(needs, nodes).is_some())
    }

    /// What is done, or under way in this process.
    fn progress(&self) -> RunProgress {
        let rows_in = self.legs.first().map_or(0, |leg| leg.progress().rows_in);
        let rows_out = self.legs.last().map_or(0, |leg| leg.progress().rows_out).max(self.done.rows_out);
        let rows_out = self.before.rows_out + rows_out;
        let mut rows_in = self.before.rows_in + self.done.rows_in.max(rows_in);
        if self.done.rows_total > 0 {
            rows_in = rows_in.min(self.done.rows_total);
        }
        RunProgress { rows_in, rows_out, ..self.done.clone() }
    }

    fn tell(&mut self) {
        let progress = self.progress();
        (self.executor.options.progress)(progress);
    }

    fn result(&self, place: usize, task: &UnderWay) -> Result<Ran, RunError> {
        let leg = &self.legs[place];
        let todo = leg.tasks[task.index].as_ref();
        let Answer { node, result } = decode(&get(self.executor.client, &task.report)?)?;
        let report: BlockReport = match result {
            Ok(report) => report,
            Err(error) => return Err(RunError::Block { node, error: Box::new(error) }),
        };
        if report.objects.len() != leg.objects as usize {
            let what = format!("a task gave {} objects, {} were expected", report.objects.len(), leg.objects);
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
            branch: todo.map_or(0, |todo| todo.branch),
            is_source: todo.is_some_and(|todo| todo.is_source),
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
fn args(index: usize, todo: Option<&mut Todo>, again: bool) -> Result<Vec<Arg>, RunError> {
    let todo = todo.ok_or_else(|| Error::Invalid { what: format!("block {index} has come to a leg without rows") })?;
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
    /// How often it was over since then.
    times: u32,
}

impl Patience {
    fn new() -> Self {
        Self { rows: 0, since: Instant::now(), times: 0 }
    }

    /// Whether it has lasted too long; it then starts again.
    fn is_over(&mut self, rows: u64, moved: bool) -> bool {
        let now = Instant::now();
        if moved || rows != self.rows {
            *self = Self { rows, since: now, times: 0 };
        }
        if now.duration_since(self.since) < WAITING_SHOWN_AFTER {
            return false;
        }
        self.since = now;
        self.times = self.times.saturating_add(1);
        true
    }
}

/// Why demands of the tasks `names` wait in the cluster; nothing if none does, and their blocks are
/// only slow.
fn why_it_waits(client: &Client, names: &[&str]) -> String {
    let pending = client.status().map(|status| status.pending).unwrap_or_default();
    // A demand has the name of the first task of its shape: that of another run, perhaps.
    let is_ours = |demand: &&PendingDemand| names.contains(&demand.what.as_str());
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
    let cpus: f64 = node_totals(client)?.iter().map(|node| node.units(CPU)).sum();
    Ok((cpus.ceil() as usize).max(1))
}

/// What each node that is alive has.
pub(super) fn node_totals(client: &Client) -> Result<Vec<Resources>, RunError> {
    let status = client.status()?;
    Ok(status.view.nodes.iter().filter(|node| node.alive).map(|node| node.total.clone()).collect())
}
