//! The messages between clients, raylets, workers and the GCS.
//!
//! ```text
//!  client ── WantLeases ──▶ raylet          client ── CreateActor ──▶ GCS ── LeaseActor ──▶ raylet
//!  client ◀─ LeaseGranted ─ raylet                                    GCS ── StartActor ──▶ worker
//!  client ── PushTasks ───▶ worker          client ── ResolveActor ─▶ GCS
//!  client ◀─ TaskDone ───── worker          client ── PushCalls ────▶ worker ── TaskDone ──▶ client
//!  client ── ReturnLeases ▶ raylet          worker ── ActorExited ──▶ GCS
//! ```
//!
//! The store's own messages are in [`crate::store`].

use std::collections::BTreeMap;

use mobula_transport::{Address, ProcessAddr, message};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::error::Error;
use crate::ids::{ActorId, FunctionId, JobId, LeaseId, NodeId, ObjectId};
use crate::resources::Resources;
use crate::value::Encoding;

// ---- tasks -------------------------------------------------------------------------------------

/// An argument of a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ArgSpec {
    /// The next part of the message's payload.
    Inline(Encoding),
    /// An object in a node's store.
    Stored(StoredObject),
}

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
    pub nodes: SmallVec<[ProcessAddr; 1]>,
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
}
message!(TaskDone);

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

// ---- leases ------------------------------------------------------------------------------------

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
    /// The raylet whose store has the tasks' large arguments, if any: asked first, and left only
    /// when it cannot run them.
    pub near: Option<ProcessAddr>,
}

/// Client to raylet, one way: the client's need of leases of one shape.
///
/// `target` counts up over the life of the client at this raylet: the raylet grants or redirects
/// while it has done so fewer times than `target`. Because it is a total and not a difference, a
/// repeated or delayed message changes nothing. Lowering it withdraws a need.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WantLeases {
    /// Who wants them.
    pub client: Address,
    /// Of what shape.
    pub shape: Shape,
    /// How many in total since the client first asked this raylet.
    pub target: u64,
    /// What they are for, to be shown to people.
    pub what: String,
    /// How often this need was redirected; bounds the wandering.
    pub hops: u8,
}
message!(WantLeases);

/// Raylet to client, one way: a worker is yours for work of this shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseGranted {
    /// The lease.
    pub lease: LeaseId,
    /// The shape it was granted for.
    pub shape: Shape,
    /// The worker process; its actor is [`mobula_transport::MailboxId::WORKER`].
    pub worker: ProcessAddr,
}
message!(LeaseGranted);

/// Raylet to client, one way: ask that other raylet for `count` of your leases of this shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseRedirected {
    /// The shape.
    pub shape: Shape,
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
}
message!(LeaseLost);

/// Raylet to client, one way: this need cannot be met now, or ever, and why. Sent once per change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeasePending {
    /// The shape.
    pub shape: Shape,
    /// No node of the cluster could ever run it.
    pub infeasible: bool,
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

/// Worker to raylet, one way: the lease's task waits in `get` and lends its CPU, or takes it back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseBlocked {
    /// The lease.
    pub lease: LeaseId,
    /// Whether it waits now.
    pub blocked: bool,
}
message!(LeaseBlocked);

// ---- workers -----------------------------------------------------------------------------------

/// Worker to raylet: a worker process (or the one in this process) is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterWorker {
    /// The number the raylet gave when it started the process; 0 for the worker in its own process.
    pub start: u64,
    /// The worker's process.
    pub process: ProcessAddr,
    /// Its operating system id.
    pub pid: u32,
    /// The job whose binary it is; none for the worker in the raylet's own process.
    pub job: Option<JobId>,
    /// Its registry's digest.
    pub digest: u64,
}
message!(RegisterWorker => Result<WorkerConfig, String>);

/// What a worker needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// The node.
    pub node: NodeId,
    /// Its name, for people.
    pub node_name: String,
    /// Its CPUs, whole ones rounded up; the number of slots that run at once.
    pub slots: u32,
}

/// Raylet to worker, one way: finish what runs, then leave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StopWorker {
    /// Why.
    pub why: String,
}
message!(StopWorker);

/// Raylet to driver, one way: what a worker printed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerOutput {
    /// The node's name.
    pub node: String,
    /// The worker's operating system id.
    pub pid: u32,
    /// The task or actor, where it is known (process workers, tracing).
    pub task: Option<String>,
    /// Whether it went to stderr.
    pub stderr: bool,
    /// The lines, without their ends.
    pub lines: Vec<String>,
}
message!(WorkerOutput);

/// Raylet to driver: a piece of the job's binary. The bytes are the reply's payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FetchBinary {
    /// Its content hash.
    pub hash: String,
    /// From which byte.
    pub offset: u64,
    /// How many at most (at most 4 MiB are sent).
    pub length: u64,
}
message!(FetchBinary => Result<u64, String>);

// ---- actors ------------------------------------------------------------------------------------

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
    /// How often it is made again after a failure of the system; -1 without end.
    pub max_restarts: i32,
    /// Whether it outlives its job.
    pub detached: bool,
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
    /// The lease; the raylet takes it back when the worker dies or on [`ReturnLeases`].
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

/// GCS to worker, one way: end the actor. Its waiting calls fail; a call that runs ends first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StopActor {
    /// The actor.
    pub actor: ActorId,
    /// Which incarnation of it; another one is left alone.
    pub incarnation: u32,
    /// Why.
    pub why: String,
}
message!(StopActor);

