//! The crate's integration tests: endpoints as users see them.

#![allow(unreachable_pub)]

mod bulk;
mod common;
mod identity;
mod local;
mod lossy;
mod quic;
mod sim;
mod soak;
