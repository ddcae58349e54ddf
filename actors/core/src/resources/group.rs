//! The room of a placement group, as resources of their own.
//!
//! A node that holds a bundle has, for each resource of it, one that bears the group's id and one
//! that bears the bundle's index too; work in the group asks for those instead. So whatever is
//! known of resources (where work fits, what waits, what is lent) holds inside of groups.
//!
//! ```text
//!   bundle 1 of group g: CPU 2      CPU_group_g 2, CPU_group_1_g 2, bundle_group_g, bundle_group_1_g
//!   a task in it with one CPU       CPU_group_g 1, CPU_group_1_g 1, and a bit of both bundles
//!   one anywhere in the group       CPU_group_g 1, and a bit of bundle_group_g
//! ```

use std::str::FromStr;

use super::{CPU, FRACTIONS_PER_UNIT, Resources};
use crate::ids::PlacementGroupId;

/// What the names have in the middle. Users' own resources must not.
const MIDDLE: &str = "_group_";
/// The resource that says that a bundle is there, whatever it holds.
const BUNDLE: &str = "bundle";
/// How much of it there is.
const BUNDLE_FRACTIONS: i64 = 1_000 * FRACTIONS_PER_UNIT;
/// How much of it work takes, so that work without any demand is bound to the group too.
const WORK_FRACTIONS: i64 = FRACTIONS_PER_UNIT / 1_000;

/// Whether this is a resource of a placement group.
pub fn is_of_group(name: &str) -> bool {
    name.contains(MIDDLE)
}

/// Whether this is a resource of this placement group.
pub fn is_in(name: &str, group: PlacementGroupId) -> bool {
    is_of_group(name) && name.ends_with(&group.to_string())
}

/// Whether a task that waits lends this resource.
pub fn is_cpu(name: &str) -> bool {
    name == CPU || name.strip_prefix(CPU).is_some_and(|rest| rest.starts_with(MIDDLE))
}

/// What a node has besides while it holds this bundle.
pub fn of_bundle(group: PlacementGroupId, index: u32, bundle: &Resources) -> Resources {
    let mut named = Resources::new();
    for (name, fractions) in bundle.iter().chain([(BUNDLE, BUNDLE_FRACTIONS)]) {
        named.set(&anywhere(name, group), fractions);
        named.set(&at(name, index, group), fractions);
    }
    named
}

/// What work needs that runs in the group, in this bundle or in any.
pub fn inside(group: PlacementGroupId, index: Option<u32>, demand: &Resources) -> Resources {
    let mut named = Resources::new();
    for (name, fractions) in demand.iter().chain([(BUNDLE, WORK_FRACTIONS)]) {
        named.set(&anywhere(name, group), fractions);
        if let Some(index) = index {
            named.set(&at(name, index, group), fractions);
        }
    }
    named
}

/// The group in which work with this demand runs.
pub fn group_of(demand: &Resources) -> Option<PlacementGroupId> {
    // The names are in order, and `bundle` is in all of them: looked at first, since it is cheap.
    let (name, _) = demand.iter().find(|(name, _)| is_of_group(name))?;
    let (_, id) = name.rsplit_once('_')?;
    PlacementGroupId::from_str(id).ok()
}

/// The bundle in which work with this demand runs; none when any will do.
pub fn index_of(demand: &Resources) -> Option<u32> {
    demand.iter().find_map(|(name, _)| {
        let (index, _) = name.strip_prefix(BUNDLE)?.strip_prefix(MIDDLE)?.split_once('_')?;
        index.parse().ok()
    })
}

/// What work in a group needs, as it was asked for: for people.
pub fn as_asked(demand: &Resources) -> Resources {
    let mut plain = Resources::new();
    let Some(group) = group_of(demand) else { return demand.clone() };
    let end = anywhere("", group);
    for (name, fractions) in demand.iter() {
        if let Some(name) = name.strip_suffix(&end).filter(|name| *name != BUNDLE) {
            plain.set(name, fractions);
        }
    }
    plain
}

/// Without what belongs to placement groups: what is shown to people.
pub fn without_groups(resources: &Resources) -> Resources {
    let mut plain = Resources::new();
    for (name, fractions) in resources.iter().filter(|(name, _)| !is_of_group(name)) {
        plain.set(name, fractions);
    }
    plain
}

