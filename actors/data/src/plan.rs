//! What to do, before anyone decides how.
//!
//! Entry types: [`LogicalPlan`], a tree of operators with sources at its leaves, made by its
//! builder methods, and [`Sink`], where the rows go. Both are plain data and print. Building one
//! reads nothing and checks nothing; that is the planner's work.
//!
//! Three kinds of nodes matter to how a plan runs: a [`Source`] is where rows come from, an
//! [`Operator`] looks at one batch at a time and is fused with its neighbours, and an
//! [`Exchange`] needs rows of many blocks together.
//!
//! ```
//! use mobula_data::plan::LogicalPlan;
//! use mobula_data::{col, lit};
//! let plan = LogicalPlan::read_parquet(["trips/*.parquet"]).filter(col("fare").gt(lit(0.0)));
//! assert_eq!(plan.to_string(), "filter fare > 0\n  read_parquet trips/*.parquet");
//! ```

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::aggregate::Aggregate;
use crate::expr::Expr;
use crate::function::Parameter;
use crate::source::{ReadFiles, Source};
use crate::write::WriteOptions;

mod tree;

pub(crate) use tree::shortened;

/// A tree of operators.
#[derive(Clone)]
#[non_exhaustive]
pub enum LogicalPlan {
    /// Where rows come from.
    Source(Source),
    /// One operator over the rows of another plan, batch by batch.
    Op {
        /// Where its rows come from.
        input: Arc<LogicalPlan>,
        /// What happens to them.
        op: Operator,
    },
    /// All rows of another plan, put together anew.
    Exchange {
        /// Where its rows come from.
        input: Arc<LogicalPlan>,
        /// How they are put together.
        exchange: Exchange,
    },
    /// The rows of two plans that belong together.
    Join {
        /// The left side.
        left: Arc<LogicalPlan>,
        /// The right side.
        right: Arc<LogicalPlan>,
        /// Which rows belong together, and which are kept.
        join: Join,
    },
    /// The rows of several plans with the same columns, one plan after the other.
    Union {
        /// The plans, in order.
        inputs: Vec<Arc<LogicalPlan>>,
    },
    /// The columns of two plans with the same number of rows, side by side.
    Zip {
        /// Its columns come first.
        left: Arc<LogicalPlan>,
        /// Its columns come next; a name that the left side has gets `_1` behind it.
        right: Arc<LogicalPlan>,
    },
}

/// An operator whose rows come from one input, one batch at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Operator {
    /// Keeps the rows for which the condition is true.
    Filter {
        /// The condition; a row for which it is null is dropped.
        condition: Expr,
    },
    /// Adds a column, or replaces the one of that name.
    WithColumn {
        /// The column's name.
        name: String,
        /// Its value.
        value: Expr,
    },
    /// Adds columns, or replaces those of these names, all computed of the rows as they were.
    WithColumns {
        /// The columns' names and values.
        columns: Vec<(String, Expr)>,
    },
    /// Keeps these columns, in this order.
    Select {
        /// Their names.
        columns: Vec<String>,
    },
    /// Leaves these columns out.
    Drop {
        /// Their names.
        columns: Vec<String>,
    },
    /// Gives columns other names.
    Rename {
        /// The old names and the new ones.
        columns: Vec<(String, String)>,
    },
    /// Computes all columns anew.
    Project {
        /// The columns' names and values.
        columns: Vec<(String, Expr)>,
    },
    /// Keeps the first rows.
    Limit {
        /// How many.
        rows: u64,
    },
    /// Keeps every row with the same chance, by a generator of its own for each block.
    Sample {
        /// The chance, from 0 to 1.
        fraction: f64,
        /// Equal seeds keep equal rows.
        seed: u64,
    },
    /// Hands every batch to a function.
    MapBatches(MapBatches),
}

/// A function over batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapBatches {
    /// The function's registered id.
    pub function: String,
    /// Its arguments after the batch; those of the constructor where it keeps state.
    pub params: Vec<Parameter>,
    /// Rows per batch at most; as they come if none is given.
    pub batch_rows: Option<usize>,
    /// The name shown in plans and reports.
    pub name: String,
    /// Who calls it.
    pub compute: Compute,
    /// What a task or actor that calls it needs, by resource; one CPU unless `CPU` is named.
    pub resources: Vec<(String, f64)>,
}

