//! What this client knows of the work it has submitted, for people: how far it has come, and what
//! failed lately. Work that goes well costs nothing here.

use std::collections::VecDeque;
use std::sync::Arc;

use mobula_transport::{ProcessAddr, Replier};
use parking_lot::Mutex;

use super::Client;
use super::actor_queue::ActorQueue;
use super::pending::{Arg, Pending, Work};
use super::task_queue::TaskQueue;
use crate::error::Error;
use crate::ids::{ActorId, LeaseId, ObjectId, TaskId};
use crate::messages::{FailedTask, OwnedTask, PendingTask, Strategy, TaskInfo, TaskStage, WorkerKind};
use crate::registry::RemoteFunction;
use crate::resources::Resources;

/// Failures that are remembered.
const FAILURES_KEPT: usize = 1_000;
/// Arguments that are named in one answer.
const MAX_NAMED_ARGUMENTS: usize = 16;
/// Tasks in one answer.
const MAX_LISTED: u32 = 10_000;

/// The work that failed lately.
#[derive(Default)]
pub(super) struct Failures(Mutex<VecDeque<Failure>>);

struct Failure {
    seq: u64,
    function: &'static RemoteFunction,
    name: Option<String>,
    attempts: Option<(u32, u32)>,
    actor: Option<ActorId>,
    error: Error,
}

impl Failures {
    /// This work has failed.
    pub(super) fn record(&self, seq: u64, pending: &Pending, error: &Error) {
        let (name, attempts, actor) = common(pending);
        let failure = Failure { seq, function: pending.function, name, attempts, actor, error: error.clone() };
        let mut kept = self.0.lock();
        if kept.len() == FAILURES_KEPT {
            kept.pop_front();
        }
        kept.push_back(failure);
    }

    fn find(&self, seq: u64) -> Option<FailedTask> {
        let kept = self.0.lock();
        let failure = kept.iter().rev().find(|failure| failure.seq == seq)?;
        Some(FailedTask {
            function: failure.function.name.to_owned(),
            name: failure.name.clone(),
            attempts: failure.attempts,
            actor: failure.actor,
            error: failure.error.clone(),
        })
    }
}

/// The user's name, the attempts and how many there may be, and the actor that is called.
fn common(pending: &Pending) -> (Option<String>, Option<(u32, u32)>, Option<ActorId>) {
    match &pending.work {
        Work::Task { options, .. } => {
            let attempts = (pending.attempts.charged(), options.max_retries.saturating_add(1));
            (options.name.clone(), Some(attempts), None)
        }
        Work::Call { actor, .. } => (None, None, Some(actor.actor())),
    }
}

/// Where a piece of work is. Looked at after the table's lock was released: the queues take it under
/// their own.
enum Place {
    Task(Option<Arc<TaskQueue>>, Option<LeaseId>),
    Call(Arc<ActorQueue>),
}

impl Client {
    /// Says what is known of a task or call. Off this thread: a queue may be long.
    pub(super) fn explain_owned(&self, seq: u64, replier: Replier<OwnedTask>) {
        let client = self.clone();
        self.endpoint().runtime().spawn_blocking(move || replier.reply(client.owned(seq)));
    }

    /// Lists what no worker has yet. Off this thread: there may be a million.
    pub(super) fn list_pending(&self, limit: u32, replier: Replier<Vec<TaskInfo>>) {
        let client = self.clone();
        self.endpoint().runtime().spawn_blocking(move || replier.reply(client.pending_tasks(limit)));
    }

    fn owned(&self, seq: u64) -> OwnedTask {
        if let Some(pending) = self.describe_pending(seq) {
            return OwnedTask::Pending(Box::new(pending));
        }
        match self.0.failures.find(seq) {
            Some(failed) => OwnedTask::Failed(Box::new(failed)),
            None if seq > 0 && seq < self.0.next_seq.load(std::sync::atomic::Ordering::Relaxed) => OwnedTask::Over,
            None => OwnedTask::Unknown,
        }
    }

