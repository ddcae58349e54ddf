//! Where the bundles of a placement group go. A pure function.
//!
//! `STRICT_SPREAD` is a matching of bundles with nodes and finds one whenever there is one;
//! `STRICT_PACK` looks for one node with room for all; `PACK` and `SPREAD` are greedy, largest
//! bundle first, so they may miss a placement that exists when room is scarce.

use std::collections::{BTreeMap, BTreeSet};

use crate::gcs::placement::takes_work;
use crate::ids::NodeId;
use crate::messages::PlacementStrategy;
use crate::resources::Resources;

/// A living node.
#[derive(Clone, Debug)]
pub(super) struct Room {
    pub(super) node: NodeId,
    pub(super) total: Resources,
    pub(super) free: Resources,
    /// It has lately said that it has no room; free or not, it is not asked now.
    pub(super) full: bool,
}

/// What to do with a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Every bundle has a node.
    Now(BTreeMap<u32, NodeId>),
    /// There is not enough room now, and why.
    Later(String),
    /// No room will do, and why.
    Never(String),
}

/// Chooses nodes for the bundles in `missing`. `placed` says where the others of the group are.
pub(super) fn plan(
    strategy: PlacementStrategy,
    missing: &BTreeMap<u32, Resources>,
    placed: &BTreeMap<u32, NodeId>,
    rooms: &[Room],
) -> Plan {
    let working: Vec<&Room> = rooms.iter().filter(|room| takes_work(&room.total)).collect();
    let now = working.iter().filter(|room| !room.full).map(|room| (room.node, room.free.clone())).collect();
    if let Some(chosen) = choose(strategy, missing, placed, now) {
        return Plan::Now(chosen);
    }
    let ever = working.iter().map(|room| (room.node, room.total.clone())).collect();
    match choose(strategy, missing, placed, ever) {
        Some(_) => Plan::Later("no room is free for all of its bundles at once".to_owned()),
        None => Plan::Never(why_never(strategy, missing, placed, &working)),
    }
}

fn choose(
    strategy: PlacementStrategy,
    missing: &BTreeMap<u32, Resources>,
    placed: &BTreeMap<u32, NodeId>,
    mut free: BTreeMap<NodeId, Resources>,
) -> Option<BTreeMap<u32, NodeId>> {
    match strategy {
        PlacementStrategy::StrictPack => on_one(missing, placed, &free),
        PlacementStrategy::StrictSpread => {
            let used: BTreeSet<NodeId> = placed.values().copied().collect();
            free.retain(|node, _| !used.contains(node));
            if free.len() < missing.len() {
                return None;
            }
            matched(missing, &free)
        }
        PlacementStrategy::Pack => on_one(missing, placed, &free).or_else(|| greedy(missing, placed, free, true)),
        PlacementStrategy::Spread => greedy(missing, placed, free, false),
    }
}

/// The node with the least room to spare that takes all of them.
fn on_one(
    missing: &BTreeMap<u32, Resources>,
    placed: &BTreeMap<u32, NodeId>,
    free: &BTreeMap<NodeId, Resources>,
) -> Option<BTreeMap<u32, NodeId>> {
    let mut sum = Resources::new();
    missing.values().for_each(|bundle| sum.add(bundle));
    let fits = |node: &NodeId| free.get(node).is_some_and(|free| free.covers(&sum));
    let node = match placed.values().next() {
        Some(node) => Some(*node).filter(fits),
        None => free.keys().copied().filter(fits).min_by_key(|node| (spare(&free[node], &sum), *node)),
    }?;
    Some(missing.keys().map(|index| (*index, node)).collect())
}

/// What a node would have left of what is asked for, roughly: it only orders nodes.
fn spare(free: &Resources, need: &Resources) -> i64 {
    need.iter().map(|(name, fractions)| free.fractions(name).saturating_sub(fractions)).max().unwrap_or(0)
}

/// One bundle after the other, largest first: next to others of the group, or away from them.
fn greedy(
    missing: &BTreeMap<u32, Resources>,
    placed: &BTreeMap<u32, NodeId>,
    mut free: BTreeMap<NodeId, Resources>,
    together: bool,
) -> Option<BTreeMap<u32, NodeId>> {
    let mut here: BTreeMap<NodeId, i64> = BTreeMap::new();
    placed.values().for_each(|node| *here.entry(*node).or_default() += 1);
    let mut order: Vec<(&u32, &Resources)> = missing.iter().collect();
    order.sort_by_key(|(index, bundle)| (std::cmp::Reverse(size(bundle)), **index));
    let mut chosen = BTreeMap::new();
    for (index, bundle) in order {
        let fitting = free.iter().filter(|(_, free)| free.covers(bundle));
        let (node, _) = fitting.min_by_key(|(node, free)| {
            let others = here.get(node).copied().unwrap_or(0);
            // Packing begins on the node that takes most of the rest; spreading goes to the emptiest.
            (if together { -others } else { others }, std::cmp::Reverse(spare(free, bundle)), **node)
        })?;
        let node = *node;
        if let Some(free) = free.get_mut(&node) {
            free.subtract(bundle);
        }
        *here.entry(node).or_default() += 1;
        chosen.insert(*index, node);
    }
    Some(chosen)
}

