//! What a task is told to do: the part of a plan that travels.
//!
//! Entry types: [`Stage`], which all tasks between two exchanges share, and [`BlockTask`], the
//! rows of one of them. A task gets rows from its [`Input`], puts them together as its branch's
//! [`Combine`] says, takes them through the operators, and does with them what the
//! [`StageSink`] says, all in one pass.

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::exchange::aggregate::AggregatePlan;
use crate::exchange::join::JoinPlan;
use crate::exchange::partition::Partitioning;
use crate::expr::Expr;
use crate::pieces::Piece;
use crate::plan::{MapBatches, Operator, SortKey};
use crate::schema;
use crate::source::FileFormat;
use crate::storage::StorageOptions;
use crate::write::WriteOptions;

/// What the tasks between two exchanges do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// What is done with the rows of each source; a task names its branch.
    pub branches: Vec<Branch>,
    /// What happens to the rows.
    pub sink: StageSink,
    /// There are no rows: its task is asked for the columns of the result.
    pub asks_columns: bool,
}

/// What is done with the rows of one source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    /// The columns of the task's input.
    #[serde(with = "schema::wire")]
    pub schema: SchemaRef,
    /// How the rows of the input are put together.
    pub combine: Combine,
    /// What is in the files that it reads, if it reads some.
    pub format: FileFormat,
    /// How the stores are reached that they are in.
    pub storage: StorageOptions,
    /// Rows for which this is not true may be left out by the reader.
    pub filter: Option<Expr>,
    /// Rows per batch.
    pub batch_rows: usize,
    /// The operators, from the source upwards.
    pub operators: Vec<StageOperator>,
}

/// How the rows of a task's input are put together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Combine {
    /// One after the other.
    Stream,
    /// Sorted; those whose keys are equal keep their order.
    Sort {
        /// By these columns.
        keys: Vec<SortKey>,
    },
    /// In an order by chance.
    Shuffle {
        /// Equal seeds give equal orders.
        seed: u64,
    },
    /// States of groups become results.
    Aggregate(AggregatePlan),
    /// A function is given all rows of a group at once.
    Groups {
        /// The columns of the keys.
        keys: Vec<String>,
        /// The function.
        map: MapBatches,
    },
    /// Two sides are joined.
    Join(JoinPlan),
    /// The columns of two sides with as many rows each stand side by side.
    Zip {
        /// The columns of the result, those of the left side first.
        #[serde(with = "schema::wire")]
        schema: SchemaRef,
        /// The columns of the right side.
        #[serde(with = "schema::wire")]
        right: SchemaRef,
    },
}

/// An operator of a stage, one batch at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StageOperator {
    /// One of the plan.
    Row(Operator),
    /// Rows become states of their groups.
    PartialAggregate(AggregatePlan),
    /// Only the first rows in an order are kept, in that order.
    TopRows {
        /// The order.
        keys: Vec<SortKey>,
        /// How many.
        rows: u64,
    },
    /// Rows are joined with a side that every task is given whole: the objects of `side`.
    Join {
        /// How.
        plan: JoinPlan,
        /// Which of the task's slices are that side.
        side: u32,
    },
}

/// What a task does with its rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StageSink {
    /// Writes them to files of its own.
    Write {
        /// The directory in which the files of the run wait for all to be done; in a store, the
        /// mark of the run.
        staging: String,
        /// The ordinal in the name of the first task's file.
        first_ordinal: u64,
        /// How they are written.
        options: WriteOptions,
        /// The columns, where they are known, so that a block without rows has them too.
        schema: Option<WireSchema>,
    },
    /// Counts them.
    Count,
    /// Returns them as one object.
    Blocks,
    /// Returns them as one object for each part.
    Parts {
        /// By what rows are told apart.
        by: Partitioning,
        /// How many parts.
        parts: u32,
    },
    /// Returns a sample of their keys.
    KeySample {
        /// The keys.
        keys: Vec<SortKey>,
    },
}

