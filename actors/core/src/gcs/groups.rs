//! Placement groups: reserved on all their nodes or on none.
//!
//! ```text
//!             plan()                 all prepared            all committed
//!   Waiting ─────────▶ Preparing ───────────────▶ Committing ─────────────▶ Ready
//!      ▲                   │ one refused: the others give it back               │
//!      └───────────────────┴──────────────── a node with a bundle dies ─────────┘
//! ```
//! Every try has a number of its own, its round. What nodes report that they hold is compared with
//! what is known here, so whatever messages get lost, no room is kept for a group that does not
//! know of it.

mod reserving;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_transport::ProcessId;
use serde::{Deserialize, Serialize};

use super::state::{Asker, Effect, Gcs, Reply, Write};
use crate::error::Error;
use crate::ids::{ActorId, JobId, NodeId, PlacementGroupId};
use crate::messages::{ClusterEvent, GroupInfo, GroupSpec, HeldBundles, PendingDemand};
use crate::resources::{Resources, group};

/// Groups there can be at once.
const MAX_GROUPS: usize = 100_000;
/// Bundles of one group.
const MAX_BUNDLES: usize = 1_000;
/// Groups whose end is remembered.
pub(super) const GONE_GROUPS_KEPT: usize = 10_000;
/// How long a question for a group that nobody has made yet is kept: its making may be on its way
/// from another process.
const UNKNOWN_KEPT: Duration = Duration::from_secs(10);
/// How many groups that nobody has made can be asked for at once.
const MAX_UNKNOWN: usize = 10_000;
/// Rounds of one head begin here times the second it started in, so that none is used twice.
const ROUNDS_PER_SECOND: u64 = 1 << 24;

/// What is stored of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// As it was asked for.
    pub spec: GroupSpec,
    /// Where each bundle is, and the round in which it was set aside there.
    pub placed: Vec<Option<(NodeId, u64)>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// For room.
    Waiting,
    /// These nodes were asked to set aside what they were chosen for.
    Preparing { round: u64, chosen: BTreeMap<u32, NodeId>, asked: BTreeSet<NodeId>, prepared: BTreeSet<NodeId> },
    /// Everything is set aside; these nodes have not said yet that it can be used.
    Committing { open: BTreeSet<(NodeId, u64)> },
    /// Everything can be used.
    Ready,
}

#[derive(Clone, Debug)]
pub(super) struct GroupEntry {
    pub(super) record: GroupRecord,
    pub(super) phase: Phase,
    waiters: Vec<(ProcessId, Asker)>,
    /// It was ready once, and lost a node.
    reschedules: bool,
    /// Nodes that said no since their last heartbeat.
    full: BTreeSet<NodeId>,
    reason: String,
    infeasible: bool,
}

impl GroupEntry {
    fn new(record: GroupRecord) -> Self {
        Self {
            record,
            phase: Phase::Waiting,
            waiters: Vec::new(),
            reschedules: false,
            full: BTreeSet::new(),
            reason: String::new(),
            infeasible: false,
        }
    }

    /// Where its bundles are.
    pub(super) fn placed(&self) -> BTreeMap<u32, NodeId> {
        (0..).zip(&self.record.placed).filter_map(|(index, placed)| Some((index, placed.as_ref()?.0))).collect()
    }

    /// The bundles that are nowhere.
    pub(super) fn missing(&self) -> BTreeMap<u32, Resources> {
        let bundles = (0..).zip(&self.record.spec.bundles).zip(&self.record.placed);
        bundles.filter(|(_, placed)| placed.is_none()).map(|((index, bundle), _)| (index, bundle.clone())).collect()
    }
}

/// What others ask for.
impl Gcs {
    /// A client makes a placement group.
    pub fn create_group(&mut self, spec: GroupSpec, now: Duration, asker: Asker) {
        let id = spec.group;
        if self.groups.contains_key(&id) {
            return self.emit(Effect::Answer(asker, Reply::Done(Ok(()))));
        }
        if self.gone_groups.contains(&id) {
            return self.emit(Effect::Answer(asker, Reply::Done(Err(gone(id, "it was removed")))));
        }
        if let Err(what) = self.may_create_group(&spec) {
            return self.emit(Effect::Answer(asker, Reply::Done(Err(Error::Invalid { what }))));
        }
        let placed = vec![None; spec.bundles.len()];
        let record = GroupRecord { spec, placed };
        self.emit(Effect::Write(Write::Group(Box::new(record.clone()))));
        let mut entry = GroupEntry::new(record);
        entry.waiters = self.unknown_groups.remove(&id).map(|(_, waiters)| waiters).unwrap_or_default();
        self.groups.insert(id, entry);
        self.waiting_groups.push_back(id);
        self.look_at_groups = true;
        self.emit(Effect::Answer(asker, Reply::Done(Ok(()))));
        self.place_groups(now);
    }

