//! Which GPUs a lease has: [`Gpus`] hands out devices by their ids, whole or in part.
//!
//! A demand below one is a part of a single device, so that its holder sees one id; one above takes
//! that many whole devices, and a part of another for what is left. Parts are put where they fit
//! best, so that devices stay whole for those who need whole ones. What a placement group's bundle
//! reserves is taken like a lease's, and handed out to those in the bundle by a `Gpus` of its own.

use std::sync::Arc;

use mobula_transport::ProcessAddr;

use super::scheduler::{Effect, Scheduler};
use crate::ids::PlacementGroupId;
use crate::messages::LeaseGpus;
use crate::resources::{FRACTIONS_PER_UNIT, GPU, Resources, group};

/// Some of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) id: Arc<str>,
    pub(super) fractions: i64,
}

#[derive(Clone, Debug)]
struct Device {
    id: Arc<str>,
    #[cfg(test)]
    total: i64,
    free: i64,
}

impl Device {
    fn new(id: Arc<str>, free: i64) -> Self {
        Self {
            id,
            #[cfg(test)]
            total: free,
            free,
        }
    }
}

/// Devices, and what of each is free.
#[derive(Clone, Debug, Default)]
pub(super) struct Gpus {
    devices: Vec<Device>,
}

impl Gpus {
    /// So much of devices, the ids in this order; numbers where there are too few ids.
    pub(super) fn new(ids: &[String], total: i64) -> Self {
        let mut devices = Vec::new();
        let mut left = total;
        while left > 0 {
            let number = devices.len();
            let id = ids.get(number).cloned().unwrap_or_else(|| number.to_string());
            let some = left.min(FRACTIONS_PER_UNIT);
            devices.push(Device::new(id.into(), some));
            left -= some;
        }
        Self { devices }
    }

    /// What was taken elsewhere, to be handed out here.
    pub(super) fn of(shares: &[Share]) -> Self {
        Self { devices: shares.iter().map(|share| Device::new(share.id.clone(), share.fractions)).collect() }
    }

    /// Takes so much; nothing where devices are too divided.
    pub(super) fn take(&mut self, fractions: i64) -> Option<Vec<Share>> {
        let chosen = self.choose(fractions)?;
        let take = |(at, fractions): (usize, i64)| {
            self.devices[at].free -= fractions;
            Share { id: self.devices[at].id.clone(), fractions }
        };
        Some(chosen.into_iter().map(take).collect())
    }

    /// Whether [`Gpus::take`] would find so much.
    pub(super) fn can_take(&self, fractions: i64) -> bool {
        self.choose(fractions).is_some()
    }

    /// Gives back what was taken here.
    pub(super) fn give_back(&mut self, shares: &[Share]) {
        for share in shares {
            if let Some(device) = self.devices.iter_mut().find(|device| device.id == share.id) {
                device.free += share.fractions;
            }
        }
    }

    /// Devices by their place, with how much of each, in their order.
    fn choose(&self, fractions: i64) -> Option<Vec<(usize, i64)>> {
        let (whole, part) = (fractions / FRACTIONS_PER_UNIT, fractions % FRACTIONS_PER_UNIT);
        let mut chosen = Vec::new();
        if part > 0 {
            let fitting = self.devices.iter().enumerate().filter(|(_, device)| device.free >= part);
            // The fullest that still has room: a whole device only if there is no other.
            let (at, _) = fitting.min_by_key(|(at, device)| (device.free, *at))?;
            chosen.push((at, part));
        }
        let taken = chosen.first().map(|(at, _)| *at);
        let untouched = self
            .devices
            .iter()
            .enumerate()
            .filter(|(at, device)| device.free == FRACTIONS_PER_UNIT && Some(*at) != taken);
        chosen.extend(untouched.take(usize::try_from(whole).ok()?).map(|(at, _)| (at, FRACTIONS_PER_UNIT)));
        let found: i64 = chosen.iter().map(|(_, fractions)| fractions).sum();
        chosen.sort_unstable();
        (found == fractions).then_some(chosen)
    }

    /// How much of the devices is taken.
    #[cfg(test)]
    pub(super) fn taken(&self) -> i64 {
        assert!(self.devices.iter().all(|device| (0..=device.total).contains(&device.free)), "{:?}", self.devices);
        self.devices.iter().map(|device| device.total - device.free).sum()
    }
}