/// What a node has free once this group is gone from it: what is free in its bundles is the node's
/// again. Room that work in the group still holds comes back with the end of that work.
pub fn given_back(free: &Resources, group: PlacementGroupId) -> Resources {
    let end = format!("_{group}");
    let mut plain = Resources::new();
    for (name, fractions) in free.iter() {
        let Some(named) = name.strip_suffix(&end).filter(|_| is_of_group(name)) else {
            plain.set(name, plain.fractions(name).saturating_add(fractions));
            continue;
        };
        // Counted where it bears its bundle's index: the other name is the same room once more.
        if let Some((base, _)) = named.rsplit_once(MIDDLE).filter(|(base, _)| *base != BUNDLE) {
            plain.set(base, plain.fractions(base).saturating_add(fractions));
        }
    }
    plain
}

fn anywhere(name: &str, group: PlacementGroupId) -> String {
    format!("{name}{MIDDLE}{group}")
}

fn at(name: &str, index: u32, group: PlacementGroupId) -> String {
    format!("{name}{MIDDLE}{index}_{group}")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn group(n: u128) -> PlacementGroupId {
        PlacementGroupId(Uuid::from_u128(n))
    }

    fn cpus(amount: f64) -> Resources {
        Resources::new().with(CPU, amount).unwrap()
    }

    #[test]
    fn work_fits_into_its_own_bundle_only() {
        let mut node = cpus(4.0);
        node.add(&of_bundle(group(1), 0, &cpus(2.0)));
        node.add(&of_bundle(group(1), 1, &cpus(1.0)));
        assert!(node.covers(&inside(group(1), Some(0), &cpus(2.0))));
        assert!(!node.covers(&inside(group(1), Some(1), &cpus(2.0))));
        // Anywhere in the group counts all its bundles here together.
        assert!(node.covers(&inside(group(1), None, &cpus(3.0))));
        assert!(!node.covers(&inside(group(2), None, &cpus(1.0))));
        assert!(node.covers(&inside(group(1), Some(1), &Resources::new())));
        assert!(!node.covers(&inside(group(1), Some(2), &Resources::new())));
        assert_eq!(without_groups(&node), cpus(4.0));
    }

    #[test]
    fn room_of_a_group_that_is_gone_is_the_nodes_again() {
        let mut free = cpus(1.0);
        free.add(&of_bundle(group(1), 0, &cpus(2.0)));
        free.add(&of_bundle(group(1), 1, &cpus(1.0).with("GPU", 3.0).unwrap()));
        free.add(&of_bundle(group(2), 0, &cpus(5.0)));
        // Half a CPU of bundle 0 is in use.
        free.subtract(&inside(group(1), Some(0), &cpus(0.5)));
        let mut after = cpus(3.5).with("GPU", 3.0).unwrap();
        after.add(&of_bundle(group(2), 0, &cpus(5.0)));
        assert_eq!(given_back(&free, group(1)), after);
        assert_eq!(given_back(&after, group(1)), after);
    }

    #[test]
    fn the_group_is_read_from_the_demand() {
        assert_eq!(group_of(&inside(group(7), Some(3), &cpus(1.0))), Some(group(7)));
        assert_eq!(group_of(&inside(group(7), None, &Resources::new())), Some(group(7)));
        assert_eq!(group_of(&cpus(1.0)), None);
        assert_eq!(index_of(&inside(group(7), Some(3), &cpus(1.0))), Some(3));
        assert_eq!(index_of(&inside(group(7), None, &cpus(1.0))), None);
        assert_eq!(as_asked(&inside(group(7), Some(3), &cpus(1.0))), cpus(1.0));
        assert_eq!(as_asked(&cpus(2.0)), cpus(2.0));
    }

    #[test]
    fn what_is_lent_has_a_name() {
        assert!(is_cpu(CPU));
        assert!(inside(group(1), Some(0), &cpus(1.0)).iter().any(|(name, _)| is_cpu(name)));
        assert!(!is_cpu("CPUs") && !is_cpu("bundle_group_1"));
    }
}
