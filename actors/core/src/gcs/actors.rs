//! Actors: where they are made, what becomes of them when a worker or node dies, and their names.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use mobula_transport::{Payload, ProcessAddr, ProcessId, SendError};
use serde_bytes::ByteBuf;

use super::nodes::raylet;
use super::state::{ActorState, Asker, Effect, Gcs, Reply, Write};
use crate::error::Error;
use crate::ids::{ActorId, LeaseId, NodeId};
use crate::messages::{
    ActorDetails, ActorEnd, ActorExited, ActorInfo, ActorLease, ActorLocation, ActorSpec, EndReason, FoundActor,
    LeaseActorError, PendingDemand, Strategy,
};
use crate::resources::{Resources, group};

/// Actors that live or wait at once.
const MAX_ACTORS: usize = 1_000_000;
/// How long a question for an actor nobody has created yet is kept: its creation may be on its way
/// from another process.
const UNKNOWN_KEPT: Duration = Duration::from_secs(10);
/// How many actors that nobody has created can be asked for at once.
const MAX_UNKNOWN: usize = 10_000;

/// Where an incarnation lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) node: NodeId,
    pub(super) lease: LeaseId,
    pub(super) worker: ProcessAddr,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// In its queue.
    Pending,
    /// A raylet is asked; it was full when asked, or not.
    Leasing { node: NodeId, in_line: bool },
    /// Its constructor runs.
    Starting(Spot),
    /// It takes calls.
    Alive(Spot),
    /// Tried again then.
    Delayed { until: Duration, reason: String },
    /// The head restarted, and its node has not reported it yet.
    Unattached,
    /// It is no more.
    Dead(Error),
}

#[derive(Clone, Debug)]
pub(super) struct ActorEntry {
    pub(super) spec: ActorSpec,
    pub(super) payload: Payload,
    pub(super) phase: Phase,
    pub(super) incarnation: u32,
    pub(super) restarts: u32,
    pub(super) worker_failures: u32,
    /// Who asks where it is.
    pub(super) waiters: Vec<(ProcessId, Asker)>,
    /// Who asks how it ends.
    pub(super) watchers: Vec<(ProcessId, Asker)>,
    /// In which way it has ended, if it is dead.
    pub(super) end: EndReason,
}

impl ActorEntry {
    /// How it has ended, if it has.
    pub(super) fn ended(&self) -> Option<ActorEnd> {
        let Phase::Dead(error) = &self.phase else { return None };
        let why = match error {
            Error::ActorDied { why, .. } => why.clone(),
            other => other.to_string(),
        };
        Some(ActorEnd { actor: self.spec.actor, reason: self.end, why, restarts: self.restarts })
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.phase, Phase::Dead(_))
    }

    pub(super) fn spot(&self) -> Option<&Spot> {
        match &self.phase {
            Phase::Starting(spot) | Phase::Alive(spot) => Some(spot),
            _ => None,
        }
    }

    pub(super) fn place_key(&self) -> PlaceKey {
        let mut need = self.spec.demand.clone();
        for (name, fractions) in self.spec.placement_demand.iter() {
            if fractions > need.fractions(name) {
                need.set(name, fractions);
            }
        }
        PlaceKey { need, strategy: self.spec.strategy.clone() }
    }

    pub(super) fn state(&self) -> ActorState {
        ActorState {
            incarnation: self.incarnation,
            restarts: self.restarts,
            started: matches!(self.phase, Phase::Alive(_)).then_some(self.incarnation),
            dead: match &self.phase {
                Phase::Dead(error) => Some(error.clone()),
                _ => None,
            },
            end: self.end,
        }
    }
}

/// Actors with one key are placed one after the other; a key that waits does not hold up another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PlaceKey {
    pub(super) need: Resources,
    pub(super) strategy: Strategy,
}

