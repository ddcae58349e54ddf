//! Workers for actors: the GCS asks for one, and is given it, or told that there is no room.

use std::sync::Arc;
use std::time::Duration;

use mobula_transport::Address;

use super::line::Ticket;
use super::scheduler::{Asker, Effect, Scheduler};
use crate::ids::ActorId;
use crate::messages::{ActorLease, LeaseActor, LeaseActorError, Shape};
use crate::resources::Resources;

/// How long an actor stands in line before the GCS is told that there is no room.
const ACTOR_WAITS: Duration = Duration::from_secs(1);

/// An actor that waits for room or a worker.
#[derive(Clone, Debug)]
pub(super) struct ActorWant {
    pub(super) client: Address,
    pub(super) shape: Arc<Shape>,
    /// What must be free to place it.
    pub(super) need: Resources,
    pub(super) asker: Asker,
    pub(super) since: Duration,
    pub(super) passed_over: u32,
    /// It has room, its process is starting.
    pub(super) starting: bool,
}

impl ActorWant {
    pub(super) fn new(client: Address, request: LeaseActor, asker: Asker, now: Duration) -> Self {
        let mut need = request.shape.demand.clone();
        for (name, fractions) in request.placement_demand.iter() {
            need.set(name, fractions.max(need.fractions(name)));
        }
        let shape = Arc::new(request.shape);
        Self { client, shape, need, asker, since: now, passed_over: 0, starting: false }
    }
}

impl Scheduler {
    /// The GCS wants a worker for an actor.
    pub fn lease_actor(&mut self, client: Address, request: LeaseActor, now: Duration, asker: Asker) {
        let key = (request.actor, request.incarnation);
        if let Some(known) = self.actor_wants.get_mut(&key) {
            // The GCS lost our answer's way back and asks again.
            let before = std::mem::replace(&mut known.asker, asker);
            return self.effects.push(Effect::ForgetAsker(before));
        }
        if let Some(seq) = self.actor_leases.get(&key).copied() {
            if let Some(worker) = self.leases.get(&seq).and_then(|lease| lease.worker) {
                let lease = ActorLease { lease: self.lease_id(seq), worker };
                self.effects.push(Effect::ActorLeased(asker, Ok(lease)));
            }
            return;
        }
        let want = ActorWant::new(client, request, asker, now);
        if self.draining || !self.config.total.covers(&want.need) {
            return self.refuse(&want);
        }
        self.actor_wants.insert(key, want);
        self.serve_newcomer(Ticket::Actor(key.0, key.1), now);
    }

    /// The GCS wants it no more.
    pub fn cancel_actor(&mut self, actor: ActorId, incarnation: u32, now: Duration) {
        let key = (actor, incarnation);
        if let Some(want) = self.actor_wants.remove(&key) {
            self.effects.push(Effect::ForgetAsker(want.asker));
        }
        if let Some(seq) = self.actor_leases.get(&key).copied() {
            self.release(seq, "the actor was ended");
        }
        self.serve(now);
    }

    /// The node reports itself to a head that may be a new one. Workers that an earlier head has
    /// asked for and was not given are in no report: they are not wanted any more, or nobody would
    /// ever give them back. A head that lives is refused, and asks again.
    pub fn forget_actor_wants(&mut self, now: Duration) {
        for want in std::mem::take(&mut self.actor_wants).into_values() {
            self.refuse(&want);
        }
        let starting: Vec<u64> =
            self.actor_leases.values().copied().filter(|seq| self.leases[seq].worker.is_none()).collect();
        for seq in starting {
            self.release(seq, "the head that asked for it has restarted");
        }
        self.serve(now);
    }

    /// Actors that found no room in time go back to the GCS, which may know a better node.
    pub(super) fn expire_actor_wants(&mut self, now: Duration) {
        let expired: Vec<(ActorId, u32)> = self
            .actor_wants
            .iter()
            .filter(|(_, want)| !want.starting && now.saturating_sub(want.since) >= ACTOR_WAITS)
            .filter(|(_, want)| {
                self.draining || !self.available.covers(&want.need) || !self.has_gpus_for(&want.shape.demand)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in expired {
            if let Some(want) = self.actor_wants.remove(&key) {
                self.refuse(&want);
            }
        }
    }

    /// There is no room for it here.
    pub(super) fn refuse(&mut self, want: &ActorWant) {
        let free = self.available.clone();
        let error = LeaseActorError::NoRoom { node: self.config.name.clone(), free, demand: want.need.clone() };
        self.effects.push(Effect::ActorLeased(want.asker, Err(error)));
    }
}
