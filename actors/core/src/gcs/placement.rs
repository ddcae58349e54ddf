//! Which node work goes to: one pure function for the raylets' tasks and the GCS's actors.
//!
//! A node is filled to one half first (fewer nodes hold the data, fewer workers are started), then
//! load is spread evenly; ties go to the smaller node id, so that the choice never depends on the
//! order in which nodes were listed.

use crate::ids::NodeId;
use crate::labels::{Labels, in_words};
use crate::messages::Strategy;
use crate::resources::{FRACTIONS_PER_UNIT, OBJECT_STORE_MEMORY, Resources, group};

/// Up to this much of a node's scarcest resource in use (in thousandths) it counts as half empty,
/// and work is packed onto it.
const PACK_UNTIL_PERMILLE: i64 = 500;

/// A living node, as the chooser sees it.
pub(crate) struct Candidate<'a> {
    /// The node.
    pub(crate) node: NodeId,
    /// What it has.
    pub(crate) total: &'a Resources,
    /// What is free, as far as is known.
    pub(crate) available: &'a Resources,
    /// Its labels.
    pub(crate) labels: &'a Labels,
    /// Whether it is the chooser's own.
    pub(crate) local: bool,
    /// Whether it has lately refused such work and is not to be asked again now.
    pub(crate) full: bool,
}

/// Where the work goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This node has room now.
    Now(NodeId),
    /// No node has room now; this one will, when others finish.
    Later(NodeId),
    /// No living node could ever run it, and why.
    Never(String),
}

/// Whether a node runs work at all; a driver's own node only stores objects.
pub(crate) fn takes_work(total: &Resources) -> bool {
    total.iter().any(|(name, _)| name != OBJECT_STORE_MEMORY)
}

/// How much of the node's scarcest resource is in use, in thousandths.
fn used_permille(candidate: &Candidate<'_>) -> i64 {
    candidate
        .total
        .iter()
        .filter(|(name, total)| *name != OBJECT_STORE_MEMORY && !group::is_of_group(name) && *total > 0)
        .map(|(name, total)| {
            let used = i128::from(total.saturating_sub(candidate.available.fractions(name)));
            (used * 1000 / i128::from(total)) as i64
        })
        .max()
        .unwrap_or(0)
}

