//! Datasets: what a plan is, how it becomes tasks, and how a task runs.
//!
//! A [`LogicalPlan`] says what to do; the [`planner`] turns it and the footers of its files
//! into one fused stage and a list of block tasks; [`execute`] runs one block task: it streams
//! batches from Parquet through the operators into Parquet, a count or batches. All of this is
//! about one process and one task at a time: it submits nothing and knows no worker.
//!
//! ```text
//! LogicalPlan + footers --planner--> Stage + [BlockTask] --execute--> part-00000.parquet
//!                                                          \--------> rows, counts
//! ```

pub mod error;
pub mod execute;
pub mod executor;
pub mod expr;
pub mod function;
pub mod ipc;
pub mod moves;
pub mod output_dir;
pub mod parquet_read;
pub mod parquet_write;
pub mod paths;
pub mod plan;
pub mod planner;
pub mod schema;

pub use error::DataError;
pub use expr::{Expr, col, lit};
pub use plan::{LogicalPlan, Sink};
