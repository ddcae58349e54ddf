//! Rows in groups.

use mobula_data::aggregate::{self, Aggregate};
use mobula_data::plan::{Exchange, MapBatches, SortKey};

use super::Dataset;
use crate::aggregator::{self, RemoteAggregator};
use crate::batch_call::BatchCall;
use crate::map_options::MapOptions;

/// Rows of which the states of groups are made at a time.
const STATE_ROWS: usize = 1 << 16;

/// The rows of a dataset, grouped by the values of some columns. All nulls of a key are one group,
/// and so are all NaNs.
#[derive(Clone, Debug)]
#[must_use = "groups do nothing until they are aggregated"]
pub struct GroupedDataset {
    dataset: Dataset,
    keys: Vec<String>,
}

impl GroupedDataset {
    pub(super) fn new(dataset: Dataset, keys: Vec<String>) -> Self {
        Self { dataset, keys }
    }

    /// A row for each group: its keys, and what is computed of its rows, in the order of the keys.
    ///
    /// ```
    /// use mobula::aggregate::{count, mean, quantile};
    /// let fares = mobula::read_parquet("trips/")
    ///     .group_by("PULocationID")
    ///     .aggregate([count(), mean("fare_amount").alias("fare"), quantile("fare_amount", 0.9)]);
    /// ```
    pub fn aggregate(self, aggregates: impl IntoIterator<Item = Aggregate>) -> Dataset {
        let aggregates = aggregates.into_iter().collect();
        self.dataset.exchange(Exchange::Aggregate { keys: self.keys, aggregates })
    }

    /// A row for each group: its keys, and what an aggregate of the user's own says of its rows, in
    /// the order of the keys. Each block makes states of its groups; only these are put together.
    /// See [`Aggregator`](crate::Aggregator).
    pub fn aggregate_with<A: RemoteAggregator>(mut self, aggregator: A) -> Dataset {
        let (partial, merge) = aggregator::calls(aggregator, &self.keys);
        let options = MapOptions::default().batch_size(STATE_ROWS);
        match options.map(&partial).and_then(|partial| Ok((partial, options.map(&merge)?))) {
            Ok((partial, merge)) => {
                let name = A::NAME.rsplit("::").next().unwrap_or(A::NAME);
                let partial = MapBatches { name: format!("partial {name}"), ..partial };
                let map = MapBatches { name: name.to_owned(), batch_rows: None, ..merge };
                let (keys, order) = (self.keys.clone(), self.keys.iter().map(SortKey::ascending).collect());
                let states = self.dataset.with(|plan| plan.map_batches(partial));
                states.exchange(Exchange::MapGroups { keys, map }).exchange(Exchange::Sort { keys: order })
            }
            // Building a plan fails nowhere; the sink says what was wrong with it.
            Err(error) => {
                self.dataset.problem.get_or_insert(error);
                self.dataset
            }
        }
    }

    /// How many rows each group has, in a column `count()`.
    pub fn count(self) -> Dataset {
        self.aggregate([aggregate::count()])
    }

    /// The sum of a column.
    pub fn sum(self, column: impl Into<String>) -> Dataset {
        self.aggregate([aggregate::sum(column)])
    }

    /// The mean of a column.
    pub fn mean(self, column: impl Into<String>) -> Dataset {
        self.aggregate([aggregate::mean(column)])
    }

    /// The least value of a column.
    pub fn min(self, column: impl Into<String>) -> Dataset {
        self.aggregate([aggregate::min(column)])
    }

    /// The greatest value of a column.
    pub fn max(self, column: impl Into<String>) -> Dataset {
        self.aggregate([aggregate::max(column)])
    }

    /// The standard deviation of a column (of the sample: divided by n - 1).
    pub fn std(self, column: impl Into<String>) -> Dataset {
        self.aggregate([aggregate::std(column)])
    }

    /// Hands all rows of each group at once to a remote function of a `RecordBatch`, of
    /// [`Rows`](crate::Rows) or of [`NdColumns`](crate::NdColumns); what it gives are the rows of the
    /// result. A group must fit into the memory of a worker.
    pub fn map_groups(self, function: impl Into<BatchCall>) -> Dataset {
        self.map_groups_with(function, MapOptions::default())
    }

    /// As [`map_groups`](Self::map_groups), with by how many at once and on what told. A batch size
    /// means nothing here.
    pub fn map_groups_with(mut self, function: impl Into<BatchCall>, options: MapOptions) -> Dataset {
        match options.map(&function.into()) {
            Ok(map) => self.dataset.exchange(Exchange::MapGroups { keys: self.keys, map }),
            // Building a plan fails nowhere; the sink says what was wrong with it.
            Err(error) => {
                self.dataset.problem.get_or_insert(error);
                self.dataset
            }
        }
    }
}
