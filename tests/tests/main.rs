//! Tests that start real processes: the programs as a user starts them, alone and as a cluster.
//!
//! One binary for all of them, so that linking stays cheap. What they share is in [`support`].

mod bad_input;
mod behaviour;
mod chaos;
mod cli;
mod lifecycle;
mod queries;
mod soak;
mod strangers;
mod support;
mod taxi;
mod taxi_killed;
