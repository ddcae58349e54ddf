//! The two phases in which a group's bundles are reserved, and how they are given back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mobula_transport::SendError;

use super::super::bundles::{Plan, Room, plan};
use super::super::nodes::raylet;
use super::super::state::{Effect, Gcs, Node, Reply, Write};
use super::{GroupEntry, Phase};
use crate::ids::{NodeId, PlacementGroupId};
use crate::messages::{ClusterEvent, CommitBundles, PrepareBundles, ReturnBundles};
use crate::resources::{Resources, group};

/// Waiting groups that are looked at in one go; the others have their turn at the next.
const MAX_LOOKS: usize = 256;

impl Gcs {
    /// Asks nodes for the bundles of as many waiting groups as there is room for.
    pub(in crate::gcs) fn place_groups(&mut self, _now: Duration) {
        if self.waiting_groups.is_empty() || !std::mem::take(&mut self.look_at_groups) {
            return;
        }
        let mut rooms: Vec<Room> = self
            .nodes
            .values()
            .filter(|node| node.info.alive)
            .map(|node| {
                let mut free = group::without_groups(&node.info.available);
                free.subtract(&node.promised);
                let total = group::without_groups(&node.info.total);
                Room { node: node.info.node, total, free, full: false }
            })
            .collect();
        let looked_at: Vec<PlacementGroupId> =
            self.waiting_groups.drain(..self.waiting_groups.len().min(MAX_LOOKS)).collect();
        let others = !self.waiting_groups.is_empty();
        let mut still: VecDeque<PlacementGroupId> =
            looked_at.into_iter().filter(|id| !self.place_group(*id, &mut rooms)).collect();
        // First come, first served; but so many that find no room do not keep all others from it.
        if others {
            self.waiting_groups.append(&mut still);
        } else {
            self.waiting_groups = still;
        }
        self.look_at_groups = others;
    }

    /// False when the group goes on waiting. `rooms` are the nodes, less what was promised.
    fn place_group(&mut self, id: PlacementGroupId, rooms: &mut [Room]) -> bool {
        let Some(entry) = self.groups.get(&id).filter(|entry| entry.phase == Phase::Waiting) else { return true };
        let missing = entry.missing();
        for room in &mut *rooms {
            room.full = entry.full.contains(&room.node);
        }
        let (chosen, reason, infeasible) = match plan(entry.record.spec.strategy, &missing, &entry.placed(), rooms) {
            Plan::Now(chosen) => (chosen, String::new(), false),
            Plan::Later(why) => (BTreeMap::new(), why, false),
            Plan::Never(why) => (BTreeMap::new(), why, true),
        };
        self.next_round += 1;
        let round = self.next_round;
        let Some(entry) = self.groups.get_mut(&id) else { return true };
        (entry.reason, entry.infeasible) = (reason, infeasible);
        if chosen.is_empty() {
            return false;
        }
        let asked: BTreeSet<NodeId> = chosen.values().copied().collect();
        entry.phase =
            Phase::Preparing { round, chosen: chosen.clone(), asked: asked.clone(), prepared: BTreeSet::new() };
        for node in asked {
            let of_node = chosen.iter().filter(|(_, other)| **other == node);
            let bundles: Vec<(u32, Resources)> = of_node.map(|(index, _)| (*index, missing[index].clone())).collect();
            let Some(target) = self.nodes.get_mut(&node) else { continue };
            for (_, bundle) in &bundles {
                target.promised.add(bundle);
                if let Some(room) = rooms.iter_mut().find(|room| room.node == node) {
                    room.free.subtract(bundle);
                }
            }
            let raylet = raylet(&target.info);
            let request = PrepareBundles { group: id, round, bundles };
            self.emit(Effect::PrepareBundles { raylet, node, request });
        }
        true
    }

    /// Undoes what [`Gcs::place_group`] promised in the nodes' names and has not been answered.
    pub(super) fn unpromise(&mut self, entry: &GroupEntry) {
        let Phase::Preparing { chosen, prepared, .. } = &entry.phase else { return };
        for (index, node) in chosen.iter().filter(|(_, node)| !prepared.contains(node)) {
            if let Some(node) = self.nodes.get_mut(node).filter(|node| node.info.alive) {
                node.promised.subtract(&entry.record.spec.bundles[*index as usize]);
            }
        }
    }