/// A schema that travels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireSchema(#[serde(with = "schema::wire")] pub SchemaRef);

/// The work of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockTask {
    /// Its place among the tasks of the stage.
    pub ordinal: u64,
    /// Which branch of the stage it belongs to.
    pub branch: u32,
    /// Its rows.
    pub input: Input,
}

/// The rows of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Input {
    /// Rows of files, and what else it is given.
    Files {
        /// The rows, in source order.
        pieces: Vec<Piece>,
        /// The sides of joins.
        sides: Vec<Slice>,
    },
    /// Rows of objects.
    Objects(Vec<Slice>),
    /// Whole numbers, counted up.
    Range {
        /// The first one.
        first: u64,
        /// How many.
        rows: u64,
        /// The sides of joins.
        sides: Vec<Slice>,
    },
}

impl Input {
    /// What the task is given from the object store; the n-th is of its n-th object.
    #[must_use]
    pub fn slices(&self) -> &[Slice] {
        match self {
            Self::Objects(slices) | Self::Files { sides: slices, .. } | Self::Range { sides: slices, .. } => slices,
        }
    }

    pub(crate) fn slices_mut(&mut self) -> &mut Vec<Slice> {
        match self {
            Self::Objects(slices) | Self::Files { sides: slices, .. } | Self::Range { sides: slices, .. } => slices,
        }
    }
}

/// The side of a task's rows, or the left side of a join.
pub(crate) const LEFT: u32 = 0;
/// The right side.
pub(crate) const RIGHT: u32 = 1;

/// Some rows of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// What it is for: 0 for the rows of the task (the left side of a join), 1 for the right side of a
    /// join or zip, and more for the sides of joins among the operators.
    pub side: u32,
    /// The first row.
    pub first_row: u64,
    /// How many rows.
    pub rows: u64,
}

impl Stage {
    /// What people see: `read_parquet>filter>with_column>write_parquet`.
    #[must_use]
    pub fn title(&self) -> String {
        let first_word = |text: String| text.split(' ').next().unwrap_or_default().to_owned();
        let mut names: Vec<String> = Vec::new();
        if let Some(branch) = self.branches.first() {
            names.push(match &branch.combine {
                Combine::Stream => "read".to_owned(),
                combine => combine.title().map(first_word).unwrap_or_default(),
            });
            names.extend(branch.operators.iter().map(|operator| first_word(operator.title())));
        }
        if !matches!(self.sink, StageSink::Blocks) {
            names.push(self.sink.name().to_owned());
        }
        names.join(">")
    }
}

impl StageSink {
    /// How many objects a task gives.
    pub(crate) fn objects(&self) -> u32 {
        match self {
            Self::Blocks => 1,
            Self::Parts { parts, .. } => *parts,
            Self::Write { .. } | Self::Count | Self::KeySample { .. } => 0,
        }
    }

    /// The operator of a plan that it stands for.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Write { options, .. } => options.name(),
            Self::Count => "count",
            Self::Blocks => "blocks",
            Self::Parts { by: Partitioning::Hash { .. }, .. } => "hash_partition",
            Self::Parts { by: Partitioning::Random { .. }, .. } => "random_partition",
            Self::Parts { by: Partitioning::Range { .. }, .. } => "range_partition",
            Self::KeySample { .. } => "sample_keys",
        }
    }
}

impl Combine {
    /// The operator of a plan that it stands for, where it is one.
    #[must_use]
    pub fn title(&self) -> Option<String> {
        use crate::plan::Exchange;
        Some(match self {
            Self::Stream => return None,
            Self::Sort { keys } => Exchange::Sort { keys: keys.clone() }.to_string(),
            Self::Shuffle { seed } => Exchange::Shuffle { seed: *seed }.to_string(),
            Self::Aggregate(plan) => plan.operator().to_owned(),
            Self::Groups { keys, map } => Exchange::MapGroups { keys: keys.clone(), map: map.clone() }.to_string(),
            Self::Join(plan) => plan.operator(),
            Self::Zip { .. } => "zip".to_owned(),
        })
    }
}

