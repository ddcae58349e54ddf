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

pub mod aggregate;
pub mod block_writer;
pub mod class;
pub mod csv_read;
pub mod error;
pub mod exchange;
pub mod execute;
pub mod executor;
pub mod expr;
mod file_out;
mod file_writer;
pub mod files;
mod format_error;
pub mod function;
pub mod hive;
pub mod ipc;
pub mod json_read;
pub mod moves;
pub mod optimise;
mod output;
pub mod output_dir;
mod output_store;
pub mod parquet_read;
pub mod parquet_write;
pub mod paths;
pub mod piece_reader;
pub mod pieces;
pub mod plan;
pub mod planner;
pub mod prune;
pub mod schema;
pub mod source;
pub mod source_file;
pub mod sql;
pub mod stage;
pub mod storage;
pub mod text;
pub mod write;

pub use error::DataError;
pub use expr::{Expr, col, lit};
pub use plan::{LogicalPlan, Sink};
