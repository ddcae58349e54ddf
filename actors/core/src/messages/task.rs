//! Tasks, their results, and the objects they read.

use std::time::Duration;

use mobula_transport::{Address, ProcessAddr, message};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::borrow::ContainedRef;
use crate::error::Error;
use crate::ids::{FunctionId, JobId, LeaseId, ObjectId};
use crate::value::Encoding;

/// An argument of a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ArgSpec {
    /// The next part of the message's payload.
    Inline(Encoding),
    /// An object in a node's store.
    Stored(StoredObject),
}

/// Processes (raylets) whose stores have, or had, an object.
pub type Nodes = SmallVec<[ProcessAddr; 1]>;

/// An object that lies in the store of one or more nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Which object.
    pub object: ObjectId,
    /// How to read it.
    pub encoding: Encoding,
    /// How large it is.
    pub size_bytes: u64,
    /// The processes (raylets) whose store has it.
    pub nodes: Nodes,
}

/// One task or actor call, as it is pushed to a worker. Its inline arguments are the next parts
/// of the message's payload, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskSpec {
    /// The owner's number for it.
    pub seq: u64,
    /// Which attempt this is, from 1. The first attempt to commit wins.
    pub attempt: u32,
    /// What to run.
    pub function: FunctionId,
    /// The user's name for it, if any.
    pub name: Option<String>,
    /// Its arguments.
    pub args: SmallVec<[ArgSpec; 2]>,
    /// How many values it returns.
    pub returns: u32,
    /// How it streams, if it does: it returns one unit when it has yielded everything.
    pub stream: Option<StreamSpec>,
}

/// How a task or call yields its items, which are the objects of its number with the indices from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSpec {
    /// So many items its owner has from earlier attempts: they are neither stored nor reported.
    pub skip: u32,
    /// How many items may be yielded and not consumed.
    pub window: u32,
}

/// Client to worker, one way: run these under the lease, one after the other.
#[derive(Debug, Serialize, Deserialize)]
pub struct PushTasks {
    /// Who owns the tasks and gets [`TaskDone`].
    pub client: Address,
    /// The job they belong to.
    pub job: JobId,
    /// The lease they run under.
    pub lease: LeaseId,
    /// The raylet that granted it; it hears when the lease's CPU is lent.
    pub raylet: Address,
    /// The tasks.
    pub tasks: Vec<TaskSpec>,
}
message!(PushTasks);

/// One value that a task returned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ReturnSpec {
    /// The next part of the message's payload.
    Inline(Encoding),
    /// It lies in a node's store.
    Stored(StoredObject),
}

/// How a task ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum TaskOutcome {
    /// It returned these.
    Returned(SmallVec<[ReturnSpec; 1]>),
    /// It failed.
    Failed(Box<Error>),
    /// It was not begun: an argument was not found where it was said to lie, for this reason.
    ArgumentLost(Box<StoredObject>, String),
}

/// Worker to client, one way: a task or call has ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct TaskDone {
    /// The owner's number for it.
    pub seq: u64,
    /// The attempt that ended.
    pub attempt: u32,
    /// How it ended.
    pub outcome: TaskOutcome,
    /// How long the user's code ran.
    pub run_us: u32,
    /// The references inside what it returned. The worker holds them until it hears
    /// [`ResultKept`](super::ResultKept).
    pub refs: Vec<ContainedRef>,
}
message!(TaskDone);

/// Worker to submitter: a task or call has yielded an item. Sent again until it is answered, and the
/// work does not end before. An inline item is the message's payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskYielded {
    /// The owner's number of the work.
    pub seq: u64,
    /// The attempt that has yielded.
    pub attempt: u32,
    /// Which item, from 1.
    pub index: u32,
    /// The item.
    pub item: ReturnSpec,
    /// The references inside it. The worker holds them until the answer, which comes when they are
    /// borrowed.
    pub refs: Vec<ContainedRef>,
}
message!(TaskYielded => StreamNews);

/// Worker to submitter: so many items of this stream must be consumed before there is room for the
/// next one. Answered when they are; asked again after a time-out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AwaitRoom {
    /// The owner's number of the work.
    pub seq: u64,
    /// The attempt that waits.
    pub attempt: u32,
    /// How many.
    pub consumed: u32,
}
message!(AwaitRoom => StreamNews);

