//! Tasks, actors, objects and datasets, on one machine or many.
//!
//! ```
//! use mobula::{Config, ObjectRef, remote};
//!
//! #[remote]
//! fn add(a: i64, b: i64) -> i64 {
//!     a + b
//! }
//!
//! struct Counter {
//!     hits: i64,
//! }
//!
//! #[remote]
//! impl Counter {
//!     fn new(start: i64) -> Self {
//!         Self { hits: start }
//!     }
//!
//!     fn increment(&mut self) -> i64 {
//!         self.hits += 1;
//!         self.hits
//!     }
//! }
//!
//! #[mobula::main]
//! fn main() -> Result<(), mobula::Error> {
//!     let session = mobula::init(Config::default())?;
//!
//!     let sum: ObjectRef<i64> = add.remote(1, 2); // returns at once
//!     let more = add.options().num_cpus(0.5).name("more").remote(&sum, 40);
//!     assert_eq!(mobula::get(&more)?, 43);
//!
//!     let counter = Counter::remote(0);
//!     counter.increment().remote();
//!     assert_eq!(mobula::get(&counter.increment().remote())?, 2);
//!
//!     session.shutdown();
//!     Ok(())
//! }
//! ```
//!
//! Async code awaits references; `main` may be async too:
//!
//! ```
//! # use mobula::{Config, remote};
//! #[remote]
//! async fn greet(name: &str) -> String {
//!     tokio::time::sleep(std::time::Duration::from_millis(1)).await;
//!     format!("hello, {name}")
//! }
//!
//! #[mobula::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     mobula::init(Config::default())?;
//!     assert_eq!(greet.remote("ray").await?, "hello, ray");
//!     Ok(())
//! }
//! ```
//!
//! | to | use |
//! |---|---|
//! | start, or join a cluster | [`init`], [`Config`], [`Session`], [`macro@main`] |
//! | make a function a task, a struct an actor | [`macro@remote`] |
//! | pass results on without fetching them | [`ObjectRef`] |
//! | take results as they are made, one after the other | [`ObjectRefStream`] |
//! | fetch, wait, share | [`get`], [`wait`], [`put`] |
//! | know which GPUs a task or actor has | [`gpu_ids`] |
//! | give workers a directory, files, variables | [`RuntimeEnv`] |
//! | free objects early, see where they are | [`free`], [`object_locations`] |
//! | give up on work | [`cancel`], [`is_cancelled`] |
//! | read large values in place | [`Array`], [`Batch`], [`Bytes`] |
//! | reduce and gather numbers over many actors or tasks | [`collective`] |
//! | give tables to functions as rows or arrays | [`Rows`], [`NdColumns`], [`from_rows`] |
//! | clean and transform tables in parallel | [`read_parquet`], [`Dataset`], [`col`], [`lit`] |
//! | prepare tables for training, and the same way for serving | [`preprocessors`], [`DatasetShard`] |
//! | reach an actor by name, end one | [`get_actor`], [`kill`], [`terminate`], [`exit_actor`] |
//! | share work among actors | [`ActorPool`] |
//! | be told how an actor ends | [`watch`], [`on_end`] |
//! | show results to people | [`print`](mod@print) |
//! | reserve room for several at once | [`PlacementGroup`], [`PlacementStrategy`] |
//! | see the cluster | [`nodes`], [`cluster_resources`], [`available_resources`] |
//! | learn why something waits, where it ran, why it failed | [`explain`] |
//!
//! This crate is the typed face of Mobula: it turns types into bytes and function names, and
//! bytes into types. What it does not do itself (submitting, owning, scheduling, storing) is
//! `mobula-core`'s, whose [`Error`] it passes on.

#[cfg(panic = "abort")]
compile_error!(
    "Mobula turns a panic in a task into that task's error, which panic = \"abort\" makes impossible: \
     remove it from the profile in Cargo.toml"
);

// The macros name this crate `::mobula`, in its own tests too.
#[allow(unused_extern_crates)]
extern crate self as mobula;