/// The devices of a lease, and where they are from.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) shares: Vec<Share>,
    /// The bundle that they belong to, and the turn in which it was set aside; the node's unless given.
    bundle: Option<(PlacementGroupId, u32, u64)>,
}

impl Held {
    /// The ids, in order.
    pub(super) fn ids(&self) -> Vec<String> {
        self.shares.iter().map(|share| share.id.to_string()).collect()
    }
}

/// Whose devices serve a demand.
enum Source {
    /// Nobody's: it asks for none.
    None,
    Node(i64),
    Bundle(PlacementGroupId, u32, i64),
}

impl Scheduler {
    /// Whether there are devices for this demand now.
    pub(super) fn has_gpus_for(&self, demand: &Resources) -> bool {
        self.gpu_source(demand).is_some()
    }

    /// Takes the devices that this demand needs; [`Scheduler::has_gpus_for`] has said that they are there.
    pub(super) fn take_gpus(&mut self, demand: &Resources) -> Held {
        match self.gpu_source(demand) {
            None | Some(Source::None) => Held::default(),
            Some(Source::Node(fractions)) => {
                Held { shares: self.gpus.take(fractions).unwrap_or_default(), bundle: None }
            }
            Some(Source::Bundle(group, index, fractions)) => {
                let Some(bundle) = self.bundles.get_mut(&(group, index)) else { return Held::default() };
                let shares = bundle.gpus.take(fractions).unwrap_or_default();
                Held { shares, bundle: Some((group, index, bundle.turn)) }
            }
        }
    }

    /// A lease is over. What belonged to a bundle that is gone went back with it.
    pub(super) fn give_back_gpus(&mut self, held: &Held) {
        match held.bundle {
            None => self.gpus.give_back(&held.shares),
            Some((group, index, turn)) => {
                if let Some(bundle) = self.bundles.get_mut(&(group, index)).filter(|bundle| bundle.turn == turn) {
                    bundle.gpus.give_back(&held.shares);
                }
            }
        }
    }

    /// Several leases share a worker in this process: tells it which devices one of them has, if it
    /// has or had any. A worker of one lease has known since it was started.
    pub(super) fn tell_gpus(&mut self, seq: u64, worker: ProcessAddr, has: &Held, had: &Held) {
        if self.config.in_process && !had.shares.is_empty() {
            let told = LeaseGpus { lease: self.lease_id(seq), ids: has.ids() };
            self.effects.push(Effect::LeaseGpus(worker, told));
        }
    }

    fn gpu_source(&self, demand: &Resources) -> Option<Source> {
        // Nearly no demand has any, and this is asked for every lease.
        if !demand.iter().any(|(name, _)| name.starts_with(GPU)) {
            return Some(Source::None);
        }
        let Some(of) = group::group_of(demand) else {
            return match demand.fractions(GPU) {
                0 => Some(Source::None),
                fractions => self.gpus.can_take(fractions).then_some(Source::Node(fractions)),
            };
        };
        let fractions = group::as_asked(demand).fractions(GPU);
        if fractions == 0 {
            return Some(Source::None);
        }
        let wanted = group::index_of(demand);
        let bundles = self.bundles.range((of, wanted.unwrap_or(0))..=(of, wanted.unwrap_or(u32::MAX)));
        let mut able = bundles.filter(|(_, bundle)| bundle.gpus.can_take(fractions));
        able.next().map(|((group, index), _)| Source::Bundle(*group, *index, fractions))
    }
}