/// What becomes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamNews {
    /// So many of its items are consumed.
    Consumed(u32),
    /// The item that was reported had been heard of, and its bytes count. Nobody wants another one of
    /// this attempt.
    Enough,
    /// Nobody wants another item of this attempt, nor the one that was reported: it was cancelled,
    /// abandoned, or another attempt counts.
    Unwanted,
}

/// Client to worker, one way: give back tasks of this lease that have not started. Answered by
/// [`TasksReturned`].
#[derive(Debug, Serialize, Deserialize)]
pub struct ReclaimTasks {
    /// The lease.
    pub lease: LeaseId,
    /// Whose tasks.
    pub client: Address,
    /// At most so many, the last ones first.
    pub at_most: u32,
}
message!(ReclaimTasks);

/// Worker to client, one way: these tasks were taken from the lease's queue and will not run.
#[derive(Debug, Serialize, Deserialize)]
pub struct TasksReturned {
    /// The lease.
    pub lease: LeaseId,
    /// The owner's numbers for them.
    pub seqs: Vec<u64>,
}
message!(TasksReturned);

/// Client to worker, one way: nobody wants this attempt's result any more. One that has not started
/// will not run; code that runs is told when it asks. Its end is told as ever.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancelTask {
    /// Whose task or call.
    pub client: Address,
    /// The owner's number for it.
    pub seq: u64,
    /// The attempt.
    pub attempt: u32,
    /// Whether and how what it has submitted is cancelled too.
    pub children: Option<Cancel>,
    /// When a worker process is ended if its code still runs then.
    pub end_after: Option<Duration>,
}
message!(CancelTask);

/// Borrower to owner, one way: cancel the task that makes this object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancelObject {
    /// The object.
    pub object: ObjectId,
    /// How.
    pub how: Cancel,
}
message!(CancelObject);

/// How a task is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Whether the worker process is ended if the code goes on running: a process of the task's own
    /// at once, one shared with others when the code has not returned within a grace period. Workers
    /// inside the driver's process, and actors, are never ended.
    pub force: bool,
    /// Whether the tasks that it has submitted are cancelled too.
    pub recursive: bool,
}

impl Default for Cancel {
    fn default() -> Self {
        Self { force: false, recursive: true }
    }
}

/// Client to worker, one way, after their connection broke: do you still have these? Answered by
/// [`TasksMissing`] when some are missing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StillHave {
    /// Whose tasks and calls.
    pub client: Address,
    /// The owner's numbers for them, with the attempts.
    pub tasks: Vec<(u64, u32)>,
}
message!(StillHave);

/// Worker to client, one way: these are neither waiting nor running here, and nothing more will be
/// heard of them. Results that were sent have been sent before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TasksMissing {
    /// The owner's numbers for them, with the attempts.
    pub tasks: Vec<(u64, u32)>,
}
message!(TasksMissing);

/// Borrower to owner: the object's value, or where it lies. Answered when it is ready; ask again
/// after a time-out. An inline value is the reply's payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetObject {
    /// The object.
    pub object: ObjectId,
    /// Where it was said to lie and was not found; another place is wanted. Empty when it is asked
    /// for the first time.
    pub tried: Nodes,
}
message!(GetObject => Result<ReturnSpec, Error>);

/// Worker to submitter: an argument of an actor's call was not found where it was said to lie.
/// Answered with what became of it, as [`GetObject`] is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FindArgument {
    /// The submitter's number of the call.
    pub seq: u64,
    /// The argument, and where it was not found.
    pub lost: StoredObject,
    /// Why.
    pub why: String,
}
message!(FindArgument => Result<ReturnSpec, Error>);

/// Anyone to worker: the tasks it runs and has waiting, and those it finished lately.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListTasks;
message!(ListTasks => Vec<TaskInfo>);

/// A task, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskInfo {
    /// The task: owner and number.
    pub task: String,
    /// The function, or the user's name for it.
    pub name: String,
    /// `WAITING_FOR_ARGS`, `QUEUED`, `RUNNING`, `FINISHED` or `FAILED`.
    pub state: String,
    /// The node's name.
    pub node: String,
    /// The worker's operating system id.
    pub pid: u32,
    /// How long it has run, or ran.
    pub run_us: u64,
}
