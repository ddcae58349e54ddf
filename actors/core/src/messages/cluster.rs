//! Nodes, the cluster and its events.

use mobula_transport::{ProcessAddr, ProcessId, RefusalsSnapshot, message};
use serde::{Deserialize, Serialize};

use super::group::HeldBundles;
use super::job::JobInfo;
use crate::culprit::Culprit;
use crate::ids::{ActorId, JobId, LeaseId, NodeId, PlacementGroupId};
use crate::labels::Labels;
use crate::resources::Resources;

/// A node, as the GCS knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// The raylet's process: mailboxes RAYLET and STORE.
    pub process: ProcessAddr,
    /// Whether this is the head.
    pub head: bool,
    /// What it has in total.
    pub total: Resources,
    /// What is free, by its last heartbeat.
    pub available: Resources,
    /// Its labels.
    pub labels: Labels,
    /// Whether it answers.
    pub alive: bool,
    /// Why it does not, if it does not.
    pub death_reason: Option<String>,
    /// Where its store keeps the shared memory; a process that finds [`NodeInfo::host_proof`]
    /// there runs on the same machine and may read it in place.
    pub store_dir: String,
    /// A random text that stands in the file `proof` of `store_dir`.
    pub host_proof: String,
    /// Operating system id of the raylet's process.
    pub pid: u32,
}

/// Something a client waits for that cannot run now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PendingDemand {
    /// The shape.
    pub demand: Resources,
    /// How many of it.
    pub count: u64,
    /// What it is for.
    pub what: String,
    /// Why it waits.
    pub reason: String,
    /// Whether no node could ever run it.
    pub infeasible: bool,
    /// The node that is asked for it.
    pub node: String,
}

/// Raylet to GCS: a node joins, or reports itself again after the head's restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterNode {
    /// The node.
    pub info: NodeInfo,
    /// The actors that hold a lease on it (after a restart of the head).
    pub actors: Vec<HostedActor>,
    /// Its worker processes and their operating system ids.
    pub processes: Vec<(ProcessAddr, u32)>,
    /// What placement groups hold of it.
    pub bundles: Vec<HeldBundles>,
}
message!(RegisterNode => Result<(), String>);

/// An actor that holds a lease on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostedActor {
    /// The actor.
    pub actor: ActorId,
    /// Which incarnation of it.
    pub incarnation: u32,
    /// Its lease.
    pub lease: LeaseId,
    /// Its worker.
    pub worker: ProcessAddr,
}

/// Raylet to GCS: the node has drained and leaves of its own will.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeLeaves {
    /// The node.
    pub node: NodeId,
    /// Why.
    pub why: String,
}
message!(NodeLeaves);

/// Raylet to GCS: a worker process has registered on the node. Told until it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessUp {
    /// The node.
    pub node: NodeId,
    /// The worker.
    pub process: ProcessAddr,
    /// Its operating system id.
    pub pid: u32,
}
message!(ProcessUp => ());

/// Raylet to GCS: a worker process of the node has ended. Told until it is answered: nobody else
/// knows of it, and actors lived there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessDown {
    /// The node.
    pub node: NodeId,
    /// The worker.
    pub process: ProcessAddr,
    /// How it ended.
    pub why: String,
    /// Whose doing that was.
    pub culprit: Culprit,
}
message!(ProcessDown => ());

/// Raylet to GCS: which of these processes do not live? It cannot reach them, and may have missed
/// the news of their death.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadAmong {
    /// The processes.
    pub processes: Vec<ProcessId>,
}
message!(DeadAmong => Vec<ProcessId>);

/// Raylet to GCS, every second: alive, and this much is free.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The node.
    pub node: NodeId,
    /// What is free.
    pub available: Resources,
    /// What waits, with reasons.
    pub pending: Vec<PendingDemand>,
    /// Bytes in the store.
    pub store_used_bytes: u64,
    /// How many workers it has.
    pub workers: u32,
    /// What placement groups hold of it.
    pub bundles: Vec<HeldBundles>,
}
message!(Heartbeat => HeartbeatReply);

