//! The pure core: what the GCS knows, and the effects it asks its shell for.
//!
//! The families of events are in files of their own: `nodes`, `jobs`, `actors`, `kv`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mobula_transport::{Address, Payload, ProcessAddr, ProcessId};
use serde::{Deserialize, Serialize};

use super::actors::{ActorEntry, PlaceKey, PlaceQueue, Spot};
use super::groups::{GONE_GROUPS_KEPT, GroupEntry, GroupRecord};
use super::untold::Untold;
use crate::error::Error;
use crate::ids::{ActorId, JobId, LeaseId, NodeId, PlacementGroupId};
use crate::messages::{
    ActorEnd, ActorLocation, ActorSpec, ClusterEvent, ClusterStatus, CommitBundles, EndReason, JobInfo, JobRegistered,
    LeaseActor, NodeInfo, PendingDemand, PrepareBundles, ReturnBundles,
};
use crate::recent::Recent;
use crate::resources::{Resources, group};

/// Names a request that waits for its answer; the shell keeps the way back under this number.
pub type Asker = u64;

/// How the GCS judges.
#[derive(Clone, Debug)]
pub struct GcsConfig {
    /// The cluster's name.
    pub cluster: String,
    /// The process the GCS runs in; a node or driver in the same process cannot be dead.
    pub process: ProcessId,
    /// A node or a driver that was silent for so long is dead.
    pub dead_after: Duration,
    /// How long after a restart of the head nodes have to come back and report the actors they run.
    /// The restarted head disowns the old connections at the first word on them, so nodes that live
    /// know within a heartbeat or two.
    pub reattach_within: Duration,
    /// The wall clock's seconds since 1970 at the time zero of the events.
    pub epoch_unix_s: u64,
}

impl GcsConfig {
    /// The defaults of DESIGN: dead after five seconds without a heartbeat.
    pub fn new(cluster: impl Into<String>, process: ProcessId) -> Self {
        Self {
            cluster: cluster.into(),
            process,
            dead_after: Duration::from_secs(5),
            reattach_within: Duration::from_secs(10),
            epoch_unix_s: 0,
        }
    }
}

/// What the shell is to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Answer a request. If the same event asked for a [`Effect::Write`], after its commit.
    Answer(Asker, Reply),
    /// Ask a raylet for a worker; its answer goes to [`Gcs::actor_leased`].
    LeaseActor {
        /// The raylet.
        raylet: Address,
        /// Its node.
        node: NodeId,
        /// What to ask.
        request: LeaseActor,
    },
    /// Take back what was asked by [`Effect::LeaseActor`].
    CancelActorLease {
        /// The raylet.
        raylet: Address,
        /// The actor.
        actor: ActorId,
        /// Its incarnation.
        incarnation: u32,
    },
    /// Have the actor made, after the commit of all earlier writes, so that a restarted head never
    /// gives the same incarnation twice; the answer goes to [`Gcs::actor_started`].
    StartActor {
        /// The worker.
        worker: ProcessAddr,
        /// What to make.
        spec: Box<ActorSpec>,
        /// Which incarnation.
        incarnation: u32,
        /// Its lease.
        lease: LeaseId,
        /// The constructor's inline arguments.
        payload: Payload,
    },
    /// Tell the worker to end the actor, until it has heard.
    StopActor {
        /// The worker.
        worker: ProcessAddr,
        /// The actor.
        actor: ActorId,
        /// Which incarnation of it.
        incarnation: u32,
        /// Why.
        why: String,
    },
    /// Give a lease back.
    ReturnLease {
        /// The raylet.
        raylet: Address,
        /// The lease.
        lease: LeaseId,
    },
    /// Ask a raylet to set room aside, after the commit of all earlier writes; its answer goes to [`Gcs::bundles_prepared`].
    PrepareBundles {
        /// The raylet.
        raylet: Address,
        /// Its node.
        node: NodeId,
        /// What to ask.
        request: PrepareBundles,
    },
    /// Tell a raylet that the room may be used, after the commit of all earlier writes; its answer goes to [`Gcs::bundles_committed`].
    CommitBundles {
        /// The raylet.
        raylet: Address,
        /// Its node.
        node: NodeId,
        /// What to tell.
        request: CommitBundles,
    },
    /// Have a raylet give room back, until it has heard; after the commit of all earlier writes.
    ReturnBundles {
        /// The raylet.
        raylet: Address,
        /// What to tell.
        request: ReturnBundles,
    },
    /// The request is not answered any more: a later one took its place, or the asker is dead.
    Forget(Asker),
    /// Tell the subscribers; of the death of a node after the commit of all earlier writes.
    Publish(ClusterEvent),
    /// The process is dead: requests to it are to fail at once. After the commit of all earlier writes.
    MarkGone(ProcessId, String),
    /// Store this.
    Write(Write),
}

