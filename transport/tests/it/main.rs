//! The crate's integration tests: endpoints as users see them.

#![allow(unreachable_pub)]

mod common;
mod identity;
mod local;
mod quic;
