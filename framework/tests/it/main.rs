//! Tests of the typed face: what the macros generate, run through the registry without a cluster.
//! (The tests of a running session are in this binary too, in `session`.)

#![allow(unreachable_pub)]

mod dataset;
mod expansion;
mod session;