impl Effect {
    /// Whether it waits for the commit of all earlier writes, so that a restarted head knows of it.
    pub(crate) fn is_promise(&self) -> bool {
        matches!(
            self,
            Self::Answer(..)
                | Self::StartActor { .. }
                | Self::PrepareBundles { .. }
                | Self::CommitBundles { .. }
                | Self::ReturnBundles { .. }
                | Self::Publish(ClusterEvent::NodeDied { .. })
                | Self::MarkGone(..)
        )
    }
}

/// The answer to a request that had to wait.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To `CreateActor`, `KillActor`, `CreateGroup` and `WaitGroup`.
    Done(Result<(), Error>),
    /// To `ResolveActor`.
    Located(ActorLocation),
    /// To `WatchActor`.
    Ended(Option<ActorEnd>),
    /// To `RegisterJob`.
    Job(Box<Result<JobRegistered, Error>>),
    /// To `FinishJob`, `ActorExited` and `RemoveGroup`.
    Finished,
    /// To `KvPut` and `KvDelete`.
    Changed(Result<bool, Error>),
}

/// A change to what survives a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Write {
    /// An actor was created.
    Actor(Box<ActorSpec>, Vec<serde_bytes::ByteBuf>),
    /// Its state changed.
    ActorState(ActorId, ActorState),
    /// It has fallen out of the history.
    ForgetActor(ActorId),
    /// A job began or ended.
    Job(Box<JobInfo>),
    /// It has fallen out of the history.
    ForgetJob(JobId),
    /// A node has joined, or is dead.
    Node(Box<NodeInfo>),
    /// It has fallen out of the history.
    ForgetNode(NodeId),
    /// A placement group was made, placed, or lost a node.
    Group(Box<GroupRecord>),
    /// It was removed.
    ForgetGroup(PlacementGroupId),
    /// A value was set or removed.
    Kv {
        /// The namespace.
        namespace: String,
        /// The key.
        key: String,
        /// The value, none to remove it.
        value: Option<serde_bytes::ByteBuf>,
    },
}

/// What is stored of an actor besides its making.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActorState {
    /// The incarnation that lives or is being made.
    pub incarnation: u32,
    /// Restarts charged to its policy.
    pub restarts: u32,
    /// The incarnation whose constructor has returned, if that is the present one.
    pub started: Option<u32>,
    /// Why it is dead, if it is.
    pub dead: Option<Error>,
    /// In which way it ended.
    #[serde(default)]
    pub end: EndReason,
}

/// What a restarted head begins with.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Actors, dead ones too.
    pub actors: Vec<(ActorSpec, Vec<serde_bytes::ByteBuf>, ActorState)>,
    /// Jobs, ended ones too.
    pub jobs: Vec<JobInfo>,
    /// Nodes in other processes than the GCS, dead ones too.
    pub nodes: Vec<NodeInfo>,
    /// Placement groups.
    pub groups: Vec<GroupRecord>,
    /// Namespace, key, value.
    pub kv: Vec<(String, String, serde_bytes::ByteBuf)>,
}

/// A node, as the GCS knows it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) info: NodeInfo,
    /// What subscribers believe to be free there. The head itself reckons with what it has just
    /// placed or ended, which they do not hear of.
    pub(super) told: Resources,
    pub(super) seen: Duration,
    pub(super) pending: Vec<PendingDemand>,
    pub(super) processes: BTreeMap<ProcessAddr, u32>,
    /// Processes that have ended: word of their start may come late.
    pub(super) ended: Recent<ProcessAddr>,
    /// Asked for actors and not answered yet.
    pub(super) promised: Resources,
}

#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) info: JobInfo,
    pub(super) seen: Duration,
}

/// The GCS's pure core. Every method takes the time since an arbitrary start; effects gather
/// until [`Gcs::take_effects`].
#[derive(Debug)]
pub struct Gcs {
    pub(super) config: GcsConfig,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// What subscribers have not been told of the room of nodes.
    pub(super) untold: Untold,
    pub(super) dead_nodes: VecDeque<NodeId>,
    /// Nodes that lived when the head ended and have not come back yet.
    pub(super) absent: BTreeMap<NodeId, NodeInfo>,
    pub(super) jobs: BTreeMap<JobId, Job>,
    pub(super) ended_jobs: VecDeque<JobId>,
    pub(super) actors: BTreeMap<ActorId, ActorEntry>,
    pub(super) dead_actors: VecDeque<ActorId>,
    /// Namespace and name to the living actor that bears it.
    pub(super) names: BTreeMap<(String, String), ActorId>,
    /// Which actor holds a lease.
    pub(super) leases: BTreeMap<LeaseId, (ActorId, u32)>,
    /// Incarnations that were told to stop and have not said that they did.
    pub(super) lingering: BTreeMap<(ActorId, u32), Spot>,
    pub(super) queues: BTreeMap<PlaceKey, PlaceQueue>,
    /// Actors that wait for a time: a retry, or their node's report.
    pub(super) delayed: BTreeSet<(Duration, ActorId)>,
    pub(super) last_spread: Option<NodeId>,
    /// Asked for before they were created, or never created.
    pub(super) unknown: BTreeMap<ActorId, (Duration, Vec<(ProcessId, Asker)>)>,
    pub(super) kv: BTreeMap<(String, String), serde_bytes::ByteBuf>,
    pub(super) groups: BTreeMap<PlacementGroupId, GroupEntry>,
    /// Those that wait for room, in the order in which they are looked at.
    pub(super) waiting_groups: VecDeque<PlacementGroupId>,
    /// Groups that were removed: none of them is made again by a late message.
    pub(super) gone_groups: Recent<PlacementGroupId>,
    /// Groups asked for before they were made, or never made: until when they are waited for, and
    /// by whom.
    pub(super) unknown_groups: BTreeMap<PlacementGroupId, (Duration, Vec<(ProcessId, Asker)>)>,
    /// Something has become free since waiting groups were last looked at.
    pub(super) look_at_groups: bool,
    /// Names the next try to place a group.
    pub(super) next_round: u64,
    /// After a restart of the head: until then nodes have time to come back.
    pub(super) reattach_until: Option<Duration>,
    pub(super) effects: Vec<Effect>,
}