#[derive(Clone, Debug, Default)]
pub(super) struct PlaceQueue {
    /// In the order of their creation; dead ones are skipped when their turn comes.
    pub(super) waiting: VecDeque<ActorId>,
    /// Nodes that said no since their last heartbeat.
    pub(super) full: BTreeSet<NodeId>,
    /// How many stand in line at full raylets.
    pub(super) in_line: u32,
    pub(super) reason: String,
    pub(super) infeasible: bool,
}

/// Creation, questions, death: what others ask for.
impl Gcs {
    /// A client makes an actor.
    pub fn create_actor(&mut self, spec: ActorSpec, payload: Payload, now: Duration, asker: Asker) {
        let id = spec.actor;
        if self.actors.contains_key(&id) {
            return self.emit(Effect::Answer(asker, Reply::Done(Ok(()))));
        }
        let group = group::group_of(&spec.placement_demand).or_else(|| group::group_of(&spec.demand));
        let in_group = group.map_or(Ok(()), |group| self.check_group(group, now));
        if let Err(error) = in_group.and_then(|()| self.may_create(&spec)) {
            return self.emit(Effect::Answer(asker, Reply::Done(Err(error))));
        }
        if let Some(name) = &spec.name {
            self.names.insert((spec.namespace.clone(), name.clone()), id);
        }
        let stored = payload.iter().map(|part| ByteBuf::from(part.to_vec())).collect();
        self.emit(Effect::Write(Write::Actor(Box::new(spec.clone()), stored)));
        let entry = ActorEntry {
            spec,
            payload,
            phase: Phase::Pending,
            incarnation: 0,
            restarts: 0,
            worker_failures: 0,
            waiters: self.unknown.remove(&id).map(|(_, waiters)| waiters).unwrap_or_default(),
            watchers: Vec::new(),
            end: EndReason::Unknown,
        };
        self.enqueue(&entry, false);
        self.actors.insert(id, entry);
        self.emit(Effect::Answer(asker, Reply::Done(Ok(()))));
        self.place_actors(now);
    }

    fn may_create(&self, spec: &ActorSpec) -> Result<(), Error> {
        if let Some(name) = &spec.name
            && self.names.contains_key(&(spec.namespace.clone(), name.clone()))
        {
            return Err(Error::NameTaken { name: name.clone() });
        }
        if self.actors.len() - self.dead_actors.len() >= MAX_ACTORS {
            return Err(Error::Invalid { what: format!("the cluster has {MAX_ACTORS} actors, which is its limit") });
        }
        match self.jobs.get(&spec.job) {
            Some(job) if job.info.ended_unix_s.is_some() && !spec.detached => {
                Err(Error::NoSession { what: format!("job {} has ended; its actors end with it", spec.job) })
            }
            _ => Ok(()),
        }
    }

    /// Someone asks where an actor is; answered when it is alive or dead. A second question of the
    /// same process takes the place of the first.
    pub fn resolve_actor(&mut self, id: ActorId, from: ProcessId, now: Duration, asker: Asker) {
        let location = match self.actors.get(&id).map(|actor| (&actor.phase, actor.incarnation)) {
            Some((Phase::Alive(spot), incarnation)) => Some(ActorLocation::Alive { worker: spot.worker, incarnation }),
            Some((Phase::Dead(error), _)) => Some(ActorLocation::Dead(Box::new(error.clone()))),
            Some(_) => None,
            None if self.unknown.len() >= MAX_UNKNOWN && !self.unknown.contains_key(&id) => Some(never_created(id)),
            None => None,
        };
        if let Some(location) = location {
            return self.emit(Effect::Answer(asker, Reply::Located(location)));
        }
        let waiters = match self.actors.get_mut(&id) {
            Some(actor) => &mut actor.waiters,
            None => &mut self.unknown.entry(id).or_insert_with(|| (now + UNKNOWN_KEPT, Vec::new())).1,
        };
        if let Some(before) = wait(waiters, from, asker) {
            self.emit(Effect::Forget(before));
        }
    }

