//! Datasets: what a plan is, how it becomes tasks, and how a task runs.
//!
//! A [`LogicalPlan`] says what to do, and a [`source`] with what; the [`planner`] tells what can be
//! known of it before it runs, its columns and what is wrong with it, and [`optimise`] finds the same
//! answer with less work. The [`executor`] runs it on a cluster, stage by stage: what lies between two
//! exchanges is one [`stage`], whose tasks are cut by what the stage before was measured to give, and
//! submitted through `mobula-core`'s client. [`execute`] runs one task, input, operators, sink in one
//! pass, one batch at a time, and knows no other; [`exchange`] is its work on either side of an
//! exchange.
//!
//! ```text
//! LogicalPlan ─▶ executor   opens the files, asks the planner, optimises
//!                   │
//!                   │ stage by stage
//!                   ▼
//!           Stage + [BlockTask] ─▶ a worker each: execute ─┬─▶ objects in the stores ─▶ the next stage
//!                                                          └─▶ files, blocks, counts
//! ```

pub mod aggregate;
pub mod block_writer;
pub mod class;
pub mod csv_read;
pub mod error;
pub mod exchange;
pub mod execute;
pub mod executor;
pub mod explain;
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
mod stack;
pub mod stage;
pub mod storage;
pub mod text;
mod words;
pub mod write;

pub use error::DataError;
pub use expr::{Expr, col, lit};
pub use plan::{LogicalPlan, Sink};
