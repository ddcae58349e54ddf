//! Why something waits, where it ran, why it failed: what its owner and the GCS know.

use mobula_transport::{Address, ProcessAddr, message};
use serde::{Deserialize, Serialize};

use super::actor::ActorInfo;
use super::lease::{Strategy, WorkerKind};
use super::task::TaskInfo;
use crate::error::Error;
use crate::ids::{ActorId, LeaseId, ObjectId};
use crate::resources::Resources;

/// Anyone to owner: what it knows of a task or call that it has submitted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainTask {
    /// The owner's number for it.
    pub seq: u64,
}
message!(ExplainTask => OwnedTask);

/// What an owner knows of a number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OwnedTask {
    /// It has not given this number to anything yet.
    Unknown,
    /// It has returned, or it failed long ago; or a value was put under this number.
    Over,
    /// It has not ended.
    Pending(Box<PendingTask>),
    /// It failed lately.
    Failed(Box<FailedTask>),
}

/// A task or call that has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingTask {
    /// Its function.
    pub function: String,
    /// The user's name for it.
    pub name: Option<String>,
    /// Attempts that count, and how many there may be; none of a call.
    pub attempts: Option<(u32, u32)>,
    /// What it needs, as the nodes are asked for it; nothing of a call.
    pub demand: Resources,
    /// Where it may run.
    pub strategy: Strategy,
    /// In which kind of process.
    pub kind: WorkerKind,
    /// The actor that is called.
    pub actor: Option<ActorId>,
    /// What it waits for.
    pub stage: TaskStage,
}

/// How far a task or call has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TaskStage {
    /// Arguments are not ready: the first of them, and how many there are in all.
    Arguments(Vec<ObjectId>, u64),
    /// It waits for a lease: how many tasks of its shape are before it, and how many wait in all.
    Line(u64, u64),
    /// It waits until its actor lives, or for the calls before it: how many those are.
    Actor(u64),
    /// It was sent to this worker, under this lease if it is a task.
    Sent(ProcessAddr, Option<LeaseId>),
    /// It was cancelled; its code has not returned yet.
    Cancelled,
}

/// A task or call that has failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedTask {
    /// Its function.
    pub function: String,
    /// The user's name for it.
    pub name: Option<String>,
    /// Attempts that count, and how many there could be; none of a call.
    pub attempts: Option<(u32, u32)>,
    /// The actor that was called.
    pub actor: Option<ActorId>,
    /// Why.
    pub error: Error,
}

/// Anyone to owner: what it has submitted and no worker has yet, the oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListPendingTasks {
    /// At most so many.
    pub limit: u32,
}
message!(ListPendingTasks => Vec<TaskInfo>);

/// Anyone to GCS: what it knows of an actor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainActor {
    /// The actor.
    pub actor: ActorId,
}
message!(ExplainActor => Option<ActorDetails>);

/// An actor, and what it waits for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActorDetails {
    /// What lists show.
    pub info: ActorInfo,
    /// Who made it.
    pub owner: Address,
    /// What must be free to place it.
    pub need: Resources,
    /// Where it may live.
    pub strategy: Strategy,
    /// How often it may be made again; -1 without end.
    pub max_restarts: i32,
    /// While it waits for a node: how many actors that need the same are before it.
    pub ahead: Option<u64>,
}