    /// Someone asks how an actor ends. As with [`Gcs::resolve_actor`], a process asks once.
    pub fn watch_actor(&mut self, id: ActorId, from: ProcessId, asker: Asker) {
        let effect = match self.actors.get_mut(&id) {
            None => Some(Effect::Answer(asker, Reply::Ended(None))),
            Some(actor) => match actor.ended() {
                Some(end) => Some(Effect::Answer(asker, Reply::Ended(Some(end)))),
                None => wait(&mut actor.watchers, from, asker).map(Effect::Forget),
            },
        };
        self.effects.extend(effect);
    }

    /// The living actor of a name.
    pub fn find_actor(&self, name: &str, namespace: &str) -> Option<FoundActor> {
        let actor = self.names.get(&(namespace.to_owned(), name.to_owned()))?;
        let spec = &self.actors.get(actor)?.spec;
        Some(FoundActor { actor: *actor, class: spec.class.clone(), rules: spec.rules })
    }

    /// Someone ends an actor.
    pub fn kill_actor(&mut self, id: ActorId, no_restart: bool, why: &str, now: Duration, asker: Asker) {
        let answer = match self.actors.get(&id) {
            None => Err(Error::ActorDied { actor: id, why: "it is not known; it ended long ago, or never was".into() }),
            Some(actor) if actor.is_dead() => Ok(()),
            Some(_) if no_restart => {
                self.end_actor(id, why, now);
                Ok(())
            }
            Some(actor) => {
                if let Some(spot) = actor.spot().cloned() {
                    self.stop_incarnation(id, spot, why);
                    self.fail_incarnation(id, why, EndReason::Killed);
                } else if matches!(actor.phase, Phase::Unattached) {
                    // It is told to stop when its node reports it.
                    self.fail_incarnation(id, why, EndReason::Killed);
                }
                Ok(())
            }
        };
        self.emit(Effect::Answer(asker, Reply::Done(answer)));
        self.place_actors(now);
    }

    /// All actors that are known, by id.
    pub fn list_actors(&self) -> Vec<ActorInfo> {
        self.actors.values().map(|actor| self.describe(actor)).collect()
    }

    /// An actor, and what it waits for.
    pub fn explain_actor(&self, id: ActorId) -> Option<ActorDetails> {
        let actor = self.actors.get(&id)?;
        let (key, waits) = (actor.place_key(), matches!(actor.phase, Phase::Pending));
        let queue = self.queues.get(&key).filter(|_| waits);
        let before = |queue: &PlaceQueue| queue.waiting.iter().position(|waiting| *waiting == id);
        Some(ActorDetails {
            info: self.describe(actor),
            owner: actor.spec.owner,
            need: key.need,
            strategy: key.strategy,
            max_restarts: actor.spec.max_restarts,
            ahead: queue.and_then(before).map(|ahead| ahead as u64),
        })
    }

    fn describe(&self, actor: &ActorEntry) -> ActorInfo {
        let (state, reason) = match &actor.phase {
            Phase::Pending => {
                let reason = self.queues.get(&actor.place_key()).map(|queue| queue.reason.clone());
                (if actor.incarnation == 0 { "PENDING" } else { "RESTARTING" }, reason)
            }
            Phase::Leasing { node, .. } => {
                let reason = self.node_name(*node).map(|name| format!("node {name} is asked for a worker"));
                (if actor.incarnation == 0 { "PENDING" } else { "RESTARTING" }, reason)
            }
            Phase::Delayed { reason, .. } => ("PENDING", Some(reason.clone())),
            Phase::Starting(_) => ("STARTING", None),
            Phase::Alive(_) => ("ALIVE", None),
            Phase::Unattached => {
                ("RESTARTING", Some("the head has restarted; its node has not reported it yet".to_owned()))
            }
            Phase::Dead(error) => ("DEAD", Some(error.to_string())),
        };
        ActorInfo {
            actor: actor.spec.actor,
            class: actor.spec.class.clone(),
            name: actor.spec.name.clone(),
            state: state.to_owned(),
            node: actor.spot().and_then(|spot| self.node_name(spot.node)),
            pid: actor.spot().and_then(|spot| self.pid(spot.node, spot.worker)),
            restarts: actor.restarts,
            reason: reason.filter(|reason| !reason.is_empty()),
            job: actor.spec.job,
        }
    }

