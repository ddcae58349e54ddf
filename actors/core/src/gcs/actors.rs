//! Actors: where they are made, what becomes of them when a worker or node dies, and their names.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use mobula_transport::{Payload, ProcessAddr, ProcessId, SendError};
use serde_bytes::ByteBuf;

use super::nodes::raylet;
use super::placement::{Candidate, Choice, choose};
use super::state::{ActorState, Asker, Effect, Gcs, Reply, Write};
use crate::error::Error;
use crate::ids::{ActorId, LeaseId, NodeId};
use crate::messages::{
    ActorInfo, ActorLease, ActorLocation, ActorSpec, ClusterEvent, FoundActor, HostedActor, LeaseActor,
    LeaseActorError, PendingDemand, Shape, Strategy, WorkerKind,
};
use crate::resources::Resources;

/// Dead actors that are remembered, with how they ended.
const DEAD_ACTORS_KEPT: usize = 10_000;
/// Actors that live or wait at once.
const MAX_ACTORS: usize = 1_000_000;
/// How often a worker process may fail to start for an actor before the actor is given up.
const MAX_WORKER_FAILURES: u32 = 3;
/// The wait before a failed start is tried again, times the number of failures.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// When no node has room, so many actors of a kind stand in line at the raylets, so that they get
/// their turn among the tasks there.
const MAX_IN_LINE: u32 = 4;
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
    /// The head restarted; its node is to report it until then.
    Unattached { until: Duration },
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
    pub(super) waiters: Vec<(ProcessId, Asker)>,
}

