//! Nodes: registration, heartbeats, death.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_transport::{Address, MailboxId, ProcessAddr, ProcessId};

use super::state::{Effect, Gcs, Node, Write};
use crate::ids::NodeId;
use crate::messages::{
    ClusterEvent, ClusterView, EndReason, Heartbeat, HeartbeatReply, NodeInfo, ProcessDown, RegisterNode,
};
use crate::recent::Recent;
use crate::resources::Resources;
use crate::resources::group::given_back;

/// Dead nodes that are remembered, for people and to refuse their return.
pub(crate) const DEAD_NODES_KEPT: usize = 1_000;
/// Nodes a cluster can have.
const MAX_NODES: usize = 10_000;
/// Ended processes that are remembered of each node.
const ENDED_PROCESSES_KEPT: usize = 1_000;
/// A head that was not told the time for so long stood still itself. Well above the time between two
/// ticks, well below the silence after which others are dead.
const STOOD_STILL: Duration = Duration::from_secs(1);

impl Gcs {
    /// A node joins, or reports itself again after a restart of the head.
    ///
    /// # Errors
    /// Why it may not: it was declared dead (others have taken over its actors), or there are too
    /// many.
    pub fn register_node(&mut self, request: RegisterNode, now: Duration) -> Result<(), String> {
        let RegisterNode { mut info, actors, processes, bundles } = request;
        match self.nodes.get(&info.node) {
            Some(known) if !known.info.alive => {
                return Err(format!(
                    "node {} was declared dead ({}); restart it to join again",
                    info.name,
                    known.info.death_reason.as_deref().unwrap_or("no reason kept")
                ));
            }
            None if self.nodes.len() - self.dead_nodes.len() >= MAX_NODES => {
                return Err(format!("the cluster has {MAX_NODES} nodes, which is its limit"));
            }
            _ => {}
        }
        info.alive = true;
        info.death_reason = None;
        let (node, known) = (info.node, self.nodes.contains_key(&info.node));
        self.nodes.insert(node, Node::new(info.clone(), processes.into_iter().collect(), now));
        if self.absent.remove(&node).is_none() && !known && info.process.id != self.config.process {
            self.emit(Effect::Write(Write::Node(Box::new(info.clone()))));
        }
        let is_head = info.head;
        self.emit(Effect::Publish(ClusterEvent::NodeJoined(info)));
        if is_head {
            // Its node before lived in the process that the head has succeeded.
            self.lose_those(|info| info.head, "the head was started again", now);
        }
        self.reattach(node, actors);
        self.bundles_held(node, &bundles, true);
        self.open_queues(node);
        self.open_groups(node);
        self.place_groups(now);
        self.place_actors(now);
        Ok(())
    }

    /// A node lives.
    pub fn heartbeat(&mut self, beat: Heartbeat, now: Duration) -> HeartbeatReply {
        let Some(node) = self.nodes.get_mut(&beat.node).filter(|node| node.info.alive) else {
            return HeartbeatReply::Unknown;
        };
        node.seen = now;
        node.pending = beat.pending;
        // The return of what belongs to a group that is gone is on its way: it is as good as free,
        // or a group placed at once after another's removal would make a detour around this node.
        let gone = beat.bundles.iter().map(|held| held.group).filter(|group| !self.groups.contains_key(group));
        let available =
            gone.collect::<BTreeSet<_>>().into_iter().fold(beat.available, |free, group| given_back(&free, group));
        node.info.available = available;
        if node.told != node.info.available {
            self.untold.add(beat.node);
        }
        self.bundles_held(beat.node, &beat.bundles, false);
        self.open_queues(beat.node);
        self.open_groups(beat.node);
        self.place_groups(now);
        self.place_actors(now);
        self.tell_room(now);
        HeartbeatReply::Known
    }

    /// Tells subscribers what is free now where that has changed, as far as [`Untold`] lets it.
    pub(super) fn tell_room(&mut self, now: Duration) {
        let mut changes = Vec::new();
        for id in self.untold.take(now) {
            if let Some(node) = self.nodes.get_mut(&id).filter(|node| node.info.alive) {
                node.told = node.info.available.clone();
                changes.push((id, node.told.clone()));
            }
        }
        if !changes.is_empty() {
            self.emit(Effect::Publish(ClusterEvent::Resources(changes)));
        }
    }

    /// A worker process has registered on a node.
    pub fn process_up(&mut self, node: NodeId, process: ProcessAddr, pid: u32) {
        if let Some(node) = self.nodes.get_mut(&node).filter(|node| !node.ended.contains(&process)) {
            node.processes.insert(process, pid);
        }
    }

    /// A worker process of a node has ended. Everybody hears of it, also if the head has restarted
    /// and did not know the process.
    pub fn process_down(&mut self, down: &ProcessDown, now: Duration) {
        let ProcessDown { node, process, ref why, culprit } = *down;
        if let Some(node) = self.nodes.get_mut(&node) {
            node.processes.remove(&process);
            node.ended.insert(process);
        }
        self.emit(Effect::MarkGone(process.id, why.clone()));
        self.emit(Effect::Publish(ClusterEvent::ProcessDied { process, why: why.clone(), culprit }));
        self.forget_waiters(process.id);
        self.worker_lost(|spot| spot.worker.id == process.id, why, EndReason::Crashed);
        self.place_actors(now);
    }