    /// The demands of actors that wait, one line for each kind.
    pub(super) fn pending_actors(&self) -> Vec<PendingDemand> {
        let mut lines = Vec::new();
        for (key, queue) in &self.queues {
            let waiting: Vec<&ActorEntry> = queue
                .waiting
                .iter()
                .filter_map(|id| self.actors.get(id))
                .filter(|actor| matches!(actor.phase, Phase::Pending))
                .collect();
            if let Some(first) = waiting.first() {
                lines.push(PendingDemand {
                    demand: group::as_asked(&key.need),
                    count: waiting.len() as u64,
                    what: format!("actor {}", first.spec.class),
                    reason: queue.reason.clone(),
                    infeasible: queue.infeasible,
                    node: String::new(),
                });
            }
        }
        lines
    }
}

/// The answers of raylets and workers.
impl Gcs {
    /// A raylet has answered [`Effect::LeaseActor`].
    pub fn actor_leased(
        &mut self,
        id: ActorId,
        incarnation: u32,
        node: NodeId,
        answer: Result<Result<ActorLease, LeaseActorError>, SendError>,
        now: Duration,
    ) {
        let current = self.actors.get(&id).is_some_and(|actor| {
            actor.incarnation == incarnation
                && matches!(actor.phase, Phase::Leasing { node: asked, .. } if asked == node)
        });
        if !current {
            // Ended, or given up on, while the raylet was looking.
            if let Ok(Ok(lease)) = answer {
                self.return_lease(node, lease.lease);
            }
            return;
        }
        self.leave_leasing(id);
        match answer {
            Ok(Ok(lease)) => self.start_actor(id, Spot { node, lease: lease.lease, worker: lease.worker }),
            Ok(Err(LeaseActorError::NoRoom { free, .. })) => {
                if let Some(node) = self.nodes.get_mut(&node).filter(|node| node.info.alive) {
                    node.info.available = free;
                }
                self.requeue(id, Some(node));
            }
            Ok(Err(LeaseActorError::WorkerFailed(why))) => self.worker_failed(id, why, now),
            Err(error) => {
                // It may have been granted all the same; a new incarnation cannot be mistaken for it.
                if let Some(info) = self.nodes.get(&node).map(|node| &node.info) {
                    let raylet = raylet(info);
                    self.emit(Effect::CancelActorLease { raylet, actor: id, incarnation });
                }
                if let Some(actor) = self.actors.get_mut(&id) {
                    actor.incarnation += 1;
                    let state = actor.state();
                    self.emit(Effect::Write(Write::ActorState(id, state)));
                }
                if error.is_retriable() || matches!(error, SendError::Gone { .. }) {
                    self.requeue(id, Some(node));
                } else {
                    self.worker_failed(id, error.to_string(), now);
                }
            }
        }
        self.place_actors(now);
    }

    /// A worker has answered [`Effect::StartActor`].
    pub fn actor_started(
        &mut self,
        id: ActorId,
        incarnation: u32,
        answer: Result<Result<(), Error>, SendError>,
        now: Duration,
    ) {
        let starting = match self.actors.get(&id) {
            Some(actor) if actor.incarnation == incarnation => match &actor.phase {
                Phase::Starting(spot) => Some(spot.clone()),
                _ => None,
            },
            _ => None,
        };
        let Some(spot) = starting else {
            // Told to stop while its constructor ran.
            match answer {
                Ok(Ok(())) => {
                    if let Some(spot) = self.lingering.get(&(id, incarnation)) {
                        let worker = spot.worker;
                        self.stop_actor(worker, id, incarnation, "it was ended");
                    }
                }
                _ => self.linger_over(id, incarnation),
            }
            return;
        };
        match answer {
            Ok(Ok(())) => self.actor_alive(id, spot),
            Ok(Err(error)) => {
                self.release(&spot);
                self.die(id, error, EndReason::Crashed);
            }
            Err(error) => {
                self.stop_actor(spot.worker, id, incarnation, &error.to_string());
                self.release(&spot);
                self.fail_incarnation(id, &format!("its worker could not make it: {error}"), EndReason::Crashed);
            }
        }
        self.place_actors(now);
    }