    /// What was set aside in a round that comes to nothing is free again, by what is known here.
    pub(super) fn unprepare(&mut self, entry: &GroupEntry) {
        let Phase::Preparing { chosen, prepared, .. } = &entry.phase else { return };
        for (index, node) in chosen.iter().filter(|(_, node)| prepared.contains(node)) {
            if let Some(node) = self.nodes.get_mut(node).filter(|node| node.info.alive) {
                node.info.available.add(&entry.record.spec.bundles[*index as usize]);
            }
        }
    }

    /// A node has answered [`Effect::PrepareBundles`].
    pub fn bundles_prepared(
        &mut self,
        id: PlacementGroupId,
        round: u64,
        node: NodeId,
        answer: Result<Result<(), Resources>, SendError>,
        now: Duration,
    ) {
        let current = self.groups.get(&id).is_some_and(
            |entry| matches!(&entry.phase, Phase::Preparing { round: present, asked, .. } if *present == round && asked.contains(&node)),
        );
        if !current {
            // Removed, or given up, meanwhile. It may have been set aside all the same.
            return self.give_back(id, node, Some(round));
        }
        let Some(entry) = self.groups.get_mut(&id) else { return };
        let Phase::Preparing { chosen, asked, prepared, .. } = &mut entry.phase else { return };
        let bundles = entry.record.spec.bundles.iter();
        let of_node = chosen.iter().filter(|(_, other)| **other == node);
        let sum = {
            let bundles: Vec<&Resources> = bundles.collect();
            let mut sum = Resources::new();
            of_node.for_each(|(index, _)| sum.add(bundles[*index as usize]));
            sum
        };
        match answer {
            Ok(Ok(())) => {
                prepared.insert(node);
                let all = prepared == asked;
                if let Some(node) = self.nodes.get_mut(&node).filter(|node| node.info.alive) {
                    node.promised.subtract(&sum);
                    node.info.available.subtract(&sum);
                }
                if all {
                    self.commit_group(id);
                }
            }
            refused => {
                if let (Ok(Err(free)), Some(node)) = (&refused, self.nodes.get_mut(&node)) {
                    node.info.available = free.clone();
                }
                self.give_up_round(id, node);
                self.look_at_groups = true;
                self.place_groups(now);
            }
        }
    }

    /// The node has no room: whatever was set aside in this round goes back, and the group waits.
    pub(super) fn give_up_round(&mut self, id: PlacementGroupId, full: NodeId) {
        let Some(mut entry) = self.groups.remove(&id) else { return };
        if let Phase::Preparing { round, asked, .. } = &entry.phase {
            for node in asked {
                self.give_back(id, *node, Some(*round));
            }
        }
        self.unprepare(&entry);
        self.unpromise(&entry);
        entry.phase = Phase::Waiting;
        entry.full.insert(full);
        self.groups.insert(id, entry);
        self.waiting_groups.push_back(id);
    }

    /// Everything is set aside: this is stored, and the nodes are told.
    fn commit_group(&mut self, id: PlacementGroupId) {
        let Some(entry) = self.groups.get_mut(&id) else { return };
        let Phase::Preparing { round, chosen, asked, .. } = &entry.phase else { return };
        let round = *round;
        for (index, node) in chosen {
            entry.record.placed[*index as usize] = Some((*node, round));
        }
        let open: BTreeSet<(NodeId, u64)> = asked.iter().map(|node| (*node, round)).collect();
        entry.phase = Phase::Committing { open: open.clone() };
        let record = entry.record.clone();
        self.emit(Effect::Write(Write::Group(Box::new(record))));
        for (node, round) in open {
            self.ask_to_commit(id, node, round);
        }
    }

    pub(super) fn ask_to_commit(&mut self, group: PlacementGroupId, node: NodeId, round: u64) {
        if let Some(info) = self.nodes.get(&node).map(|node| &node.info).filter(|info| info.alive) {
            let raylet = raylet(info);
            self.emit(Effect::CommitBundles { raylet, node, request: CommitBundles { group, round } });
        }
    }