impl ActorEntry {
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.phase, Phase::Dead(_))
    }

    fn spot(&self) -> Option<&Spot> {
        match &self.phase {
            Phase::Starting(spot) | Phase::Alive(spot) => Some(spot),
            _ => None,
        }
    }

    fn place_key(&self) -> PlaceKey {
        let mut need = self.spec.demand.clone();
        for (name, fractions) in self.spec.placement_demand.iter() {
            if fractions > need.fractions(name) {
                need.set(name, fractions);
            }
        }
        PlaceKey { need, strategy: self.spec.strategy.clone() }
    }

    fn state(&self) -> ActorState {
        ActorState {
            incarnation: self.incarnation,
            restarts: self.restarts,
            started: matches!(self.phase, Phase::Alive(_)).then_some(self.incarnation),
            dead: match &self.phase {
                Phase::Dead(error) => Some(error.clone()),
                _ => None,
            },
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
        if let Err(error) = self.may_create(&spec) {
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
        match waiters.iter_mut().find(|(process, _)| *process == from) {
            // The asker's own deadline has passed, or it would not ask again.
            Some(waiter) => {
                let before = std::mem::replace(&mut waiter.1, asker);
                self.emit(Effect::Forget(before));
            }
            None => waiters.push((from, asker)),
        }
    }

    /// The living actor of a name.
    pub fn find_actor(&self, name: &str, namespace: &str) -> Option<FoundActor> {
        let actor = self.names.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(FoundActor { actor: *actor, class: self.actors.get(actor)?.spec.class.clone() })
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
                    self.fail_incarnation(id, why, true);
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

    fn describe(&self, actor: &ActorEntry) -> ActorInfo {
        let (state, reason) = match &actor.phase {
            Phase::Pending => {
                let reason = self.queues.get(&actor.place_key()).map(|queue| queue.reason.clone());
                (if actor.incarnation == 0 { "PENDING" } else { "RESTARTING" }, reason)
            }
            Phase::Leasing { .. } => (if actor.incarnation == 0 { "PENDING" } else { "RESTARTING" }, None),
            Phase::Delayed { reason, .. } => ("PENDING", Some(reason.clone())),
            Phase::Starting(_) => ("STARTING", None),
            Phase::Alive(_) => ("ALIVE", None),
            Phase::Unattached { .. } => {
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
                    demand: key.need.clone(),
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
                self.die(id, error);
            }
            Err(error) => {
                self.stop_actor(spot.worker, id, incarnation, &error.to_string());
                self.release(&spot);
                self.fail_incarnation(id, &format!("its worker could not make it: {error}"), true);
            }
        }
        self.place_actors(now);
    }

    /// A worker says that an actor has ended.
    pub fn actor_exited(&mut self, id: ActorId, incarnation: u32, why: &str, failed: bool, now: Duration) {
        self.linger_over(id, incarnation);
        let Some(actor) = self.actors.get(&id).filter(|actor| actor.incarnation == incarnation) else { return };
        let Some(spot) = actor.spot().cloned() else { return };
        self.release(&spot);
        if failed {
            self.fail_incarnation(id, why, true);
        } else {
            self.die(id, Error::ActorDied { actor: id, why: why.to_owned() });
        }
        self.place_actors(now);
    }

    /// A raylet says that a lease is over: its worker died.
    pub fn lease_lost(&mut self, lease: LeaseId, why: &str, now: Duration) {
        let Some((id, incarnation)) = self.leases.remove(&lease) else { return };
        if self.lingering.remove(&(id, incarnation)).is_none()
            && self.actors.get(&id).and_then(ActorEntry::spot).is_some_and(|spot| spot.lease == lease)
        {
            self.fail_incarnation(id, why, true);
        }
        self.place_actors(now);
    }

    /// Incarnations for which `lost` holds are dead with their worker.
    pub(super) fn worker_lost(&mut self, lost: impl Fn(&Spot) -> bool, why: &str, _now: Duration) {
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
            self.fail_incarnation(actor, why, true);
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

/// Placing.
impl Gcs {
    /// A node has changed: the queues may ask it again.
    pub(super) fn open_queues(&mut self, node: NodeId) {
        for queue in self.queues.values_mut() {
            queue.full.remove(&node);
        }
    }

    /// Asks raylets for as many waiting actors as there is room for.
    pub(super) fn place_actors(&mut self, _now: Duration) {
        let waiting: Vec<PlaceKey> =
            self.queues.iter().filter(|(_, queue)| !queue.waiting.is_empty()).map(|(key, _)| key.clone()).collect();
        for key in waiting {
            while self.place_one(&key) {}
        }
        self.queues.retain(|_, queue| !queue.waiting.is_empty() || queue.in_line > 0 || !queue.full.is_empty());
    }

    /// Places the first of a queue; false when the queue is empty or has to wait.
    fn place_one(&mut self, key: &PlaceKey) -> bool {
        let Some(queue) = self.queues.get_mut(key) else { return false };
        let Some(id) = queue.waiting.front().copied() else { return false };
        if !self.actors.get(&id).is_some_and(|actor| matches!(actor.phase, Phase::Pending)) {
            queue.waiting.pop_front();
            return true;
        }
        let free: Vec<(NodeId, Resources)> = self
            .nodes
            .values()
            .filter(|node| node.info.alive)
            .map(|node| {
                let mut free = node.info.available.clone();
                free.subtract(&node.promised);
                (node.info.node, free)
            })
            .collect();
        let candidates: Vec<Candidate<'_>> = free
            .iter()
            .filter_map(|(node, available)| {
                let total = &self.nodes.get(node)?.info.total;
                Some(Candidate { node: *node, total, available, local: false, full: queue.full.contains(node) })
            })
            .collect();
        match choose(&candidates, &key.need, &key.strategy, &mut self.last_spread) {
            Choice::Now(node) => {
                queue.waiting.pop_front();
                self.ask_for_lease(id, node, false);
                true
            }
            Choice::Later(node) if queue.in_line < MAX_IN_LINE && !queue.full.contains(&node) => {
                queue.waiting.pop_front();
                queue.in_line += 1;
                self.ask_for_lease(id, node, true);
                true
            }
            Choice::Later(_) => {
                queue.reason = format!("no node has {} free now", key.need);
                queue.infeasible = false;
                false
            }
            Choice::Never(why) => {
                queue.reason = why;
                queue.infeasible = true;
                false
            }
        }
    }

    fn ask_for_lease(&mut self, id: ActorId, node: NodeId, in_line: bool) {
        let (Some(actor), Some(target)) = (self.actors.get_mut(&id), self.nodes.get_mut(&node)) else { return };
        actor.phase = Phase::Leasing { node, in_line };
        target.promised.add(&actor.spec.demand);
        let request = LeaseActor {
            actor: id,
            incarnation: actor.incarnation,
            shape: Shape {
                job: actor.spec.job,
                demand: actor.spec.demand.clone(),
                strategy: actor.spec.strategy.clone(),
                kind: actor.spec.kind,
                near: None,
            },
            placement_demand: actor.spec.placement_demand.clone(),
        };
        let raylet = raylet(&target.info);
        self.emit(Effect::LeaseActor { raylet, node, request });
    }

    /// Undoes the bookkeeping of [`Gcs::ask_for_lease`]; the caller sets the next phase.
    fn leave_leasing(&mut self, id: ActorId) {
        let Some(actor) = self.actors.get(&id) else { return };
        let Phase::Leasing { node, in_line } = actor.phase else { return };
        if let Some(node) = self.nodes.get_mut(&node).filter(|node| node.info.alive) {
            node.promised.subtract(&actor.spec.demand);
        }
        if in_line && let Some(queue) = self.queues.get_mut(&actor.place_key()) {
            queue.in_line = queue.in_line.saturating_sub(1);
        }
    }

    /// Back to the front of its queue; `full` said no.
    fn requeue(&mut self, id: ActorId, full: Option<NodeId>) {
        let Some(mut actor) = self.actors.remove(&id) else { return };
        actor.phase = Phase::Pending;
        self.enqueue(&actor, true);
        if let (Some(full), Some(queue)) = (full, self.queues.get_mut(&actor.place_key())) {
            queue.full.insert(full);
        }
        self.actors.insert(id, actor);
    }

    fn enqueue(&mut self, actor: &ActorEntry, first: bool) {
        let queue = self.queues.entry(actor.place_key()).or_default();
        if first {
            queue.waiting.push_front(actor.spec.actor);
        } else {
            queue.waiting.push_back(actor.spec.actor);
        }
    }

    fn worker_failed(&mut self, id: ActorId, why: String, now: Duration) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        actor.worker_failures += 1;
        if actor.worker_failures >= MAX_WORKER_FAILURES {
            return self.die(id, Error::ActorDied { actor: id, why: format!("its worker did not start: {why}") });
        }
        let until = now + RETRY_AFTER * actor.worker_failures;
        actor.phase = Phase::Delayed { until, reason: format!("its worker did not start: {why}") };
        self.delayed.insert((until, id));
    }
}

/// What becomes of an incarnation.
impl Gcs {
    fn start_actor(&mut self, id: ActorId, spot: Spot) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        if let Some(node) = self.nodes.get_mut(&spot.node).filter(|node| node.info.alive) {
            node.info.available.subtract(&actor.spec.demand);
        }
        self.leases.insert(spot.lease, (id, actor.incarnation));
        let effect = Effect::StartActor {
            worker: spot.worker,
            spec: Box::new(actor.spec.clone()),
            incarnation: actor.incarnation,
            lease: spot.lease,
            payload: actor.payload.clone(),
        };
        actor.phase = Phase::Starting(spot);
        self.emit(effect);
    }

    fn actor_alive(&mut self, id: ActorId, spot: Spot) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        let location = ActorLocation::Alive { worker: spot.worker, incarnation: actor.incarnation };
        actor.worker_failures = 0;
        actor.phase = Phase::Alive(spot);
        let (waiters, state) = (std::mem::take(&mut actor.waiters), actor.state());
        self.emit(Effect::Write(Write::ActorState(id, state)));
        self.announce(id, location, waiters);
    }

    fn announce(&mut self, actor: ActorId, location: ActorLocation, waiters: Vec<(ProcessId, Asker)>) {
        for (_, asker) in waiters {
            self.emit(Effect::Answer(asker, Reply::Located(location.clone())));
        }
        self.emit(Effect::Publish(ClusterEvent::ActorChanged { actor, location }));
    }

    /// The present incarnation is lost; the restart policy says whether another one comes.
    fn fail_incarnation(&mut self, id: ActorId, why: &str, charged: bool) {
        let Some(actor) = self.actors.get_mut(&id).filter(|actor| !actor.is_dead()) else { return };
        let allowed = !charged
            || actor.spec.max_restarts < 0
            || u64::from(actor.restarts) < actor.spec.max_restarts.unsigned_abs().into();
        if !allowed {
            let tried = if actor.restarts == 0 { String::new() } else { format!(" (after {} restarts)", actor.restarts) };
            return self.die(id, Error::ActorDied { actor: id, why: format!("{why}{tried}") });
        }
        actor.restarts += u32::from(charged);
        actor.incarnation += 1;
        actor.phase = Phase::Pending;
        let (actor, state) = (actor.clone(), actor.state());
        self.enqueue(&actor, false);
        self.emit(Effect::Write(Write::ActorState(id, state)));
    }

    /// Ends an actor for good, whatever it is doing.
    pub(super) fn end_actor(&mut self, id: ActorId, why: &str, _now: Duration) {
        let Some(actor) = self.actors.get(&id).filter(|actor| !actor.is_dead()) else { return };
        let incarnation = actor.incarnation;
        match &actor.phase {
            Phase::Leasing { node, .. } => {
                let node = *node;
                self.leave_leasing(id);
                if let Some(info) = self.nodes.get(&node).map(|node| &node.info) {
                    let raylet = raylet(info);
                    self.emit(Effect::CancelActorLease { raylet, actor: id, incarnation });
                }
            }
            Phase::Starting(spot) | Phase::Alive(spot) => {
                let spot = spot.clone();
                self.stop_incarnation(id, spot, why);
            }
            Phase::Pending | Phase::Delayed { .. } | Phase::Unattached { .. } | Phase::Dead(_) => {}
        }
        self.die(id, Error::ActorDied { actor: id, why: why.to_owned() });
    }

    /// Tells the worker. A process of its own is killed with its lease; in a shared worker the
    /// lease stays charged until the code has returned.
    fn stop_incarnation(&mut self, id: ActorId, spot: Spot, why: &str) {
        let Some(actor) = self.actors.get(&id) else { return };
        let (kind, incarnation) = (actor.spec.kind, actor.incarnation);
        self.stop_actor(spot.worker, id, incarnation, why);
        match kind {
            WorkerKind::Process => self.release(&spot),
            WorkerKind::Shared => {
                self.lingering.insert((id, incarnation), spot);
            }
        }
    }

    fn stop_actor(&mut self, worker: ProcessAddr, actor: ActorId, incarnation: u32, why: &str) {
        self.emit(Effect::StopActor { worker, actor, incarnation, why: why.to_owned() });
    }

    fn linger_over(&mut self, id: ActorId, incarnation: u32) {
        if let Some(spot) = self.lingering.remove(&(id, incarnation)) {
            self.release(&spot);
        }
    }

    fn release(&mut self, spot: &Spot) {
        self.leases.remove(&spot.lease);
        self.return_lease(spot.node, spot.lease);
    }

    fn return_lease(&mut self, node: NodeId, lease: LeaseId) {
        if let Some(info) = self.nodes.get(&node).map(|node| &node.info).filter(|info| info.alive) {
            let raylet = raylet(info);
            self.emit(Effect::ReturnLease { raylet, lease });
        }
    }

    fn die(&mut self, id: ActorId, error: Error) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        if let Phase::Delayed { until, .. } | Phase::Unattached { until } = actor.phase {
            self.delayed.remove(&(until, id));
        }
        actor.phase = Phase::Dead(error.clone());
        actor.payload = Payload::new();
        actor.spec.args.clear();
        let (waiters, state) = (std::mem::take(&mut actor.waiters), actor.state());
        if let Some(name) = actor.spec.name.clone() {
            let key = (actor.spec.namespace.clone(), name);
            if self.names.get(&key) == Some(&id) {
                self.names.remove(&key);
            }
        }
        self.emit(Effect::Write(Write::ActorState(id, state)));
        self.announce(id, ActorLocation::Dead(Box::new(error)), waiters);
        self.dead_actors.push_back(id);
        if self.dead_actors.len() > DEAD_ACTORS_KEPT
            && let Some(oldest) = self.dead_actors.pop_front()
        {
            self.actors.remove(&oldest);
            self.emit(Effect::Write(Write::ForgetActor(oldest)));
        }
    }
}

