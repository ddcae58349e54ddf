//! The example gallery: one short program per idea, beside this folder.
//!
//! | `cargo run --example ..` | shows |
//! |---|---|
//! | `hello_tasks` | functions as tasks, references as arguments, errors |
//! | `stateful_actor` | a struct as an actor, handles, names, failures |
//! | `actor_pool` | actors that share a list of work |
//! | `streaming_results` | results that come one after the other |
//! | `object_sharing` | one large object, read in place by many tasks |
//! | `parallel_monte_carlo_pi` | many tasks that report their progress to an actor |
//! | `resources` | fractional CPUs and GPUs, resources of one's own |
//! | `pipeline_of_actors` | actors that pass work on to each other |
//! | `allreduce` | actors that train one model, each on its own rows |
//! | `dataset_iris` | a lazy dataset over Parquet, with a function of your own |
//! | `group_by` | rows in groups: aggregates, and a function of your own for each group |
//! | `shuffle` | a dataset in an order by chance, cut for training and testing, in batches |
//! | `join` | two tables by their keys, and the rows that have no partner |
//! | `sql` | a query over two datasets |
//! | `preprocessors` | columns filled, scaled and encoded; shards for actors; one row as it is served |
//! | `typed_rows` | functions over rows of your own types, or over arrays |
//! | `stateful_udf` | a function of a dataset that keeps a state on actors |
//! | `taxi_etl_s3` | the same from a store into a store, which runs in the program |
//! | `two_node_cluster` | a head and two nodes as real processes, and work on both |
//!
//! Each ends by itself within seconds. This library itself is empty.

/// The first program of the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