#[cfg(test)]
impl Scheduler {
    /// What leases and bundles have is taken where it is from, and nothing else is.
    pub(super) fn check_gpus(&self) {
        let amount = |shares: &[Share]| shares.iter().map(|share| share.fractions).sum::<i64>();
        let in_leases = |bundle: Option<(PlacementGroupId, u32, u64)>| -> i64 {
            self.leases
                .values()
                .filter(|lease| lease.gpus.bundle == bundle)
                .map(|lease| amount(&lease.gpus.shares))
                .sum()
        };
        let of_bundles: i64 = self.bundles.values().map(|bundle| bundle.demand.fractions(GPU)).sum();
        assert_eq!(self.gpus.taken(), in_leases(None) + of_bundles);
        for ((group, index), bundle) in &self.bundles {
            assert_eq!(bundle.gpus.taken(), in_leases(Some((*group, *index, bundle.turn))));
        }
        for lease in self.leases.values() {
            let asked = group::as_asked(&lease.shape.demand).fractions(GPU);
            assert_eq!(amount(&lease.gpus.shares), asked, "a lease has what it asked for");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNIT: i64 = FRACTIONS_PER_UNIT;

    fn ids(shares: &[Share]) -> Vec<(&str, i64)> {
        shares.iter().map(|share| (&*share.id, share.fractions)).collect()
    }

    #[test]
    fn parts_share_a_device_and_whole_ones_are_kept_whole() {
        let mut gpus = Gpus::new(&["a".into(), "b".into(), "c".into()], 3 * UNIT);
        let half = gpus.take(UNIT / 2).unwrap();
        assert_eq!(ids(&half), [("a", UNIT / 2)]);
        assert_eq!(ids(&gpus.take(2 * UNIT).unwrap()), [("b", UNIT), ("c", UNIT)]);
        assert_eq!(ids(&gpus.take(UNIT / 4).unwrap()), [("a", UNIT / 4)]);
        assert!(gpus.take(UNIT / 2).is_none());
        gpus.give_back(&half);
        assert_eq!(ids(&gpus.take(UNIT / 2).unwrap()), [("a", UNIT / 2)]);
    }

    #[test]
    fn a_demand_of_one_and_a_half_has_two_ids() {
        let mut gpus = Gpus::new(&[], 2 * UNIT);
        assert_eq!(ids(&gpus.take(UNIT * 3 / 2).unwrap()), [("0", UNIT / 2), ("1", UNIT)]);
        assert!(!gpus.can_take(UNIT) && gpus.can_take(UNIT / 2));
    }

    #[test]
    fn a_node_may_have_a_part_of_a_device() {
        let mut gpus = Gpus::new(&["x".into()], UNIT / 2);
        assert!(gpus.take(UNIT).is_none());
        assert_eq!(ids(&gpus.take(UNIT / 2).unwrap()), [("x", UNIT / 2)]);
    }

    /// Whether so much can be had at all, found by trying every device for the part.
    fn possible(free: &[i64], fractions: i64) -> bool {
        let (whole, part) = (fractions / UNIT, fractions % UNIT);
        let whole_of = |without: Option<usize>| {
            free.iter().enumerate().filter(|(at, free)| **free == UNIT && Some(*at) != without).count() as i64
        };
        if part == 0 {
            return whole_of(None) >= whole;
        }
        (0..free.len()).any(|at| free[at] >= part && whole_of(Some(at)) >= whole)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_device_is_over_full_and_all_is_given_back(
            devices in 1..6_i64,
            steps in prop::collection::vec((any::<bool>(), 1..50_i64, any::<prop::sample::Index>()), 1..60),
        ) {
            let mut gpus = Gpus::new(&[], devices * UNIT);
            let mut held: Vec<Vec<Share>> = Vec::new();
            for (take, tenths, which) in steps {
                if take || held.is_empty() {
                    let fractions = tenths * UNIT / 10;
                    let free: Vec<i64> = gpus.devices.iter().map(|device| device.free).collect();
                    let taken = gpus.take(fractions);
                    prop_assert_eq!(taken.is_some(), possible(&free, fractions), "{} of {:?}", fractions, free);
                    if let Some(shares) = taken {
                        prop_assert_eq!(shares.iter().map(|share| share.fractions).sum::<i64>(), fractions);
                        let parts = shares.iter().filter(|share| share.fractions < UNIT).count();
                        prop_assert!(parts <= 1, "a part is of one device: {:?}", shares);
                        held.push(shares);
                    }
                } else {
                    let shares = held.swap_remove(which.index(held.len()));
                    gpus.give_back(&shares);
                }
                let out: i64 = held.iter().flatten().map(|share| share.fractions).sum();
                prop_assert_eq!(gpus.taken(), out);
            }
            held.iter().for_each(|shares| gpus.give_back(shares));
            prop_assert_eq!(gpus.taken(), 0);
        }
    }
}
