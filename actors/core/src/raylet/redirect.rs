//! Which other node a need is better met by.
//!
//! What is free elsewhere is known late: a report takes its time, and so does what is sent there.
//! Two rules make up for it. What was sent to a node counts as taken there for [`SENT_COUNTS`],
//! whatever the node reports. And a need that got nothing for [`RESTS_FOR`] looks around again,
//! however often it was sent on before; so every need finds what is free in the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::{Address, MailboxId};

use super::line::{Ticket, Want};
use super::scheduler::{Effect, Scheduler};
use crate::gcs::nodes::DEAD_NODES_KEPT;
use crate::gcs::placement::{Candidate, Choice, choose, takes_work};
use crate::ids::NodeId;
use crate::messages::{ClusterView, LeaseRedirected, NodeInfo, Shape, Strategy};
use crate::recent::Recent;
use crate::resources::Resources;

/// A need that was sent on so often rests where it is, if it can run there.
const MAX_HOPS: u8 = 3;

/// A resting need looks around again when it has got nothing for so long.
pub(super) const RESTS_FOR: Duration = Duration::from_millis(300);

/// The same for a need that is where its data lies.
const STAYS_AT_DATA_FOR: Duration = Duration::from_secs(2);

/// For so long what was sent to a node counts as taken there: the client's way to it and a report's
/// way back. After that the node's own report says more.
const SENT_COUNTS: Duration = Duration::from_millis(300);

/// At most so many leases of one need are given a node at once; the rest waits its turn.
const MAX_LOOKS: u32 = 4_096;

/// The other nodes, as the GCS last described them.
#[derive(Debug)]
pub(super) struct Remotes {
    nodes: BTreeMap<NodeId, Remote>,
    last_spread: Option<NodeId>,
    /// Nodes that are dead for certain; one that is not known may be on its way.
    dead: Recent<NodeId>,
}

impl Default for Remotes {
    fn default() -> Self {
        Self { nodes: BTreeMap::new(), last_spread: None, dead: Recent::new(DEAD_NODES_KEPT) }
    }
}

/// Another node.
#[derive(Debug)]
struct Remote {
    info: NodeInfo,
    /// What was sent there lately, and when.
    sent: VecDeque<(Duration, Resources)>,
}

impl Remote {
    fn new(info: NodeInfo) -> Self {
        Self { info, sent: VecDeque::new() }
    }

    /// What it has free, less what was sent there lately.
    fn free(&self, now: Duration) -> Resources {
        let mut free = self.info.available.clone();
        for (at, taken) in &self.sent {
            if now.saturating_sub(*at) < SENT_COUNTS {
                free.subtract(taken);
            }
        }
        free
    }

    fn note_sent(&mut self, taken: Resources, now: Duration) {
        while self.sent.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= SENT_COUNTS) {
            self.sent.pop_front();
        }
        self.sent.push_back((now, taken));
    }
}

impl Scheduler {
    /// The GCS's view of the cluster.
    pub fn set_view(&mut self, view: ClusterView, now: Duration) {
        let mut before = std::mem::take(&mut self.remotes.nodes);
        for info in view.nodes.into_iter().filter(|info| info.node != self.config.node) {
            if !info.alive {
                self.remotes.dead.insert(info.node);
                continue;
            }
            let sent = before.remove(&info.node).map(|known| known.sent).unwrap_or_default();
            self.remotes.nodes.insert(info.node, Remote { info, sent });
        }
        self.place_all(now);
    }

    /// A node joined.
    pub fn node_joined(&mut self, info: NodeInfo, now: Duration) {
        if info.node != self.config.node {
            self.remotes.nodes.insert(info.node, Remote::new(info));
            self.place_all(now);
        }
    }

    /// A node has other room of placement groups than before: of each name so much in all and so much
    /// that is free.
    pub fn room_changed(&mut self, node: NodeId, named: &[(String, i64, i64)], now: Duration) {
        let Some(remote) = self.remotes.nodes.get_mut(&node) else { return };
        for (name, total, available) in named {
            remote.info.total.set(name, *total);
            remote.info.available.set(name, *available);
        }
        self.place_all(now);
    }

    /// A node died.
    pub fn node_died(&mut self, node: NodeId, now: Duration) {
        self.remotes.dead.insert(node);
        if self.remotes.nodes.remove(&node).is_some() {
            self.place_all(now);
        }
    }

    /// What is free on other nodes has changed.
    pub fn resources_changed(&mut self, changes: Vec<(NodeId, Resources)>, now: Duration) {
        for (node, available) in changes {
            if let Some(remote) = self.remotes.nodes.get_mut(&node) {
                remote.info.available = available;
            }
        }
        self.place_all(now);
    }