/// Only orders bundles.
fn size(bundle: &Resources) -> i64 {
    bundle.iter().map(|(_, fractions)| fractions).max().unwrap_or(0)
}

/// Each bundle on a node of its own: a matching by augmenting paths.
fn matched(missing: &BTreeMap<u32, Resources>, free: &BTreeMap<NodeId, Resources>) -> Option<BTreeMap<u32, NodeId>> {
    let mut taken: BTreeMap<NodeId, u32> = BTreeMap::new();
    for index in missing.keys() {
        if !augment(*index, missing, free, &mut taken, &mut BTreeSet::new()) {
            return None;
        }
    }
    Some(taken.into_iter().map(|(node, index)| (index, node)).collect())
}

/// Finds a node for the bundle, moving others if need be. As deep as there are bundles at most, and
/// their number is bounded.
fn augment(
    index: u32,
    missing: &BTreeMap<u32, Resources>,
    free: &BTreeMap<NodeId, Resources>,
    taken: &mut BTreeMap<NodeId, u32>,
    seen: &mut BTreeSet<NodeId>,
) -> bool {
    for (node, room) in free {
        if !room.covers(&missing[&index]) || !seen.insert(*node) {
            continue;
        }
        let before = taken.get(node).copied();
        if before.is_none_or(|other| augment(other, missing, free, taken, seen)) {
            taken.insert(*node, index);
            return true;
        }
    }
    false
}