/// Time, restarts of the head, and processes that no longer wait.
impl Gcs {
    pub(super) fn expire_actors(&mut self, now: Duration) {
        while let Some((until, id)) = self.delayed.first().copied().filter(|(until, _)| *until <= now) {
            self.delayed.remove(&(until, id));
            match self.actors.get(&id).map(|actor| &actor.phase) {
                Some(Phase::Delayed { .. }) => self.requeue(id, None),
                Some(Phase::Unattached { .. }) => {
                    self.fail_incarnation(id, "its node did not come back after the head's restart", true);
                }
                _ => {}
            }
        }
        let expired: Vec<ActorId> =
            self.unknown.iter().filter(|(_, (until, _))| *until <= now).map(|(id, _)| *id).collect();
        for id in expired {
            for (_, asker) in self.unknown.remove(&id).map(|(_, waiters)| waiters).unwrap_or_default() {
                self.emit(Effect::Answer(asker, Reply::Located(never_created(id))));
            }
        }
    }

    pub(super) fn restore_actor(&mut self, spec: ActorSpec, payload: Vec<ByteBuf>, state: ActorState, now: Duration) {
        let id = spec.actor;
        let mut entry = ActorEntry {
            spec,
            payload: payload.into_iter().map(|part| Bytes::from(part.into_vec())).collect(),
            phase: Phase::Pending,
            incarnation: state.incarnation,
            restarts: state.restarts,
            worker_failures: 0,
            waiters: Vec::new(),
        };
        if let Some(error) = state.dead {
            entry.phase = Phase::Dead(error);
            self.dead_actors.push_back(id);
        } else {
            if let Some(name) = &entry.spec.name {
                self.names.insert((entry.spec.namespace.clone(), name.clone()), id);
            }
            if state.started == Some(state.incarnation) {
                let until = now + self.config.reattach_within;
                entry.phase = Phase::Unattached { until };
                self.delayed.insert((until, id));
            } else {
                // Its constructor may be running somewhere; that one is told to stop when reported.
                entry.incarnation += 1;
                self.enqueue(&entry, false);
                self.emit(Effect::Write(Write::ActorState(id, entry.state())));
            }
        }
        self.actors.insert(id, entry);
    }

