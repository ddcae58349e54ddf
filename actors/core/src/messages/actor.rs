//! Actors: making, finding, calling and ending them.

use mobula_transport::{Address, ProcessAddr, message};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::lease::{Shape, Strategy, WorkerKind};
use super::task::{ArgSpec, TaskSpec};
use crate::error::Error;
use crate::ids::{ActorId, FunctionId, JobId, LeaseId};
use crate::resources::Resources;

/// Everything needed to make an actor, and to make it again. The constructor's inline arguments
/// are the message's payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActorSpec {
    /// Its id.
    pub actor: ActorId,
    /// The job that made it.
    pub job: JobId,
    /// The client that made it.
    pub owner: Address,
    /// The type's name, for people.
    pub class: String,
    /// Its constructor.
    pub constructor: FunctionId,
    /// The constructor's arguments.
    pub args: SmallVec<[ArgSpec; 2]>,
    /// Its public name, unique in its namespace while it lives.
    pub name: Option<String>,
    /// The namespace; the job's id unless the user named one.
    pub namespace: String,
    /// What it holds while it lives.
    pub demand: Resources,
    /// What the node must have free to place it, where that is more (one CPU by default).
    pub placement_demand: Resources,
    /// Where it may live.
    pub strategy: Strategy,
    /// In which kind of process.
    pub kind: WorkerKind,
    /// How many `&self` calls may run at once.
    pub max_concurrency: u32,
    /// How many of each concurrency group's; those of no group have `max_concurrency`.
    pub concurrency_groups: Vec<(String, u32)>,
    /// How often it is made again after a failure of the system; -1 without end.
    pub max_restarts: i32,
    /// Whether it outlives its job.
    pub detached: bool,
    /// How its calls are treated by those who make them.
    pub rules: CallRules,
}

/// How an actor's calls are treated by every process that makes them. It travels with the handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRules {
    /// How often a call is made again that was lost with its worker; -1 without end.
    pub max_task_retries: i32,
    /// The most calls of one process that have not ended; one more fails at once.
    pub max_pending_calls: Option<u32>,
}

/// Client to GCS: make an actor. Answered as soon as it is recorded; the actor itself comes later.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateActor {
    /// What to make.
    pub spec: ActorSpec,
}
message!(CreateActor => Result<(), Error>);

/// GCS to raylet: find room and a worker for an actor. Answered when a worker is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseActor {
    /// The actor.
    pub actor: ActorId,
    /// Which incarnation of it.
    pub incarnation: u32,
    /// Its shape.
    pub shape: Shape,
    /// What must be free to place it.
    pub placement_demand: Resources,
}
message!(LeaseActor => Result<ActorLease, LeaseActorError>);

/// GCS to raylet, one way: the actor needs no worker any more; a request that waits is given up,
/// a lease that was already granted is taken back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancelActorLease {
    /// The actor.
    pub actor: ActorId,
    /// Which incarnation of it.
    pub incarnation: u32,
}
message!(CancelActorLease);

/// A worker for an actor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActorLease {
    /// The lease; the raylet takes it back when the worker dies or on [`ReturnLeases`](super::ReturnLeases).
    pub lease: LeaseId,
    /// The worker.
    pub worker: ProcessAddr,
}

/// Why a raylet has no worker for an actor.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum LeaseActorError {
    /// Not enough is free now; try another node, or again later.
    #[error("node {node} has {free} free, {demand} is needed")]
    NoRoom {
        /// The node's name.
        node: String,
        /// What is free.
        free: Resources,
        /// What is needed.
        demand: Resources,
    },
    /// The worker process did not start.
    #[error("the worker process did not start: {0}")]
    WorkerFailed(String),
}

/// GCS to worker: make the actor. The constructor's inline arguments are the payload. Answered
/// when the constructor has returned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartActor {
    /// What to make.
    pub spec: ActorSpec,
    /// How often it was made before.
    pub incarnation: u32,
    /// Its lease.
    pub lease: LeaseId,
}
message!(StartActor => Result<(), Error>);