/// Who calls the function of a [`MapBatches`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compute {
    /// The tasks of the stage.
    #[default]
    Tasks,
    /// The tasks of the stage, not all at once.
    FewTasks {
        /// So many at most.
        max: usize,
    },
    /// Actors, each of which makes the function's state once and keeps it.
    Actors {
        /// So many at least.
        min: usize,
        /// So many at most, as far as there is room for them; more are made while blocks wait.
        max: usize,
    },
}

impl Compute {
    /// Whether the function keeps a state.
    #[must_use]
    pub fn is_actors(self) -> bool {
        matches!(self, Self::Actors { .. })
    }
}

/// Operators of a plan at most, one on top of the other.
pub const MAX_LEVELS: usize = 10_000;

/// Blocks of a result at most: the driver holds a task for each.
pub const MAX_BLOCKS: u64 = 1 << 20;

/// Parts into which an exchange cuts every block at most: each is an object of its own.
pub const MAX_PARTS: u64 = 4096;

/// The most actors that a [`MapBatches`] may ask for.
pub const MAX_ACTORS: usize = 4096;

/// How the rows of all blocks are put together anew.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Exchange {
    /// In the order of some columns. Rows whose keys are equal keep their order.
    Sort {
        /// The most important first.
        keys: Vec<SortKey>,
    },
    /// In an order by chance.
    Shuffle {
        /// Equal seeds give equal orders.
        seed: u64,
    },
    /// The blocks in an order by chance; the rows of each stay as they are.
    ShuffleBlocks {
        /// Equal seeds give equal orders.
        seed: u64,
    },
    /// Into other blocks.
    Repartition(Repartition),
    /// One row for every group of rows with equal keys, in the order of the keys.
    Aggregate {
        /// The columns of the keys; none makes one group of all rows.
        keys: Vec<String>,
        /// What is computed for each group.
        aggregates: Vec<Aggregate>,
    },
    /// Whatever a function gives for every group of rows with equal keys.
    MapGroups {
        /// The columns of the keys.
        keys: Vec<String>,
        /// The function; it is given all rows of a group at once.
        map: MapBatches,
    },
}

/// A column to sort by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SortKey {
    /// The column.
    pub column: String,
    /// The greatest values first.
    pub descending: bool,
    /// Nulls before all values, whatever the direction; they come last otherwise.
    pub nulls_first: bool,
}

impl SortKey {
    /// The least values first, nulls last.
    pub fn ascending(column: impl Into<String>) -> Self {
        Self { column: column.into(), descending: false, nulls_first: false }
    }

    /// The greatest values first, nulls last.
    pub fn descending(column: impl Into<String>) -> Self {
        Self { column: column.into(), descending: true, nulls_first: false }
    }

    /// The same with nulls before all values.
    #[must_use]
    pub fn with_nulls_first(mut self) -> Self {
        self.nulls_first = true;
        self
    }
}

/// Into which blocks rows are put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Repartition {
    /// So many blocks of about as many rows each, in order.
    Blocks(u64),
    /// Blocks of at most so many rows, in order.
    Rows(u64),
    /// So many blocks, where rows with equal keys are in the same one.
    ByKey {
        /// The columns of the key.
        keys: Vec<String>,
        /// How many blocks.
        blocks: u64,
    },
}

/// How two plans are joined. Rows belong together where all their keys are equal; a null equals
/// nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Which rows are kept.
    pub kind: JoinKind,
    /// The keys of the left side.
    pub left_on: Vec<String>,
    /// The keys of the right side, in the same order.
    pub right_on: Vec<String>,
    /// What is put behind the name of a column of the right side that the left one has, too.
    pub suffix: String,
}

/// Which rows of a join are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum JoinKind {
    /// Those that belong together.
    Inner,
    /// And those of the left side that belong to none.
    Left,
    /// And those of the right side that belong to none.
    Right,
    /// And those of either side.
    Full,
    /// Those of the left side that belong to some of the right, once, without its columns.
    Semi,
    /// Those of the left side that belong to none.
    Anti,
}