    fn may_create_group(&self, spec: &GroupSpec) -> Result<(), String> {
        if spec.bundles.is_empty() || spec.bundles.len() > MAX_BUNDLES {
            return Err(format!("a placement group has 1 to {MAX_BUNDLES} bundles, not {}", spec.bundles.len()));
        }
        for (index, bundle) in spec.bundles.iter().enumerate() {
            if bundle.is_empty() {
                return Err(format!("bundle {index} of the placement group reserves nothing"));
            }
            if let Some((name, _)) = bundle.iter().find(|(name, _)| group::is_of_group(name)) {
                return Err(format!("bundle {index} asks for {name}, which belongs to another placement group"));
            }
        }
        if self.groups.len() >= MAX_GROUPS {
            return Err(format!("the cluster has {MAX_GROUPS} placement groups, which is its limit; remove some"));
        }
        match self.jobs.get(&spec.job) {
            Some(job) if job.info.ended_unix_s.is_some() && !spec.detached => {
                Err(format!("job {} has ended; its placement groups end with it", spec.job))
            }
            _ => Ok(()),
        }
    }

    /// A client needs a group no more. One that is not known is none.
    pub fn remove_group(&mut self, id: PlacementGroupId, now: Duration, asker: Asker) {
        self.end_group(id, "it was removed", now);
        self.emit(Effect::Answer(asker, Reply::Finished));
        self.place_groups(now);
        self.place_actors(now);
    }

    fn end_group(&mut self, id: PlacementGroupId, why: &str, now: Duration) {
        // Also one that is not known: its making may still be on its way.
        self.gone_groups.insert(id);
        self.look_at_groups = true;
        for (_, asker) in self.unknown_groups.remove(&id).into_iter().flat_map(|(_, waiters)| waiters) {
            self.emit(Effect::Answer(asker, Reply::Done(Err(gone(id, why)))));
        }
        self.end_actors_in(id, now);
        let Some(entry) = self.groups.remove(&id) else { return };
        self.emit(Effect::Write(Write::ForgetGroup(id)));
        let mut nodes: BTreeSet<NodeId> = entry.placed().into_values().collect();
        if let Phase::Preparing { asked, .. } = &entry.phase {
            nodes.extend(asked);
        }
        for node in nodes {
            self.give_back(id, node, None);
        }
        for (index, placed) in (0..).zip(&entry.record.placed) {
            if let Some((node, _)) = placed {
                self.bundle_ends(id, index, &entry.record.spec.bundles[index as usize], *node);
            }
        }
        self.unpromise(&entry);
        self.unprepare(&entry);
        for (_, asker) in &entry.waiters {
            self.emit(Effect::Answer(*asker, Reply::Done(Err(gone(id, why)))));
        }
        self.emit(Effect::Publish(ClusterEvent::GroupRemoved(id)));
    }

    fn end_actors_in(&mut self, id: PlacementGroupId, now: Duration) {
        let inside: Vec<ActorId> = self
            .actors
            .values()
            .filter(|actor| !actor.is_dead() && group::group_of(&actor.place_key().need) == Some(id))
            .map(|actor| actor.spec.actor)
            .collect();
        for actor in inside {
            self.end_actor(actor, "its placement group was removed", now);
        }
    }

    /// Whether work may be sent into this group. One that nobody has made yet is waited for.
    pub(super) fn check_group(&mut self, id: PlacementGroupId, now: Duration) -> Result<(), Error> {
        if self.groups.contains_key(&id) {
            return Ok(());
        }
        let known = self.unknown_groups.contains_key(&id);
        if self.gone_groups.contains(&id) || (!known && self.unknown_groups.len() >= MAX_UNKNOWN) {
            return Err(gone(id, "it was removed, or never made"));
        }
        self.unknown_groups.entry(id).or_insert_with(|| (now + UNKNOWN_KEPT, Vec::new()));
        Ok(())
    }

