//! What to do, before anyone decides how.
//!
//! Entry type: [`LogicalPlan`], a tree of operators with a source at its leaf, made by its
//! builder methods, and [`Sink`], where the rows go. Both are plain data: they print and they
//! travel. Building one reads nothing and checks nothing; that is the planner's work.
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

use crate::expr::Expr;
use crate::function::Parameter;
use crate::parquet_write::WriteOptions;
use crate::schema::Matching;

/// A tree of operators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LogicalPlan {
    /// Rows of Parquet files.
    ReadParquet(ReadParquet),
    /// One operator over the rows of another plan.
    Op {
        /// Where its rows come from.
        input: Arc<LogicalPlan>,
        /// What happens to them.
        op: Operator,
    },
}

/// Which files to read, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadParquet {
    /// Files, directories and patterns.
    pub paths: Vec<String>,
    /// The columns to read, by their unified names; all of them if none are named.
    pub columns: Option<Vec<String>>,
    /// How columns of different files are matched.
    pub matching: Matching,
    /// Rows per batch.
    pub batch_rows: usize,
    /// A block ends when it has this many bytes before compression; row groups are never split.
    pub block_bytes: u64,
}

/// An operator whose rows come from one input.
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
    /// Keeps these columns, in this order.
    Select {
        /// Their names.
        columns: Vec<String>,
    },
    /// Keeps the first rows.
    Limit {
        /// How many.
        rows: u64,
    },
    /// Hands every batch to a function.
    MapBatches(MapBatches),
}

/// A function over batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapBatches {
    /// The function's registered id.
    pub function: String,
    /// Its arguments after the batch.
    pub params: Vec<Parameter>,
    /// Rows per batch at most; as they come if none is given.
    pub batch_rows: Option<usize>,
    /// The name shown in plans and reports.
    pub name: String,
}

/// Where the rows of a plan go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Sink {
    /// Parquet files in a directory.
    WriteParquet {
        /// The directory; made if it does not exist.
        dir: String,
        /// How they are written.
        options: WriteOptions,
    },
    /// Only their number.
    Count,
    /// Batches, in source order, handed to the caller.
    Batches,
}

impl LogicalPlan {
    /// Rows of Parquet files, directories and patterns.
    pub fn read_parquet(paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::ReadParquet(ReadParquet {
            paths: paths.into_iter().map(Into::into).collect(),
            columns: None,
            matching: Matching::default(),
            batch_rows: DEFAULT_BATCH_ROWS,
            block_bytes: DEFAULT_BLOCK_BYTES,
        })
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

    /// The source at the leaf of the plan.
    #[must_use]
    pub fn source(&self) -> &ReadParquet {
        match self {
            Self::ReadParquet(read) => read,
            Self::Op { input, .. } => input.source(),
        }
    }

    /// The source, to change how it reads; the rest of the plan stays.
    pub fn source_mut(&mut self) -> &mut ReadParquet {
        match self {
            Self::ReadParquet(read) => read,
            Self::Op { input, .. } => Arc::make_mut(input).source_mut(),
        }
    }

    /// The operators from the source upwards.
    #[must_use]
    pub fn operators(&self) -> Vec<&Operator> {
        match self {
            Self::ReadParquet(_) => Vec::new(),
            Self::Op { input, op } => {
                let mut operators = input.operators();
                operators.push(op);
                operators
            }
        }
    }
}

impl fmt::Display for LogicalPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operators = self.operators();
        for (depth, op) in operators.iter().rev().enumerate() {
            writeln!(f, "{:depth$}{op}", "", depth = depth * 2)?;
        }
        write!(f, "{:depth$}{}", "", self.source(), depth = operators.len() * 2)
    }
}

impl fmt::Display for ReadParquet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read_parquet {}", self.paths.join(", "))?;
        match &self.columns {
            Some(columns) => write!(f, " ({})", columns.join(", ")),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter { condition } => write!(f, "filter {condition}"),
            Self::WithColumn { name, value } => write!(f, "with_column {name} = {value}"),
            Self::Select { columns } => write!(f, "select {}", columns.join(", ")),
            Self::Limit { rows } => write!(f, "limit {rows}"),
            Self::MapBatches(map) => match map.batch_rows {
                Some(rows) => write!(f, "map_batches {} (batches of {rows})", map.name),
                None => write!(f, "map_batches {}", map.name),
            },
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteParquet { dir, .. } => write!(f, "write_parquet {dir}"),
            Self::Count => f.write_str("count"),
            Self::Batches => f.write_str("batches"),
        }
    }
}

/// Rows per batch unless told otherwise: twenty columns of one batch stay in a core's cache.
pub const DEFAULT_BATCH_ROWS: usize = 8192;

/// Bytes of a block unless told otherwise: large enough to pay for a task and a file, small
/// enough that a few gigabytes keep many cores busy.
pub const DEFAULT_BLOCK_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{col, lit};

    #[test]
    fn a_plan_prints_from_the_top_and_survives_the_wire() {
        let mut plan = LogicalPlan::read_parquet(["a.parquet", "b"])
            .filter(col("fare").gt_eq(lit(2.5)))
            .with_column("double", col("fare") * lit(2.0))
            .map_batches(MapBatches {
                function: "app@1::clean".into(),
                params: Vec::new(),
                batch_rows: Some(17),
                name: "clean".into(),
            })
            .limit(3);
        plan.source_mut().columns = Some(vec!["fare".into()]);
        let expected = "limit 3\n  map_batches clean (batches of 17)\n    with_column double = fare * 2\n      \
                        filter fare >= 2.5\n        read_parquet a.parquet, b (fare)";
        assert_eq!(plan.to_string(), expected);
        let bytes = rmp_serde::to_vec(&plan).unwrap();
        assert_eq!(rmp_serde::from_slice::<LogicalPlan>(&bytes).unwrap(), plan);
    }
}
