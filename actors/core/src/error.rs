//! What can go wrong with a task, an actor or an object, as it crosses the wire.

use std::time::Duration;

use mobula_transport::SendError;
use serde::{Deserialize, Serialize};

use crate::ids::{ActorId, ObjectId, PlacementGroupId};

/// Where user code failed: which function, on which node, in which process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Place {
    /// The function or method, `crate@version::path`.
    pub function: String,
    /// The node's name.
    pub node: String,
    /// The process id of the worker.
    pub pid: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on node {} (pid {})", self.function, self.node, self.pid)
    }
}

/// Why a value could not be had.
///
/// Every variant says what happened and, where the user can do something, what. It is the same
/// type in the process where the failure happened and in every process that learns of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// User code returned an error.
    #[error("{place} failed: {message}{}", chain(.causes))]
    Application {
        /// Where.
        place: Box<Place>,
        /// The name of the error's type.
        type_name: String,
        /// The error's own message.
        message: String,
        /// The messages of its sources, outermost first.
        causes: Vec<String>,
    },
    /// User code panicked.
    #[error("{place} panicked at {location}: {message}")]
    Panicked {
        /// Where it ran.
        place: Box<Place>,
        /// The panic's message.
        message: String,
        /// File, line and column of the panic.
        location: String,
    },
    /// The worker process running the task died, and no retry was left.
    #[error("the worker running {function} died: {why} (attempt {attempt} of {attempts})")]
    WorkerDied {
        /// The function.
        function: String,
        /// How it died.
        why: String,
        /// The last attempt, from 1.
        attempt: u32,
        /// How many there could be.
        attempts: u32,
    },
    /// The node ended the task's worker, again and again, or the task must not run twice: it would
    /// have run out of memory.
    #[error(
        "{function} was ended for want of memory ({times} times): {why}; let fewer such tasks run at once \
         (options().memory(bytes) says what one needs), or start nodes with more memory"
    )]
    OutOfMemory {
        /// The function.
        function: String,
        /// Which node, and how much was in use.
        why: String,
        /// What was in use.
        used_bytes: u64,
        /// Of how much.
        limit_bytes: u64,
        /// How often that happened.
        times: u32,
    },
    /// No worker can ever run the task: its program cannot be started, or the node that it is bound to
    /// is dead.
    #[error("{function} can never run: {why}")]
    NoWorker {
        /// The function.
        function: String,
        /// Why.
        why: String,
    },
    /// The actor is dead; calls to it fail.
    #[error("actor {actor} is dead: {why}")]
    ActorDied {
        /// The actor.
        actor: ActorId,
        /// How it ended.
        why: String,
    },
    /// The connection to the actor's worker broke while the call was under way; the actor may live.
    #[error("a call of actor {actor} got lost: {why}; whether it ran is unknown, call again if it may run twice")]
    ActorUnavailable {
        /// The actor.
        actor: ActorId,
        /// What happened.
        why: String,
    },
    /// More calls of an actor would be pending in this process than its `max_pending_calls` allows.
    #[error(
        "{limit} calls of actor {actor} are pending in this process, which is its max_pending_calls; wait for some before making more"
    )]
    PendingCallsLimitExceeded {
        /// The actor.
        actor: ActorId,
        /// Its limit.
        limit: u32,
    },
    /// There is no actor of this name.
    #[error("there is no actor named {name:?}; names are given with options().name(..), and freed when the actor dies")]
    NoSuchActor {
        /// The name asked for.
        name: String,
    },
    /// Another living actor has this name.
    #[error("an actor named {name:?} already lives; use get_actor to reach it, or another name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The object's bytes are lost and cannot be made again.
    #[error("object {object} is lost: {why}")]
    ObjectLost {
        /// The object.
        object: ObjectId,
        /// What happened.
        why: String,
    },
    /// The object's bytes are lost, and the task that makes it has run as often as it may.
    #[error(
        "object {object} is lost, and {function}, which makes it, has used up its {attempts} attempts; a larger max_retries allows more"
    )]
    AttemptsExhausted {
        /// The object.
        object: ObjectId,
        /// The function.
        function: String,
        /// How many attempts there could be.
        attempts: u32,
    },
    /// The object was freed with `free`, though references to it were left.
    #[error("object {object} was freed by a call of free")]
    ObjectFreed {
        /// The object.
        object: ObjectId,
    },
    /// The process that owned the object died, and with it the knowledge of where it is.
    #[error("the owner of object {object} died: {why}")]
    OwnerDied {
        /// The object.
        object: ObjectId,
        /// How.
        why: String,
    },
    /// The placement group is no more; what was in it has ended.
    #[error("placement group {group} is no more: {why}")]
    GroupRemoved {
        /// The group.
        group: PlacementGroupId,
        /// How it ended.
        why: String,
    },
    /// The task was cancelled, or the one that had submitted it.
    #[error("{function} was cancelled")]
    TaskCancelled {
        /// The function.
        function: String,
    },
    /// The time given to `get`, `wait` or a call ran out. The work itself goes on.
    #[error("nothing ready after {after:?}; the work goes on, a later get may succeed")]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// The node's object store has no room: the object is larger than the store, or all that is in it
    /// stayed in use while room was waited for.
    #[error(
        "the object store is full: {size_bytes} bytes asked, {free_bytes} of {capacity_bytes} free, the rest is being read or written; drop values and references, or give the node a larger store (--object-store-memory, Config::object_store_memory)"
    )]
    StoreFull {
        /// The size asked for.
        size_bytes: u64,
        /// What was free.
        free_bytes: u64,
        /// The store's size.
        capacity_bytes: u64,
    },
    /// The node's object store has no room, and the disk takes nothing that is in it. What is stored
    /// stays as it is.
    #[error(
        "the object store is full ({size_bytes} bytes asked) and cannot spill to {directory}: {why} ({used_bytes} of {limit_bytes} bytes are used); drop references, make room there, or give the node another directory or a larger bound (--spill-dir, --spill-limit, Config::spill_dir, Config::spill_limit)"
    )]
    OutOfDisk {
        /// The size asked for.
        size_bytes: u64,
        /// Where the node spills to.
        directory: String,
        /// What its spilled objects take there.
        used_bytes: u64,
        /// What they may take.
        limit_bytes: u64,
        /// Why no more can be written.
        why: String,
    },
    /// The operating system refused something.
    #[error("{what}: {why}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        why: String,
    },
    /// A value could not be encoded or decoded.
    #[error("{what} cannot be {doing}: {why}")]
    Codec {
        /// Which value or type.
        what: String,
        /// "encoded" or "decoded".
        doing: String,
        /// Why.
        why: String,
    },
    /// The function is not in the worker's registry.
    #[error("function {function} is not registered in the worker: driver and worker were built from different sources")]
    UnknownFunction {
        /// The function's name or number.
        function: String,
    },
    /// What a job's workers are to find around them cannot be made.
    #[error("the runtime environment cannot be made: {why}")]
    RuntimeEnv {
        /// Why, and what to do.
        why: String,
    },
    /// A call's options contradict each other or the function.
    #[error("{what}")]
    Invalid {
        /// What is wrong and what to do.
        what: String,
    },
    /// No session is running in this process, or it has been shut down.
    #[error("{what}")]
    NoSession {
        /// What to do.
        what: String,
    },
    /// A message could not be delivered.
    #[error(transparent)]
    Send(#[from] SendError),
}

impl Error {
    /// Whether the same work, done again, may succeed: the system failed, not the user's code.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::WorkerDied { .. }
            | Self::OutOfMemory { .. }
            | Self::ActorUnavailable { .. }
            | Self::ObjectLost { .. }
            | Self::TimedOut { .. }
            | Self::StoreFull { .. }
            | Self::OutOfDisk { .. } => true,
            Self::Send(error) => error.is_retriable(),
            _ => false,
        }
    }
}

fn chain(causes: &[String]) -> String {
    causes.iter().map(|cause| format!("; caused by: {cause}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_with_this_error_stay_small() {
        assert!(size_of::<Error>() < 128, "{} bytes", size_of::<Error>());
    }
}
