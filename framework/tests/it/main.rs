//! Tests of the typed face: what the macros generate, run through the registry without a cluster,
//! and datasets and tasks in a running session.

#![allow(unreachable_pub)]

mod aggregator;
mod data_support;
mod dataset;
mod deep;
mod exchanges;
mod expansion;
mod golden;
mod pipeline;
mod preprocessors;
mod resuming;
mod row_accounting;
mod s3;
mod session;
#[path = "../../../tests/tests/support/shared.rs"]
mod shared;
mod split;
mod udf;