    /// Someone waits until a group is ready. A second question of the same process takes the place
    /// of the first.
    pub fn wait_group(&mut self, id: PlacementGroupId, from: ProcessId, now: Duration, asker: Asker) {
        if let Err(error) = self.check_group(id, now) {
            return self.emit(Effect::Answer(asker, Reply::Done(Err(error))));
        }
        let waiters = match self.groups.get_mut(&id) {
            Some(entry) if entry.phase == Phase::Ready => {
                return self.emit(Effect::Answer(asker, Reply::Done(Ok(()))));
            }
            Some(entry) => &mut entry.waiters,
            None => match self.unknown_groups.get_mut(&id) {
                Some((_, waiters)) => waiters,
                None => return,
            },
        };
        match waiters.iter_mut().find(|(process, _)| *process == from) {
            Some(waiter) => {
                let before = std::mem::replace(&mut waiter.1, asker);
                self.emit(Effect::Forget(before));
            }
            None => waiters.push((from, asker)),
        }
    }

    /// All groups, by id.
    pub fn list_groups(&self) -> Vec<GroupInfo> {
        let describe = |(id, entry): (&PlacementGroupId, &GroupEntry)| {
            let spec = &entry.record.spec;
            let placed = entry.record.placed.iter().map(|placed| placed.and_then(|(node, _)| self.node_name(node)));
            let (ready, again) = (entry.phase == Phase::Ready, entry.reschedules);
            GroupInfo {
                group: *id,
                name: spec.name.clone(),
                job: spec.job,
                strategy: spec.strategy.name().to_owned(),
                state: if ready {
                    "CREATED"
                } else if again {
                    "RESCHEDULING"
                } else {
                    "PENDING"
                }
                .to_owned(),
                bundles: spec.bundles.iter().cloned().zip(placed).collect(),
                reason: Some(entry.reason.clone()).filter(|reason| !ready && !reason.is_empty()),
            }
        };
        self.groups.iter().map(describe).collect()
    }

    /// The groups that wait, for people.
    pub(super) fn pending_groups(&self) -> Vec<PendingDemand> {
        let waiting = self.groups.iter().filter(|(_, entry)| entry.phase == Phase::Waiting);
        waiting
            .map(|(id, entry)| {
                let mut demand = Resources::new();
                entry.missing().values().for_each(|bundle| demand.add(bundle));
                let name = entry.record.spec.name.as_ref().map_or_else(|| id.to_string(), |name| format!("{name:?}"));
                PendingDemand {
                    demand,
                    count: 1,
                    what: format!("placement group {name} ({})", entry.record.spec.strategy.name()),
                    reason: entry.reason.clone(),
                    infeasible: entry.infeasible,
                    node: String::new(),
                }
            })
            .collect()
    }
}

/// What nodes say, and their death.
impl Gcs {
    /// A node says what it holds: what no group knows of goes back, and what is only set aside is
    /// committed if it should be. With `complete` (it has just registered) what it does not hold is
    /// lost.
    pub(super) fn bundles_held(&mut self, node: NodeId, held: &[HeldBundles], complete: bool) {
        for report in held {
            let (id, round) = (report.group, report.round);
            let Some(entry) = self.groups.get(&id) else {
                self.give_back(id, node, None);
                self.strip(node, |name| group::is_in(name, id));
                continue;
            };
            let preparing = matches!(&entry.phase, Phase::Preparing { round: present, .. } if *present == round);
            if entry.record.placed.contains(&Some((node, round))) {
                if report.committed {
                    self.committed(id, round, node);
                } else {
                    self.ask_to_commit(id, node, round);
                }
            } else if !preparing {
                let bundles = &entry.record.spec.bundles;
                let mut named = Resources::new();
                for index in report.indices.iter().filter(|_| report.committed) {
                    if let Some(bundle) = bundles.get(*index as usize) {
                        named.add(&group::of_bundle(id, *index, bundle));
                    }
                }
                self.give_back(id, node, Some(round));
                self.take_named(node, &named);
            }
        }
        if complete {
            let holds = |id: PlacementGroupId, round| held.iter().any(|held| held.group == id && held.round == round);
            let lost: Vec<PlacementGroupId> = self
                .groups
                .iter()
                .filter(|(id, entry)| {
                    entry.record.placed.iter().flatten().any(|(at, round)| *at == node && !holds(**id, *round))
                })
                .map(|(id, _)| *id)
                .collect();
            for id in lost {
                self.bundles_lost(id, |(at, round)| at == node && !holds(id, round));
            }
        }
    }

