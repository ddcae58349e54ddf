//! What the tasks of a stage need, and who runs them.
//!
//! Entry type: [`Needs`], read off the operators of a stage. What a task needs is that of the
//! functions in it: what needs something else ([`Needs::fuse_with`]) is done in a leg of its own, so
//! that reading holds no GPU. The legs of a stage run side by side where there is room for
//! all of them ([`side_by_side`]).

use std::cmp::Reverse;

use mobula_core::resources::{CPU, FRACTIONS_PER_UNIT, Resources};

use super::pool::BLOCKS_PER_ACTOR;
use crate::error::DataError;
use crate::plan::{Compute, MapBatches, Operator};
use crate::planner::map_demand;
use crate::stage::{Branch, Combine, StageOperator};

/// What the tasks of a stage need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    /// Each of them.
    pub(super) demand: Resources,
    /// So many at once at most.
    pub(super) at_once: Option<usize>,
    /// They run on so many actors, at least and at most.
    pub(super) actors: Option<(usize, usize)>,
}

impl Default for Needs {
    fn default() -> Self {
        let mut demand = Resources::new();
        demand.set(CPU, FRACTIONS_PER_UNIT);
        Self { demand, at_once: None, actors: None }
    }
}

impl Needs {
    /// Those of a stage of these branches.
    pub(super) fn of(branches: &[Branch]) -> Result<Self, DataError> {
        let all = functions(branches).map(Self::of_function).collect::<Result<Vec<_>, _>>()?;
        Ok(all.into_iter().reduce(Self::and).unwrap_or_default())
    }

    /// Those of one function.
    pub(super) fn of_function(map: &MapBatches) -> Result<Self, DataError> {
        let demand = map_demand(&map.to_string(), map)?;
        let (at_once, actors) = match map.compute {
            Compute::Tasks => (None, None),
            Compute::FewTasks { max } => (Some(max), None),
            Compute::Actors { min, max } => (None, Some((min, max))),
        };
        Ok(Self { demand, at_once, actors })
    }

    /// Whether a function with these needs may join a stage that needs `stage`.
    pub(super) fn fuse_with(&self, stage: &Self) -> bool {
        self.demand == stage.demand && (self.actors.is_none() || stage.actors.is_none())
    }

    /// How many blocks are handed out at once: `by_cpus` of tasks, and enough to keep all actors
    /// busy, but no more than was asked for.
    pub(super) fn window(&self, by_cpus: usize, asked: Option<usize>) -> usize {
        let window = match self.actors {
            Some((_, max)) => max.saturating_mul(BLOCKS_PER_ACTOR),
            None => by_cpus,
        };
        [self.at_once, asked].into_iter().flatten().fold(window, usize::min)
    }

    /// What both need together.
    pub(super) fn and(self, other: Self) -> Self {
        let mut demand = self.demand;
        for (name, fractions) in other.demand.iter() {
            demand.set(name, fractions.max(demand.fractions(name)));
        }
        let at_once = [self.at_once, other.at_once].into_iter().flatten().min();
        Self { demand, at_once, actors: self.actors.or(other.actors) }
    }
}

/// Whether legs with these needs can run at the same time on nodes with these resources: a task of
/// each of those that run tasks, and the fewest actors of the others. They then need no more actors
/// than leave room for the others: an actor keeps what it has.
///
/// Where it says so there is a place for each. That there is none it may say wrongly, since not all
/// ways are tried; then the legs run one after the other. Which places the cluster chooses it does not
/// say either: actors that have nothing to do make room for other legs.
pub(super) fn side_by_side(mut legs: Vec<Needs>, mut nodes: Vec<Resources>) -> Option<Vec<Needs>> {
    let order = hardest_first(&legs, &nodes);
    let mut place = |demand: &Resources| {
        let node = nodes.iter_mut().find(|node| node.covers(demand))?;
        node.subtract(demand);
        Some(())
    };
    for leg in order.into_iter().map(|place| &legs[place]) {
        let fewest = leg.actors.map_or(1, |(min, _)| min);
        (0..fewest).try_for_each(|_| place(&leg.demand))?;
    }
    let pools = legs.iter_mut().filter_map(|leg| Some((&leg.demand, leg.actors.as_mut()?)));
    let mut growing: Vec<_> = pools.map(|(demand, (min, max))| (demand, std::mem::replace(max, *min), max)).collect();
    // One more for each in turn.
    while !growing.is_empty() {
        growing.retain_mut(|(demand, most, has)| {
            let grows = **has < *most && place(demand).is_some();
            **has += usize::from(grows);
            grows
        });
    }
    Some(legs)
}

