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
//! | `two_node_cluster` | a head and two nodes as real processes, and work on both |
//!
//! Each ends by itself within seconds. This library itself is empty.

/// The first program of the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
