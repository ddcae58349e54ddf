//! The bundles of placement groups that a node holds: set aside first, usable when committed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mobula_transport::Address;

use super::gpus::{Gpus, Share};
use super::scheduler::{Effect, Lease, Scheduler};
use crate::ids::PlacementGroupId;
use crate::messages::{CommitBundles, GroupGone, HeldBundles, PrepareBundles, ReturnBundles, Shape};
use crate::resources::{GPU, Resources, group};

/// Groups whose end is remembered, so that whoever asks late for room in one hears of it.
pub(super) const GONE_GROUPS_KEPT: usize = 10_000;

/// Room that was set aside.
#[derive(Clone, Debug)]
pub(super) struct Bundle {
    pub(super) demand: Resources,
    /// The GPUs that were taken for it, and what of them is free for those in it.
    taken: Vec<Share>,
    pub(super) gpus: Gpus,
    pub(super) round: u64,
    /// Which setting aside this is on this node: a round that was given back may be asked for again,
    /// and leases from before hold devices of what was there before.
    pub(super) turn: u64,
    committed: bool,
}

impl Scheduler {
    /// Sets bundles aside, all of them or none. Asked again, it answers the same.
    ///
    /// # Errors
    /// What is free, if that is too little.
    pub fn prepare_bundles(&mut self, request: &PrepareBundles, now: Duration) -> Result<(), Resources> {
        let (group, round) = (request.group, request.round);
        let held = |index: &u32| self.bundles.get(&(group, *index)).is_some_and(|bundle| bundle.round == round);
        if request.bundles.iter().all(|(index, _)| held(index)) {
            return Ok(());
        }
        let mut sum = Resources::new();
        request.bundles.iter().for_each(|(_, demand)| sum.add(demand));
        let taken = request.bundles.iter().any(|(index, _)| self.bundles.contains_key(&(group, *index)));
        if self.draining || taken || self.gone_groups.contains(&group) || !self.available.covers(&sum) {
            // Those who have no use for what they hold are asked to give it back for the next try.
            self.ask_for_idle_of(&sum, now);
            return Err(self.available.clone());
        }
        let Some(taken) = self.take_gpus_of_bundles(&request.bundles) else { return Err(self.available.clone()) };
        self.available.subtract(&sum);
        self.bundle_turns += 1;
        let turn = self.bundle_turns;
        for ((index, demand), taken) in request.bundles.iter().zip(taken) {
            let (demand, gpus) = (demand.clone(), Gpus::of(&taken));
            self.bundles.insert((group, *index), Bundle { demand, taken, gpus, round, turn, committed: false });
        }
        Ok(())
    }

    /// Devices for each of these, or for none.
    fn take_gpus_of_bundles(&mut self, bundles: &[(u32, Resources)]) -> Option<Vec<Vec<Share>>> {
        let before = self.gpus.clone();
        let taken: Option<_> = bundles.iter().map(|(_, demand)| self.gpus.take(demand.fractions(GPU))).collect();
        if taken.is_none() {
            self.gpus = before;
        }
        taken
    }

    /// What was set aside in this round may be used. False when there is nothing.
    pub fn commit_bundles(&mut self, request: &CommitBundles, now: Duration) -> bool {
        let mut found = false;
        let mut named = Resources::new();
        for ((group, index), bundle) in &mut self.bundles {
            if *group == request.group && bundle.round == request.round {
                found = true;
                if !std::mem::replace(&mut bundle.committed, true) {
                    named.add(&group::of_bundle(*group, *index, &bundle.demand));
                }
            }
        }
        if !named.is_empty() {
            self.config.total.add(&named);
            self.available.add(&named);
            self.place_all(now);
        }
        found
    }

    /// Gives the room of a group back, all of it or that of one round. When the whole group is
    /// gone, so is what runs in it.
    pub fn return_bundles(&mut self, request: &ReturnBundles, now: Duration) {
        let group = request.group;
        if request.round.is_none() {
            self.group_gone(group);
        }
        let ours = |round: u64| request.round.is_none_or(|only| only == round);
        let keys: Vec<(PlacementGroupId, u32)> = self
            .bundles
            .range((group, 0)..=(group, u32::MAX))
            .filter(|(_, bundle)| ours(bundle.round))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            let Some(bundle) = self.bundles.remove(&key) else { continue };
            if bundle.committed {
                let named = group::of_bundle(group, key.1, &bundle.demand);
                self.config.total.subtract(&named);
                self.available.subtract(&named);
            }
            self.available.add(&bundle.demand);
            self.gpus.give_back(&bundle.taken);
        }
        self.place_all(now);
    }

    /// What this node holds, for the GCS.
    pub fn held_bundles(&self) -> Vec<HeldBundles> {
        let mut held: Vec<HeldBundles> = Vec::new();
        for ((group, index), bundle) in &self.bundles {
            let same = |held: &&mut HeldBundles| {
                held.group == *group && held.round == bundle.round && held.committed == bundle.committed
            };
            match held.iter_mut().rev().take_while(|held| held.group == *group).find(same) {
                Some(held) => held.indices.push(*index),
                None => held.push(HeldBundles {
                    group: *group,
                    round: bundle.round,
                    indices: vec![*index],
                    committed: bundle.committed,
                }),
            }
        }
        held
    }

    /// A group is no more: its leases end, and whoever waits for room in it hears of that.
    pub fn group_gone(&mut self, group: PlacementGroupId) {
        if !self.gone_groups.insert(group) {
            return;
        }
        let inside = |shape: &Shape| group::group_of(&shape.demand) == Some(group);
        let waiting = self.wants.keys().filter(|(_, shape)| inside(shape)).cloned();
        let holding = self.leases.values().filter(|lease| lease.actor.is_none() && inside(&lease.shape));
        let to_tell: BTreeSet<(Address, Arc<Shape>)> =
            waiting.chain(holding.map(|lease| (lease.client, lease.shape.clone()))).collect();
        for (client, shape) in to_tell {
            self.wants.remove(&(client, shape.clone()));
            self.tell_gone(client, &shape, group);
        }
        // An actor's lease stays until the GCS has seen to its end: should the head restart meanwhile,
        // it hears of the actor by that lease. One whose worker is starting nobody else knows of.
        let over = |lease: &Lease| inside(&lease.shape) && (lease.actor.is_none() || lease.worker.is_none());
        let leases: Vec<u64> = self.leases.iter().filter(|(_, lease)| over(lease)).map(|(seq, _)| *seq).collect();
        for seq in leases {
            self.release(seq, "its placement group was removed");
        }
        let actors: Vec<_> = self
            .actor_wants
            .iter()
            .filter(|(_, want)| group::group_of(&want.need) == Some(group))
            .map(|(key, _)| *key)
            .collect();
        for key in actors {
            if let Some(want) = self.actor_wants.remove(&key) {
                self.refuse(&want);
            }
        }
    }

    /// The group in which a shape lies, if that is no more.
    pub(super) fn gone_group_of(&self, shape: &Shape) -> Option<PlacementGroupId> {
        group::group_of(&shape.demand).filter(|group| self.gone_groups.contains(group))
    }

    /// A client could not be told that a group is no more: it is at the next tick.
    pub fn gone_unsent(&mut self, client: Address, gone: GroupGone) {
        self.ungone.push((client, gone));
    }

    pub(super) fn tell_gone(&mut self, client: Address, shape: &Shape, group: PlacementGroupId) {
        self.effects.push(Effect::GroupGone(client, GroupGone { shape: shape.clone(), group }));
    }
}