/// Where the rows of a plan go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Sink {
    /// Files in a directory.
    Write {
        /// The directory; made if it does not exist.
        dir: String,
        /// How they are written.
        options: WriteOptions,
    },
    /// Only their number.
    Count,
    /// Batches, in source order, handed to the caller.
    Batches,
    /// Blocks that stay in the object store, in source order.
    Blocks,
}

impl LogicalPlan {
    /// Rows of Parquet files, directories and patterns.
    pub fn read_parquet(paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::Source(Source::Files(ReadFiles::parquet(paths)))
    }

    /// Keeps the rows for which `condition` is true.
    #[must_use]
    pub fn filter(self, condition: Expr) -> Self {
        self.then(Operator::Filter { condition })
    }

    /// Adds a column, or replaces the one of that name in its place.
    #[must_use]
    pub fn with_column(self, name: impl Into<String>, value: Expr) -> Self {
        self.then(Operator::WithColumn { name: name.into(), value })
    }

    /// Keeps these columns, in this order.
    #[must_use]
    pub fn select(self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.then(Operator::Select { columns: columns.into_iter().map(Into::into).collect() })
    }

    /// Keeps the first `rows` rows in source order.
    #[must_use]
    pub fn limit(self, rows: u64) -> Self {
        self.then(Operator::Limit { rows })
    }

    /// Hands every batch to a function.
    #[must_use]
    pub fn map_batches(self, map: MapBatches) -> Self {
        self.then(Operator::MapBatches(map))
    }

    /// One more operator on top.
    #[must_use]
    pub fn then(self, op: Operator) -> Self {
        Self::Op { input: Arc::new(self), op }
    }

    /// All rows put together anew.
    #[must_use]
    pub fn exchange(self, exchange: Exchange) -> Self {
        Self::Exchange { input: Arc::new(self), exchange }
    }

    /// The rows that belong to those of `right`.
    #[must_use]
    pub fn join(self, right: LogicalPlan, join: Join) -> Self {
        Self::Join { left: Arc::new(self), right: Arc::new(right), join }
    }
}

impl Operator {
    /// What it computes.
    pub(crate) fn expressions(&self) -> Vec<&Expr> {
        match self {
            Self::Filter { condition } => vec![condition],
            Self::WithColumn { value, .. } => vec![value],
            Self::WithColumns { columns } | Self::Project { columns } => {
                columns.iter().map(|(_, value)| value).collect()
            }
            Self::Select { .. }
            | Self::Drop { .. }
            | Self::Rename { .. }
            | Self::Limit { .. }
            | Self::Sample { .. }
            | Self::MapBatches(_) => Vec::new(),
        }
    }

    pub(crate) fn expressions_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            Self::Filter { condition } => vec![condition],
            Self::WithColumn { value, .. } => vec![value],
            Self::WithColumns { columns } | Self::Project { columns } => {
                columns.iter_mut().map(|(_, value)| value).collect()
            }
            Self::Select { .. }
            | Self::Drop { .. }
            | Self::Rename { .. }
            | Self::Limit { .. }
            | Self::Sample { .. }
            | Self::MapBatches(_) => Vec::new(),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter { condition } => write!(f, "filter {condition}"),
            Self::WithColumn { name, value } => write!(f, "with_column {name} = {value}"),
            Self::Select { columns } => write!(f, "select {}", columns.join(", ")),
            Self::Drop { columns } => write!(f, "drop {}", columns.join(", ")),
            Self::Rename { columns } => {
                let columns: Vec<_> = columns.iter().map(|(from, to)| format!("{from} to {to}")).collect();
                write!(f, "rename {}", columns.join(", "))
            }
            Self::WithColumns { columns } => write!(f, "with_columns {}", values(columns)),
            Self::Project { columns } => write!(f, "project {}", values(columns)),
            Self::Limit { rows } => write!(f, "limit {rows}"),
            Self::Sample { fraction, seed } => write!(f, "random_sample {fraction} (seed {seed})"),
            Self::MapBatches(map) => write!(f, "map_batches {map}"),
        }
    }
}