    /// A worker says that an actor has ended; it may say so more than once.
    pub fn actor_exited(&mut self, exited: &ActorExited, now: Duration, asker: Asker) {
        let ActorExited { actor: id, incarnation, ref why, failed } = *exited;
        self.linger_over(id, incarnation);
        let phase = self.actors.get(&id).filter(|actor| actor.incarnation == incarnation).map(|actor| &actor.phase);
        let lived = match phase {
            Some(Phase::Starting(spot) | Phase::Alive(spot)) => {
                let spot = spot.clone();
                self.release(&spot);
                true
            }
            // Its node has not reported yet; it will still count the lease, and get it back then.
            Some(Phase::Unattached) => true,
            _ => false,
        };
        if lived && failed {
            self.fail_incarnation(id, why, EndReason::Crashed);
        } else if lived {
            self.die(id, Error::ActorDied { actor: id, why: why.clone() }, EndReason::Exited);
        }
        self.emit(Effect::Answer(asker, Reply::Finished));
        self.place_actors(now);
    }

    /// A raylet says that a lease is over: its worker died.
    pub fn lease_lost(&mut self, lease: LeaseId, why: &str, now: Duration) {
        let Some((id, incarnation)) = self.leases.remove(&lease) else { return };
        if self.lingering.remove(&(id, incarnation)).is_none()
            && self.actors.get(&id).and_then(ActorEntry::spot).is_some_and(|spot| spot.lease == lease)
        {
            self.fail_incarnation(id, why, EndReason::Crashed);
        }
        self.place_actors(now);
    }

    /// Incarnations for which `lost` holds are dead with their worker.
    pub(super) fn worker_lost(&mut self, lost: impl Fn(&Spot) -> bool, why: &str, reason: EndReason) {
        let gone: Vec<(ActorId, u32)> =
            self.lingering.iter().filter(|(_, spot)| lost(spot)).map(|(key, _)| *key).collect();
        for key in gone {
            if let Some(spot) = self.lingering.remove(&key) {
                self.leases.remove(&spot.lease);
            }
        }
        let dead: Vec<(ActorId, LeaseId)> = self
            .actors
            .values()
            .filter_map(|actor| actor.spot().filter(|spot| lost(spot)).map(|spot| (actor.spec.actor, spot.lease)))
            .collect();
        for (actor, lease) in dead {
            self.leases.remove(&lease);
            self.fail_incarnation(actor, why, reason);
        }
    }

    /// The node died while it was looking for workers.
    pub(super) fn lease_requests_lost(&mut self, node: NodeId, _now: Duration) {
        let asked: Vec<ActorId> = self
            .actors
            .values()
            .filter(|actor| matches!(actor.phase, Phase::Leasing { node: asked, .. } if asked == node))
            .map(|actor| actor.spec.actor)
            .collect();
        for actor in asked {
            self.leave_leasing(actor);
            self.requeue(actor, None);
        }
    }
}

/// Adds one who waits. Returns an earlier question of the same process, which is not answered any
/// more: the asker's own deadline has passed, or it would not ask again.
fn wait(waiters: &mut Vec<(ProcessId, Asker)>, from: ProcessId, asker: Asker) -> Option<Asker> {
    match waiters.iter_mut().find(|(process, _)| *process == from) {
        Some(waiter) => Some(std::mem::replace(&mut waiter.1, asker)),
        None => {
            waiters.push((from, asker));
            None
        }
    }
}

pub(super) fn never_created(actor: ActorId) -> ActorLocation {
    let why = "nobody has created it, or it ended long ago".to_owned();
    ActorLocation::Dead(Box::new(Error::ActorDied { actor, why }))
}