    /// A node is dead: its bundles are placed anew.
    pub(super) fn groups_lost_node(&mut self, node: NodeId, now: Duration) {
        let all: Vec<PlacementGroupId> = self.groups.keys().copied().collect();
        for id in all {
            let asked = matches!(&self.groups[&id].phase, Phase::Preparing { asked, .. } if asked.contains(&node));
            if asked {
                self.give_up_round(id, node);
            }
            self.bundles_lost(id, |(at, _)| at == node);
        }
        self.look_at_groups = true;
        self.place_groups(now);
    }

    /// Those bundles of a group for which `lost` holds are placed anew.
    fn bundles_lost(&mut self, id: PlacementGroupId, lost: impl Fn((NodeId, u64)) -> bool) {
        let Some(entry) = self.groups.get_mut(&id) else { return };
        let mut changed = false;
        for placed in &mut entry.record.placed {
            if placed.is_some_and(&lost) {
                *placed = None;
                changed = true;
            }
        }
        if !changed {
            return;
        }
        entry.reschedules = true;
        self.look_at_groups = true;
        match &mut entry.phase {
            Phase::Ready => {
                entry.phase = Phase::Waiting;
                self.waiting_groups.push_back(id);
            }
            Phase::Committing { open } => {
                open.retain(|at| !lost(*at));
                if open.is_empty() {
                    entry.phase = Phase::Waiting;
                    self.waiting_groups.push_back(id);
                }
            }
            // Its round goes on; what is missing then is placed in the next one.
            Phase::Waiting | Phase::Preparing { .. } => {}
        }
        let record = entry.record.clone();
        self.emit(Effect::Write(Write::Group(Box::new(record))));
    }

    /// A node may be asked again.
    pub(super) fn open_groups(&mut self, node: NodeId) {
        self.look_at_groups = true;
        for id in &self.waiting_groups {
            if let Some(entry) = self.groups.get_mut(id) {
                entry.full.remove(&node);
            }
        }
    }

    /// The groups of a job end with it.
    pub(super) fn end_groups_of(&mut self, job: JobId, why: &str, now: Duration) {
        let bound: Vec<PlacementGroupId> = self
            .groups
            .iter()
            .filter(|(_, entry)| entry.record.spec.job == job && !entry.record.spec.detached)
            .map(|(id, _)| *id)
            .collect();
        for id in bound {
            self.end_group(id, why, now);
        }
    }

    /// Whoever waited in this process does so no more.
    pub(super) fn forget_group_waiters(&mut self, process: ProcessId) {
        let of_groups = self.groups.values_mut().map(|entry| &mut entry.waiters);
        let of_unknown = self.unknown_groups.values_mut().map(|(_, waiters)| waiters);
        for waiters in of_groups.chain(of_unknown) {
            for (_, asker) in waiters.extract_if(.., |(waiting, _)| *waiting == process) {
                self.effects.push(Effect::Forget(asker));
            }
        }
    }

    /// A group as it was stored. What was placed waits for its nodes to register again.
    pub(super) fn restore_group(&mut self, record: GroupRecord) {
        let id = record.spec.group;
        let mut entry = GroupEntry::new(record);
        let open: BTreeSet<(NodeId, u64)> = entry.record.placed.iter().flatten().copied().collect();
        if open.is_empty() {
            self.waiting_groups.push_back(id);
        } else {
            entry.phase = Phase::Committing { open };
        }
        self.groups.insert(id, entry);
    }

    /// Groups that nobody has made in time are none.
    pub(super) fn expire_groups(&mut self, now: Duration) {
        let never: Vec<PlacementGroupId> =
            self.unknown_groups.iter().filter(|(_, (until, _))| *until <= now).map(|(id, _)| *id).collect();
        for id in never {
            self.end_group(id, "nobody has made it, or it ended long ago", now);
        }
    }

    /// The time after a restart of the head in which nodes could report their bundles is over.
    pub(super) fn lose_unattached_bundles(&mut self) {
        let known: BTreeSet<NodeId> = self.nodes.values().filter(|n| n.info.alive).map(|n| n.info.node).collect();
        let all: Vec<PlacementGroupId> = self.groups.keys().copied().collect();
        for id in all {
            self.bundles_lost(id, |(at, _)| !known.contains(&at));
        }
    }

    /// Where the rounds of this head begin.
    pub(super) fn first_round(epoch_unix_s: u64) -> u64 {
        epoch_unix_s.saturating_mul(ROUNDS_PER_SECOND)
    }
}

fn gone(group: PlacementGroupId, why: &str) -> Error {
    Error::GroupRemoved { group, why: why.to_owned() }
}