/// The places of the legs, those for which the fewest nodes will do first: what runs anywhere is not to
/// take the CPU beside the only GPU. Of equals, those that need the most.
fn hardest_first(legs: &[Needs], nodes: &[Resources]) -> Vec<usize> {
    let how_easy = |leg: &usize| {
        let demand = &legs[*leg].demand;
        let size: i64 = demand.iter().map(|(_, fractions)| fractions).fold(0, i64::saturating_add);
        (nodes.iter().filter(|node| node.covers(demand)).count(), Reverse(size))
    };
    let mut places: Vec<usize> = (0..legs.len()).collect();
    places.sort_by_key(how_easy);
    places
}

/// The functions that branches call, in order.
pub(super) fn functions(branches: &[Branch]) -> impl Iterator<Item = &MapBatches> {
    branches.iter().flat_map(|branch| {
        let combine = match &branch.combine {
            Combine::Groups { map, .. } => Some(map),
            _ => None,
        };
        let operators = branch.operators.iter().filter_map(|operator| match operator {
            StageOperator::Row(Operator::MapBatches(map)) => Some(map),
            _ => None,
        });
        combine.into_iter().chain(operators)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn needs(compute: Compute, resources: &[(&str, f64)]) -> Needs {
        let map = MapBatches {
            function: "f".into(),
            params: Vec::new(),
            batch_rows: None,
            name: "f".into(),
            compute,
            resources: resources.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect(),
        };
        Needs::of_function(&map).unwrap()
    }

    #[test]
    fn a_function_joins_a_stage_that_needs_the_same() {
        let plain = needs(Compute::Tasks, &[]);
        let gpu = needs(Compute::Tasks, &[("GPU", 1.0)]);
        let actors = needs(Compute::Actors { min: 1, max: 4 }, &[]);
        let stage = Needs::default();
        assert!(plain.fuse_with(&stage) && actors.fuse_with(&stage) && !gpu.fuse_with(&stage));
        assert!(gpu.fuse_with(&gpu) && !plain.fuse_with(&gpu));
        assert!(plain.fuse_with(&actors) && !actors.fuse_with(&actors), "one kind of actors in a stage");
    }

    #[test]
    fn legs_run_side_by_side_where_there_is_room_for_each() {
        let nodes = |cpus: &[i64]| -> Vec<Resources> {
            let node = |cpus: &i64| {
                let mut node = Resources::new();
                node.set(CPU, cpus * FRACTIONS_PER_UNIT);
                node.set("GPU", FRACTIONS_PER_UNIT);
                node
            };
            cpus.iter().map(node).collect()
        };
        let pools = |legs: Option<Vec<Needs>>| legs.map(|legs| legs.iter().filter_map(|leg| leg.actors).collect());
        let read = Needs::default();
        let gpu = needs(Compute::Actors { min: 1, max: 4 }, &[("GPU", 1.0)]);
        let legs = || vec![read.clone(), gpu.clone()];
        // A function that asks for a GPU also takes a CPU unless it says otherwise.
        let cpus = gpu.demand.units(CPU);
        assert_eq!(pools(side_by_side(legs(), nodes(&[1]))), (cpus == 0.0).then(|| vec![(1, 1)]));
        assert_eq!(pools(side_by_side(legs(), nodes(&[2]))), Some(vec![(1, 1)]));
        assert_eq!(pools(side_by_side(legs(), nodes(&[2, 2, 2]))), Some(vec![(1, 3)]));
        let (many, few) = (Compute::Actors { min: 2, max: 9 }, Compute::Actors { min: 1, max: 2 });
        let two = || vec![read.clone(), needs(many, &[]), needs(few, &[])];
        assert_eq!(pools(side_by_side(two(), nodes(&[3]))), None);
        assert_eq!(pools(side_by_side(two(), nodes(&[4]))), Some(vec![(2, 2), (1, 1)]));
        assert_eq!(pools(side_by_side(two(), nodes(&[4, 3]))), Some(vec![(2, 4), (1, 2)]));
        // What needs two CPUs of one node finds none in parts.
        let wide = needs(Compute::Tasks, &[("CPU", 2.0)]);
        assert!(side_by_side(vec![read.clone(), wide.clone()], nodes(&[1, 1])).is_none());
        assert!(side_by_side(vec![read.clone(), wide], nodes(&[1, 2])).is_some());
    }

    fn node(cpus: i64, gpus: i64) -> Resources {
        let mut node = Resources::new();
        node.set(CPU, cpus * FRACTIONS_PER_UNIT);
        node.set("GPU", gpus * FRACTIONS_PER_UNIT);
        node
    }

    #[test]
    fn room_is_found_in_whatever_order_nodes_and_legs_are() {
        let read = Needs::default();
        let gpu = needs(Compute::Actors { min: 1, max: 1 }, &[("CPU", 1.0), ("GPU", 1.0)]);
        let fit = |legs: [&Needs; 2], nodes: [Resources; 2]| {
            side_by_side(legs.map(Clone::clone).to_vec(), nodes.to_vec()).is_some()
        };
        for legs in [[&read, &gpu], [&gpu, &read]] {
            for nodes in [[node(1, 1), node(1, 0)], [node(1, 0), node(1, 1)]] {
                assert!(fit(legs, nodes));
            }
            assert!(!fit(legs, [node(1, 1), node(0, 1)]), "one CPU for both");
        }
        let (small, large) = (needs(Compute::FewTasks { max: 1 }, &[]), needs(Compute::Tasks, &[("CPU", 2.0)]));
        let legs = vec![small.clone(), small, large.clone(), large];
        assert!(side_by_side(legs, vec![node(3, 0), node(3, 0)]).is_some());
    }

    /// Whether there is a node for each of these, tried in all ways.
    fn has_places(demands: &[Resources], nodes: &mut [Resources]) -> bool {
        let Some((first, others)) = demands.split_first() else { return true };
        (0..nodes.len()).any(|place| {
            if !nodes[place].covers(first) {
                return false;
            }
            nodes[place].subtract(first);
            let found = has_places(others, nodes);
            nodes[place].add(first);
            found
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn where_legs_are_said_to_fit_there_is_a_place_for_each(
            nodes in proptest::collection::vec((0i64..4, 0i64..3), 1..4),
            legs in proptest::collection::vec((0usize..4, 0usize..2, 0usize..3), 1..4),
        ) {
            let leg = |(cpus, gpus, actors): (usize, usize, usize)| {
                let compute = if actors == 0 { Compute::Tasks } else { Compute::Actors { min: actors, max: actors + 2 } };
                needs(compute, &[("CPU", cpus as f64), ("GPU", gpus as f64)])
            };
            let legs: Vec<Needs> = legs.into_iter().map(leg).collect();
            let mut nodes: Vec<Resources> = nodes.into_iter().map(|(cpus, gpus)| node(cpus, gpus)).collect();
            if let Some(fit) = side_by_side(legs.clone(), nodes.clone()) {
                // Those that there may be at most, too.
                let most = |leg: &Needs| std::iter::repeat_n(leg.demand.clone(), leg.actors.map_or(1, |(_, max)| max));
                let demands: Vec<Resources> = fit.iter().flat_map(most).collect();
                prop_assert!(has_places(&demands, &mut nodes), "{fit:?} on {nodes:?}");
                prop_assert!(fit.iter().zip(&legs).all(|(fit, leg)| fit.demand == leg.demand));
            }
        }
    }

    #[test]
    fn what_is_fused_needs_what_each_of_it_does() {
        let few = needs(Compute::FewTasks { max: 3 }, &[("CPU", 0.5), ("disk", 2.0)]);
        let fewer = needs(Compute::FewTasks { max: 2 }, &[("GPU", 1.0)]);
        let actors = needs(Compute::Actors { min: 1, max: 4 }, &[]);
        let both = few.and(fewer).and(actors);
        assert_eq!((both.at_once, both.actors), (Some(2), Some((1, 4))));
        let units = [CPU, "GPU", "disk"].map(|name| both.demand.units(name));
        assert_eq!(units, [1.0, 1.0, 2.0]);
    }
}