impl StageOperator {
    /// What people see.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::Row(operator) => operator.to_string(),
            Self::PartialAggregate(plan) => format!("partial {}", plan.operator()),
            Self::TopRows { keys, rows } => {
                let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
                format!("first {rows} by {}", keys.join(", "))
            }
            Self::Join { plan, .. } => plan.operator(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{count, sum};
    use crate::expr::{col, lit};
    use crate::pieces::Part;
    use crate::plan::{Join, JoinKind};
    use crate::schema::ColumnSource;
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use std::sync::Arc;

    fn schema() -> SchemaRef {
        let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Berlin".into()));
        Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("at", zoned, true),
            Field::new("price", DataType::Decimal128(10, 2), false),
        ]))
    }

    fn branch(combine: Combine, operators: Vec<StageOperator>) -> Branch {
        let filter = Some(col("a").gt(lit(1)));
        Branch {
            schema: schema(),
            combine,
            format: FileFormat::Parquet,
            storage: StorageOptions::default(),
            filter,
            batch_rows: 64,
            operators,
        }
    }

    #[test]
    fn a_stage_and_its_tasks_survive_the_wire() {
        let keys = vec![SortKey::descending("a").with_nulls_first()];
        let join =
            Join { kind: JoinKind::Full, left_on: vec!["a".into()], right_on: vec!["a".into()], suffix: "_r".into() };
        let join = JoinPlan::new(&join, &schema(), &schema()).unwrap();
        let aggregate = AggregatePlan::new(&["a".into()], &[count(), sum("price")], "group_by", &schema()).unwrap();
        let filter = StageOperator::Row(Operator::Filter { condition: col("a").gt(lit(1)) });
        let branches = vec![
            branch(Combine::Stream, vec![filter, StageOperator::Join { plan: join.clone(), side: 2 }]),
            branch(Combine::Sort { keys: keys.clone() }, vec![StageOperator::TopRows { keys: keys.clone(), rows: 3 }]),
            branch(Combine::Shuffle { seed: 7 }, vec![StageOperator::PartialAggregate(aggregate.clone())]),
            branch(Combine::Aggregate(aggregate), Vec::new()),
            branch(Combine::Join(join), Vec::new()),
            branch(Combine::Zip { schema: schema(), right: schema() }, Vec::new()),
        ];
        let by = Partitioning::Hash { keys: vec!["a".into()], types: Some(WireSchema(schema())) };
        let slice = Slice { side: 1, first_row: 3, rows: 4 };
        let piece = Piece {
            remote: None,
            file_bytes: 9,
            file: 1,
            path: "x".into(),
            part: Part::RowGroups(0..2),
            first_row: Some(0),
            group_rows: Some(20),
            rows: Some(12),
            columns: vec![ColumnSource::File(0), ColumnSource::Missing, ColumnSource::Value("3".into())],
        };
        let inputs = [
            Input::Files { pieces: vec![piece], sides: vec![slice] },
            Input::Objects(vec![slice]),
            Input::Range { first: 1, rows: 2, sides: Vec::new() },
        ];
        let tasks: Vec<BlockTask> =
            (0..).zip(inputs).map(|(ordinal, input)| BlockTask { ordinal, branch: 0, input }).collect();
        for sink in [StageSink::Parts { by, parts: 3 }, StageSink::KeySample { keys }, StageSink::Blocks] {
            let stage = Stage { branches: branches.clone(), sink, asks_columns: false };
            let bytes = rmp_serde::to_vec(&(&stage, &tasks)).unwrap();
            let (back, back_tasks): (Stage, Vec<BlockTask>) = rmp_serde::from_slice(&bytes).unwrap();
            assert_eq!((back, back_tasks), (stage, tasks.clone()));
        }
    }
}