/// GCS to worker: end the actor. Its waiting calls fail; a call that runs ends first. Answered as
/// soon as it is noted; asked until then.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StopActor {
    /// The actor.
    pub actor: ActorId,
    /// Which incarnation of it; another one is left alone.
    pub incarnation: u32,
    /// Why.
    pub why: String,
}
message!(StopActor => ());

/// Worker to GCS: an actor ended by itself (a panic) or as it was told. Answered when it is stored,
/// and told again until then: nobody else knows of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActorExited {
    /// The actor.
    pub actor: ActorId,
    /// Which incarnation of it.
    pub incarnation: u32,
    /// How it ended.
    pub why: String,
    /// Whether a restart policy applies (a failure), or not (it was told to).
    pub failed: bool,
}
message!(ActorExited => ());

/// Client to GCS: where an actor is. Answered when it is alive or dead; ask again after a time-out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResolveActor {
    /// The actor.
    pub actor: ActorId,
}
message!(ResolveActor => ActorLocation);

/// Where an actor is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ActorLocation {
    /// In this worker.
    Alive {
        /// The worker's process.
        worker: ProcessAddr,
        /// Which incarnation lives there.
        incarnation: u32,
    },
    /// Nowhere any more; calls fail with this.
    Dead(Box<Error>),
}

/// Client to GCS: how an actor ends. Answered when it has, or at once with none when the GCS does
/// not know it; ask again after a time-out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatchActor {
    /// The actor.
    pub actor: ActorId,
}
message!(WatchActor => Option<ActorEnd>);

/// How an actor has ended for good. That it was made again is no end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorEnd {
    /// The actor.
    pub actor: ActorId,
    /// In which way.
    pub reason: EndReason,
    /// What happened, for people.
    pub why: String,
    /// How often it had been made again.
    pub restarts: u32,
}

/// In which way an actor has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EndReason {
    /// It was killed: by a call of `kill`, or because its last handle, its job or its placement group
    /// is gone.
    Killed,
    /// It exited or was terminated, as it was meant to.
    Exited,
    /// Its constructor failed, its code panicked, or its process ended, and it was not to be made
    /// again.
    Crashed,
    /// Its node died, and it was not to be made again.
    NodeDied,
    /// It crashed or lost its node once more often than `max_restarts` allows.
    OutOfRestarts,
    /// Nobody knows: it ended long ago, or never was.
    #[default]
    Unknown,
}

/// Client to GCS: the living actor of this name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FindActor {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}
message!(FindActor => Option<FoundActor>);

/// A named actor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoundActor {
    /// Its id.
    pub actor: ActorId,
    /// Its type's name.
    pub class: String,
    /// How its calls are treated.
    pub rules: CallRules,
}

/// Client to GCS: end an actor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KillActor {
    /// The actor.
    pub actor: ActorId,
    /// Whether its restart policy is ignored.
    pub no_restart: bool,
    /// Why, for those who call it later.
    pub why: String,
}
message!(KillActor => Result<(), Error>);

/// Client to worker, one way: calls of an actor, in the caller's order.
#[derive(Debug, Serialize, Deserialize)]
pub struct PushCalls {
    /// Who owns the calls and gets [`TaskDone`](super::TaskDone).
    pub client: Address,
    /// The actor.
    pub actor: ActorId,
    /// The incarnation they are meant for; another one answers with an actor-died error.
    pub incarnation: u32,
    /// The calls.
    pub calls: Vec<TaskSpec>,
}
message!(PushCalls);

/// Anyone to GCS: the actors it knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListActors;
message!(ListActors => Vec<ActorInfo>);

/// An actor, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActorInfo {
    /// Its id.
    pub actor: ActorId,
    /// Its type.
    pub class: String,
    /// Its name.
    pub name: Option<String>,
    /// `PENDING`, `STARTING`, `ALIVE`, `RESTARTING` or `DEAD`.
    pub state: String,
    /// Its node's name, while it has one.
    pub node: Option<String>,
    /// The worker's operating system id, while it has one.
    pub pid: Option<u32>,
    /// How often it was made again.
    pub restarts: u32,
    /// Why it waits or died.
    pub reason: Option<String>,
    /// Its job.
    pub job: JobId,
}