/// The answer to a heartbeat.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum HeartbeatReply {
    /// It goes on.
    Known,
    /// The GCS does not know this node (it was declared dead, or the head is new): register again.
    Unknown,
}

/// All nodes and what they have.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ClusterView {
    /// The nodes, dead ones too for a while.
    pub nodes: Vec<NodeInfo>,
}

/// Anyone to GCS: the cluster's state for people and programs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetClusterStatus;
message!(GetClusterStatus => ClusterStatus);

/// The cluster's state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster: String,
    /// Its nodes.
    pub view: ClusterView,
    /// What waits.
    pub pending: Vec<PendingDemand>,
    /// Its jobs.
    pub jobs: Vec<JobInfo>,
    /// Seconds since the head started.
    pub uptime_s: u64,
}

/// Anyone to GCS or raylet: which strangers its endpoint has refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetRefusals;
message!(GetRefusals => RefusalsSnapshot);

/// Anyone to GCS: a stream of [`ClusterEvent`]s from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subscribe {
    /// Which nodes and processes are dead: for drivers and workers.
    Deaths,
    /// All there is, a [`ClusterEvent::View`] first: for raylets.
    Everything,
}
message!(Subscribe => ClusterEvent);

/// Something that subscribers hear of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ClusterEvent {
    /// All nodes, as they are now; what follows are the changes to that. What happened before may
    /// have been missed.
    View(ClusterView),
    /// A node joined, or has reported itself again.
    NodeJoined(NodeInfo),
    /// A node has room of a placement group, or has it no more.
    RoomChanged {
        /// The node.
        node: NodeId,
        /// What is so named, in all and free there, in ten-thousandths; nothing where it is gone.
        named: Vec<(String, i64, i64)>,
    },
    /// A placement group was removed.
    GroupRemoved(PlacementGroupId),
    /// A node is dead; its processes are gone.
    NodeDied {
        /// The node.
        node: NodeInfo,
        /// Why.
        why: String,
        /// Its worker processes; they are dead too.
        processes: Vec<ProcessAddr>,
    },
    /// A worker process ended, its node lives on.
    ProcessDied {
        /// The process.
        process: ProcessAddr,
        /// How it ended.
        why: String,
        /// Whose doing that was.
        culprit: Culprit,
    },
    /// A job ended; its workers and actors are to be ended.
    JobFinished(JobId),
    /// So much is free on these nodes now.
    Resources(Vec<(NodeId, Resources)>),
}
message!(ClusterEvent);

impl ClusterEvent {
    /// Whether a subscriber hears of it.
    pub fn is_for(&self, subscriber: Subscribe) -> bool {
        match subscriber {
            Subscribe::Everything => true,
            Subscribe::Deaths => matches!(self, Self::NodeDied { .. } | Self::ProcessDied { .. }),
        }
    }
}

/// The operator to GCS: another token by which nodes join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewToken {
    /// How long it is to be good for.
    pub valid_s: u64,
}
message!(NewToken => Result<String, TokenRefused>);

/// The longest time for which a join token is made.
pub const MAX_TOKEN_VALID_S: u64 = 30 * 24 * 3600;

/// Why there is no new join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum TokenRefused {
    /// Somebody else asks.
    #[error(
        "only the cluster's operator gets new tokens; use the credentials that the head wrote when it was started \
         last, not those of a node or program"
    )]
    NotOperator,
    /// Nobody could ever join.
    #[error("this cluster lives in one process, which no node can join; start one with `mobula start --head`")]
    Alone,
    /// It would end at once, or hardly ever.
    #[error("a token is good for 1 to {MAX_TOKEN_VALID_S} seconds, not for {valid_s}")]
    Validity {
        /// What was asked for.
        valid_s: u64,
    },
}

/// The owner of a node to its raylet: take no new work. Answered when what runs has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainNode {
    /// Why.
    pub why: String,
}
message!(DrainNode);

/// Anyone to raylet, one way: drain and leave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StopNode {
    /// Why.
    pub why: String,
}
message!(StopNode => ());

/// The owner of a head to its GCS: store what is not stored yet, and end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloseGcs;
message!(CloseGcs);