/// Worker to GCS, one way: an actor ended by itself (a panic) or as it was told.
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
message!(ActorExited);

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
    /// Who owns the calls and gets [`TaskDone`].
    pub client: Address,
    /// The actor.
    pub actor: ActorId,
    /// The incarnation they are meant for; another one answers with an actor-died error.
    pub incarnation: u32,
    /// The calls.
    pub calls: Vec<TaskSpec>,
}
message!(PushCalls);

// ---- objects -----------------------------------------------------------------------------------

/// Borrower to owner: the object's value, or where it lies. Answered when it is ready; ask again
/// after a time-out. An inline value is the reply's payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetObject {
    /// The object.
    pub object: ObjectId,
}
message!(GetObject => Result<ReturnSpec, Error>);

// ---- the cluster -------------------------------------------------------------------------------

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
}
message!(RegisterNode => Result<ClusterView, String>);

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

/// Raylet to GCS, one way: a worker process has registered on the node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessUp {
    /// The node.
    pub node: NodeId,
    /// The worker.
    pub process: ProcessAddr,
    /// Its operating system id.
    pub pid: u32,
}
message!(ProcessUp);

/// Raylet to GCS, one way: a worker process of the node has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessDown {
    /// The node.
    pub node: NodeId,
    /// The worker.
    pub process: ProcessAddr,
    /// How it ended.
    pub why: String,
}
message!(ProcessDown);

/// Raylet to GCS, every second: alive, and this much is free.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The node.
    pub node: NodeId,
    /// What is free.
    pub available: Resources,
    /// What waits, with reasons.
    pub pending: Vec<PendingDemand>,
    /// Bytes and objects in the store.
    pub store_used_bytes: u64,
    /// How many workers it has.
    pub workers: u32,
    /// The version of the view it has.
    pub view_version: u64,
}
message!(Heartbeat => HeartbeatReply);

/// The answer to a heartbeat.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum HeartbeatReply {
    /// The view, where it has changed since the version the node has.
    Known(Option<ClusterView>),
    /// The GCS does not know this node (it was declared dead, or the head is new): register again.
    Unknown,
}

/// All nodes and what they have.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ClusterView {
    /// Counts up with every change.
    pub version: u64,
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

/// Driver to GCS: a program connects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterJob {
    /// The driver's process.
    pub driver: ProcessAddr,
    /// The program's name.
    pub name: String,
    /// The binary that its workers run; none when its tasks run in its own process.
    pub binary: Option<BinaryInfo>,
    /// Its registry's digest.
    pub digest: u64,
    /// The namespace of its named actors, if the user chose one.
    pub namespace: Option<String>,
}
message!(RegisterJob => Result<JobRegistered, Error>);

/// A program that workers run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinaryInfo {
    /// The hash of its content, in hex.
    pub hash: String,
    /// Its size.
    pub size_bytes: u64,
    /// Where the driver has it; used in place by nodes of the same machine when the hash agrees.
    pub path: String,
}

/// The answer to [`RegisterJob`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobRegistered {
    /// The job.
    pub job: JobId,
    /// The nodes.
    pub view: ClusterView,
}

/// Driver to GCS: the program is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FinishJob {
    /// The job.
    pub job: JobId,
}
message!(FinishJob => ());

/// Driver to GCS, every second: the program still runs. False when the GCS has ended the job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobHeartbeat {
    /// The job.
    pub job: JobId,
}
message!(JobHeartbeat => bool);

/// A job, as the GCS knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobInfo {
    /// The job.
    pub job: JobId,
    /// The program's name.
    pub name: String,
    /// The driver's process.
    pub driver: ProcessAddr,
    /// The binary of its workers.
    pub binary: Option<BinaryInfo>,
    /// Its registry's digest.
    pub digest: u64,
    /// The namespace of its named actors.
    pub namespace: String,
    /// When it started, seconds since 1970.
    pub started_unix_s: u64,
    /// When it ended, if it has.
    pub ended_unix_s: Option<u64>,
}

/// Raylet to GCS: a job of which it needs the binary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetJob {
    /// The job.
    pub job: JobId,
}
message!(GetJob => Option<JobInfo>);

/// Anyone to GCS: a stream of [`ClusterEvent`]s from now on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscribe;
message!(Subscribe => ClusterEvent);

/// Something that subscribers hear of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ClusterEvent {
    /// A node joined.
    NodeJoined(NodeInfo),
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
    },
    /// A job ended; its workers and actors are to be ended.
    JobFinished(JobId),
    /// An actor came to life or died.
    ActorChanged {
        /// The actor.
        actor: ActorId,
        /// Where it is now.
        location: ActorLocation,
    },
    /// Free resources changed.
    Resources(Vec<(NodeId, Resources)>),
}

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

/// Anyone to raylet: its workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListWorkers;
message!(ListWorkers => Vec<WorkerInfo>);

/// A worker, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// The node's name.
    pub node: String,
    /// Its operating system id.
    pub pid: u32,
    /// Its process.
    pub process: ProcessAddr,
    /// `shared`, `process`, or `in-process`.
    pub kind: String,
    /// Its job.
    pub job: Option<JobId>,
    /// Leases it serves.
    pub leases: u32,
    /// `STARTING`, `READY`, `STOPPING`.
    pub state: String,
}

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

/// A value in the cluster's key-value table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KvPut {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
    /// The value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
    /// Whether an existing value is replaced.
    pub overwrite: bool,
}
message!(KvPut => Result<bool, Error>);

/// The value of a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KvGet {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
}
message!(KvGet => Option<serde_bytes::ByteBuf>);

/// Removes a key; true when it was there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KvDelete {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
}
message!(KvDelete => Result<bool, Error>);

/// The keys that start with a prefix, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KvKeys {
    /// The namespace.
    pub namespace: String,
    /// The prefix.
    pub prefix: String,
}
message!(KvKeys => BTreeMap<String, u64>);
