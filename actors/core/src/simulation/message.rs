//! What the processes of the simulation say to each other: the real messages, moved instead of
//! encoded; tasks and values are numbers.

use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, ProcessAddr, ProcessId, SendError};

use super::program::Code;
use crate::culprit::Culprit;
use crate::error::Error;
use crate::ids::{ActorId, JobId, LeaseId, NodeId, PlacementGroupId};
use crate::messages::*;
use crate::resources::Resources;

/// A value, or why there is none.
pub(super) type Outcome = Result<u64, Error>;

/// One attempt of a task or call, on its way to a worker.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) seq: u64,
    pub(super) attempt: u32,
    pub(super) code: Arc<Code>,
    pub(super) args: Vec<u64>,
}

/// A one-way message.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Want(WantLeases),
    Forget(ForgetQueue),
    Granted(LeaseGranted),
    Redirected(LeaseRedirected),
    Lost(LeaseLost),
    Kept(LeasesKept),
    Pending(LeasePending),
    GroupGone(GroupGone),
    ReclaimIdle,
    Return(Vec<LeaseId>),
    Held(HeldLeases),
    Blocked(LeaseBlocked),
    Push {
        lease: LeaseId,
        raylet: Address,
        runs: Vec<Run>,
    },
    Reclaim {
        lease: LeaseId,
        at_most: u32,
    },
    Returned {
        lease: LeaseId,
        seqs: Vec<u64>,
    },
    Done {
        seq: u64,
        attempt: u32,
        outcome: Outcome,
        run_us: u32,
    },
    StillHave(Vec<(u64, u32)>),
    Missing(Vec<(u64, u32)>),
    Cancel {
        seq: u64,
        attempt: u32,
        recursive: bool,
    },
    PushCalls {
        actor: ActorId,
        incarnation: u32,
        runs: Vec<Run>,
    },
    CancelActor(CancelActorLease),
    StopWorker,
    /// A client hears from its own process that another one is dead, and whose doing that was.
    Died {
        process: ProcessId,
        why: String,
        culprit: Culprit,
    },
}

/// A question.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    RegisterNode(RegisterNode),
    Heartbeat(Heartbeat),
    GetJob(JobId),
    ProcessUp(ProcessUp),
    ProcessDown(ProcessDown),
    DeadAmong(Vec<ProcessId>),
    RegisterWorker { start: u64 },
    RegisterJob,
    JobHeartbeat(JobId),
    CreateActor(ActorSpec),
    Resolve(ActorId),
    KillActor { actor: ActorId, no_restart: bool },
    Exited(ActorExited),
    StopActor(StopActor),
    StartActor(Box<StartActor>),
    LeaseActor(LeaseActor),
    Prepare(PrepareBundles),
    Commit(CommitBundles),
    ReturnBundles(ReturnBundles),
    CreateGroup(GroupSpec),
    WaitGroup(PlacementGroupId),
    RemoveGroup(PlacementGroupId),
    Subscribe(Subscribe),
}

/// What a question is answered with.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Registered(Result<(), String>),
    Beat(HeartbeatReply),
    Job(Option<JobInfo>),
    /// To `RegisterWorker`.
    Welcome(bool),
    /// To `JobHeartbeat`.
    Runs(bool),
    /// To `RegisterJob`.
    Taken(Result<JobId, Error>),
    Done(Result<(), Error>),
    Located(ActorLocation),
    Leased(Result<ActorLease, LeaseActorError>),
    Prepared(Result<(), Resources>),
    Committed(bool),
    Dead(Vec<ProcessId>),
    Unit,
}

/// The way back of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) asker: ProcessAddr,
    pub(super) id: u64,
    pub(super) lane: usize,
}

/// What a process does with an answer.
#[derive(Clone, Debug)]
pub(super) enum Then {
    // The head.
    Leased { actor: ActorId, incarnation: u32, node: NodeId },
    Started { actor: ActorId, incarnation: u32 },
    Prepared { group: PlacementGroupId, round: u64, node: NodeId },
    Committed { group: PlacementGroupId, round: u64, node: NodeId },
    // A raylet.
    Registered,
    Beat,
    JobOf { start: u64 },
    Review(JobId),
    Unreachable,
    // A worker.
    Welcomed,
    // A client.
    Taken,
    JobBeat,
    Created(ActorSpec),
    Located(ActorId),
    GroupMade(GroupSpec),
    GroupReady(PlacementGroupId),
    // Anyone.
    Stream,
    Insisted { from: Address, to: Address, ask: Box<Ask>, pause: Duration },
}

/// What happens to a process.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Start,
    Message {
        from: Address,
        body: Body,
    },
    Asked {
        from: ProcessAddr,
        way: Way,
        ask: Ask,
    },
    Answered {
        then: Then,
        answer: Result<Answer, SendError>,
    },
    Event(ClusterEvent),
    /// A one-way message could not be delivered.
    Bounced {
        to: Address,
        error: SendError,
    },
    Peer(Peer),
    Timer(Timer),
    /// A raylet's worker process has ended.
    Exited {
        start: u64,
        how: String,
        culprit: Culprit,
    },
    /// A raylet's worker process does not come up.
    LaunchFailed {
        start: u64,
    },
}

/// What the transport says of another process.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    Connected(ProcessId),
    Interrupted(ProcessId),
    Lost(ProcessId),
    Gone(ProcessId, String),
}

/// A process wants to hear of this later.
#[derive(Clone, Debug)]
pub(super) enum Timer {
    // The head.
    HeadTick,
    Stored,
    // A raylet.
    RayletTick,
    Beat,
    Report,
    RegisterAgain,
    AskForUnreachable,
    /// Also a driver's and a worker's.
    SubscribeAgain,
    Kill {
        start: u64,
    },
    NotRegistered {
        start: u64,
    },
    // A worker.
    RunEnds(u64),
    Constructed {
        actor: ActorId,
        incarnation: u32,
    },
    LookAgain {
        client: Address,
        tasks: Vec<(u64, u32)>,
    },
    ForgetCancel {
        attempt: (Address, u64, u32),
    },
    Leave,
    // A client.
    ClientTick,
    CreateAgain(Box<ActorSpec>),
    ResolveAgain(ActorId),
    GroupAgain(GroupSpec),
    ReadyAgain(PlacementGroupId),
    ReachAgain(ProcessId),
    JobBeat,
    RegisterJobAgain,
    /// The next step of a driver's program.
    Act,
    /// A driver ends all that its program has made.
    Farewell,
    // Anyone.
    InsistAgain {
        from: Address,
        to: Address,
        ask: Box<Ask>,
        pause: Duration,
    },
}
