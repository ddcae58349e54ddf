//! The crate's integration tests: endpoints as users see them.

#![allow(unreachable_pub)]

mod common;
mod local;
