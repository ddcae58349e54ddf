//! The crate's integration tests: endpoints as users see them.

mod common;
mod local;