    /// A node reports the actors it runs.
    pub(super) fn reattach(&mut self, node: NodeId, hosted: Vec<HostedActor>, now: Duration) {
        let reported: BTreeSet<LeaseId> = hosted.iter().map(|hosted| hosted.lease).collect();
        self.worker_lost(
            |spot| spot.node == node && !reported.contains(&spot.lease),
            "its worker was gone when its node reported again",
            now,
        );
        for hosted in hosted {
            let HostedActor { actor: id, incarnation, lease, worker } = hosted;
            let spot = Spot { node, lease, worker };
            match self.actors.get(&id).filter(|actor| actor.incarnation == incarnation).map(|actor| &actor.phase) {
                Some(Phase::Unattached { until }) => {
                    self.delayed.remove(&(*until, id));
                    self.leases.insert(lease, (id, incarnation));
                    self.actor_alive(id, spot);
                }
                Some(Phase::Leasing { .. } | Phase::Starting(_) | Phase::Alive(_)) => {}
                _ if self.lingering.contains_key(&(id, incarnation)) => {}
                _ => {
                    self.stop_actor(worker, id, incarnation, "it was replaced");
                    self.return_lease(node, lease);
                }
            }
        }
    }

    pub(super) fn forget_waiters(&mut self, process: ProcessId) {
        let of_actors = self.actors.values_mut().map(|actor| &mut actor.waiters);
        let of_unknown = self.unknown.values_mut().map(|(_, waiters)| waiters);
        let mut forgotten = Vec::new();
        for waiters in of_actors.chain(of_unknown).filter(|waiters| !waiters.is_empty()) {
            forgotten.extend(waiters.extract_if(.., |(waiting, _)| *waiting == process).map(|(_, asker)| asker));
        }
        self.effects.extend(forgotten.into_iter().map(Effect::Forget));
    }
}

fn never_created(actor: ActorId) -> ActorLocation {
    let why = "nobody has created it, or it ended long ago".to_owned();
    ActorLocation::Dead(Box::new(Error::ActorDied { actor, why }))
}