fn values(columns: &[(String, Expr)]) -> String {
    columns.iter().map(|(name, value)| format!("{name} = {value}")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for MapBatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let mut notes = Vec::new();
        notes.extend(self.batch_rows.map(|rows| format!("batches of {rows}")));
        match self.compute {
            Compute::Tasks => {}
            Compute::FewTasks { max } => notes.push(format!("{max} tasks at once")),
            Compute::Actors { min, max } if min == max => notes.push(format!("{max} actors")),
            Compute::Actors { min, max: MAX_ACTORS } => notes.push(format!("{min} or more actors")),
            Compute::Actors { min, max } => notes.push(format!("{min} to {max} actors")),
        }
        notes.extend(self.resources.iter().map(|(name, amount)| format!("{amount} {name}")));
        if notes.is_empty() { Ok(()) } else { write!(f, " ({})", notes.join(", ")) }
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sort { keys } => {
                let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
                write!(f, "sort {}", keys.join(", "))
            }
            Self::Shuffle { seed } => write!(f, "random_shuffle (seed {seed})"),
            Self::ShuffleBlocks { seed } => write!(f, "randomize_block_order (seed {seed})"),
            Self::Repartition(Repartition::Blocks(blocks)) => write!(f, "repartition into {blocks} blocks"),
            Self::Repartition(Repartition::Rows(rows)) => write!(f, "repartition into blocks of {rows} rows"),
            Self::Repartition(Repartition::ByKey { keys, blocks }) => {
                write!(f, "repartition by {} into {blocks} blocks", keys.join(", "))
            }
            Self::Aggregate { keys, aggregates } => {
                let aggregates: Vec<_> = aggregates.iter().map(ToString::to_string).collect();
                match keys.is_empty() {
                    true => write!(f, "aggregate {}", aggregates.join(", ")),
                    false => write!(f, "group_by {}: {}", keys.join(", "), aggregates.join(", ")),
                }
            }
            Self::MapGroups { keys, map } => write!(f, "map_groups by {}: {map}", keys.join(", ")),
        }
    }
}

impl fmt::Display for SortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.descending { " descending" } else { "" };
        let nulls = if self.nulls_first { " nulls first" } else { "" };
        write!(f, "{}{direction}{nulls}", self.column)
    }
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<_> = self.left_on.iter().zip(&self.right_on).map(|(l, r)| format!("{l} = {r}")).collect();
        write!(f, "{} join on {}", self.kind.name(), pairs.join(" and "))
    }
}

impl JoinKind {
    fn name(self) -> &'static str {
        match self {
            Self::Inner => "inner",
            Self::Left => "left",
            Self::Right => "right",
            Self::Full => "full",
            Self::Semi => "semi",
            Self::Anti => "anti",
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { dir, options } => write!(f, "{} {dir}", options.name()),
            Self::Count => f.write_str("count"),
            Self::Batches => f.write_str("batches"),
            Self::Blocks => f.write_str("materialize"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{col, lit};

    #[test]
    fn a_plan_prints_from_the_top() {
        let mut plan = LogicalPlan::read_parquet(["a.parquet", "b"])
            .filter(col("fare").gt_eq(lit(2.5)))
            .with_column("double", col("fare") * lit(2.0))
            .map_batches(MapBatches {
                function: "app@1::clean".into(),
                params: Vec::new(),
                batch_rows: Some(17),
                name: "clean".into(),
                compute: Compute::Actors { min: 1, max: 4 },
                resources: Vec::new(),
            })
            .limit(3);
        plan.each_files_mut(&mut |read| read.columns = Some(vec!["fare".into()]));
        let expected = "limit 3\n  map_batches clean (batches of 17, 1 to 4 actors)\n    with_column double = \
                        fare * 2\n      filter fare >= 2.5\n        read_parquet a.parquet, b (fare)";
        assert_eq!(plan.to_string(), expected);
    }

    #[test]
    fn a_tree_prints_its_branches() {
        let join = Join {
            kind: JoinKind::Left,
            left_on: vec!["zone".into()],
            right_on: vec!["id".into()],
            suffix: "_right".into(),
        };
        let plan = LogicalPlan::read_parquet(["t"])
            .join(LogicalPlan::read_parquet(["z"]), join)
            .exchange(Exchange::Sort { keys: vec![SortKey::descending("fare").with_nulls_first()] });
        let expected = "sort fare descending nulls first\n  left join on zone = id\n    read_parquet t\n    \
                        read_parquet z";
        assert_eq!(plan.to_string(), expected);
    }
}