    fn describe_pending(&self, seq: u64) -> Option<PendingTask> {
        let (mut task, place, unready) = self.0.pending.with(seq, |pending| {
            let (name, attempts, actor) = common(pending);
            let (demand, strategy, kind) = match &pending.work {
                Work::Task { options, .. } => {
                    (options.placed_demand(), options.strategy.clone(), options.placed_kind())
                }
                Work::Call { .. } => (Resources::new(), Strategy::Default, WorkerKind::Shared),
            };
            let place = match &pending.work {
                Work::Task { queue, lease, .. } => Place::Task(queue.clone(), *lease),
                Work::Call { actor, .. } => Place::Call(actor.clone()),
            };
            let stage = if pending.cancelled { TaskStage::Cancelled } else { TaskStage::Line(0, 0) };
            let function = pending.function.name.to_owned();
            let task = PendingTask { function, name, attempts, demand, strategy, kind, actor, stage };
            (task, place, unready(pending))
        })?;
        if task.stage != TaskStage::Cancelled {
            task.stage = if unready.is_empty() { stage_at(&place, seq) } else { waiting_for(unready) };
        }
        Some(task)
    }

    fn pending_tasks(&self, limit: u32) -> Vec<TaskInfo> {
        let owner = self.endpoint().process().id;
        let unsent = |pending: &Pending| match &pending.work {
            Work::Task { lease, .. } => lease.is_none() && !pending.cancelled,
            Work::Call { .. } => !pending.cancelled,
        };
        let mut tasks = Vec::new();
        for seq in self.0.pending.find(unsent) {
            if tasks.len() >= limit.min(MAX_LISTED) as usize {
                break;
            }
            let Some((name, is_ready, place)) = self.0.pending.with(seq, |pending| {
                let name = common(pending).0.unwrap_or_else(|| pending.function.plain_name().to_owned());
                let place = match &pending.work {
                    Work::Task { queue, lease, .. } => Place::Task(queue.clone(), *lease),
                    Work::Call { actor, .. } => Place::Call(actor.clone()),
                };
                (name, unready(pending).is_empty(), place)
            }) else {
                continue;
            };
            let state = match place {
                Place::Call(actor) if actor.worker_of(seq).is_some() => continue,
                _ if !is_ready => "PENDING_ARGS_AVAIL",
                Place::Call(_) => "PENDING_ACTOR",
                Place::Task(..) => "PENDING_NODE_ASSIGNMENT",
            };
            let task = TaskId { owner, seq }.to_string();
            tasks.push(TaskInfo { task, name, state: state.to_owned(), node: String::new(), pid: 0, run_us: 0 });
        }
        tasks
    }
}

/// The arguments that are not ready.
fn unready(pending: &Pending) -> Vec<ObjectId> {
    let objects = pending.args.iter().filter_map(|arg| match arg {
        Arg::Object(handle) if !handle.is_settled() => Some(handle.id()),
        _ => None,
    });
    objects.collect()
}

fn waiting_for(mut unready: Vec<ObjectId>) -> TaskStage {
    let count = unready.len() as u64;
    unready.truncate(MAX_NAMED_ARGUMENTS);
    TaskStage::Arguments(unready, count)
}

fn stage_at(place: &Place, seq: u64) -> TaskStage {
    let sent = |worker: Option<ProcessAddr>, lease| worker.map(|worker| TaskStage::Sent(worker, lease));
    match place {
        Place::Task(Some(queue), Some(lease)) => sent(queue.worker_of(*lease), Some(*lease)),
        Place::Task(Some(queue), None) => {
            queue.standing(seq).map(|(ahead, queued)| TaskStage::Line(ahead as u64, queued as u64))
        }
        Place::Task(None, _) => None,
        Place::Call(actor) => sent(actor.worker_of(seq), None)
            .or_else(|| Some(TaskStage::Actor(actor.ahead_of(seq).unwrap_or_default() as u64))),
    }
    // Between two places: on its way into the queue, or with a lease that has just ended.
    .unwrap_or(TaskStage::Line(0, 0))
}
