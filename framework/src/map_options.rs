//! How a dataset calls a function.

use std::ops::{Range, RangeInclusive};

use mobula_core::resources::{CPU, GPU, MEMORY};
use mobula_data::DataError;
use mobula_data::executor::RunError;
use mobula_data::function::Parameter;
use mobula_data::plan::{Compute, MAX_ACTORS, MapBatches};

use crate::batch_call::BatchCall;

/// How a dataset calls a function: with how many rows, by how many at once, on what.
///
/// ```
/// use mobula::MapOptions;
/// let options = MapOptions::default().batch_size(1024).concurrency(1..=4).num_gpus(0.5);
/// ```
///
/// What makes no sense is an error of the sink.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "options do nothing until they are given to a dataset"]
pub struct MapOptions {
    batch_size: Option<usize>,
    concurrency: Option<Concurrency>,
    resources: Vec<(String, f64)>,
}

/// How many call a function at once: `2`, or `1..=4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// At least.
    pub min: usize,
    /// At most.
    pub max: usize,
}

impl From<usize> for Concurrency {
    fn from(at_once: usize) -> Self {
        Self { min: at_once, max: at_once }
    }
}

impl From<RangeInclusive<usize>> for Concurrency {
    fn from(range: RangeInclusive<usize>) -> Self {
        Self { min: *range.start(), max: *range.end() }
    }
}

impl From<Range<usize>> for Concurrency {
    fn from(range: Range<usize>) -> Self {
        Self { min: range.start, max: range.end.saturating_sub(1) }
    }
}

impl MapOptions {
    /// At most so many rows at a time; as they come unless given. Only the last batch of a block
    /// has fewer.
    pub fn batch_size(mut self, rows: usize) -> Self {
        self.batch_size = Some(rows);
        self
    }

    /// How many call the function at once.
    ///
    /// Of a class, that many actors with an object each: `2`, or `1..=4`, where there are more than
    /// one while blocks wait and there is room. From one to as many as there is room for, unless
    /// given. Of a function, so many tasks at most.
    pub fn concurrency(mut self, concurrency: impl Into<Concurrency>) -> Self {
        self.concurrency = Some(concurrency.into());
        self
    }

    /// CPUs that each task or actor needs while it lives; 1 unless given.
    pub fn num_cpus(self, cpus: impl Into<f64>) -> Self {
        self.resource(CPU, cpus)
    }

    /// GPUs that each needs; a fraction shares one. What comes before the function in the plan runs
    /// without.
    pub fn num_gpus(self, gpus: impl Into<f64>) -> Self {
        self.resource(GPU, gpus)
    }

    /// Bytes of heap that each needs: for placement, not a limit.
    pub fn memory(self, bytes: u64) -> Self {
        self.resource(MEMORY, bytes as f64)
    }

    /// An amount of any resource, named as the nodes that have it name it.
    pub fn resource(mut self, name: impl Into<String>, amount: impl Into<f64>) -> Self {
        let name = name.into();
        self.resources.retain(|(other, _)| *other != name);
        self.resources.push((name, amount.into()));
        self
    }

    /// How a plan calls `function`.
    pub(crate) fn map(&self, function: &BatchCall) -> Result<MapBatches, RunError> {
        let params = function.parameters()?.iter().map(Parameter::from).collect();
        let full = function.function();
        let name = full.rsplit("::").next().unwrap_or(full).to_owned();
        if let Some(Concurrency { min, max }) = self.concurrency
            && (min == 0 || min > max)
        {
            let cause = format!("a concurrency from {min} to {max}: it must be 1 or more, the lower bound first");
            return Err(DataError::InvalidPlan { operator: format!("map_batches {name}"), cause }.into());
        }
        let compute = match (self.concurrency, function.keeps_state()) {
            (None, false) => Compute::Tasks,
            (Some(Concurrency { max, .. }), false) => Compute::FewTasks { max },
            (None, true) => Compute::Actors { min: 1, max: MAX_ACTORS },
            (Some(Concurrency { min, max }), true) => Compute::Actors { min, max },
        };
        let (batch_rows, resources) = (self.batch_size, self.resources.clone());
        Ok(MapBatches { function: full.to_owned(), params, batch_rows, name, compute, resources })
    }
}