    /// Those of these processes that do not live: they are on no living node, and drive no running
    /// job. Nobody is said to be dead while nodes have time to come back after a restart of the head.
    pub fn dead_among(&self, processes: &[ProcessId]) -> Vec<ProcessId> {
        if self.reattach_until.is_some() {
            return Vec::new();
        }
        let mut living: BTreeSet<ProcessId> = BTreeSet::from([self.config.process]);
        for node in self.nodes.values().filter(|node| node.info.alive) {
            living.insert(node.info.process.id);
            living.extend(node.processes.keys().map(|process| process.id));
        }
        let running = self.jobs.values().filter(|job| job.info.ended_unix_s.is_none());
        living.extend(running.map(|job| job.info.driver.id));
        processes.iter().copied().filter(|process| !living.contains(process)).collect()
    }

    /// A node leaves of its own will, or was seen to be dead.
    pub fn node_died(&mut self, id: NodeId, why: &str, now: Duration) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.info.alive) else { return };
        node.info.alive = false;
        node.info.death_reason = Some(why.to_owned());
        node.info.available = Resources::new();
        node.pending.clear();
        node.promised = Resources::new();
        let processes: Vec<ProcessAddr> = std::mem::take(&mut node.processes).into_keys().collect();
        let info = node.info.clone();
        for process in processes.iter().chain([&info.process]) {
            if process.id != self.config.process {
                self.emit(Effect::MarkGone(process.id, format!("its node {} died: {why}", info.name)));
            }
            self.forget_waiters(process.id);
        }
        if info.process.id != self.config.process {
            // A restarted head must not take back a node that others hold for dead.
            self.emit(Effect::Write(Write::Node(Box::new(info.clone()))));
        }
        let reason = format!("node {} died: {why}", info.name);
        self.emit(Effect::Publish(ClusterEvent::NodeDied { node: info, why: why.to_owned(), processes }));
        self.dead_nodes.push_back(id);
        if self.dead_nodes.len() > DEAD_NODES_KEPT
            && let Some(oldest) = self.dead_nodes.pop_front()
        {
            self.nodes.remove(&oldest);
            self.emit(Effect::Write(Write::ForgetNode(oldest)));
        }
        self.worker_lost(|spot| spot.node == id, &reason, EndReason::NodeDied);
        self.open_queues(id);
        self.lease_requests_lost(id, now);
        self.groups_lost_node(id, now);
        self.place_actors(now);
    }

    /// All nodes, as those know them who have heard all events so far: a new subscriber begins with it.
    pub fn told_view(&self) -> ClusterView {
        let told = |node: &Node| NodeInfo { available: node.told.clone(), ..node.info.clone() };
        ClusterView { nodes: self.nodes.values().map(told).collect() }
    }

    /// All nodes and what they have.
    pub fn view(&self) -> ClusterView {
        ClusterView { nodes: self.nodes.values().map(|node| node.info.clone()).collect() }
    }

    /// A worker's operating system id.
    pub(super) fn pid(&self, node: NodeId, process: ProcessAddr) -> Option<u32> {
        self.nodes.get(&node)?.processes.get(&process).copied()
    }

    /// A node's name, for people.
    pub(super) fn node_name(&self, node: NodeId) -> Option<String> {
        self.nodes.get(&node).map(|node| node.info.name.clone())
    }

    /// So long after the last tick comes the next one. If that is much too late, the head was
    /// stopped, or its machine slept: what others have said meanwhile has not been read yet, so that
    /// time is not counted as their silence.
    pub fn ticks_after(&mut self, pause: Duration, now: Duration) {
        if pause < STOOD_STILL {
            return;
        }
        for node in self.nodes.values_mut() {
            node.seen = now.min(node.seen + pause);
        }
        self.reattach_until = self.reattach_until.map(|until| until + pause);
        for job in self.jobs.values_mut() {
            // After a restart it may lie in the future.
            job.seen = job.seen.max(now.min(job.seen + pause));
        }
    }

    /// The time after a restart of the head in which nodes could come back is over.
    pub(super) fn lose_absent(&mut self, now: Duration) {
        let within = self.config.reattach_within.as_secs();
        self.lose_those(|_| true, &format!("it did not come back within {within} s of the head's restart"), now);
    }

    /// Absent nodes are dead.
    fn lose_those(&mut self, which: impl Fn(&NodeInfo) -> bool, why: &str, now: Duration) {
        let lost: Vec<_> = self.absent.extract_if(.., |_, info| which(info)).collect();
        for (node, info) in lost {
            self.nodes.insert(node, Node::new(info, BTreeMap::new(), now));
            self.node_died(node, why, now);
        }
    }

    /// Those that lived when the head ended have time to come back; the dead stay dead.
    pub(super) fn restore_node(&mut self, info: NodeInfo, now: Duration) {
        let node = info.node;
        if info.alive {
            self.absent.insert(node, info);
        } else {
            self.nodes.insert(node, Node::new(info, BTreeMap::new(), now));
            self.dead_nodes.push_back(node);
        }
    }

    pub(super) fn expire_nodes(&mut self, now: Duration) {
        let silent: Vec<(NodeId, Duration)> = self
            .nodes
            .values()
            .filter(|n| n.info.alive && n.info.process.id != self.config.process)
            .map(|n| (n.info.node, now.saturating_sub(n.seen)))
            .filter(|(_, silence)| *silence > self.config.dead_after)
            .collect();
        for (node, silence) in silent {
            self.node_died(node, &format!("no heartbeat for {:.1} s", silence.as_secs_f64()), now);
        }
    }
}

impl Node {
    fn new(info: NodeInfo, processes: BTreeMap<ProcessAddr, u32>, seen: Duration) -> Self {
        let ended = Recent::new(ENDED_PROCESSES_KEPT);
        let told = info.available.clone();
        Self { info, told, seen, pending: Vec::new(), processes, ended, promised: Resources::new() }
    }
}

/// A node's raylet.
pub(super) fn raylet(info: &NodeInfo) -> Address {
    Address { process: info.process, mailbox: MailboxId::RAYLET }
}
