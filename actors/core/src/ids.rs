//! The identities of nodes, jobs, actors, tasks, objects and leases.
//!
//! An id says who made it: a task and its results carry the incarnation of the process that
//! submitted them, so two owners can never hand out the same id and a restarted process never
//! repeats one (principle 6, *the submitter owns*).

use std::fmt;

use mobula_transport::ProcessId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

fn random_uuid() -> Uuid {
    #[cfg(test)]
    if let Some(stage) = crate::simulation::Stage::current() {
        return stage.uuid();
    }
    Uuid::new_v4()
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new random id.
            pub fn random() -> Self {
                Self(random_uuid())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.simple(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &self.0.simple().to_string()[..8])
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Ok(Self(Uuid::parse_str(text)?))
            }
        }
    };
}

uuid_id! {
    /// One incarnation of a node (a raylet with its store and workers).
    NodeId
}
uuid_id! {
    /// One driver's connection to a cluster, from `init` to `shutdown`.
    JobId
}
uuid_id! {
    /// A user's actor. The id stays the same over restarts.
    ActorId
}
uuid_id! {
    /// A placement group.
    PlacementGroupId
}

/// A task: the process that submitted it and its number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TaskId {
    /// The process that submitted the task and owns its results.
    pub owner: ProcessId,
    /// The owner's running number for it, from 1.
    pub seq: u64,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.owner, self.seq)
    }
}

/// An immutable object: the result of a task, or a value that was put.
///
/// A put takes a number of its own from the same counter as the tasks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ObjectId {
    /// The process that owns the object.
    pub owner: ProcessId,
    /// The owner's number of the task (or put) that made it.
    pub seq: u64,
    /// Which of the task's results it is, from 0.
    pub index: u32,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.{}", self.owner, self.seq, self.index)
    }
}

impl ObjectId {
    /// The task that makes this object.
    pub fn task(&self) -> TaskId {
        TaskId { owner: self.owner, seq: self.seq }
    }
}

/// A raylet's permission to run work of one shape on one of its workers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct LeaseId {
    /// The node that granted it.
    pub node: NodeId,
    /// The node's running number.
    pub seq: u64,
}

/// A function of the registry: the hash of its full name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FunctionId(pub u64);

impl FunctionId {
    /// The id of the function registered under `name` (`crate@version::path`).
    pub fn of(name: &str) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64(name.as_bytes()))
    }
}
