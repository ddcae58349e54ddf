//! Placing actors: which raylet is asked for a worker, and what waits for room.

use std::collections::BTreeMap;
use std::time::Duration;

use super::actors::{ActorEntry, Phase, PlaceKey};
use super::nodes::raylet;
use super::placement::{Candidate, Choice, choose};
use super::state::{Effect, Gcs, Node};
use crate::error::Error;
use crate::ids::{ActorId, NodeId};
use crate::messages::{EndReason, LeaseActor, Shape};
use crate::resources::Resources;

/// How often a worker process may fail to start for an actor before the actor is given up.
const MAX_WORKER_FAILURES: u32 = 3;
/// The wait before a failed start is tried again, times the number of failures.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// When no node has room, so many actors of a kind stand in line at the raylets, so that they get
/// their turn among the tasks there.
const MAX_IN_LINE: u32 = 4;

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
    pub(super) fn place_one(&mut self, key: &PlaceKey) -> bool {
        let bound_to_the_dead = key.strategy.bound_to().is_some_and(|node| self.is_dead(node));
        let Some(queue) = self.queues.get_mut(key) else { return false };
        let Some(id) = queue.waiting.front().copied() else { return false };
        if !self.actors.get(&id).is_some_and(|actor| matches!(actor.phase, Phase::Pending)) {
            queue.waiting.pop_front();
            return true;
        }
        let less_promised = |node: &Node| {
            let mut free = node.info.available.clone();
            free.subtract(&node.promised);
            (node.info.node, free)
        };
        // Few nodes are asked at any time, of how many there may be.
        let asked: BTreeMap<NodeId, Resources> =
            self.nodes.values().filter(|node| !node.promised.is_empty()).map(less_promised).collect();
        let candidates: Vec<Candidate<'_>> = self
            .nodes
            .values()
            .map(|node| &node.info)
            .filter(|info| info.alive)
            .map(|info| Candidate {
                node: info.node,
                total: &info.total,
                available: asked.get(&info.node).unwrap_or(&info.available),
                labels: &info.labels,
                local: false,
                full: queue.full.contains(&info.node),
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
            Choice::Never(why) if bound_to_the_dead => {
                self.die(id, Error::ActorDied { actor: id, why }, EndReason::NodeDied);
                true
            }
            Choice::Never(why) => {
                queue.reason = why;
                queue.infeasible = true;
                false
            }
        }
    }

    fn is_dead(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| !node.info.alive)
    }

    pub(super) fn ask_for_lease(&mut self, id: ActorId, node: NodeId, in_line: bool) {
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
                retriable: actor.spec.max_restarts != 0,
                near: None,
            },
            placement_demand: actor.spec.placement_demand.clone(),
        };
        let raylet = raylet(&target.info);
        self.emit(Effect::LeaseActor { raylet, node, request });
    }

    /// Undoes the bookkeeping of [`Gcs::ask_for_lease`]; the caller sets the next phase.
    pub(super) fn leave_leasing(&mut self, id: ActorId) {
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
    pub(super) fn requeue(&mut self, id: ActorId, full: Option<NodeId>) {
        let Some(mut actor) = self.actors.remove(&id) else { return };
        actor.phase = Phase::Pending;
        self.enqueue(&actor, true);
        if let (Some(full), Some(queue)) = (full, self.queues.get_mut(&actor.place_key())) {
            queue.full.insert(full);
        }
        self.actors.insert(id, actor);
    }

    pub(super) fn enqueue(&mut self, actor: &ActorEntry, first: bool) {
        let queue = self.queues.entry(actor.place_key()).or_default();
        if first {
            queue.waiting.push_front(actor.spec.actor);
        } else {
            queue.waiting.push_back(actor.spec.actor);
        }
    }

    pub(super) fn worker_failed(&mut self, id: ActorId, why: String, now: Duration) {
        let Some(actor) = self.actors.get_mut(&id) else { return };
        actor.worker_failures += 1;
        if actor.worker_failures >= MAX_WORKER_FAILURES {
            let why = format!("its worker did not start: {why}");
            return self.die(id, Error::ActorDied { actor: id, why }, EndReason::Crashed);
        }
        let until = now + RETRY_AFTER * actor.worker_failures;
        actor.phase = Phase::Delayed { until, reason: format!("its worker did not start: {why}") };
        self.delayed.insert((until, id));
    }
}
