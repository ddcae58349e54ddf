//! What the tasks of a stage need, and who runs them.
//!
//! Entry type: [`Needs`], read off the operators of a stage. What a task needs is that of the
//! functions in it: a stage ends before one that needs something else ([`Needs::fuse_with`]), so
//! that reading holds no GPU.

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
    fn and(self, other: Self) -> Self {
        let mut demand = self.demand;
        for (name, fractions) in other.demand.iter() {
            demand.set(name, fractions.max(demand.fractions(name)));
        }
        let at_once = [self.at_once, other.at_once].into_iter().flatten().min();
        Self { demand, at_once, actors: self.actors.or(other.actors) }
    }
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