fn why_never(
    strategy: PlacementStrategy,
    missing: &BTreeMap<u32, Resources>,
    placed: &BTreeMap<u32, NodeId>,
    working: &[&Room],
) -> String {
    if working.is_empty() {
        return "no node of the cluster takes work; start one with `mobula start`".to_owned();
    }
    let alone = missing.iter().find(|(_, bundle)| !working.iter().any(|room| room.total.covers(bundle)));
    if let Some((index, bundle)) = alone {
        return format!("no node has all of bundle {index}, {bundle}");
    }
    match strategy {
        PlacementStrategy::StrictPack => "no single node has room for all of its bundles".to_owned(),
        PlacementStrategy::StrictSpread => format!(
            "{} different nodes with enough are needed, {} take work",
            missing.len() + placed.len(),
            working.len()
        ),
        PlacementStrategy::Pack | PlacementStrategy::Spread => {
            "all nodes together do not have room for all of its bundles".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::resources::CPU;

    fn cpus(amount: u32) -> Resources {
        Resources::new().with(CPU, f64::from(amount)).unwrap()
    }

    fn id(n: usize) -> NodeId {
        NodeId(Uuid::from_u128(n as u128 + 1))
    }

    /// Nodes as (total, free) CPUs.
    fn rooms(nodes: &[(u32, u32)]) -> Vec<Room> {
        let room = |(n, (total, free)): (usize, &(u32, u32))| Room {
            node: id(n),
            total: cpus(*total),
            free: cpus(*free),
            full: false,
        };
        nodes.iter().enumerate().map(room).collect()
    }

    fn bundles(sizes: &[u32]) -> BTreeMap<u32, Resources> {
        (0..).zip(sizes).map(|(index, size)| (index, cpus(*size))).collect()
    }

    fn place(strategy: PlacementStrategy, sizes: &[u32], nodes: &[(u32, u32)]) -> Plan {
        plan(strategy, &bundles(sizes), &BTreeMap::new(), &rooms(nodes))
    }

    fn nodes_of(plan: Plan) -> Vec<NodeId> {
        match plan {
            Plan::Now(chosen) => chosen.into_values().collect(),
            other => panic!("expected a placement, not {other:?}"),
        }
    }

    #[test]
    fn packing_takes_one_node_where_one_will_do() {
        use PlacementStrategy::{Pack, StrictPack};
        for strategy in [Pack, StrictPack] {
            assert_eq!(nodes_of(place(strategy, &[2, 2], &[(4, 4), (4, 4)])), [id(0), id(0)]);
            // The tighter one.
            assert_eq!(nodes_of(place(strategy, &[1, 1], &[(8, 8), (4, 2)])), [id(1), id(1)]);
        }
        assert_eq!(nodes_of(place(Pack, &[3, 3], &[(4, 4), (4, 4)])).len(), 2);
        assert!(matches!(place(StrictPack, &[3, 3], &[(4, 4), (4, 4)]), Plan::Never(_)));
        assert!(matches!(place(StrictPack, &[2, 2], &[(4, 3), (4, 3)]), Plan::Later(_)));
    }

    #[test]
    fn spreading_takes_different_nodes() {
        use PlacementStrategy::{Spread, StrictSpread};
        assert_eq!(nodes_of(place(Spread, &[2, 2], &[(4, 4), (4, 4)])), [id(0), id(1)]);
        assert_eq!(nodes_of(place(Spread, &[2, 2, 2], &[(8, 8), (4, 4)])).len(), 3);
        let different: BTreeSet<NodeId> =
            nodes_of(place(StrictSpread, &[1, 1, 1], &[(1, 1), (1, 1), (1, 1)])).into_iter().collect();
        assert_eq!(different.len(), 3);
        assert!(matches!(place(StrictSpread, &[1, 1, 1], &[(4, 4), (4, 4)]), Plan::Never(_)));
        // The small one must leave the large node to the large one.
        assert_eq!(nodes_of(place(StrictSpread, &[1, 8], &[(8, 8), (1, 1)])), [id(1), id(0)]);
    }

    #[test]
    fn the_rest_of_a_group_keeps_to_its_strategy() {
        let placed = BTreeMap::from([(0, id(0))]);
        let missing = BTreeMap::from([(1, cpus(1))]);
        let rooms = rooms(&[(4, 4), (4, 4)]);
        let node = |strategy| nodes_of(plan(strategy, &missing, &placed, &rooms))[0];
        assert_eq!(node(PlacementStrategy::StrictSpread), id(1));
        assert_eq!(node(PlacementStrategy::Spread), id(1));
        assert_eq!(node(PlacementStrategy::Pack), id(0));
        assert_eq!(node(PlacementStrategy::StrictPack), id(0));
    }

    #[test]
    fn the_reason_names_what_is_missing() {
        let Plan::Never(why) = place(PlacementStrategy::Pack, &[1, 9], &[(4, 4), (8, 8)]) else {
            panic!("9 CPUs fit nowhere")
        };
        assert!(why.contains("bundle 1") && why.contains("CPU 9"), "{why}");
    }

    /// Whether any assignment fits, tried one by one.
    fn exists(strategy: PlacementStrategy, sizes: &[u32], free: &mut [u32], used: &mut Vec<usize>) -> bool {
        let Some((first, rest)) = sizes.split_first() else { return true };
        for n in 0..free.len() {
            let allowed = match strategy {
                PlacementStrategy::StrictSpread => !used.contains(&n),
                PlacementStrategy::StrictPack => used.iter().all(|other| *other == n),
                _ => true,
            };
            if allowed && free[n] >= *first {
                free[n] -= first;
                used.push(n);
                let found = exists(strategy, rest, free, used);
                used.pop();
                free[n] += first;
                if found {
                    return true;
                }
            }
        }
        false
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn what_is_chosen_fits_and_keeps_to_the_strategy(
            strategy in prop_oneof![
                Just(PlacementStrategy::Pack),
                Just(PlacementStrategy::Spread),
                Just(PlacementStrategy::StrictPack),
                Just(PlacementStrategy::StrictSpread)
            ],
            sizes in prop::collection::vec(1u32..5, 1..5),
            nodes in prop::collection::vec((0u32..9, 0u32..9), 0..5),
        ) {
            let nodes: Vec<(u32, u32)> = nodes.into_iter().map(|(total, free)| (total, free.min(total))).collect();
            let mut free: Vec<u32> = nodes.iter().map(|(_, free)| *free).collect();
            let possible = exists(strategy, &sizes, &mut free, &mut Vec::new());
            match place(strategy, &sizes, &nodes) {
                Plan::Now(chosen) => {
                    prop_assert!(possible);
                    prop_assert_eq!(chosen.len(), sizes.len());
                    for (n, (_, free)) in nodes.iter().enumerate() {
                        let taken: u32 =
                            chosen.iter().filter(|(_, node)| **node == id(n)).map(|(index, _)| sizes[*index as usize]).sum();
                        prop_assert!(taken <= *free);
                    }
                    let different: BTreeSet<NodeId> = chosen.values().copied().collect();
                    match strategy {
                        PlacementStrategy::StrictPack => prop_assert_eq!(different.len(), 1),
                        PlacementStrategy::StrictSpread => prop_assert_eq!(different.len(), sizes.len()),
                        _ => {}
                    }
                }
                Plan::Later(_) | Plan::Never(_) => {
                    // The greedy ones may miss one.
                    let exact = matches!(strategy, PlacementStrategy::StrictPack | PlacementStrategy::StrictSpread);
                    prop_assert!(!exact || !possible);
                }
            }
        }
    }
}