mod actor;
mod actor_pool;
mod aggregator;
mod argument;
mod batch_call;
mod call;
mod cluster;
pub mod collective;
mod config;
mod dataset;
mod explain;
#[doc = include_str!("faults.md")]
pub mod faults {}
mod format;
mod map_options;
mod object;
mod options;
mod placement_group;
pub mod preprocessors;
pub mod print;
#[cfg(doctest)]
mod refused;
mod run;
mod session;
mod stream;
mod table;
mod value;
mod watch;

/// The Arrow that datasets speak, so that programs need not match its version.
pub use arrow;
pub use arrow::record_batch::RecordBatch;
pub use bytes::Bytes;
pub use mobula_core::client::PANIC_TYPE_NAME;
pub use mobula_core::error::Error;
pub use mobula_core::explain::{
    ActorExplanation, BundleExplanation, NodeVerdict, PlacementGroupExplanation, TaskExplanation, Verdict,
};
pub use mobula_core::ids::{NodeId, PlacementGroupId};
pub use mobula_core::labels::NodeLabel;
pub use mobula_core::logging::OF_PROGRAMS as DEFAULT_LOG;
pub use mobula_core::messages::{ActorEnd, Cancel, EndReason, PlacementStrategy};
pub use mobula_core::node::RuntimeEnv;
pub use mobula_core::worker::{exit_actor, gpu_ids, is_cancelled};
pub use mobula_data::aggregate::{self, Aggregate};
pub use mobula_data::error::FormatError;
pub use mobula_data::execute::OperatorReport;
pub use mobula_data::executor::{RunError, RunProgress, RunReport, StageReport};
pub use mobula_data::explain::PlanExplanation;
pub use mobula_data::expr::ValueType;
pub use mobula_data::expr::{func, when};
pub use mobula_data::output_dir::EarlierRun;
pub use mobula_data::plan::{Join, JoinKind, SortKey};
pub use mobula_data::schema::{ColumnName, Matching};
pub use mobula_data::source::FileFormat;
pub use mobula_data::storage::StorageOptions;
pub use mobula_data::text::{CsvOptions, JsonOptions};
pub use mobula_data::write::{Compression, WriteFormat, WriteMode, WriteOptions};
pub use mobula_data::{DataError, Expr, LogicalPlan, col, lit};
pub use mobula_macros::{main, remote};
/// The ndarray of [`NdColumns`], so that programs need not match its version.
pub use ndarray;

pub use crate::actor::{
    ActorRef, RemoteClass, RemoteHandle, current_actor, get_actor, get_actor_in, kill, kill_and_restart, terminate,
};
pub use crate::actor_pool::ActorPool;
pub use crate::aggregator::{Aggregator, RemoteAggregator};
pub use crate::argument::IntoArg;
pub use crate::batch_call::{BatchCall, FilterCall, FlatMapCall, MapCall};
pub use crate::call::{Method, Results, Signature, Streams};
pub use crate::cluster::{Node, available_resources, cluster_resources, nodes};
pub use crate::config::Config;
pub use crate::dataset::{
    BatchIter, Columns, Dataset, DatasetShard, DatasetStats, GroupedDataset, IterOptions, Paths, SortKeys, StoreDisk,
    from_batches, from_rows, range, range_in_blocks, read_csv, read_files, read_json, read_parquet, sql,
};
pub use crate::explain::{Explain, explain};
pub use crate::format::{FromBatch, IntoBatch, NdColumns, NdNumber, Rows};
pub use crate::map_options::{Concurrency, MapOptions};
pub use crate::object::{
    Cancellable, Get, ObjectLocation, ObjectRef, Wait, Waited, cancel, cancel_with, free, get, get_timeout,
    object_locations, put, wait,
};
pub use crate::options::{ActorOptions, TaskOptions};
pub use crate::placement_group::{
    Bundle, PlacementGroup, PlacementGroupBuilder, PlacementGroupState, get_placement_group, placement_groups,
    remove_placement_group,
};
pub use crate::session::{Session, init, shutdown};
pub use crate::stream::ObjectRefStream;
pub use crate::value::{Array, Batch, Number, Value};
pub use crate::watch::{on_end, watch};

#[doc(hidden)]
pub mod __private;