/// Chooses a node for one piece of work that needs `need`. `last_spread` remembers where spreading
/// stands.
pub(crate) fn choose(
    candidates: &[Candidate<'_>],
    need: &Resources,
    strategy: &Strategy,
    last_spread: &mut Option<NodeId>,
) -> Choice {
    let feasible: Vec<&Candidate<'_>> = candidates
        .iter()
        .filter(|c| takes_work(c.total) && c.total.covers(need) && strategy.allows(c.labels))
        .collect();
    if let Strategy::NodeAffinity { node, soft } = strategy {
        if let Some(found) = feasible.iter().find(|c| c.node == *node) {
            return if fits(found, need) { Choice::Now(*node) } else { Choice::Later(*node) };
        }
        if !soft {
            return Choice::Never(match candidates.iter().find(|c| c.node == *node) {
                Some(c) => format!("node {node} was asked for, but it has only {}; {need} is needed", c.total),
                None => format!("node {node} was asked for, but it is dead or unknown"),
            });
        }
    }
    if feasible.is_empty() {
        return Choice::Never(explain_infeasible(candidates, need, strategy));
    }
    let fitting: Vec<&Candidate<'_>> = feasible.iter().copied().filter(|c| fits(c, need)).collect();
    let (fitting, feasible) = (preferred(fitting, strategy), preferred(feasible, strategy));
    if matches!(strategy, Strategy::Spread) {
        return spread(&fitting, &feasible, last_spread);
    }
    let half_empty = |c: &&&Candidate<'_>| used_permille(c) < PACK_UNTIL_PERMILLE;
    if let Some(local) = fitting.iter().filter(half_empty).find(|c| c.local) {
        return Choice::Now(local.node);
    }
    if let Some(packed) =
        fitting.iter().filter(half_empty).max_by_key(|c| (used_permille(c), std::cmp::Reverse(c.node)))
    {
        return Choice::Now(packed.node);
    }
    let emptiest =
        |nodes: &[&Candidate<'_>]| nodes.iter().min_by_key(|c| (used_permille(c), !c.local, c.node)).map(|c| c.node);
    if let Some(node) = emptiest(&fitting) {
        return Choice::Now(node);
    }
    // Work that must wait waits at home when it can: it hears first of what becomes free there.
    let waiting = feasible.iter().find(|c| c.local && !c.full).map(|c| c.node).or_else(|| {
        let open: Vec<&Candidate<'_>> = feasible.iter().copied().filter(|c| !c.full).collect();
        emptiest(&open).or_else(|| emptiest(&feasible))
    });
    match waiting {
        Some(node) => Choice::Later(node),
        None => Choice::Never(explain_infeasible(candidates, need, strategy)),
    }
}

/// Those that the strategy means first, if there are any.
fn preferred<'a, 'b>(nodes: Vec<&'a Candidate<'b>>, strategy: &Strategy) -> Vec<&'a Candidate<'b>> {
    let first: Vec<_> = nodes.iter().copied().filter(|c| strategy.prefers(c.labels)).collect();
    if first.is_empty() { nodes } else { first }
}

fn fits(candidate: &Candidate<'_>, need: &Resources) -> bool {
    !candidate.full && candidate.available.covers(need)
}

/// Round robin by id: the next fitting node after the last one chosen.
fn spread(fitting: &[&Candidate<'_>], feasible: &[&Candidate<'_>], last: &mut Option<NodeId>) -> Choice {
    let next = |nodes: &[&Candidate<'_>], last: Option<NodeId>| {
        let after = nodes.iter().map(|c| c.node).filter(|node| Some(*node) > last).min();
        after.or_else(|| nodes.iter().map(|c| c.node).min())
    };
    if let Some(node) = next(fitting, *last) {
        *last = Some(node);
        return Choice::Now(node);
    }
    match next(feasible, *last) {
        Some(node) => Choice::Later(node),
        None => Choice::Never("no node is alive".to_owned()),
    }
}

/// Says what no node has enough of.
fn explain_infeasible(candidates: &[Candidate<'_>], need: &Resources, strategy: &Strategy) -> String {
    let mut working: Vec<&Candidate<'_>> = candidates.iter().filter(|c| takes_work(c.total)).collect();
    if working.is_empty() {
        return "no node of the cluster takes work; start one with `mobula start`".to_owned();
    }
    working.retain(|c| strategy.allows(c.labels));
    if let Strategy::NodeLabels { hard, .. } = strategy
        && working.is_empty()
    {
        return format!("no node has the labels that are asked for: {}", in_words(hard));
    }
    for (name, fractions) in need.iter() {
        let most = working.iter().map(|c| c.total.fractions(name)).max().unwrap_or(0);
        if most < fractions && group::is_of_group(name) {
            return "its placement group is not there yet".to_owned();
        }
        if most < fractions {
            let units = |fractions: i64| fractions as f64 / FRACTIONS_PER_UNIT as f64;
            return format!("{name} {} is needed, no node has more than {}", units(fractions), units(most));
        }
    }
    format!("no single node has all of {need}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::CPU;
    use uuid::Uuid;

    const NONE: &Labels = &Labels::new();

    fn cpus(amount: f64) -> Resources {
        Resources::new().with(CPU, amount).unwrap()
    }

    /// A scenario: nodes as (total, free) CPUs, the first one local.
    fn pick(nodes: &[(f64, f64)], need: f64, strategy: &Strategy, last: &mut Option<NodeId>) -> Choice {
        let sets: Vec<_> = nodes.iter().map(|(total, free)| (cpus(*total), cpus(*free))).collect();
        let candidates: Vec<_> = sets
            .iter()
            .enumerate()
            .map(|(i, (total, available))| Candidate {
                node: id(i),
                total,
                available,
                labels: NONE,
                local: i == 0,
                full: false,
            })
            .collect();
        choose(&candidates, &cpus(need), strategy, last)
    }

    fn id(i: usize) -> NodeId {
        NodeId(Uuid::from_u128(i as u128 + 1))
    }

    #[test]
    fn packs_to_half_then_spreads() {
        let default = Strategy::Default;
        type Case<'a> = (&'a str, &'a [(f64, f64)], f64, Choice);
        let table: &[Case<'_>] = &[
            ("idle local first", &[(4., 4.), (4., 4.)], 1., Choice::Now(id(0))),
            ("local below half", &[(4., 2.5), (4., 4.)], 1., Choice::Now(id(0))),
            ("local half full, another packed", &[(4., 2.), (4., 4.), (4., 3.)], 1., Choice::Now(id(2))),
            ("all above half: the emptiest", &[(4., 1.), (4., 2.), (4., 1.)], 1., Choice::Now(id(1))),
            ("equal: local", &[(4., 1.), (4., 1.)], 1., Choice::Now(id(0))),
            ("only one fits", &[(4., 0.), (8., 4.)], 4., Choice::Now(id(1))),
            ("none fits now: wait at home", &[(4., 0.), (8., 0.)], 4., Choice::Later(id(0))),
            ("never at home: wait there", &[(4., 4.), (8., 0.)], 6., Choice::Later(id(1))),
        ];
        for (what, nodes, need, expected) in table {
            assert_eq!(&pick(nodes, *need, &default, &mut None), expected, "{what}");
        }
    }

    #[test]
    fn infeasible_says_what_is_missing() {
        let Choice::Never(why) = pick(&[(4., 4.), (2., 2.)], 5., &Strategy::Default, &mut None) else {
            panic!("5 CPUs fit nowhere")
        };
        assert!(why.contains("CPU 5") && why.contains('4'), "{why}");
    }

    #[test]
    fn spreading_goes_round() {
        let mut last = None;
        let nodes = [(4., 4.), (4., 4.), (4., 4.)];
        let seen: Vec<_> = (0..6).map(|_| pick(&nodes, 1., &Strategy::Spread, &mut last)).collect();
        assert_eq!(seen, [0, 1, 2, 0, 1, 2].map(|i| Choice::Now(id(i))));
    }

    #[test]
    fn labels_are_demanded_or_preferred() {
        use crate::labels::{NodeLabel, parse};
        type Case<'a> = (&'a str, &'a [NodeLabel], &'a [NodeLabel], [f64; 3], Choice);
        let labels = ["zone=a", "zone=b,disk=ssd", "zone=b"].map(|text| parse(text).unwrap());
        let (a, b) = (NodeLabel::is_in("zone", ["a"]), NodeLabel::is_in("zone", ["b"]));
        let (ssd, none) = (NodeLabel::exists("disk"), NodeLabel::exists("gpu"));
        let free = [4., 4., 4.];
        let table: &[Case<'_>] = &[
            ("only one has it", std::slice::from_ref(&ssd), &[], free, Choice::Now(id(1))),
            ("all of them must hold", &[b.clone(), NodeLabel::not_exists("disk")], &[], free, Choice::Now(id(2))),
            ("it waits for the one that has it", std::slice::from_ref(&a), &[], [0., 4., 4.], Choice::Later(id(0))),
            ("one is preferred", &[], std::slice::from_ref(&ssd), free, Choice::Now(id(1))),
            ("but another will do", &[], std::slice::from_ref(&ssd), [4., 0., 4.], Choice::Now(id(0))),
            (
                "another of those allowed",
                std::slice::from_ref(&b),
                std::slice::from_ref(&ssd),
                [4., 0., 4.],
                Choice::Now(id(2)),
            ),
            ("to wait, the preferred one", &[], std::slice::from_ref(&ssd), [0., 0., 0.], Choice::Later(id(1))),
            ("nobody has what is preferred", &[], std::slice::from_ref(&none), free, Choice::Now(id(0))),
        ];
        let choose_of = |hard: &[NodeLabel], soft: &[NodeLabel], free: [f64; 3], need: f64| {
            let (total, free) = (cpus(4.0), free.map(cpus));
            let candidates: Vec<_> = (0..3)
                .map(|i| Candidate {
                    node: id(i),
                    total: &total,
                    available: &free[i],
                    labels: &labels[i],
                    local: i == 0,
                    full: false,
                })
                .collect();
            let strategy = Strategy::NodeLabels { hard: hard.to_vec(), soft: soft.to_vec() };
            choose(&candidates, &cpus(need), &strategy, &mut None)
        };
        for (what, hard, soft, free, expected) in table {
            assert_eq!(&choose_of(hard, soft, *free, 1.0), expected, "{what}");
        }
        let Choice::Never(why) = choose_of(&[none], &[], free, 1.0) else { panic!("nobody has it") };
        assert!(why.contains("labels") && why.contains("gpu exists"), "{why}");
        let Choice::Never(why) = choose_of(&[ssd], &[], free, 5.0) else { panic!("nobody has so many") };
        assert!(why.contains("CPU 5"), "{why}");
    }

    #[test]
    fn affinity_is_kept_or_softened() {
        let hard = |soft| Strategy::NodeAffinity { node: id(1), soft };
        assert_eq!(pick(&[(4., 4.), (4., 0.)], 1., &hard(false), &mut None), Choice::Later(id(1)));
        assert!(matches!(pick(&[(4., 4.)], 1., &hard(false), &mut None), Choice::Never(_)));
        assert_eq!(pick(&[(4., 4.)], 1., &hard(true), &mut None), Choice::Now(id(0)));
    }
}
