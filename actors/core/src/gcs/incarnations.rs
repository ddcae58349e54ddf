//! What becomes of an actor's incarnations: their life and death, the head's restart, time.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use mobula_transport::{Payload, ProcessAddr, ProcessId};
use serde_bytes::ByteBuf;

use super::actors::{ActorEntry, Phase, Spot, never_created};
use super::nodes::raylet;
use super::state::{ActorState, Asker, Effect, Gcs, Reply, Write};
use crate::error::Error;
use crate::ids::{ActorId, LeaseId, NodeId};
use crate::messages::{ActorLocation, ActorSpec, EndReason, HostedActor, WorkerKind};

/// Dead actors that are remembered, with how they ended.
const DEAD_ACTORS_KEPT: usize = 10_000;

/// Life and death.
impl Gcs {
    pub(super) fn start_actor(&mut self, id: ActorId, spot: Spot) {
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

    pub(super) fn actor_alive(&mut self, id: ActorId, spot: Spot) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        let location = ActorLocation::Alive { worker: spot.worker, incarnation: actor.incarnation };
        actor.worker_failures = 0;
        actor.phase = Phase::Alive(spot);
        let (waiters, state) = (std::mem::take(&mut actor.waiters), actor.state());
        self.emit(Effect::Write(Write::ActorState(id, state)));
        self.tell_waiters(&location, waiters);
    }

    pub(super) fn tell_waiters(&mut self, location: &ActorLocation, waiters: Vec<(ProcessId, Asker)>) {
        for (_, asker) in waiters {
            self.emit(Effect::Answer(asker, Reply::Located(location.clone())));
        }
    }

    /// The present incarnation is lost; the restart policy says whether another one comes.
    pub(super) fn fail_incarnation(&mut self, id: ActorId, why: &str, reason: EndReason) {
        let Some(actor) = self.actors.get_mut(&id).filter(|actor| !actor.is_dead()) else { return };
        let allowed =
            actor.spec.max_restarts < 0 || u64::from(actor.restarts) < actor.spec.max_restarts.unsigned_abs().into();
        if !allowed {
            let tried =
                if actor.restarts == 0 { String::new() } else { format!(" (after {} restarts)", actor.restarts) };
            let reason = if actor.restarts == 0 { reason } else { EndReason::OutOfRestarts };
            return self.die(id, Error::ActorDied { actor: id, why: format!("{why}{tried}") }, reason);
        }
        if let Phase::Delayed { until, .. } = actor.phase {
            self.delayed.remove(&(until, id));
        }
        actor.restarts += 1;
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
            Phase::Pending | Phase::Delayed { .. } | Phase::Unattached | Phase::Dead(_) => {}
        }
        self.die(id, Error::ActorDied { actor: id, why: why.to_owned() }, EndReason::Killed);
    }

    /// Tells the worker. A process of its own is killed with its lease; in a shared worker the
    /// lease stays charged until the code has returned.
    pub(super) fn stop_incarnation(&mut self, id: ActorId, spot: Spot, why: &str) {
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

    pub(super) fn stop_actor(&mut self, worker: ProcessAddr, actor: ActorId, incarnation: u32, why: &str) {
        self.emit(Effect::StopActor { worker, actor, incarnation, why: why.to_owned() });
    }

    pub(super) fn linger_over(&mut self, id: ActorId, incarnation: u32) {
        if let Some(spot) = self.lingering.remove(&(id, incarnation)) {
            self.release(&spot);
        }
    }

    pub(super) fn release(&mut self, spot: &Spot) {
        self.leases.remove(&spot.lease);
        self.return_lease(spot.node, spot.lease);
    }

    pub(super) fn return_lease(&mut self, node: NodeId, lease: LeaseId) {
        if let Some(info) = self.nodes.get(&node).map(|node| &node.info).filter(|info| info.alive) {
            let raylet = raylet(info);
            self.emit(Effect::ReturnLease { raylet, lease });
        }
    }

    pub(super) fn die(&mut self, id: ActorId, error: Error, reason: EndReason) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        if let Phase::Delayed { until, .. } = actor.phase {
            self.delayed.remove(&(until, id));
        }
        actor.phase = Phase::Dead(error.clone());
        actor.end = reason;
        let (ended, watchers) = (actor.ended(), std::mem::take(&mut actor.watchers));
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
        self.tell_waiters(&ActorLocation::Dead(Box::new(error)), waiters);
        for (_, asker) in watchers {
            self.emit(Effect::Answer(asker, Reply::Ended(ended.clone())));
        }
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
            if self.actors.get(&id).is_some_and(|actor| matches!(actor.phase, Phase::Delayed { .. })) {
                self.requeue(id, None);
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

    /// The time after a restart of the head in which nodes could report their actors is over.
    pub(super) fn lose_unattached(&mut self) {
        let lost: Vec<ActorId> = self
            .actors
            .values()
            .filter(|actor| matches!(actor.phase, Phase::Unattached))
            .map(|actor| actor.spec.actor)
            .collect();
        for id in lost {
            self.fail_incarnation(id, "its node did not come back after the head's restart", EndReason::NodeDied);
        }
    }

    pub(super) fn restore_actor(&mut self, spec: ActorSpec, payload: Vec<ByteBuf>, state: ActorState) {
        let id = spec.actor;
        let mut entry = ActorEntry {
            spec,
            payload: payload.into_iter().map(|part| Bytes::from(part.into_vec())).collect(),
            phase: Phase::Pending,
            incarnation: state.incarnation,
            restarts: state.restarts,
            worker_failures: 0,
            waiters: Vec::new(),
            watchers: Vec::new(),
            end: state.end,
        };
        if let Some(error) = state.dead {
            entry.phase = Phase::Dead(error);
            self.dead_actors.push_back(id);
        } else {
            if let Some(name) = &entry.spec.name {
                self.names.insert((entry.spec.namespace.clone(), name.clone()), id);
            }
            if state.started == Some(state.incarnation) {
                entry.phase = Phase::Unattached;
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
    pub(super) fn reattach(&mut self, node: NodeId, hosted: Vec<HostedActor>) {
        let reported: BTreeSet<LeaseId> = hosted.iter().map(|hosted| hosted.lease).collect();
        self.worker_lost(
            |spot| spot.node == node && !reported.contains(&spot.lease),
            "its worker was gone when its node reported again",
            EndReason::Crashed,
        );
        for hosted in hosted {
            let HostedActor { actor: id, incarnation, lease, worker } = hosted;
            let spot = Spot { node, lease, worker };
            match self.actors.get(&id).filter(|actor| actor.incarnation == incarnation).map(|actor| &actor.phase) {
                Some(Phase::Unattached) => {
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
        let of_actors = self.actors.values_mut().flat_map(|actor| [&mut actor.waiters, &mut actor.watchers]);
        let of_unknown = self.unknown.values_mut().map(|(_, waiters)| waiters);
        let mut forgotten = Vec::new();
        for waiters in of_actors.chain(of_unknown).filter(|waiters| !waiters.is_empty()) {
            forgotten.extend(waiters.extract_if(.., |(waiting, _)| *waiting == process).map(|(_, asker)| asker));
        }
        self.effects.extend(forgotten.into_iter().map(Effect::Forget));
        self.forget_group_waiters(process);
    }
}