    /// The other nodes that live.
    pub fn remote_nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.remotes.nodes.values().map(|remote| &remote.info)
    }

    /// Looks again at all that waits.
    pub(super) fn place_all(&mut self, now: Duration) {
        for key in self.waiting_clients(|_| true) {
            self.place(&key, now);
        }
        self.serve(now);
        self.tell_pending(now, true);
    }

    /// Looks again at what has rested.
    pub(super) fn place_rested(&mut self, now: Duration) {
        if self.remotes.nodes.is_empty() {
            return;
        }
        for key in self.waiting_clients(|want| now.saturating_sub(want.since) >= RESTS_FOR) {
            self.place(&key, now);
        }
    }

    fn waiting_clients(&self, which: impl Fn(&Want) -> bool) -> Vec<(Address, Arc<Shape>)> {
        let clients = self.line.iter().filter_map(|ticket| match ticket {
            Ticket::Client(client, shape) => Some((*client, shape.clone())),
            Ticket::Actor(..) => None,
        });
        clients.filter(|key| self.wants.get(key).is_some_and(&which)).collect()
    }

    /// Sends on what is better met elsewhere; the rest waits here.
    pub(super) fn place(&mut self, key: &(Address, Arc<Shape>), now: Duration) {
        let shape = &key.1;
        let Some(want) = self.wants.get(key) else { return };
        let (mut need, waits) = (want.need(), now.saturating_sub(want.since));
        let rested = waits >= RESTS_FOR;
        let hops = if rested { 0 } else { want.hops };
        let feasible_here = self.may_run_here(shape);
        let spreads = shape.strategy == Strategy::Spread;
        // Spreading counts more than what lies here.
        let at_its_data = shape.near == Some(self.config.process) && shape.strategy == Strategy::Default;
        // What was sent here to be spread stays, even if it has to wait for a moment.
        let rests = !rested && (hops >= MAX_HOPS || (spreads && hops > 0));
        let stays = self.remotes.nodes.is_empty() || rests || (at_its_data && waits < STAYS_AT_DATA_FOR);
        if need == 0 || (feasible_here && stays) {
            return;
        }
        // A need is spread over all nodes that could run it, once: whatever they have free just
        // now, so that each gets its share.
        let over_all = spreads && !rested;
        if over_all {
            need = need.saturating_sub(want.spread_here);
        }
        let (settled, queue) = (hops > 0 || rested, want.queue);
        let sent = self.choose_nodes(key, need, settled, over_all, now);
        for (node, count) in sent {
            let Some(remote) = self.remotes.nodes.get_mut(&node) else { continue };
            remote.note_sent(shape.demand.times(count), now);
            let to = Address { process: remote.info.process, mailbox: MailboxId::RAYLET };
            let redirected =
                LeaseRedirected { shape: Shape::clone(shape), queue, count, to, hops: hops.saturating_add(1) };
            self.effects.push(Effect::Redirect(key.0, redirected));
            if let Some(want) = self.wants.get_mut(key) {
                want.done += count;
                want.since = now;
                want.told = None;
            }
        }
        if let Some(want) = self.wants.get_mut(key).filter(|_| spreads) {
            want.spread_here = want.need();
        }
        if self.infeasible(shape).is_some() {
            self.tell_pending(now, true);
        }
    }

    /// Whether a node is dead for certain.
    pub(super) fn is_dead(&self, node: NodeId) -> bool {
        self.remotes.dead.contains(&node) && !self.remotes.nodes.contains_key(&node)
    }

    /// How many of a need go to which other node. `settled`: what has room here stays (it waits for
    /// a worker to start). `over_all`: to each node that could run it in turn, else by what is free.
    fn choose_nodes(
        &mut self,
        key: &(Address, Arc<Shape>),
        mut need: u64,
        settled: bool,
        over_all: bool,
        now: Duration,
    ) -> BTreeMap<NodeId, u64> {
        let shape = &key.1;
        let feasible_here = self.may_run_here(shape);
        // Whoever waits already comes first.
        let full = !over_all && self.crowded(key);
        let stays_in_room = settled && feasible_here && !full;
        let mut here = self.available.clone();
        let mut free: BTreeMap<NodeId, Resources> =
            self.remotes.nodes.iter().map(|(node, remote)| (*node, remote.free(now))).collect();
        let mut sent: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut looks = 0;
        while need > 0 && looks < MAX_LOOKS {
            looks += 1;
            if stays_in_room && here.covers(&shape.demand) {
                here.subtract(&shape.demand);
                need -= 1;
                continue;
            }
            let mut candidates: Vec<Candidate<'_>> = self
                .remotes
                .nodes
                .iter()
                .map(|(node, remote)| Candidate {
                    node: *node,
                    total: &remote.info.total,
                    available: free.get(node).filter(|_| !over_all).unwrap_or(&remote.info.total),
                    labels: &remote.info.labels,
                    local: false,
                    full: false,
                })
                .collect();
            if !self.draining {
                candidates.push(Candidate {
                    node: self.config.node,
                    total: &self.config.total,
                    available: if over_all { &self.config.total } else { &here },
                    labels: &self.config.labels,
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
                    if let Some(free) = free.get_mut(&node) {
                        free.subtract(&shape.demand);
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
        sent
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
        match &shape.strategy {
            Strategy::NodeAffinity { node, soft } => {
                *node == self.config.node || (*soft && !self.remotes.nodes.contains_key(node))
            }
            strategy => strategy.allows(&self.config.labels),
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
            .map(|Remote { info, .. }| Candidate {
                node: info.node,
                total: &info.total,
                available: &info.total,
                labels: &info.labels,
                local: false,
                full: false,
            })
            .collect();
        let total = &self.config.total;
        if !self.draining {
            let (node, labels) = (self.config.node, &self.config.labels);
            candidates.push(Candidate { node, total, available: total, labels, local: true, full: false });
        }
        match choose(&candidates, &shape.demand, &shape.strategy, &mut None) {
            Choice::Never(why) => Some(why),
            Choice::Now(_) | Choice::Later(_) => None,
        }
    }
}
