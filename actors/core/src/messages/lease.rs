//! Leases: the right to push tasks to a worker.

use mobula_transport::{Address, ProcessAddr, message};
use serde::{Deserialize, Serialize};

use crate::culprit::Culprit;
use crate::ids::{JobId, LeaseId, NodeId};
use crate::labels::{Labels, NodeLabel};
use crate::resources::Resources;

/// Where a task may run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Strategy {
    /// Pack nodes to half full, then spread.
    #[default]
    Default,
    /// Spread over the nodes, even where that means more transfer.
    Spread,
    /// On this node; elsewhere only if `soft` and the node is gone or can never fit it.
    NodeAffinity {
        /// The node.
        node: NodeId,
        /// Whether another node will do.
        soft: bool,
    },
    /// On a node with these labels.
    NodeLabels {
        /// All of these hold there.
        hard: Vec<NodeLabel>,
        /// And these too, where such a node has room.
        soft: Vec<NodeLabel>,
    },
}

impl Strategy {
    /// Whether a node with these labels may run it.
    pub fn allows(&self, labels: &Labels) -> bool {
        match self {
            Self::NodeLabels { hard, .. } => hard.iter().all(|label| label.holds(labels)),
            _ => true,
        }
    }

    /// The only node that may run it, where it names one: when that is dead, no node that joins will do.
    pub fn bound_to(&self) -> Option<NodeId> {
        match self {
            Self::NodeAffinity { node, soft: false } => Some(*node),
            _ => None,
        }
    }

    /// Whether, of the nodes that may, one with these labels is meant first.
    pub fn prefers(&self, labels: &Labels) -> bool {
        match self {
            Self::NodeLabels { soft, .. } => soft.iter().all(|label| label.holds(labels)),
            _ => true,
        }
    }
}

/// Which kind of worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum WorkerKind {
    /// The job's process on the node, shared by its tasks and actors.
    #[default]
    Shared,
    /// A process of its own.
    Process,
}

/// What makes two tasks interchangeable for a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// The job.
    pub job: JobId,
    /// What it needs.
    pub demand: Resources,
    /// Where it may run.
    pub strategy: Strategy,
    /// In which kind of process.
    pub kind: WorkerKind,
    /// Whether it runs again when its worker is lost: such work is ended first when memory is short.
    pub retriable: bool,
    /// The raylet whose store has the tasks' large arguments, if any: asked first, and left only
    /// when it cannot run them.
    pub near: Option<ProcessAddr>,
}

/// Client to raylet, one way: the client's need of leases of one shape.
///
/// `target` counts up over the life of the client at this raylet: the raylet grants or redirects
/// while it has done so fewer times than `target`. Because it is a total and not a difference, a
/// repeated or delayed message changes nothing. Lowering it withdraws a need.
///
/// A client forgets a queue that it does not use, and counts from the beginning when it makes
/// another one of the same shape: [`queue`](Self::queue) says which one is meant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WantLeases {
    /// Who wants them.
    pub client: Address,
    /// Of what shape.
    pub shape: Shape,
    /// The client's number for its queue of this shape; a later one has a higher number.
    pub queue: u64,
    /// How many in total since this queue first asked this raylet.
    pub target: u64,
    /// What they are for, to be shown to people.
    pub what: String,
    /// How often this need was redirected; bounds the wandering.
    pub hops: u8,
}
message!(WantLeases);

/// Client to raylet, one way: it has no use for this queue any more. Should it get lost, a later
/// queue of the same shape takes its place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForgetQueue {
    /// Whose queue.
    pub client: Address,
    /// Its shape.
    pub shape: Shape,
    /// Its number.
    pub queue: u64,
}
message!(ForgetQueue);

/// Raylet to client, one way: a worker is yours for work of this shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseGranted {
    /// The lease.
    pub lease: LeaseId,
    /// The shape it was granted for.
    pub shape: Shape,
    /// The queue it is counted for.
    pub queue: u64,
    /// The worker process; its actor is [`mobula_transport::MailboxId::WORKER`].
    pub worker: ProcessAddr,
}
message!(LeaseGranted);

/// Raylet to the worker in its own process, one way: the GPUs of a lease; none when it is over. A
/// worker process of one lease is started with its GPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseGpus {
    /// The lease.
    pub lease: LeaseId,
    /// Their ids.
    pub ids: Vec<String>,
}
message!(LeaseGpus);

/// Raylet to client, one way: ask that other raylet for `count` of your leases of this shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseRedirected {
    /// The shape.
    pub shape: Shape,
    /// The queue they are counted for.
    pub queue: u64,
    /// How many.
    pub count: u64,
    /// The other raylet.
    pub to: Address,
    /// To be passed on in [`WantLeases::hops`].
    pub hops: u8,
}
message!(LeaseRedirected);

/// Raylet to client, one way: the lease is over because its worker died.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseLost {
    /// The lease.
    pub lease: LeaseId,
    /// The worker that had it.
    pub worker: ProcessAddr,
    /// How it ended.
    pub why: String,
    /// Whose doing that was.
    pub culprit: Culprit,
}
message!(LeaseLost);

/// Raylet to client, one way: this need cannot be met now, or ever, and why. Sent once per change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeasePending {
    /// The shape.
    pub shape: Shape,
    /// No node of the cluster could ever run it; one that joins may.
    pub infeasible: bool,
    /// Its worker can never be started, or the node that it is bound to is dead: whoever waits for it
    /// waits in vain.
    pub hopeless: bool,
    /// In words.
    pub why: String,
}
message!(LeasePending);

/// Raylet to client, one way: others wait; give back leases of which you have no use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReclaimIdle;
message!(ReclaimIdle);

/// Client to raylet, one way: these leases are free again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReturnLeases {
    /// The leases.
    pub leases: Vec<LeaseId>,
}
message!(ReturnLeases);

/// Client to raylet, one way, after their connection broke: the leases of this node that the client
/// holds. Answered by [`LeasesKept`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldLeases {
    /// The client.
    pub client: Address,
    /// Its leases.
    pub leases: Vec<LeaseId>,
}
message!(HeldLeases);

/// Raylet to client, one way: what counts from now on, whatever got lost before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeasesKept {
    /// The leases that are the client's.
    pub leases: Vec<LeaseId>,
    /// What was done for each queue.
    pub done: Vec<LeasesDone>,
}
message!(LeasesKept);

/// How many leases a queue was granted or redirected for in all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasesDone {
    /// Its shape.
    pub shape: Shape,
    /// Its number.
    pub queue: u64,
    /// How many.
    pub count: u64,
}

/// Worker to raylet, one way: the lease's task waits in `get`, or a call of its actor for an argument that
/// is made again, and lends its CPU, or takes it back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseBlocked {
    /// The lease.
    pub lease: LeaseId,
    /// Whether it waits now.
    pub blocked: bool,
}
message!(LeaseBlocked);
