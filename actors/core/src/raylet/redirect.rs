//! Which other node a need is better met by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, MailboxId};

use super::line::Ticket;
use super::scheduler::{Effect, Scheduler};
use crate::gcs::placement::{Candidate, Choice, choose, takes_work};
use crate::ids::NodeId;
use crate::messages::{ClusterView, LeaseRedirected, NodeInfo, Shape, Strategy};
use crate::resources::Resources;

/// A need that was sent on so often stays where it is, if it can run there.
const MAX_HOPS: u8 = 3;

/// At most so many leases of one need are given a node at once; the rest waits its turn.
const MAX_LOOKS: u32 = 4_096;

/// The other nodes, as the GCS last described them, less what was sent there since.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    nodes: BTreeMap<NodeId, NodeInfo>,
    version: u64,
    last_spread: Option<NodeId>,
}

impl Scheduler {
    /// The GCS's view of the cluster.
    pub fn set_view(&mut self, view: ClusterView, now: Duration) {
        self.remotes.version = view.version;
        self.remotes.nodes = view
            .nodes
            .into_iter()
            .filter(|info| info.alive && info.node != self.config.node)
            .map(|info| (info.node, info))
            .collect();
        self.place_all(now);
    }

    /// The version of the view that it has.
    pub fn view_version(&self) -> u64 {
        self.remotes.version
    }

    /// A node joined.
    pub fn node_joined(&mut self, info: NodeInfo, now: Duration) {
        if info.node != self.config.node {
            self.remotes.nodes.insert(info.node, info);
            self.place_all(now);
        }
    }

    /// A node died.
    pub fn node_died(&mut self, node: NodeId, now: Duration) {
        if self.remotes.nodes.remove(&node).is_some() {
            self.place_all(now);
        }
    }

    /// What is free on other nodes has changed.
    pub fn resources_changed(&mut self, changes: Vec<(NodeId, Resources)>, now: Duration) {
        for (node, available) in changes {
            if let Some(info) = self.remotes.nodes.get_mut(&node) {
                info.available = available;
            }
        }
        self.place_all(now);
    }