impl Gcs {
    /// An empty cluster.
    pub fn new(config: GcsConfig) -> Self {
        let next_round = Self::first_round(config.epoch_unix_s);
        Self {
            config,
            nodes: BTreeMap::new(),
            untold: Untold::default(),
            dead_nodes: VecDeque::new(),
            absent: BTreeMap::new(),
            jobs: BTreeMap::new(),
            ended_jobs: VecDeque::new(),
            actors: BTreeMap::new(),
            dead_actors: VecDeque::new(),
            names: BTreeMap::new(),
            leases: BTreeMap::new(),
            lingering: BTreeMap::new(),
            queues: BTreeMap::new(),
            delayed: BTreeSet::new(),
            last_spread: None,
            unknown: BTreeMap::new(),
            kv: BTreeMap::new(),
            groups: BTreeMap::new(),
            waiting_groups: VecDeque::new(),
            gone_groups: Recent::new(GONE_GROUPS_KEPT),
            unknown_groups: BTreeMap::new(),
            look_at_groups: false,
            next_round,
            reattach_until: None,
            effects: Vec::new(),
        }
    }

    /// A cluster as it was stored. Living actors wait for their nodes to report them; nodes are
    /// absent until they register again, and dead if they do not in time.
    pub fn restore(config: GcsConfig, snapshot: Snapshot, now: Duration) -> Self {
        let mut gcs = Self::new(config);
        for job in snapshot.jobs {
            gcs.restore_job(job, now);
        }
        for (spec, payload, state) in snapshot.actors {
            gcs.restore_actor(spec, payload, state);
        }
        for info in snapshot.nodes {
            gcs.restore_node(info, now);
        }
        for record in snapshot.groups {
            gcs.restore_group(record);
        }
        gcs.reattach_until = Some(now + gcs.config.reattach_within);
        for (namespace, key, value) in snapshot.kv {
            gcs.kv.insert((namespace, key), value);
        }
        gcs
    }

    /// What is to be done, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Time has passed: declares the silent dead, retries what waited.
    pub fn tick(&mut self, now: Duration) {
        self.expire_nodes(now);
        if self.reattach_until.is_some_and(|until| now >= until) {
            self.reattach_until = None;
            self.lose_absent(now);
            self.lose_unattached();
            self.lose_unattached_bundles();
        }
        self.expire_jobs(now);
        self.expire_actors(now);
        self.expire_groups(now);
        self.place_groups(now);
        self.place_actors(now);
        self.tell_room(now);
    }

    /// A process is known to be dead, and not by this GCS's own judgement.
    pub fn process_gone(&mut self, process: ProcessId, why: &str, now: Duration) {
        let drivers: Vec<JobId> = self
            .jobs
            .values()
            .filter(|job| job.info.ended_unix_s.is_none() && job.info.driver.id == process)
            .map(|job| job.info.job)
            .collect();
        for job in drivers {
            self.driver_died(job, &format!("its driver is gone: {why}"), now);
        }
        if let Some(node) = self.nodes.values().find(|n| n.info.alive && n.info.process.id == process) {
            let node = node.info.node;
            self.node_died(node, why, now);
        }
        self.forget_waiters(process);
        self.place_actors(now);
    }

    /// The state for people and programs. `uptime` is the head's.
    pub fn status(&self, uptime: Duration) -> ClusterStatus {
        let mut pending: Vec<PendingDemand> =
            self.nodes.values().filter(|n| n.info.alive).flat_map(|n| n.pending.iter().cloned()).collect();
        pending.extend(self.pending_actors());
        pending.extend(self.pending_groups());
        let mut view = self.view();
        for node in &mut view.nodes {
            node.total = group::without_groups(&node.total);
            node.available = group::without_groups(&node.available);
        }
        ClusterStatus {
            cluster: self.config.cluster.clone(),
            view,
            pending,
            jobs: self.jobs.values().map(|job| job.info.clone()).collect(),
            uptime_s: uptime.as_secs(),
        }
    }

    pub(super) fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}