    /// A node has answered [`Effect::CommitBundles`]. One that could not be reached says with its
    /// next heartbeat what it holds.
    pub fn bundles_committed(
        &mut self,
        id: PlacementGroupId,
        round: u64,
        node: NodeId,
        answer: Result<bool, SendError>,
    ) {
        match answer {
            Ok(true) => self.committed(id, round, node),
            Ok(false) => self.bundles_lost(id, |placed| placed == (node, round)),
            Err(_) => {}
        }
    }

    pub(super) fn committed(&mut self, id: PlacementGroupId, round: u64, node: NodeId) {
        let Some(entry) = self.groups.get_mut(&id) else { return };
        let Phase::Committing { open } = &mut entry.phase else { return };
        if !open.remove(&(node, round)) {
            return;
        }
        let mut named = Resources::new();
        for (index, placed) in (0..).zip(&entry.record.placed) {
            if *placed == Some((node, round)) {
                named.add(&group::of_bundle(id, index, &entry.record.spec.bundles[index as usize]));
            }
        }
        let ready = open.is_empty();
        if ready {
            entry.phase = if entry.record.placed.iter().all(Option::is_some) { Phase::Ready } else { Phase::Waiting };
        }
        let waiters = if entry.phase == Phase::Ready { std::mem::take(&mut entry.waiters) } else { Vec::new() };
        if entry.phase == Phase::Waiting {
            self.waiting_groups.push_back(id);
            self.look_at_groups = true;
        }
        if let Some(node) = self.nodes.get_mut(&node).filter(|node| node.info.alive) {
            // A node that has registered meanwhile has told so already.
            if !node.info.total.covers(&named) {
                node.info.total.add(&named);
                node.info.available.add(&named);
                let event = room_changed(node, &named);
                self.emit(Effect::Publish(event));
            }
        }
        for (_, asker) in waiters {
            self.emit(Effect::Answer(asker, Reply::Done(Ok(()))));
        }
    }

    pub(super) fn give_back(&mut self, group: PlacementGroupId, node: NodeId, round: Option<u64>) {
        if let Some(info) = self.nodes.get(&node).map(|node| &node.info).filter(|info| info.alive) {
            let raylet = raylet(info);
            self.emit(Effect::ReturnBundles { raylet, request: ReturnBundles { group, round } });
        }
    }

    /// A bundle is given back: the node has its room again, by what is known here.
    pub(super) fn bundle_ends(&mut self, group: PlacementGroupId, index: u32, bundle: &Resources, node: NodeId) {
        let Some(node) = self.nodes.get_mut(&node).filter(|node| node.info.alive) else { return };
        let named = group::of_bundle(group, index, bundle);
        node.info.available.add(bundle);
        let node = node.info.node;
        self.take_named(node, &named);
    }

    /// The node has this room of a group no more.
    pub(super) fn take_named(&mut self, node: NodeId, named: &Resources) {
        let Some(node) = self.nodes.get_mut(&node).filter(|node| node.info.alive) else { return };
        if named.is_empty() || !node.info.total.covers(named) {
            return;
        }
        node.info.total.subtract(named);
        node.info.available.subtract(named);
        let event = room_changed(node, named);
        self.emit(Effect::Publish(event));
    }

    /// The node has none of the room that bears these names.
    pub(super) fn strip(&mut self, node: NodeId, gone: impl Fn(&str) -> bool) {
        let Some(node) = self.nodes.get(&node) else { return };
        let mut named = Resources::new();
        for (name, fractions) in node.info.total.iter().filter(|(name, _)| gone(name)) {
            named.set(name, fractions);
        }
        let node = node.info.node;
        self.take_named(node, &named);
    }
}

/// What subscribers are told of a node of which these amounts have changed: not all it has, which
/// would be more the more groups there are.
fn room_changed(node: &mut Node, changed: &Resources) -> ClusterEvent {
    let mut named = Vec::new();
    for (name, _) in changed.iter() {
        let (total, free) = (node.info.total.fractions(name), node.info.available.fractions(name));
        node.told.set(name, free);
        named.push((name.to_owned(), total, free));
    }
    ClusterEvent::RoomChanged { node: node.info.node, named }
}