    /// The other nodes that live.
    pub fn remote_nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.remotes.nodes.values()
    }

    /// Looks again at all that waits.
    pub(super) fn place_all(&mut self, now: Duration) {
        let waiting: Vec<(Address, Arc<Shape>)> = self
            .line
            .iter()
            .filter_map(|ticket| match ticket {
                Ticket::Client(client, shape) => Some((*client, shape.clone())),
                Ticket::Actor(..) => None,
            })
            .collect();
        for key in waiting {
            self.place(&key, now);
        }
        self.serve(now);
        self.tell_pending(now, true);
    }

    /// Sends on what is better met elsewhere; the rest waits here.
    pub(super) fn place(&mut self, key: &(Address, Arc<Shape>), now: Duration) {
        let (client, shape) = (key.0, &key.1);
        let Some(want) = self.wants.get(key) else { return };
        let (mut need, hops) = (want.need(), want.hops);
        let feasible_here = self.may_run_here(shape);
        // Spreading counts more than what lies here.
        let at_its_data = shape.near == Some(self.config.process) && shape.strategy == Strategy::Default;
        let stays = feasible_here && (hops >= MAX_HOPS || at_its_data);
        if stays || (feasible_here && self.remotes.nodes.is_empty()) {
            return;
        }
        let mut here = self.available.clone();
        // Another raylet has sent it here because there is room: it is not sent on while there is.
        let sent_here = hops > 0 && feasible_here && !self.crowded(key);
        let mut sent: BTreeMap<NodeId, u64> = BTreeMap::new();
        // Whoever waits already comes first.
        let full = self.crowded(key);
        let mut looks = 0;
        while need > 0 && looks < MAX_LOOKS {
            looks += 1;
            if sent_here && here.covers(&shape.demand) {
                here.subtract(&shape.demand);
                need -= 1;
                continue;
            }
            let mut candidates: Vec<Candidate<'_>> = self
                .remotes
                .nodes
                .values()
                .map(|info| Candidate {
                    node: info.node,
                    total: &info.total,
                    available: &info.available,
                    local: false,
                    full: false,
                })
                .collect();
            if !self.draining {
                candidates.push(Candidate {
                    node: self.config.node,
                    total: &self.config.total,
                    available: &here,
                    local: true,
                    full,
                });
            }
            let choice = choose(&candidates, &shape.demand, &shape.strategy, &mut self.remotes.last_spread);
            match choice {
                Choice::Now(node) if node == self.config.node => here.subtract(&shape.demand),
                // To wait here rather than in a line elsewhere, when it can run here at all.
                Choice::Later(_) if feasible_here => break,
                Choice::Later(node) if node == self.config.node => break,
                Choice::Now(node) => {
                    if let Some(info) = self.remotes.nodes.get_mut(&node) {
                        info.available.subtract(&shape.demand);
                    }
                    *sent.entry(node).or_default() += 1;
                }
                Choice::Later(node) => {
                    *sent.entry(node).or_default() += need;
                    break;
                }
                Choice::Never(_) => break,
            }
            need -= 1;
        }
        for (node, count) in sent {
            let Some(info) = self.remotes.nodes.get(&node) else { continue };
            let to = Address { process: info.process, mailbox: MailboxId::RAYLET };
            let redirected = LeaseRedirected { shape: Shape::clone(shape), count, to, hops: hops.saturating_add(1) };
            self.effects.push(Effect::Redirect(client, redirected));
            if let Some(want) = self.wants.get_mut(key) {
                want.done += count;
                want.since = now;
                want.told = None;
            }
        }
        if self.infeasible(shape).is_some() {
            self.tell_pending(now, true);
        }
    }

    /// Whether another waits here for a resource that this need would take.
    fn crowded(&self, key: &(Address, Arc<Shape>)) -> bool {
        let takes = |need: &Resources| need.iter().any(|(name, _)| key.1.demand.fractions(name) > 0);
        self.line.iter().any(|ticket| match ticket {
            Ticket::Client(client, shape) => (*client, shape) != (key.0, &key.1) && takes(&shape.demand),
            Ticket::Actor(actor, incarnation) => {
                self.actor_wants.get(&(*actor, *incarnation)).is_some_and(|want| takes(&want.need))
            }
        })
    }

    /// Whether the shape's strategy allows this node.
    fn affinity_is_here(&self, shape: &Shape) -> bool {
        match shape.strategy {
            Strategy::NodeAffinity { node, soft } => {
                node == self.config.node || (soft && !self.remotes.nodes.contains_key(&node))
            }
            _ => true,
        }
    }

    /// Whether this node could run it, with all it has.
    pub(super) fn may_run_here(&self, shape: &Shape) -> bool {
        !self.draining
            && takes_work(&self.config.total)
            && self.config.total.covers(&shape.demand)
            && self.affinity_is_here(shape)
    }

    /// Why no node of the cluster can ever run it, if none can.
    pub(super) fn infeasible(&self, shape: &Shape) -> Option<String> {
        if self.may_run_here(shape) {
            return None;
        }
        let mut candidates: Vec<Candidate<'_>> = self
            .remotes
            .nodes
            .values()
            .map(|info| Candidate {
                node: info.node,
                total: &info.total,
                available: &info.total,
                local: false,
                full: false,
            })
            .collect();
        let total = &self.config.total;
        if !self.draining {
            candidates.push(Candidate { node: self.config.node, total, available: total, local: true, full: false });
        }
        match choose(&candidates, &shape.demand, &shape.strategy, &mut None) {
            Choice::Never(why) => Some(why),
            Choice::Now(_) | Choice::Later(_) => None,
        }
    }
}
